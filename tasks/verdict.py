"""What grading says of a reply: whether the answer is right, whether the steps are, and what is wrong."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    answer_ok: bool                  # the final answer is right
    process_ok: bool | None          # every gold step is there and right; None if the problem has no steps to check
    steps_ok: float | None           # share of the gold steps that are there and right
    reason: str                      # "ok", or the first error

    @property
    def ok(self) -> bool:
        """Whether answer and steps were checked, and both are right."""
        return self.answer_ok and self.process_ok

    @property
    def right(self) -> bool:
        """Whether the answer is right, and also the steps if they can be checked."""
        return self.answer_ok and self.process_ok is not False
