r"""Writes documents from nothing, each begun by a seed, so that they differ (phi-4, arXiv 2412.08905, section 2).

    python augment.py synthesise --init smollm2/ --count 100 --out written.jsonl
    python augment.py synthesise --init runs/base --plain --topics world:ops=1-3 --count 100 --out written.jsonl

A seed is a topic, and a form in which to write about it. Topics are the lines of a file (--topics; those of
transforms/prompts/topics.txt otherwise), each used once before any comes a second time; or the first --sentences sentences of
the questions of a world or another task. A base model (--plain) goes on from the seed, and the row holds both: of a world, one
sentence is little more than the context, so that the model writes a question of its own; with --sentences 0, the whole
question, the answer is what it writes.

Rows are for pretrain.py, {"text": ...}. Dropped is a text that is empty or cut off, talks about the request, or repeats itself.
On a world every text is checked, a question that the model has written itself by reading it back (tasks/reading.py): "verified"
is the share whose steps and answer are right, "no_question" counts texts that hold no problem of the world. --verified keeps what
is right; it needs a world, or a whole question (--sentences 0).
"""

import functools
import random
import re
from argparse import Namespace
from collections import Counter
from pathlib import Path

from formats import plugins
from formats.chat import END_THINK, THINK
from tasks.options import is_generated
from tasks.problems import open_task
from tasks.reading import read_question
from tasks.task import Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import filters, prompts, turns

TAKES = "nothing"
FILES = ("topics",)


def flags(parser: cli.Parser) -> None:
    prompts.add_flag(parser, "its places are {topic} and {form}; empty: the one that fits, of transforms/prompts")
    parser.add_argument("--topics", metavar="SPEC", default=str(prompts.FOLDER / "topics.txt"),
                        help="a file with a topic in each line; or world:... or my_task.py:MyTask: beginnings of questions")
    parser.add_argument("--sentences", type=cli.non_negative_int, default=1,
                        help="sentences of a question to begin with; 0: all of them")
    parser.add_argument("--verified", action="store_true", help="keep only what the task grades as right")
    parser.add_argument("--most-repeated", type=cli.fraction, default=0.4,
                        help="share of 6-grams of words that stand there before")
    parser.set_defaults(temperature=1.0)
    parser.needs += (("--sentences", is_task, "with topics from a file"),
                     ("--verified", can_check, "without a world in --topics, or whole questions to grade by (--sentences 0)"))


def is_task(args: Namespace) -> bool:
    return is_generated(args.topics) or plugins.is_plugin(args.topics)


def can_check(args: Namespace) -> bool:
    return args.topics.startswith("world:") or (is_task(args) and not args.sentences)


def check(args: Namespace) -> None:
    args.prompt = args.prompt or "synthesise" + "_plain" * args.plain
    prompts.read(args.prompt)                             # what is not there is refused here
    seed_of(args, 0)


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    prompt = prompt_of(args, item.number)
    return [Ask(prompt if args.plain else [{"role": "user", "content": prompt}])]


def prompt_of(args: Namespace, number: int) -> str:
    form = random.Random(f"{args.seed}/form/{number}").choice(lines_of(prompts.FOLDER / "forms.txt"))
    return prompts.fill(args.prompt, topic=seed_of(args, number)[0], form=form)


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    [[reply]] = answers
    topic, text = seed_of(args, item.number)[0], turns.said(reply, args.plain)
    if reply.finish == "length":
        return [], Counter(cut_off=1)
    if not text:
        return [], Counter(empty=1)
    if filters.about_the_request(text, topic, "" if args.plain else prompts.read(args.prompt)):
        return [], Counter(about_the_request=1)
    if filters.repeated_share(text) > args.most_repeated:
        return [], Counter(repetitive=1)
    judged = judge(item.number, reply, args)
    if args.verified and judged != "right":
        return [], Counter({judged: 1})
    return [{"text": whole(item.number, reply, args), "meta": {"topic": topic, "judged": judged}}], Counter()


def whole(number: int, reply: Reply, args: Namespace) -> str:
    """The text of a document: of a base model the seed and what follows it."""
    return prompt_of(args, number) + reply.text.rstrip() if args.plain else turns.said(reply, plain=False)


def judge(number: int, reply: Reply, args: Namespace) -> str | None:
    """"right", "wrong" or "no_question"; None where nothing checks a text."""
    if not can_check(args):
        return None
    text = whole(number, reply, args)
    if text.endswith(END_THINK):                          # thinking behind a document, which is not what it says
        text = text.partition(f"\n{THINK}")[0]
    problem = read_question(text) if args.sentences else seed_of(args, number)[1]
    if problem is None:
        return "no_question"
    return "right" if problem.task.grade(problem, Reply(text)).right else "wrong"


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    [[reply]] = answers
    return Counter({f"judged_{judge(item.number, reply, args)}": 1, "judged": 1}) if can_check(args) else Counter()


def summary(counts: Counter, args: Namespace) -> dict:
    if not counts["judged"]:
        return {}
    return {"verified": turns.rate(counts["judged_right"], counts["judged"]), "no_question": counts["judged_no_question"]}


def seed_of(args: Namespace, number: int) -> tuple:
    """(the topic of document number `number`, the problem that it comes from or None)."""
    if not is_task(args):
        path = Path(args.topics)
        if not path.is_file():
            raise FileNotFoundError(f"--topics {path}: no such file")
        topics = lines_of(path)
        turn, place = divmod(number, len(topics))
        return random.Random(f"{args.seed}/{turn}").sample(topics, len(topics))[place], None
    task = open_task(args.topics)
    problem = task.problem(number if task.count is None else number % task.count)
    sentences = re.findall(r"[^.?!]+[.?!]?\s*", problem.question)
    return ("".join(sentences[:args.sentences]).strip() if args.sentences else problem.question + "\n"), problem


def lines_of(path: Path) -> list[str]:
    """The lines of a file that are not empty."""
    return _lines_of(path, path.stat().st_mtime_ns)


@functools.lru_cache
def _lines_of(path, changed):
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: holds no line of text")
    return lines
