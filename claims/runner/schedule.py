"""Runs commands side by side, each once and with one thread, and in the order in which they need each other.

A command's folder holds

    out            what the command wrote, or another name (runner/commands.py)
    stdout stderr  what it said
    lock           locked as long as the command runs, by the command itself: another runner waits for it and uses what it made,
                   and so does the next one where this one was killed and its commands live on
    whole.json     written at the end: the last line, seconds, commit. What has this file is not run again. cpu_seconds are those
                   of computing, which other work on the machine does not lengthen

A script that can resume goes on where it was killed; whatever another one has left is removed, and it begins again. So does one
that refuses to resume, because an older version of this repository has begun the run. Ctrl-C or SIGTERM ends the commands (those
that train save first), and the same call goes on later.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from claims.runner.commands import ROOT, Command, in_order
from formats.files import write_json, write_text
from formats.locks import take
from page.plots import clock
from training.machine import commit

POLL = 0.1                           # seconds between two looks at the processes


@dataclass
class Running:
    command: Command
    process: subprocess.Popen
    lock: TextIO
    slot: dict
    began: float
    resumes: bool                    # it goes on with what was begun before
    cpu: float = 0.0                 # seconds of computing, once it has ended

    def has_ended(self) -> bool:
        """Whether the process has ended. (Popen.poll would do, but for the computing time.)"""
        pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
        if pid:
            self.process.returncode, self.cpu = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        return bool(pid)


@dataclass
class Schedule:
    """commands  what is to be run; what they need is added
    runs      the folder of the commands' folders
    slots     the environment of each process that may run at one time: {} on a CPU, a GPU's number on a node
    fresh     do not use what is there
    """
    commands: list[Command]
    runs: Path
    slots: list[dict]
    fresh: bool = False
    failed: dict[Command, str] = field(default_factory=dict)  # why, in one line
    stopping: bool = False
    reused: int = 0

    def __post_init__(self):
        self.commands = in_order(self.commands)
        self.seconds, self.shapes = {}, history(self.runs)
        self.running: list[Running] = []
        self.waiting, self.said = [], set()
        for command in self.commands:
            if self.fresh:
                remove_unlocked(command.folder(self.runs))
            if self.whole(command):
                self.reused += 1
            else:
                self.waiting.append(command)

    def whole(self, command: Command) -> bool:
        """Whether the command is done; then its seconds are known."""
        path = command.folder(self.runs) / "whole.json"
        if path.exists():
            self.seconds[command] = json.loads(path.read_text())["seconds"]
        return path.exists()

    def run(self, after_each: Callable[[], None] = lambda: None) -> None:
        """Runs until all is done, failed, or stopped. after_each() is called whenever a command has ended."""
        with self.stopped_by_signals():
            while self.running or (self.waiting and not self.stopping):
                if not self.stopping:
                    self.start_some()
                if ended := [r for r in self.running if r.has_ended()]:
                    for running in ended:
                        self.end(running)
                    after_each()
                else:
                    time.sleep(POLL)

    # starting

    def start_some(self) -> None:
        """Starts what is ready, longest chain first, on the slots that are free."""
        for command in [c for c in self.waiting if any(n in self.failed for n in c.needs)]:
            self.waiting.remove(command)
            self.failed[command] = next(self.failed[n] for n in command.needs if n in self.failed)
        free = [slot for slot in self.slots]
        for running in self.running:
            free.remove(running.slot)
        if not free:
            return
        left = self.chains()
        ready = [c for c in self.waiting if all(n in self.seconds for n in c.needs)]
        for command in sorted(ready, key=lambda c: -left[c]):
            if free and self.start(command, free[0]):
                free.pop(0)

    def start(self, command: Command, slot: dict) -> bool:
        """Starts a command unless another process has its lock. What is there by now is used."""
        folder = command.folder(self.runs)
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "a")                  # noqa: SIM115 (it is held as long as the command runs)
        if not take(lock):
            lock.close()
            if command not in self.said:
                self.said.add(command)
                say(f"{command.name}: is being run by another process; its result will be used")
            return False
        if self.whole(command):                            # another runner has made it meanwhile
            lock.close()
            self.waiting.remove(command)
            return False
        line, out = command.line(self.runs), command.out(self.runs)
        resumes = out.exists() and command.resumable
        if resumes:
            line.append("--resume")
        else:
            remove_all_but(folder, "lock", "spent")
        script, *flags = line
        with open(folder / "stdout", "w") as stdout, open(folder / "stderr", "w") as stderr:
            process = subprocess.Popen([sys.executable, str(ROOT / script), *flags], stdin=subprocess.DEVNULL, stdout=stdout,
                                       stderr=stderr, env=os.environ | slot, pass_fds=[lock.fileno()], start_new_session=True)
        self.waiting.remove(command)
        self.running.append(Running(command, process, lock, slot, time.monotonic(), resumes))
        return True

    # ending

    def end(self, running: Running) -> None:
        """Keeps what a command found, or why it failed."""
        command, seconds, code = running.command, time.monotonic() - running.began, running.process.returncode
        folder = command.folder(self.runs)
        self.running.remove(running)
        lines = (folder / "stdout").read_text(errors="replace").strip().splitlines()
        try:
            line = json.loads(lines[-1]) if code == 0 else None
        except (IndexError, ValueError):
            line = None
        before = spent(folder)
        if line is not None and command.out(self.runs).exists():
            write_json(folder / "whole.json", {"line": line, "seconds": round(before + seconds, 2), "resumed": bool(before),
                                               "cpu_seconds": round(running.cpu, 2),
                                               "words": command.line(self.runs), "shape": shape(command),
                                               "commit": commit(), "date": time.strftime("%Y-%m-%d")})
            self.seconds[command] = before + seconds
            done = len(self.commands) - len(self.waiting) - len(self.running) - len(self.failed)
            say(f"{command.name}: {clock(seconds)}; {done} of {len(self.commands)} commands, {self.time_left()}")
        elif running.resumes and code == 2 and "--resume" in (why := last_words(folder / "stderr")) and not self.stopping:
            say(f"{command.name}: begins again, because it cannot resume: {why}")
            remove_all_but(folder, "lock")
            self.waiting.append(command)
        else:
            with contextlib.suppress(OSError):            # a full disk: the seconds are not known then
                write_text(folder / "spent", str(before + seconds))
            if self.stopping:
                self.waiting.append(command)
            else:
                self.failed[command] = f"{command.name}: ended with exit code {code}: {last_words(folder / 'stderr')}"
                say(f"{self.failed[command]} (all of it: {folder / 'stderr'}; the command: {command.shown(self.runs)})")
        running.lock.close()

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """The first signal asks the commands to save and end, and lets no new one start; a further one asks them again."""
        def stop(signum, frame):
            self.stopping = True
            say("stopping: the commands that train save what they have; the same call goes on later" +
                ", without --fresh" * self.fresh)
            self.end_all()
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except BaseException:                             # of after_each: nothing must go on that nobody waits for
            self.end_all()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def end_all(self) -> None:
        """Asks the commands to end; those that train save first."""
        for running in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGTERM)

    # how long it takes

    def expected(self, command: Command) -> float | None:
        """Seconds that a command has taken, or one like it, or one of its script; None where nothing is known."""
        if command in self.seconds:
            return self.seconds[command]
        return self.shapes.get(shape(command), self.shapes.get(command.script))

    def chains(self) -> dict[Command, float]:
        """Seconds from the start of a command to the end of all that waits for it."""
        left = {}
        for command in reversed(self.commands):
            behind = [left[c] for c in self.commands if c in left and command in c.needs]
            left[command] = (self.expected(command) or 1.0) + max(behind, default=0.0)
        return left

    def time_left(self) -> str:
        now = {r.command: time.monotonic() - r.began for r in self.running}
        todo = [c for c in self.commands if c in now or c in self.waiting]
        known = [seconds for c in self.commands if (seconds := self.expected(c)) is not None]
        if todo and not known:
            return "time left not known yet"
        left = {c: self.expected(c) for c in todo}
        left = {c: sum(known) / len(known) if seconds is None else seconds for c, seconds in left.items()}
        left = {c: max(0.0, seconds - now.get(c, 0.0)) for c, seconds in left.items()}
        return f"about {clock(makespan(todo, left, len(self.slots)))} left"


def makespan(commands: list[Command], seconds: dict[Command, float], slots: int) -> float:
    """Seconds from the first start to the last end of commands, in an order that fits, on so many slots; what is not in
    `seconds` is done already."""
    free, ends = [0.0] * slots, {}
    todo = [c for c in in_order(commands) if c in seconds]
    while todo:
        begins = {c: max([min(free), *(ends.get(n, 0.0) for n in c.needs)]) for c in todo if not set(c.needs) & set(todo)}
        first = min(begins, key=begins.get)
        todo.remove(first)
        ends[first] = begins[first] + seconds[first]
        free[free.index(min(free))] = ends[first]
    return max(ends.values(), default=0.0)


def shape(command: Command) -> str:
    """The command without seeds and without names of folders: commands of one shape take about equally long."""
    return re.sub(r"(seed[= ])\d+|-[0-9a-f]{12}", r"\1", " ".join(command.line(Path("."))))


def history(runs: Path) -> dict[str, float]:
    """{shape, or script: seconds} of commands that were run before, on whatever machine."""
    found = {}
    for path in runs.glob("*/whole.json"):
        whole = json.loads(path.read_text())
        found.setdefault(whole["words"][0], whole["seconds"])
        found[whole["shape"]] = whole["seconds"]
    return found


def spent(folder: Path) -> float:
    """Seconds of attempts that were interrupted. (Those of a runner that was killed are not known.)"""
    path = folder / "spent"
    return float(path.read_text()) if path.exists() else 0.0


def remove_all_but(folder: Path, *names: str) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in names:
            path.unlink()


def remove_unlocked(folder: Path) -> None:
    """Removes a command's folder. ValueError where the command is running."""
    if not folder.exists():
        return
    with open(folder / "lock", "a") as lock:
        if not take(lock):
            raise ValueError(f"--fresh: {folder} is in use by another process; wait for it")
        shutil.rmtree(folder)


def last_words(path: Path) -> str:
    """The last line that is not empty; progress bars write lines that end with a carriage return."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", path.read_text(errors="replace")) if line.strip()]
    return lines[-1] if lines else "it said nothing"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
