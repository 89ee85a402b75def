"""The progress bar on standard error: loss, tokens per second, time left."""

import sys
import time
from typing import TextIO

from tqdm import tqdm


class Unbroken:
    """A stream that drops what it cannot write. Standard error may close before the run ends: the terminal is gone, or Ctrl-C has
    ended the `tee` behind it. The run then still saves."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            pass

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


class Progress:
    """The bar. name: of the stage. first: the step at which the run begins. steps: the last step. shown: True only on the first
    rank."""

    def __init__(self, name: str, first: int, steps: int, shown: bool = True):
        self.bar = tqdm(total=steps, initial=first, desc=name, unit="step", disable=not shown, mininterval=0.5)
        self.tokens, self.since = 0, time.perf_counter()

    def step(self, **values) -> None:
        """Counts one step; `values` are shown after the bar."""
        text = " ".join(f"{name} {value}" for name, value in values.items())
        self.bar.set_postfix_str(f"{text} {self.rate():,.0f} tok/s", refresh=False)
        self.bar.update()

    def seconds(self) -> float:
        return time.perf_counter() - self.since

    def rate(self) -> float:
        """Tokens per second, over all ranks."""
        return self.tokens / max(1e-9, self.seconds())

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.bar.write(text, file=sys.stderr)
