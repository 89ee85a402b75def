"""Texts to train a tokenizer on, and the readers of KIND:... sources."""

import functools
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

from formats import plugins
from formats.texts import read_texts
from tasks.options import is_generated

CHARACTERS, PROBLEMS = 20_000_000, 20_000     # what a tokenizer learns from at most: of each file, and of each generated task


def reader_of(spec: str, function: str) -> Callable | None:
    """A function of the file in sources/ that reads a KIND:... source: sources/KIND.py, for generated tasks sources/generated.py.
    None if there is no such file, or no such function in it."""
    kind, colon, _ = spec.partition(":")
    return plugins.in_package("sources", "generated" if is_generated(spec) else kind, function) if colon else None


def sample_texts(spec: str, characters: int = CHARACTERS, problems: int = PROBLEMS) -> Iterator[str]:
    """Texts to train a tokenizer on: the beginning of a file, or the first documents of a KIND:... source."""
    if sample := reader_of(spec, "sample_texts"):
        yield from sample(spec, problems)
        return
    left = characters
    for text in read_texts(spec):
        if len(text) > left:
            say_cut(spec, characters)
            yield text[:left]
            return
        yield text
        left -= len(text)


@functools.cache                                          # a file may be read twice, and it is said once
def say_cut(spec: str, characters: int) -> None:
    tqdm.write(f"{spec}: is longer than the {characters:,} characters that a tokenizer learns from; the rest is left out of that",
               file=sys.stderr)
