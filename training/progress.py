"""The progress bar on standard error: loss, tokens per second, time left."""

import sys
import time

from tqdm import tqdm


class Progress:
    """name: of the stage. first, steps: the step where it begins and the number of steps in all. shown: False on every rank
    but the first, which alone draws a bar."""

    def __init__(self, name: str, first: int, steps: int, shown: bool = True):
        self.bar = tqdm(total=steps, initial=first, desc=name, unit="step", disable=not shown, mininterval=0.5)
        self.tokens, self.since = 0, time.perf_counter()

    def step(self, **values) -> None:
        """One step more; `values` stand behind the bar."""
        text = " ".join(f"{name} {value}" for name, value in values.items())
        self.bar.set_postfix_str(f"{text} {self.rate():,.0f} tok/s", refresh=False)
        self.bar.update()

    def seconds(self) -> float:
        return time.perf_counter() - self.since

    def rate(self) -> float:
        """Tokens per second, over all ranks."""
        return self.tokens / max(1e-9, self.seconds())

    def say(self, text: str) -> None:
        """A line of its own above the bar."""
        self.bar.write(text, file=sys.stderr)
