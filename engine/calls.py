"""Runs the tools that replies call, and adds what they answer to the replies.

    calls.begin(request)        True if the newest turn of the request ends with a call; its tool has begun then
    calls.ended(version)        the requests whose tool has answered, with the tool's turn behind their tokens

While a tool runs its request has no row, and other requests decode. The tokens of the tool's turn are marked as forced, like
those of a thinking budget: they were not drawn, so they have no log-probability (0 stands there) and no loss. No text is
tokenised again: the ids of a reply are those that were drawn, with those of the tool's turns between them.

The calculator is computed at once. Functions of a user's file run in processes of their own (engine/tool_worker.py), each of
which runs one call at a time. If one takes too long, its process is killed, and the next call starts another. Whatever a tool
does, its request gets an answer: one that begins with "error: " counts as failed.
"""

import concurrent.futures as futures
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

from engine.requests import Request
from formats.chat import after_thinking
from tasks.tools import CALCULATOR, ERROR, LONGEST, Call, Toolbox, calculate
from tokenizer import Tokenizer

WORKERS = min(8, os.cpu_count() or 1)                     # tools of users' files that run at once
LOADING = 60.0                                            # seconds in which such a file must be loaded
Answer = tuple[str, bool]                                 # the text, and whether the call failed


class Worker:
    """A process that runs tools of users' files."""

    def __init__(self):
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.tool_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True, env=os.environ | {"PYTHONPATH": path})
        self.loaded = set()

    def call(self, spec: str, text: str, seconds: float) -> Answer:
        """What the tool answers. After a failure of the process it is `dead`."""
        if spec not in self.loaded:
            answer, failed = self._ask({"load": spec, "seconds": LOADING}, LOADING)
            if failed:
                return answer, True
            self.loaded.add(spec)
        return self._ask({"spec": spec, "text": text, "seconds": seconds}, seconds)

    def _ask(self, wish: dict, seconds: float) -> Answer:
        try:
            self.process.stdin.write(json.dumps(wish).encode() + b"\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                self.kill()
                return f"no answer in {seconds:g} seconds", True
            answer = json.loads(self.process.stdout.readline())
            return answer["text"], answer["failed"]
        except (OSError, ValueError):                     # it has ended, in the middle of a line or before
            self.kill()
            return "the tool ended its process", True

    @property
    def dead(self) -> bool:
        return self.process.returncode is not None

    def kill(self) -> None:
        """Ends the process, and the programs that it has started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@functools.cache
def pool() -> futures.ThreadPoolExecutor:
    """Threads that wait for the processes."""
    return futures.ThreadPoolExecutor(WORKERS, "tools")


_own = threading.local()                                  # each thread has its own process


def run_in_worker(spec: str, text: str, seconds: float) -> Answer:
    if getattr(_own, "worker", None) is None or _own.worker.dead:
        _own.worker = Worker()
    return _own.worker.call(spec, text, seconds)


def run_tool(tools: Toolbox, name: str, argument: str) -> futures.Future:
    """Begins a call; its result will be an Answer."""
    done = futures.Future()
    if not name:
        done.set_result((argument, True))
    elif name not in tools.specs:
        done.set_result((f"there is no tool {name[:40]}; use {', '.join(tools.specs)}", True))
    elif tools.specs[name] != CALCULATOR:
        return pool().submit(run_in_worker, tools.specs[name], argument, tools.seconds)
    else:
        try:
            done.set_result((calculate(argument), False))
        except ValueError as error:
            done.set_result((str(error), True))
    return done


class Calls:
    """The calls of an engine that are under way."""

    def __init__(self, tokenizer: Tokenizer | None):
        self.tokenizer, self.open = tokenizer, []         # open: requests, in the order of their calls

    def begin(self, r: Request) -> bool:
        """Begins the call with which the newest turn of a request ends; False if there is none, or no room for more tokens."""
        c = r.completion
        if r.tools is None or c.tokens[-1] != self.tokenizer.im_end or len(c.tokens) >= r.limit:
            return False
        start = c.calls[-1].end if c.calls else 0
        said = after_thinking(self.tokenizer.decode_reply([] if start else c.prompt, c.tokens[start:]))
        wanted = None if said is None else r.tools.call_in(said)
        if wanted is None:
            return False
        r.call = wanted
        if len(c.calls) < r.tools.most:
            r.answer = run_tool(r.tools, *wanted)
        else:
            r.answer = futures.Future()
            r.answer.set_result((f"no calls are left; {r.tools.most} are allowed", True))
        self.open.append(r)
        return True

    def ended(self, version: int, wait: float = 0.0) -> list[Request]:
        """The requests whose tools have answered, in the order of their calls. Where the tool's turn leaves no room for another
        token it is not added, and the completion is finished. version: of the weights. wait: seconds for the first answer, if
        there is none yet."""
        if wait and self.open:
            futures.wait([r.answer for r in self.open], wait, futures.FIRST_COMPLETED)
        done = [r for r in self.open if r.answer.done()]
        self.open = [r for r in self.open if r not in done]
        for r in done:
            self._add(r, version)
        return done

    def remove(self, r: Request) -> None:
        """Forgets a request, whatever its tool answers."""
        self.open.remove(r)

    def _add(self, r, version):
        c, (text, failed) = r.completion, r.answer.result()
        text = f"{ERROR if failed else ''}{text[:LONGEST]}"
        ids, start = self.tokenizer.tool_turn(text), len(c.tokens)
        if start + len(ids) >= r.limit:
            ids, c.finish = [], "length"
        c.tokens += ids
        c.logprobs += [0.0] * len(ids)
        c.versions += [version] * len(ids)
        c.forced += [True] * len(ids)
        c.calls.append(Call(*r.call, text, failed, start, len(c.tokens)))
        r.call = r.answer = None
        r.drawn = len(c.tokens)
