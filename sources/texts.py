"""Texts to train a tokenizer on, and the readers of KIND:... sources."""

from collections.abc import Callable, Iterator

from formats import plugins
from formats.texts import read_texts
from tasks.options import is_generated


def reader_of(spec: str, function: str) -> Callable | None:
    """A function of the file in sources/ that reads a KIND:... source: sources/KIND.py, for generated tasks sources/generated.py.
    None if there is no such file, or no such function in it."""
    kind, colon, _ = spec.partition(":")
    return plugins.in_package("sources", "generated" if is_generated(spec) else kind, function) if colon else None


def sample_texts(spec: str, characters: int = 20_000_000, problems: int = 20_000) -> Iterator[str]:
    """Texts to train a tokenizer on: the beginning of a file, or the first documents of a KIND:... source."""
    if sample := reader_of(spec, "sample_texts"):
        yield from sample(spec, problems)
        return
    for text in read_texts(spec):
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)
