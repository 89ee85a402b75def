r"""Preference pairs of a right and a wrong answer of one checkpoint: what it would say itself, and what it should not say.

    python augment.py contrast --init runs/sft --data world:ops=4-6,split=sft --count 400 --samples 8 --temperature 1 \
        --out pairs.jsonl

Several answers to each question are sampled and verified; a right one is chosen, a wrong one rejected (iterative reasoning
preference optimisation, arXiv 2404.19733). Questions whose answers are all right or all wrong give no pair. After training with
dpo.py the same command with the new checkpoint makes the pairs of the next round: with as many rounds as one can pay for, DPO
comes near to training on-policy.

Rows are for dpo.py, as those of `augment.py pairs`. Simpler than the paper, which adds the likelihood of the chosen answer to the
loss (see --loss orpo of dpo.py for one that does).
"""

import random
from argparse import Namespace
from collections import Counter

from tasks.task import Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import turns

TWO = cli.number("a whole number of at least 2", int, lambda x: x >= 2)

def flags(parser: cli.Parser) -> None:
    parser.set_defaults(temperature=1.0)
    turns.mode_flag(parser)
    parser.add_argument("--samples", type=TWO, default=8, help="answers to each question")
    parser.add_argument("--pairs", type=cli.positive_int, default=1, help="most pairs of a question; no answer is in two of them")


def check(args: Namespace) -> None:
    turns.check_mode(args, [args.plain])
    if not args.temperature:
        raise ValueError("--temperature 0: all answers to a question would be the same; a pair needs draws")


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    return [turns.ask_problem(item, args, plain=args.plain, n=args.samples)]


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    found = [turns.read(item, reply, args, args.plain) for reply in answers[0]]
    usable = list(dict.fromkeys(answer for answer in found if answer is not None))
    right, wrong = ([answer for answer in usable if answer[2] is side] for side in (True, False))
    rows = [turns.pair(item, *both, args.mode) for both in zip(right, wrong)][:args.pairs]
    dropped = Counter({turns.UNUSABLE: found.count(None)})
    if not rows:
        dropped["all_right" if right else "all_wrong" if wrong else "no_answer"] += 1
    return rows, +dropped


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    return turns.tally_right(item, answers[0], args)


def summary(counts: Counter, args: Namespace) -> dict:
    return {name: value for name, value in turns.summary_right(counts).items() if name != "repeated"} | {
        name: counts[name] for name in ("all_right", "all_wrong", "no_answer")}
