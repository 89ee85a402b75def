"""Sample several answers to each question and keep the verified ones.

Rejection sampling (RFT, arXiv 2308.01825). An answer counts as verified when its final answer is right and, where a task checks
steps, so is each of them. Rows are conversations for sft.py, {"messages": [...]}. Simpler than the paper, which tells answers
apart by their equations: here only equal texts are the same.
"""

import random
from argparse import Namespace
from collections import Counter

from tasks.task import Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import turns


def flags(parser: cli.Parser) -> None:
    turns.mode_flag(parser)
    parser.add_argument("--samples", type=cli.positive_int, default=8, help="answers to each question")
    parser.add_argument("--keep", type=cli.non_negative_int, default=0, help="most answers kept to one question; 0: all")
    parser.needs += (turns.SAMPLES,)


def check(args: Namespace) -> None:
    turns.check_mode(args, [args.plain])


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    return [turns.ask_problem(item, args, plain=args.plain, n=args.samples)]


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    return turns.different(item, answers[0], args, lambda right: right, args.keep)


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    return turns.tally_right(item, answers[0], args)


def summary(counts: Counter, args: Namespace) -> dict:
    return turns.summary_right(counts)
