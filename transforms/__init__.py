"""Ways of making data: one file for each, found by its name.

    augment.py reject ...                   transforms/reject.py
    augment.py my_transform.py:Shout ...    the class Shout of a file of your own

A transform says what to ask a model about an item, and which rows its answers become. augment.py does all the rest: it opens the
sources, samples in bulk, writes rows to disk as they come, goes on after a kill, and keeps the ledger. A transform is a module,
or a class in your own file, with two pure functions:

    ask(item, args, rng)             -> [Ask, ...]: what is to be sampled. rng (random.Random) belongs to the item: the same item
                                        draws the same numbers in every run with this --seed
    keep(item, answers, args)        -> (rows, dropped): the rows to write (dicts), and a Counter of reasons why answers were
                                        dropped. answers[k] are the replies to Ask number k, n of them (tasks.task.Reply)

and, where it needs them (a module's defaults stand behind the dash):

    TAKES          what an item is: "problems" (default), "documents", or "nothing" for data that is written from nothing
    TEACHERS       the checkpoints that it samples from, by the names of their flags - ("init",), which is --init with --plain;
                   another name S makes the flags --S and --S-plain; (): it asks nobody, and `ask` gives []
    FILES          names of its own flags that name files or other sources; a resume is refused where one has changed - ()
    flags(parser)                    adds flags of its own; parser.set_defaults(temperature=1.0) changes those of augment.py, and
                                     parser.needs says when a flag has an effect (training/cli.py)
    check(args)                      ValueError for flags that do not fit together
    OPTIONAL       those of the teachers that need not be given - ()
    ask_again(item, answers, args, rng) -> [Ask, ...]: another round, which has seen the answers so far; its answers are put
                                     behind them. It is called again and again, until it gives [] for every item
    tally(item, answers, args)       -> Counter of what is to be counted over all items, also of what is not kept
    summary(counts, args)            -> dict for the last line and the ledger; counts has the sums of `tally` and of `dropped`
    warning(found)                   -> a line for standard error at the end, or ""; found is what `summary` gave, and "written"

A row is what sft.py, dpo.py or pretrain.py reads. augment.py adds to each, under "meta", where it comes from; what a transform
puts there itself ("meta": {...}) is kept.
"""

import argparse
import importlib
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats import plugins
from tasks.task import Problem, Reply
from training import cli

ROOM = Path(__file__).parent


@dataclass(frozen=True)
class Item:
    """What a transform works on: a problem, a document, or nothing but a number."""
    number: int                        # in this run, from 0; its randomness belongs to this number and to --seed
    source: str = ""                   # the SPEC that it came from
    index: int = 0                     # its number in that source (pieces of one long document count on)
    text: str = ""                     # the document; of a problem the question, the solution and the answer
    problem: Problem | None = None     # None for a document


@dataclass(frozen=True)
class Ask:
    """What is to be sampled."""
    prompt: str | list[dict]           # text to continue, or the messages of a chat
    teacher: str = "init"              # which checkpoint: one of TEACHERS
    n: int = 1                         # samples
    max_new_tokens: int | None = None  # None: as --max-new-tokens says
    temperature: float | None = None   # None: as --temperature says
    stop: tuple[str, ...] = ()         # texts that end an answer, and are cut off; beside the tokenizer's end tokens
    begins: tuple[int, ...] = ()       # token ids that the answer begins with: they follow the prompt, and the reply has them
    think: bool | None = None          # chat alone: True opens a think block, False an empty one; None: the messages decide
    oracle: str = "solution"           # what an oracle writes here: see transforms/parts/oracle.py


class Transform:
    """A module of this room, or a class of a user's file, with defaults for all that it leaves out. What goes wrong in a user's
    file is a plugins.PluginError, with file and line."""

    def __init__(self, name: str, own: Any):
        self.name, self.own, self.is_plugin = name, own, plugins.is_plugin(name)
        for function in ("ask", "keep"):
            if not callable(getattr(own, function, None)):
                raise plugins.PluginError(f"{name}: has no function {function}; see transforms/__init__.py")
        self.about = (getattr(own, "__doc__", None) or name).strip().split("\n\n")[0]
        self.takes = getattr(own, "TAKES", "problems")
        self.teachers, self.files = tuple(getattr(own, "TEACHERS", ("init",))), tuple(getattr(own, "FILES", ()))
        self.optional = tuple(getattr(own, "OPTIONAL", ()))
        if self.takes not in ("problems", "documents", "nothing"):
            raise plugins.PluginError(f"{name}: TAKES is {self.takes!r}; use problems, documents or nothing")

    def given(self, args: argparse.Namespace) -> dict[str, str]:
        """{teacher's flag: what it names} of the teachers that the command line gives."""
        return {side: getattr(args, side) for side in self.teachers if getattr(args, side)}

    def has(self, function: str) -> bool:
        return hasattr(self.own, function)

    def _call(self, function: str, default, *arguments):
        if not self.has(function):
            return default
        if not self.is_plugin:
            return getattr(self.own, function)(*arguments)
        with plugins.named(self.name):
            return getattr(self.own, function)(*arguments)

    def _asks(self, function: str, *arguments) -> list[Ask]:
        asks = self._call(function, [], *arguments)
        if not isinstance(asks, list) or not all(isinstance(a, Ask) and a.teacher in self.teachers for a in asks):
            raise plugins.PluginError(f"{self.name}: {function} gave {asks!r:.80}; return a list of transforms.Ask, with a "
                                      f"teacher among {', '.join(self.teachers)}")
        return asks

    def flags(self, parser: cli.Parser) -> None:
        self._call("flags", None, parser)

    def check(self, args: argparse.Namespace) -> None:
        self._call("check", None, args)

    def ask(self, item: Item, args: argparse.Namespace, rng: random.Random) -> list[Ask]:
        return self._asks("ask", item, args, rng)

    def ask_again(self, item: Item, answers: list[list[Reply]], args: argparse.Namespace, rng: random.Random) -> list[Ask]:
        return self._asks("ask_again", item, answers, args, rng)

    def keep(self, item: Item, answers: list[list[Reply]], args: argparse.Namespace) -> tuple[list[dict], Counter]:
        found = self._call("keep", None, item, answers, args)
        good = isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], list) and isinstance(found[1], Counter)
        if not good or not all(isinstance(row, dict) for row in found[0]):
            raise plugins.PluginError(f"{self.name}: keep gave {found!r:.80}; return (a list of rows, a Counter of reasons)")
        return found

    def tally(self, item: Item, answers: list[list[Reply]], args: argparse.Namespace) -> Counter:
        return self._call("tally", Counter(), item, answers, args)

    def summary(self, counts: Counter, args: argparse.Namespace) -> dict:
        return self._call("summary", {}, counts, args)

    def warning(self, found: dict) -> str:
        return self._call("warning", "", found)


def names() -> list[str]:
    """The transforms of this room."""
    return sorted(path.stem for path in ROOM.glob("[a-z]*.py"))


def find(name: str) -> Transform:
    """The transform that a command names. ValueError where there is none."""
    if not plugins.is_plugin(name):
        if name not in names():
            raise ValueError(f"there is no transform {name}; use one of {', '.join(names())}, or FILE.py:NAME")
        return Transform(name, importlib.import_module(f"{__name__}.{name}"))
    own = plugins.load(name)
    with plugins.named(name):
        return Transform(name, own() if isinstance(own, type) else own)
