"""Goals that end a stage before its last step: a loss, or an accuracy."""

from collections.abc import Sequence


class Until:
    """Ends a stage when a goal is reached, so that runs with different seeds end with about the same result.

    - loss: the goal for the mean loss of the last 20 steps; 0: no goal.
    - accuracy: the goal for the mean accuracy of the last two evaluations (a single one may be high by luck); 0: no goal.
    - recent, measured: the losses and accuracies so far, from a checkpoint.
    - reached: the flag whose goal is reached, or "". It stays: a run that has ended does not go on when it is resumed.
    """

    def __init__(self, loss: float, accuracy: float = 0.0, recent: Sequence[float] = (),
                 measured: Sequence[float] = (), reached: str = ""):
        self.loss, self.accuracy, self.recent, self.measured = loss, accuracy, list(recent), list(measured)
        self.reached = reached

    def memory(self) -> dict:
        return {"recent": self.recent, "measured": self.measured, "reached": self.reached}

    def low(self, loss: float) -> str:
        """Takes the loss of a step. Returns the name of the flag if its goal is reached, else ""."""
        self.recent = [*self.recent, loss][-20:]
        if bool(self.loss) and len(self.recent) == 20 and sum(self.recent) / 20 <= self.loss:
            self.reached = "--until-loss"
        return self.reached

    def accurate(self, found: dict) -> str:
        """Takes the result of evaluate_all (measuring/in_training.py); returns the same as `low`. The accuracy is the mean over
        numbers of operations of worlds, and over other tasks and files of questions, of which each counts once. If there are
        two modes, it is that of the mode with thinking."""
        tables = [table for name, table in found.items() if not name.endswith(" /no_think")]
        rates = [row["process"]["pass@1"][0] for table in tables if isinstance(table, list) for row in table if "ops" in row]
        rates += [table["accuracy"]["pass@1"][0] for table in tables if isinstance(table, dict) and "accuracy" in table]
        if rates:
            self.measured = [*self.measured, sum(rates) / len(rates)][-2:]
        if bool(self.accuracy) and len(self.measured) == 2 and sum(self.measured) / 2 >= self.accuracy:
            self.reached = "--until-accuracy"
        return self.reached
