"""Says a document again in other words (phi-4, arXiv 2412.08905, section 2.3): the same facts, more ways to meet them.

    python augment.py paraphrase --init smollm2/ --data corpus.txt --count 100 --out reworded.jsonl
    python augment.py paraphrase --init oracle:paraphrase=4 --data world:ops=1-3,split=pretrain --count 1000 --out reworded.jsonl

Rows are for pretrain.py, {"text": ...}: the new text; with --with-document the document stands before it, in the form of the
plain prompt, so that a base model that was trained on such rows can be asked to do the same (--plain).

Dropped is a text that is empty or cut off, talks about the request, repeats itself, says something else (no words in common,
less than half or more than twice the length), has other numbers than the document, or is a copy of it. On the world its steps
must verify.
"""

import random
from argparse import Namespace
from collections import Counter

from tasks.task import Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import filters, prompts, turns

TAKES = "documents"


def flags(parser: cli.Parser) -> None:
    prompts.add_flag(parser, "its place is {document}; empty: the one that fits, of transforms/prompts")
    parser.add_argument("--with-document", action="store_true", help="the row holds the document, too")
    parser.add_argument("--most-copied", type=cli.fraction, default=0.8,
                        help="share of 5-grams of words that the document has, too")
    parser.add_argument("--most-repeated", type=cli.fraction, default=0.4,
                        help="share of 6-grams of words that stand there before")
    parser.add_argument("--least-overlap", type=cli.fraction, default=0.2, help="share of words in common with the document")


def check(args: Namespace) -> None:
    args.prompt = args.prompt or "paraphrase" + "_plain" * args.plain
    prompts.read(args.prompt)                             # one that is not there is refused here


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    prompt = prompts.fill(args.prompt, document=item.text)
    return [Ask(prompt if args.plain else [{"role": "user", "content": prompt}], oracle="document")]


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    [[reply]] = answers
    text = turns.said(reply, args.plain)
    if reason := fault(item, reply, text, args):
        return [], Counter({reason: 1})
    if args.with_document:
        text = f"{prompts.fill('paraphrase_plain', document=item.text)}{text}"
    return [{"text": text}], Counter()


def fault(item: Item, reply: Reply, text: str, args: Namespace) -> str:
    """Why this text is dropped; "" if it is kept."""
    if reply.finish == "length":
        return "cut_off"
    if not text:
        return "empty"
    if filters.about_the_request(text, item.text, prompts.read(args.prompt)):
        return "about_the_request"
    if filters.repeated_share(text) > max(args.most_repeated, filters.repeated_share(item.text)):
        return "repetitive"
    if filters.overlap(text, item.text) < args.least_overlap or not 0.5 <= len(text) / len(item.text) <= 2:
        return "unrelated"
    if filters.numbers(text) != filters.numbers(item.text):
        return "other_numbers"
    if filters.copied_share(text, item.text) > args.most_copied:
        return "copied"
    problem = item.problem
    if problem is not None and problem.task.has_steps and not problem.task.grade(problem, Reply(text)).right:
        return "wrong"
    return ""
