"""STaR: answers that come to the truth, and for questions that failed, answers that were told it (arXiv 2203.14465).

    python augment.py star --init runs/mid --data world:ops=2-4,split=sft --count 2000 --out round1.jsonl

The teacher sees a question, thinks and concludes. What agrees with the known answer is kept, on the world only with every step
right. A question that failed is asked again with its answer as a hint (rationalisation); what is right then is kept as well,
and saved without the hint, as if the model had found it alone. An answer that speaks of the hint is dropped. --no-hints leaves
this second round out.

The hint is put in the words of a file that you can edit: transforms/prompts/hint.txt, or for a teacher that is asked in plain
text hint_plain.txt, the paper's form (the answer in brackets behind the question), or --prompt FILE.

In the paper each round samples with the newest model and trains the original base on all that was kept: recipes/star.sh.
"""

import dataclasses
import random
import re
from argparse import Namespace
from collections import Counter

from tasks.task import Problem, Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import prompts, turns
from transforms.parts.filters import grams

GRAM = 4           # words in a row that only somebody who has read the hint would write

_PLACES = re.compile(r"\{question\}|\{answer\}")
_WORD = re.compile(r"\w+")
_SPEAKS = re.compile(r"""
    \bhint(?:s|ed)?\b | \b(?:given|provided|known|supplied|stated|expected|target)\ (?:final\ |correct\ )?answer\b
    | \banswer\ (?:is|was|has\ been)\ (?:already\ )?(?:given|provided|known|told|stated|supplied)\b
    | \b(?:told|informed|know(?:ing)?|given|given\ us)\ (?:already\ )?(?:that\ )?the\ (?:final\ |correct\ |right\ )?answer\b
    """, re.X | re.I)


def flags(parser: cli.Parser) -> None:
    parser.set_defaults(temperature=0.0)
    turns.mode_flag(parser)
    parser.add_argument("--samples", type=cli.positive_int, default=1, help="answers to each question, of which one is kept")
    prompts.add_flag(parser, "the hint, with its places {question} and {answer}; empty: the one that fits, of transforms/prompts")
    parser.add_argument("--no-hints", action="store_true", help="do not ask failed questions again with the answer as a hint")
    parser.needs += (turns.SAMPLES, ("--prompt", lambda a: not a.no_hints, "with --no-hints"))


def check(args: Namespace) -> None:
    turns.check_mode(args, [args.plain])
    args.prompt = args.prompt or "hint" + "_plain" * args.plain
    words = prompts.read(args.prompt)
    for place in ("{question}", "{answer}"):
        if words.count(place) != 1:
            raise ValueError(f"--prompt {args.prompt}: must have {place} once; it is there {words.count(place)} times")


def with_hint(problem: Problem, prompt: str) -> Problem:
    """The problem with the hint in its question."""
    return dataclasses.replace(problem, question=prompts.fill(prompt, question=problem.question, answer=problem.answer))


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    return [turns.ask_problem(item, args, plain=args.plain, n=args.samples)]


def ask_again(item: Item, answers: list[list[Reply]], args: Namespace, rng: random.Random) -> list[Ask]:
    if args.no_hints or len(answers) > 1 or _right(item, answers[0], args):
        return []
    hinted = dataclasses.replace(item, problem=with_hint(item.problem, args.prompt))
    return [turns.ask_problem(hinted, args, plain=args.plain, n=args.samples)]


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    dropped = Counter()
    for hinted, replies in enumerate(answers[:2]):
        good = _right(item, replies, args)
        dropped["wrong_with_hint" if hinted else "wrong"] += len(replies) - len(good)
        if hinted:
            clean = [a for a in good if not tells(turns.text_of(*a), prompts.read(args.prompt), item.problem)]
            dropped["tells_of_hint"] += len(good) - len(clean)
            good = clean
        if good:
            dropped["beyond_one"] += len(good) - 1
            return [turns.conversation(item, *good[0], args.mode) | {"meta": {"hinted": bool(hinted)}}], +dropped
    return [], +dropped


def _right(item, replies, args) -> list[tuple[str | None, str]]:
    """(reasoning, answer) of the replies that are usable and right; a hinted reply is graded by the problem without the hint."""
    read = [turns.read(item, reply, args, args.plain) for reply in replies]
    return [a[:2] for a in read if a and a[2]]


def tells(text: str, words: str, problem: Problem) -> bool:
    """Whether a text lets it show that a hint was there: it speaks of a hint or of a given answer, has a run of the hint's own
    words, or repeats the hint before its last line. What the question itself says does not count."""
    question = problem.question.lower()
    if any(found[0].lower() not in question for found in _SPEAKS.finditer(text)):
        return True
    written = _grams(text) - _grams(question)
    if any(written & _grams(piece) for piece in _PLACES.split(words)):
        return True
    hint = words.replace("{question}", "").replace("{answer}", problem.answer).strip()
    return len(hint) > len(problem.answer) and hint in text.strip().rpartition("\n")[0]


def _grams(text: str) -> set[tuple[str, ...]]:
    return set(grams(_WORD.findall(text.lower()), GRAM))


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    first, *second = [bool(_right(item, replies, args)) for replies in answers[:2]]
    rows, _ = keep(item, answers, args)
    return Counter(problems=1, solved=first, hinted=len(second), solved_with_hint=bool(second and second[0]),
                   rationalised=sum(row["meta"]["hinted"] for row in rows))


def summary(counts: Counter, args: Namespace) -> dict:
    """The shares of questions that were solved alone, and of those asked with the hint."""
    return {"solved": turns.rate(counts["solved"], counts["problems"]),
            "solved_with_hint": turns.rate(counts["solved_with_hint"], counts["hinted"]),
            "rationalised": counts["rationalised"], "tells_of_hint": counts["tells_of_hint"]}
