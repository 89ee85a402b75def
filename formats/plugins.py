"""Loads code that users add: rewards, tasks, tools, transforms and claims, given on the command line as FILE.py:NAME or FILE.py,
and files in our packages.

    brevity = plugins.load("my_rewards.py:brevity")     whatever `brevity` is in that file
    with plugins.named("my_rewards.py:brevity"):        around every call of it

A file is run once, as a module, even if several names are taken from it. An error in it becomes a PluginError: one line of text
that names the file and the line.
"""

import argparse
import contextlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


def in_package(package: str, name: str, function: str) -> Callable | None:
    """A function of the file NAME.py in one of our folders, such as "sources"; None if there is no such file, or no such function
    in it.

    This finds what a user adds to a package: a format of rows (formats/rows.py), or a source of documents (sources/open.py)."""
    if not name.isidentifier() or importlib.util.find_spec(f"{package}.{name}") is None:
        return None
    return getattr(importlib.import_module(f"{package}.{name}"), function, None)


class PluginError(ValueError):
    """An error in a user's file, described in one line."""


def is_plugin(spec: str) -> bool:
    """Whether a text has the form FILE.py:NAME."""
    return re.fullmatch(r".+\.py:\w+", spec) is not None


def spec(text: str) -> str:
    """The type of a flag that names something in a user's file."""
    if not is_plugin(text):
        raise argparse.ArgumentTypeError(f"{text}: use FILE.py:NAME, as in my_file.py:my_name")
    return text


def file_of(spec: str) -> str:
    return spec.rpartition(":")[0]


def load(spec: str) -> Any:
    """The object NAME of FILE.py:NAME. PluginError if there is no such file or name, or if the file cannot be run."""
    file, _, name = spec.rpartition(":")
    if not Path(file).is_file():
        raise PluginError(f"{spec}: {file}: no such file")
    module = _module(spec)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise PluginError(f"{spec}: {file} has no {name} (it has: {', '.join(own) or 'no function and no class'})")
    return getattr(module, name)


def _module(spec: str) -> ModuleType:
    path = str(Path(file_of(spec)).resolve())
    if path in sys.modules:                               # the module's name is its path, so no other module has it
        return sys.modules[path]
    description = importlib.util.spec_from_file_location(path, path)
    module = sys.modules[path] = importlib.util.module_from_spec(description)
    try:
        with named(spec):
            description.loader.exec_module(module)
    except BaseException:
        del sys.modules[path]
        raise
    return module


@contextlib.contextmanager
def named(spec: str) -> Iterator[None]:
    """Put this around calls of a user's code: an exception becomes a PluginError."""
    try:
        yield
    except (Exception, SystemExit) as error:              # exit() in a user's code must not end the run as if all were well
        raise PluginError(describe(error, spec)) from error


def describe(error: Exception, spec: str) -> str:
    """The text of an error, with the last line of the user's file that led to it: "my_rewards.py, line 7: KeyError: 'x'". If the
    SPEC names no file, it is the line that raised the error."""
    if not is_plugin(spec):
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{'/'.join(Path(last.filename).parts[-2:])}, line {last.lineno}: {type(error).__name__}: {error}"
    path = str(Path(file_of(spec)).resolve())
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{file_of(spec)}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f"{file_of(spec)}, line {lines[-1]}" if lines else spec
    return f"{where}: {type(error).__name__}: {error}"
