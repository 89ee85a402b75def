"""The command line of every script: argparse flags, one line on standard error for bad input, a JSON object as the last line.

This file does not import torch, so that small commands start quickly.
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

MOST = 10 ** 12                      # far above every number of tokens, rows or steps, and far below an overflow
LARGEST = 1e30                       # far above every rate and size, and float32 can still hold multiples of it


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults. A default that depends on other flags (None) is not shown; the help text describes it."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Flags(argparse.Namespace):
    """What the command line says. vars() does not have `defaults`, the values of flags that are not given, and `given`, the flags
    that are (as "--lr")."""
    __slots__ = ("defaults", "given")


class Parser(argparse.ArgumentParser):
    """argparse with defaults in its help, and with errors of one line and exit code 2.

    It refuses flags that have no effect. `needs` has rows of (flags, condition, why). If a flag of a row is on the command line
    and condition(args) is false, the program ends with "FLAG has no effect WHY; leave it out". WHY may contain values of other
    flags, as in "with --loss {loss}". A flag without a row always has an effect."""

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
        found = Flags(**dict.fromkeys(self.names, not_given))
        found, rest = super().parse_known_args(args, found)
        given = {name for dest, name in self.names.items() if getattr(found, dest) is not not_given}
        for dest in self.names:
            if getattr(found, dest) is not_given:
                setattr(found, dest, self.get_default(dest))
        found.given = given
        found.defaults = {dest: self.get_default(dest) for dest in self.names}
        with bad_input():
            for flags, works, why in self.needs:
                if (idle := given.intersection(flags.split())) and not works(found):
                    names = sorted(idle, key=flags.split().index)
                    fail(f"{' '.join(names)} {'has' if len(names) == 1 else 'have'} no effect "
                         f"{why.format(**vars(found))}; leave {'it' if len(names) == 1 else 'them'} out")
        return found, rest

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (--help lists the flags)")


# Types of flags: argparse calls them to read a value. They refuse nan, infinity, and numbers so large or small that float32
# would overflow when something is multiplied or divided by them.

def number(wanted: str, convert: Callable, fits: Callable) -> Callable:
    """A type of flag: convert(text), if `fits` allows it and it is 0 or between 1 / LARGEST and LARGEST. `wanted` describes the
    allowed values for the error message."""
    def read(text):
        try:
            value = convert(text)
            good = (value == 0 or 1 / LARGEST <= abs(value) <= LARGEST) and fits(value)
        except (ValueError, OverflowError):               # not a number, or an integer too large for a float
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
    """The type of --device in scripts that do not train: cpu, cuda or cuda:N, which becomes the current device."""
    if text == "cpu":
        return text
    kind, colon, index = text.partition(":")
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text}: use cpu, cuda or cuda:N")
    import torch  # not at the top: small commands should start quickly

    if int(index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text}: no such GPU is visible; use cpu")
    if index:                                             # Triton's kernels and CUDA graphs run on the current device
        torch.cuda.set_device(int(index))
    return text


def out_file(text: str, folder: bool = False) -> str:
    """The type of --out: checks at the start that the path can be written to. If the file is optional, an empty name means that
    no file is written."""
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
    """Like out_file, for a folder."""
    return out_file(text, folder=True)


def fail(message: object) -> NoReturn:
    """Ends the program with one line on standard error and exit code 2."""
    line = f"{os.path.basename(sys.argv[0])}: {' '.join(str(message).split())}"
    if "tqdm" in sys.modules:                             # on a new line, not at the end of a progress bar
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)
    raise SystemExit(2)


@contextlib.contextmanager
def bad_input() -> Iterator[None]:
    """Put this around code that reads a user's input: a ValueError or OSError in it is an error that the user can fix, and
    becomes one line. Do not put it around other code, such as a training loop: it would hide bugs."""
    try:
        yield
    except (ValueError, OSError) as e:
        fail(e)


def to_json(value: object) -> str:
    """One line of JSON; scripts write all JSON with it. JSON has no NaN and no infinity, so such a number becomes null. The
    caller reports the reason in another field or message."""
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
    """Prints the last line of standard output: one JSON object with the results. If a result is NaN or infinite, a line on
    standard error says so."""
    line = to_json(result)
    if line != json.dumps(result):
        print("a result is not a finite number; it is null in the last line", file=sys.stderr)
    with reader_may_leave():
        print(line, flush=True)


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Put this around what is printed: a program that read it, such as `head`, may have ended. The rest is not printed then."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())        # or Python complains again at its exit
