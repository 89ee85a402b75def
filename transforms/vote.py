"""Labels questions with the most common of a model's own answers to them, be it right or wrong.

    python augment.py vote --init runs/base --plain --data world:tiny,ops=2-3,split=rl --count 256 --out labels.jsonl
    python grpo.py --init runs/base --mode plain --data labels.jsonl --reward answer --out runs/majority

A row is {"question", "answer"}, with the label as the answer. Reinforcement on these rows pays what agrees with the model as it
was before: the majority reward of arXiv 2506.10947, which takes 64 samples of the initial model. With --only wrong there are only
the questions whose label is wrong, for the incorrect reward of that paper. (The reward `majority` of grpo.py is another thing: it
votes anew in every group, so its labels move with the policy.)

Of equally common answers the first one drawn wins. A question to which no sample has an answer is dropped.
"""

import random
from argparse import Namespace
from collections import Counter

from tasks.answers import same_answer
from tasks.rewards import ReplyGroup, answer_of
from tasks.task import Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import turns

ONLY = {"all": (True, False), "right": (True,), "wrong": (False,)}


def flags(parser: cli.Parser) -> None:
    turns.mode_flag(parser)
    parser.add_argument("--samples", type=cli.positive_int, default=64, help="answers that vote on each question")
    parser.add_argument("--only", default="all", choices=list(ONLY), help="which labels to keep")
    parser.set_defaults(temperature=1.0)
    parser.needs += (turns.SAMPLES,)


def check(args: Namespace) -> None:
    turns.check_mode(args, [args.plain])


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    return [turns.ask_problem(item, args, plain=args.plain, n=args.samples)]


def label_of(item: Item, replies: list[Reply]) -> str | None:
    """The most common answer; None where there is no answer."""
    return ReplyGroup(item.problem, replies).majority


def is_right(item: Item, label: str) -> bool:
    return same_answer(label, item.problem.answer)


def votes_for(item: Item, replies: list[Reply], label: str) -> int:
    answers = (answer_of(item.problem, reply) for reply in replies)
    return sum(answer is not None and same_answer(answer, label) for answer in answers)


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    label = label_of(item, answers[0])
    if label is None:
        return [], Counter(no_answer=1)
    right = is_right(item, label)
    if right not in ONLY[args.only]:
        return [], Counter({"right" if right else "wrong": 1})
    meta = {"votes": votes_for(item, answers[0], label), "of": len(answers[0]), "right": right}
    return [{"question": item.problem.question, "answer": label, "meta": meta}], Counter()


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    label = label_of(item, answers[0])
    if label is None:
        return Counter()
    return Counter(labels=1, labels_right=is_right(item, label), votes=votes_for(item, answers[0], label), of=len(answers[0]))


def summary(counts: Counter, args: Namespace) -> dict:
    """The share of labels that are right, and the share of the answers that agree with their label."""
    return {"labels_right": turns.rate(counts["labels_right"], counts["labels"]),
            "agreement": round(counts["votes"] / max(1, counts["of"]), 4)}
