"""How every script speaks: flags by argparse, one line on standard error for bad input, one JSON object as the last line.

Needs no torch, so that small commands start at once.
"""

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

MOST = 10 ** 12                      # far above every number of tokens, rows or steps, far below what overflows
LARGEST = 1e30                       # of any number: far above every rate and size, and float32 holds its multiples


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults; where one depends on other flags (None) the help text says so itself."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse whose help shows the defaults and whose errors are one line and exit code 2.

    It refuses flags that would be dropped in silence. `needs` says when a flag has an effect, in rows of (flags,
    condition, why): where a flag of the row is on the command line and condition(args) is false, the program ends with
    "FLAG has no effect WHY; leave it out". WHY may name other flags' values, as in "with --loss {loss}". A flag without
    a row always has an effect."""

    def __init__(self, text: str, needs: tuple = (), **options):
        self.names, self.needs = {}, needs                # names: {attribute of args: flag}
        super().__init__(description=text.strip().split("\n\n")[0], allow_abbrev=False,
                         formatter_class=lambda prog: Help(prog, max_help_position=32, width=120), **options)

    def add_argument(self, *names: str, **options) -> argparse.Action:
        action = super().add_argument(*names, **options)
        if action.dest != "help":
            self.names[action.dest] = names[0]
        return action

    def parse_known_args(self, args: list[str] | None = None,
                         namespace: argparse.Namespace | None = None) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does it, and refuses what has no effect. (The parser of a subcommand is called here as well.)"""
        not_given = object()                                 # stands where the command line says nothing
        found = argparse.Namespace(**dict.fromkeys(self.names, not_given))
        found, rest = super().parse_known_args(args, found)
        given = {name for dest, name in self.names.items() if getattr(found, dest) is not not_given}
        for dest in self.names:
            if getattr(found, dest) is not_given:
                setattr(found, dest, self.get_default(dest))
        with bad_input():
            for flags, works, why in self.needs:
                if (idle := given.intersection(flags.split())) and not works(found):
                    names = sorted(idle, key=flags.split().index)
                    fail(f"{' '.join(names)} {'has' if len(names) == 1 else 'have'} no effect "
                         f"{why.format(**vars(found))}; leave {'it' if len(names) == 1 else 'them'} out")
        return found, rest

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (--help lists the flags)")


# Types of flags: what argparse calls to read a value. Not one of them lets nan or infinity through, nor what becomes
# infinite in float32 when something is multiplied or divided by it.

def number(wanted: str, convert: Callable, fits: Callable) -> Callable:
    """A type that takes `convert` of the text where that fits, and is 0 or between 1 / LARGEST and LARGEST; `wanted` says in
    words what fits."""
    def read(text):
        try:
            value = convert(text)
            good = (value == 0 or 1 / LARGEST <= abs(value) <= LARGEST) and fits(value)
        except (ValueError, OverflowError):               # no number, or an integer too large for a float
            good = False
        if not good:
            raise argparse.ArgumentTypeError(f"{text[:80]}: use {wanted}")
        return value
    return read


positive_int = number("a whole number of at least 1", int, lambda x: 1 <= x <= MOST)
non_negative_int = number("a whole number, 0 or more", int, lambda x: 0 <= x <= MOST)
seed = number(f"a whole number from 0 to {2 ** 32 - 1}", int, lambda x: 0 <= x < 2 ** 32)
above_zero = number("a number above 0", float, lambda x: x > 0)
not_negative = number("a number, 0 or more", float, lambda x: x >= 0)
fraction = number("a number from 0 to 1", float, lambda x: 0 <= x <= 1)
positive_fraction = number("a number above 0, up to 1", float, lambda x: 0 < x <= 1)


def device(text: str) -> str:
    """The type of --device where a model is only used: cpu, cuda or cuda:N."""
    if text == "cpu":
        return text
    kind, colon, index = text.partition(":")
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text}: use cpu, cuda or cuda:N")
    import torch  # not above: small commands should start at once

    if int(index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text}: no such GPU is visible; use cpu")
    return text


def out_file(text: str, folder: bool = False) -> str:
    """The type of --out: checks at once that it can be written to, and not only after hours of work. An empty
    name means that no file is written, where the file is optional."""
    if not text and not folder:
        return text
    path = Path(text).absolute()
    there = next(p for p in path.parents if p.exists())
    if not text or not there.is_dir() or not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: {there} is no folder that can be written to")
    if path.exists() and path.is_dir() != folder:
        raise argparse.ArgumentTypeError(f"{text}: is a {'file' if folder else 'folder'}; choose another")
    return text


def out_folder(text: str) -> str:
    """As out_file, for a folder."""
    return out_file(text, folder=True)


def fail(message: object) -> NoReturn:
    """Ends the program as the convention for bad input wants it."""
    line = f"{os.path.basename(sys.argv[0])}: {' '.join(str(message).split())}"
    if "tqdm" in sys.modules:                             # on a line of its own, not behind a progress bar
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)
    raise SystemExit(2)


@contextlib.contextmanager
def bad_input() -> Iterator[None]:
    """Around the part of a script that reads what the user gave: a ValueError or OSError raised there is for the
    user to fix and becomes one line. Around anything else a bug would be hidden, so scripts keep their loops outside."""
    try:
        yield
    except (ValueError, OSError) as e:
        fail(e)


def to_json(value: object) -> str:
    """One line of JSON, for everything that scripts write. JSON has no NaN and no infinity, so such a number becomes null;
    the caller reports the reason in another field or message."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def finish(result: dict) -> None:
    """The last line of standard output: one JSON object with the results. A result that is NaN or infinite is reported on
    standard error."""
    line = to_json(result)
    if line != json.dumps(result):
        print("a result is not a finite number; it stands as null in the last line", file=sys.stderr)
    print(line, flush=True)
