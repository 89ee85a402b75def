"""Spoils the thinking in documents: takes another document's, blanks it, or shuffles its lines. Is what was thought used at all?

    python augment.py think --init oracle: --data world:ops=1-3,split=pretrain --count 1000 --out thought.jsonl
    python augment.py corrupt --how swap --data thought.jsonl --out swapped.jsonl

Each document of a file that augment.py think wrote is written again, its thinking replaced:

    swap       by the thinking of another document of the file; each is used once
    blank      by a word that says nothing (--filler), as often as there were words, line by line
    shuffle    by its own lines in another order, where it has lines that differ
    keep       by itself: what the others are compared with, where --until-thought is given

If a model learns as much from the spoiled file as from the first one, it does not learn from what is thought, but from its length
or form, or from the documents. The last line says in how many rows the thinking is another one ("changed"). No teacher is asked.

--until-thought leaves out what stands behind the thinking. The loss on all of a document, less the loss on this part of it, is
the loss on the rest: where the thinking stands before the answer, that of the answer.
"""

import functools
import random
import re
from argparse import Namespace
from collections import Counter

from formats.chat import END_THINK, THINK
from formats.texts import read_texts
from sources.kinds import kind_of
from tasks.task import Reply
from training import cli
from transforms import Ask, Item

TAKES = "documents"
TEACHERS = ()
HOW = ("swap", "blank", "shuffle", "keep")

_PARTS = re.compile(rf"(.*?{THINK}\n)(.*)(\n{END_THINK})(.*)", re.DOTALL)


def flags(parser: cli.Parser) -> None:
    parser.add_argument("--how", choices=HOW, required=True, help="what the thinking is replaced by")
    parser.add_argument("--filler", metavar="WORD", default=".", help="the word that says nothing")
    parser.add_argument("--until-thought", action="store_true", help="leave out what stands behind the thinking")
    parser.needs += (("--filler", lambda a: a.how == "blank", "with --how {how}"),
                     ("--seed", lambda a: a.how in ("swap", "shuffle"), "with --how {how}"))


def check(args: Namespace) -> None:
    for spec in args.data:
        if kind_of(spec) != "text":
            raise ValueError(f"--data {spec}: give a file that augment.py think wrote, with a text in each row")
        if args.how == "swap" and len(thoughts_of(spec)) < 2:
            raise ValueError(f"--data {spec}: has {len(thoughts_of(spec))} documents with thinking; to swap it takes two")


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    return []


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    parts = parts_of(item.text)
    if parts is None:
        return [], Counter(no_thinking=1)
    before, _, end, behind = parts
    text = before + spoiled(item, args) + end + ("" if args.until_thought else behind)
    return [{"text": text, "meta": {"corrupted": args.how}}], Counter()


def parts_of(text: str) -> tuple[str, str, str, str] | None:
    """(up to the thinking, the thinking, its end mark, what stands behind); None without one block of thinking."""
    if text.count(THINK) != 1 or text.count(END_THINK) != 1 or not (found := _PARTS.fullmatch(text)):
        return None
    return found.groups()


def spoiled(item: Item, args: Namespace) -> str:
    """What stands in place of the thinking of a document."""
    thought = parts_of(item.text)[1]
    if args.how == "swap":
        return swapped(item.source, args.seed)[item.index]
    if args.how == "blank":
        return "\n".join(" ".join([args.filler] * len(line.split())) for line in thought.split("\n"))
    return shuffled(thought, random.Random(f"{args.seed}/{item.number}")) if args.how == "shuffle" else thought


def shuffled(thought: str, rng: random.Random) -> str:
    """The lines in another order; the same where all lines are equal."""
    lines = thought.split("\n")
    order = lines[:]
    while order == lines and len(set(lines)) > 1:
        rng.shuffle(order)
    return "\n".join(order)


@functools.lru_cache(maxsize=4)
def swapped(source: str, seed: int) -> dict[int, str]:
    """{number of a document: the thinking of the next one, in a circle that is drawn at random}."""
    thoughts = thoughts_of(source)
    circle = random.Random(f"{seed}/swap").sample(sorted(thoughts), len(thoughts))
    return {circle[i - 1]: thoughts[number] for i, number in enumerate(circle)}


@functools.lru_cache(maxsize=4)
def thoughts_of(source: str) -> dict[int, str]:
    """{number of a document in the file, without blank ones: its thinking} of those that have some."""
    parts = map(parts_of, filter(str.strip, read_texts(source)))
    return {number: found[1] for number, found in enumerate(parts) if found}


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    parts = parts_of(item.text)
    return Counter(changed=spoiled(item, args) != parts[1]) if parts else Counter()


def summary(counts: Counter, args: Namespace) -> dict:
    return {"changed": counts["changed"]}


def warning(found: dict) -> str:
    return "" if found["written"] else "no document of --data has thinking in think marks; give a file of augment.py think"
