"""The process in which functions of a user's file run as tools: it may hang, fail or be killed without harm to the sampler.

engine/calls.py starts it. Each line of its input is a JSON object {"load": SPEC} or {"spec": SPEC, "text": argument}, with
"seconds", the time that it may take; each is answered with a line {"text": answer, "failed": bool}. It ends when its input ends.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from formats import plugins
from tasks.tools import LONGEST

GRACE = 10.0                                              # seconds more, after which the kernel ends the process


class Printed:
    """Stands for standard output: nothing is shown, and too much is an error."""

    def __init__(self):
        self.size = 0

    def write(self, text: str) -> int:
        self.size += len(text)
        if self.size > LONGEST:
            raise ValueError(f"it printed more than {LONGEST} characters")
        return len(text)

    def flush(self) -> None:
        """There is nothing to flush."""


def guarded(function: Callable, *arguments: Any) -> dict:
    """What a function returns, as an answer; an exception, or what is no short text, is a failed one."""
    sys.stdout = Printed()
    try:
        found = function(*arguments)
        if not isinstance(found, str):
            raise TypeError(f"it returned {type(found).__name__}, not text")
        if len(found) > LONGEST:
            raise ValueError(f"its answer has {len(found)} characters; at most {LONGEST} are allowed")
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        name = "" if isinstance(error, plugins.PluginError) else f"{type(error).__name__}: "
        return {"text": f"{name}{error}"[:200].encode("utf-8", "replace").decode(), "failed": True}
    return {"text": found.encode("utf-8", "replace").decode(), "failed": False}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)          # also for programs that a tool starts
    asked, tools = queue.SimpleQueue(), {}

    def listen():
        for line in sys.stdin:
            asked.put(json.loads(line))
        os._exit(0)                                       # the sampler is gone, whatever a tool is doing
    threading.Thread(target=listen, daemon=True).start()

    def load(spec):
        tools[spec] = plugins.load(spec)
        return ""
    while True:
        wish = asked.get()
        # If a tool keeps Python from running other threads, and the sampler is gone, the kernel ends this process.
        signal.setitimer(signal.ITIMER_REAL, wish["seconds"] + GRACE)
        found = guarded(load, wish["load"]) if "load" in wish else guarded(tools[wish["spec"]], wish["text"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
