"""How every script speaks: flags by argparse, one line on standard error for bad input, one JSON object as the last line.

Needs no torch, so that small commands start at once.
"""

import argparse
import contextlib
import json
import math
import os
import sys


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults; where one depends on other flags (None) the help text says so itself."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse whose help shows the defaults and whose errors are one line and exit code 2."""

    def __init__(self, text, **options):
        super().__init__(description=text.strip().split("\n\n")[0], allow_abbrev=False,
                         formatter_class=lambda prog: Help(prog, max_help_position=32, width=120), **options)

    def error(self, message):
        fail(f"{message} (--help lists the flags)")


def fail(message):
    """Ends the program as the convention for bad input wants it."""
    print(f"{os.path.basename(sys.argv[0])}: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    raise SystemExit(2)


@contextlib.contextmanager
def bad_input():
    """Around the part of a script that reads what the user gave: a ValueError or OSError raised there is the user's to
    mend and becomes one line. Around anything else a bug would be hidden, so scripts keep their loops outside."""
    try:
        yield
    except (ValueError, OSError) as e:
        fail(e)


def to_json(value):
    """One line of JSON, for everything that scripts write. JSON has no NaN and no infinity, so such a number becomes null;
    whoever has one to report says beside it why."""
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


def finish(result):
    """The last line of standard output: one JSON object with the results. A number that is none is said to be so."""
    line = to_json(result)
    if line != json.dumps(result):
        print("a result is not a finite number; it stands as null in the last line", file=sys.stderr)
    print(line, flush=True)
