"""Preference pairs from a stronger and a weaker checkpoint.

To each question one answer of a stronger checkpoint, chosen, and one of a weaker, rejected: pairs without a judge (delta
learning, arXiv 2507.06187). What teaches is the difference between the two, so both may be worse than the student.

Rows are for dpo.py: {"prompt", "chosen", "rejected", "chosen_right", "rejected_right"}. Pairs of equal answers are dropped, and
those in which an answer was cut off, is empty or has a thinking mark out of place. A checkpoint that never learned the chat
format is asked in plain text (--strong-plain, --weak-plain). Its last line then is the answer and what stands before it the
reasoning, so that the two sides of a pair differ in what they say and not in how it is laid out.
"""

import random
from argparse import Namespace
from collections import Counter

from tasks.task import Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import turns

TEACHERS = ("strong", "weak")


def flags(parser: cli.Parser) -> None:
    turns.mode_flag(parser)


def check(args: Namespace) -> None:
    turns.check_mode(args, [args.strong_plain, args.weak_plain])


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    return [turns.ask_problem(item, args, "strong", args.strong_plain), turns.ask_problem(item, args, "weak", args.weak_plain)]


def sides(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple:
    """The chosen and the rejected answer, each (reasoning, answer, right) or None."""
    [strong], [weak] = answers
    return turns.read(item, strong, args, args.strong_plain), turns.read(item, weak, args, args.weak_plain)


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    chosen, rejected = sides(item, answers, args)
    if chosen is None or rejected is None:
        return [], Counter({turns.UNUSABLE: 1})
    if chosen[:2] == rejected[:2]:
        return [], Counter(equal=1)
    return [turns.pair(item, chosen, rejected, args.mode)], Counter()


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    chosen, rejected = sides(item, answers, args)
    rows, _ = keep(item, answers, args)
    return Counter(problems=1, strong_right=bool(chosen and chosen[2]), weak_right=bool(rejected and rejected[2]),
                   pairs=len(rows), chosen_right=sum(row["chosen_right"] for row in rows),
                   rejected_right=sum(row["rejected_right"] for row in rows))


def summary(counts: Counter, args: Namespace) -> dict:
    return {turns.UNUSABLE: counts[turns.UNUSABLE], "equal": counts["equal"],
            "strong_verified": turns.rate(counts["strong_right"], counts["problems"]),
            "weak_verified": turns.rate(counts["weak_right"], counts["problems"]),
            "chosen_verified": turns.rate(counts["chosen_right"], counts["pairs"]),
            "rejected_verified": turns.rate(counts["rejected_right"], counts["pairs"])}


def warning(found: dict) -> str:
    """The premise of delta learning: on average the chosen side is better."""
    if found["written"] and found["chosen_verified"][0] <= found["rejected_verified"][0]:
        return ("the chosen answers are right no more often than the rejected ones, and delta learning lives on that difference; "
                "take a stronger --strong or a weaker --weak")
    return ""
