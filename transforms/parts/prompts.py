"""Prompts in files that a user can edit: transforms/prompts/NAME.txt, or any other file given as --prompt FILE.

A prompt is text with places to be filled in, such as {document}. Lines at its head that begin with # are notes, and not part of
it. What the places are depends on the transform; one that a prompt names and the transform does not have is refused.
"""

import hashlib
import re
from pathlib import Path

from formats.texts import without_notes
from training import cli

FOLDER = Path(__file__).parent.parent / "prompts"


def add_flag(parser: cli.Parser, text: str) -> None:
    parser.add_argument("--prompt", metavar="FILE", default="", help=f"what the teacher is asked: {text}")


def file_of(name: str) -> Path:
    """The file of a prompt: a path, or the name of one in transforms/prompts."""
    path = FOLDER / f"{name}.txt" if re.fullmatch(r"\w+", name) else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.txt")))
        raise FileNotFoundError(f"--prompt {name}: no such file; give one, or one of {known}")
    return path


def read(name: str) -> str:
    """The text of a prompt, without its notes."""
    return without_notes(file_of(name))


def fingerprint(name: str) -> str:
    return hashlib.blake2b(read(name).encode(), digest_size=8).hexdigest()


def fill(name: str, **places: str) -> str:
    """The prompt with its places filled in. ValueError for a place that is not among them."""
    text = read(name)
    for place in re.findall(r"\{(\w+)\}", text):
        if place not in places:
            known = ", ".join(f"{{{p}}}" for p in places)
            raise ValueError(f"--prompt {name}: there is nothing to put at {{{place}}}; use {known}")
    return re.sub(r"\{(\w+)\}", lambda found: places[found[1]], text)
