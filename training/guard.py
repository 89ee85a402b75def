"""The guard: a step whose loss is broken must not reach the weights."""

import math


class Guard:
    """Skips a step whose loss is not a number, or is much higher than in the last steps. After several such steps the run ends.

    - sigmas, nats: a loss is too high if it is above the running mean by more than `sigmas` running standard deviations and by
      more than `nats`. sigmas=inf: no loss is too high.
    - patience: the number of consecutive skipped steps after which the run ends.
    - settle: the number of steps before the running mean is used."""

    def __init__(self, sigmas: float = 8.0, nats: float = 1.0, patience: int = 5, settle: int = 50):
        self.sigmas, self.nats, self.patience, self.settle = sigmas, nats, patience, settle
        self.mean = self.variance = 0.0
        self.seen = self.in_a_row = self.skipped = 0

    def check(self, loss: float, grad_norm: float) -> str:
        """Returns "", or why the step must be skipped. ValueError if too many consecutive steps were skipped."""
        why = ""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            why = f"loss {loss}, gradient norm {grad_norm}"
        elif self.seen >= self.settle and loss > self.mean + max(self.sigmas * self.variance ** 0.5, self.nats):
            why = f"loss {loss:.3f} jumped from about {self.mean:.3f}"
        if why:
            self.in_a_row, self.skipped = self.in_a_row + 1, self.skipped + 1
            if self.in_a_row >= self.patience:
                raise ValueError(f"{self.in_a_row} steps in a row skipped, the last for: {why}; lower --lr, or look at the data")
            return why
        self.in_a_row, self.seen = 0, self.seen + 1
        rate = max(0.02, 1 / self.seen)
        self.variance = (1 - rate) * (self.variance + rate * (loss - self.mean) ** 2)
        self.mean += rate * (loss - self.mean)
        return ""

    def state(self) -> dict:
        return dict(vars(self))

    def restore(self, state: dict) -> None:
        vars(self).update(state)
