"""A command of a claim: a script of ours with its flags. Where another command's output is meant, that command stands itself.

    words = make("tokenizer.py", "train", "--data", "world:ops=1-3", "--vocab-size", 512)
    base = make("pretrain.py", "--tokenizer", words, "--data", "world:ops=1-3,split=pretrain", "--steps", 240)
    found = make("evaluate.py", "--init", base, "--data", "world:ops=1-3,split=test")
    mixed = make("pretrain.py", "--init", base, "--data", (rows, "@0.3"), "world:ops=1-3@0.7")      # parts of one word

--out is added by itself. It names a place in the command's own folder, runs/claims/SCRIPT-HASH, whose hash is that of the command
line (other commands count by their hashes in it, and files that it names by their contents). So arms, seeds and claims which
need the same checkpoint share it, and a changed flag makes a new folder for the command and for all that depend on it.

The version of the code is not in the hash: otherwise each commit would make hours of checkpoints again. Every folder keeps the
commit that made it, every result lists the commits of all its folders, and `claims/run.py --fresh` makes them anew.
"""

import contextlib
import hashlib
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FILES = {"evaluate.py": "evaluation.json", "augment.py": "rows.jsonl", "mix.py": "mixture"}   # of those whose --out is no folder
RESUMABLE = {"pretrain.py", "sft.py", "dpo.py", "grpo.py", "distill.py", "augment.py", "mix.py"}        # go on with --resume


@dataclass(frozen=True)
class Command:
    """words: the script and its flags, each a str, a Command or a tuple of these. output: the name of what --out points to."""
    words: tuple
    output: str

    @property
    def script(self) -> str:
        return self.words[0]

    @property
    def resumable(self) -> bool:
        """Whether it goes on with --resume where it was killed. What only measures begins again."""
        return self.script in RESUMABLE and self.words[1:2] != ("measure",)

    @cached_property
    def needs(self) -> list["Command"]:
        """The commands whose output it reads, each once."""
        return list(dict.fromkeys(part for word in self.words for part in parts_of(word) if isinstance(part, Command)))

    @cached_property
    def name(self) -> str:
        """The name of its folder, such as pretrain-1a2b3c4d5e6f."""
        text = [self.output]
        for word in self.words:
            text.append("".join(f"{part.name}/{part.output}" if isinstance(part, Command) else part for part in parts_of(word)))
            text += [contents_of(part) for part in parts_of(word) if isinstance(part, str) and part != self.script]
        return f"{Path(self.script).stem}-{hashlib.sha256(chr(0).join(text).encode()).hexdigest()[:12]}"

    def line(self, runs: Path) -> list[str]:
        """The words as they are run, with the folders of all commands in `runs`."""
        def place(part):
            return str(part.out(runs)) if isinstance(part, Command) else part
        return ["".join(map(place, parts_of(word))) for word in self.words] + ["--out", str(self.out(runs))]

    def folder(self, runs: Path) -> Path:
        return runs / self.name

    def out(self, runs: Path) -> Path:
        return runs / self.name / self.output

    def shown(self, runs: Path) -> str:
        """As one would type it."""
        return "python " + shlex.join(self.line(runs))

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return isinstance(other, Command) and self.name == other.name


def make(script: str, *words, output: str = "") -> Command:
    """A command. ValueError where there is no such script, or where a word is none (a list in it, or None)."""
    if not (ROOT / script).is_file() or "/" in script:
        raise ValueError(f"{script}: no script of this repository; a claim's commands are the scripts at its root")
    words = tuple(tuple(map(as_word, word)) if isinstance(word, tuple) else as_word(word) for word in words)
    if "--out" in words:
        raise ValueError(f"{script}: --out is added by itself; leave it out")
    return Command((script, *words), output or FILES.get(script, "out"))


def as_word(word: object) -> "str | Command":
    if isinstance(word, Command | str):
        return word
    if isinstance(word, int | float) and not isinstance(word, bool):
        return str(word)
    raise ValueError(f"{word!r} is no word of a command; give text, a number, a command or a tuple of these")


def parts_of(word: object) -> tuple:
    return word if isinstance(word, tuple) else (word,)


def contents_of(word: str) -> str:
    """A hash of the file that a word names, which may have @WEIGHT or :NAME behind it, or stand among the options of a SPEC, such
    as needle:haystack=FILE or loss:FILE; "" where it names none."""
    parts = [part.rpartition("@")[0] or part for part in re.split("[:,=]", word)]
    for name in (word, word.rpartition("@")[0], word.rpartition(":")[0], *parts):
        with contextlib.suppress(OSError):                 # a name that is too long is none
            if name and Path(name).is_file():
                with open(name, "rb") as f:
                    return hashlib.file_digest(f, "sha256").hexdigest()
    return ""


def in_order(commands: Iterable[Command]) -> list[Command]:
    """The commands and all that they need, each once, behind those that it needs."""
    found: dict[Command, None] = {}

    def add(command):
        if command not in found:
            for needed in command.needs:
                add(needed)
            found[command] = None
    for command in commands:
        add(command)
    return list(found)
