"""Answers as turns of a chat: how a problem is asked, what of a reply is reasoning, and which replies can be used."""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable

from formats.chat import END_THINK, THINK, split_thinking
from tasks.accuracy import Rate, interval
from tasks.task import SWITCHES, Problem, Reply
from training import cli
from transforms import Ask, Item

UNUSABLE = "cut_off_or_empty"                             # the reason of an answer that `read` gives back as None


def mode_flag(parser: cli.Parser) -> None:
    parser.add_argument("--mode", default="", choices=["" if mode == "chat" else mode for mode in SWITCHES],
                        help="flag behind the questions (dual-mode models)")


def check_mode(args: Namespace, plain: list[bool]) -> None:
    """ValueError for a mode that a teacher asked in plain text (one of `plain`) cannot have."""
    if args.mode and (all(plain) or (any(plain) and args.mode == "no_think")):
        raise ValueError(f"--mode {args.mode}: plain text has no modes; leave it out")


def turns_before(problem: Problem, mode: str) -> list[dict]:
    """The messages that put a problem in a chat."""
    return problem.task.prompt(problem, mode or "chat")


def ask_problem(item: Item, args: Namespace, teacher: str = "init", plain: bool = False, n: int = 1) -> Ask:
    """n answers to a problem, asked in plain text or in a chat."""
    problem = item.problem
    prompt = problem.task.prompt(problem, "plain") if plain else turns_before(problem, args.mode)
    return Ask(prompt, teacher, n)


def turn_of(text: str, plain: bool) -> tuple[str | None, str]:
    """(reasoning or None, answer) of a completion's text; of plain text the last line is the answer."""
    if plain:
        reasoning, _, answer = text.strip().rpartition("\n")
        return reasoning.strip(), answer.strip()
    reasoning, answer = split_thinking(text)
    return reasoning, answer.strip()


def said(reply: Reply, plain: bool) -> str:
    """The text of a reply; in a chat a think block is no part of it."""
    return reply.text.strip() if plain else turn_of(reply.text, plain=False)[1]


def text_of(reasoning: str | None, answer: str) -> str:
    """The inverse of split_thinking: an assistant's text with its think block, if there is one."""
    return answer if reasoning is None else f"{THINK}\n{reasoning}\n{END_THINK}\n\n{answer}"


def read(item: Item, reply: Reply, args: Namespace, plain: bool = False) -> tuple[str | None, str, bool] | None:
    """(reasoning, answer, right) of a reply, or None for one that was cut off, is empty or has a thinking mark out of place.
    `right` is the verdict on the answer and, in the world, on every step."""
    reasoning, answer = turn_of(reply.text, plain)
    # a thinking mark elsewhere than in one block at the head: sft.py and dpo.py could not see what was thought
    stray = any(mark in part for mark in (THINK, END_THINK) for part in (reasoning or "", answer))
    if reply.finish == "length" or not answer or stray:
        return None
    if args.mode == "no_think" and not plain:
        reasoning = ""
    return reasoning, answer, bool(item.problem.task.grade(item.problem, reply).right)


def conversation(item: Item, reasoning: str | None, answer: str, mode: str = "") -> dict:
    """A row for sft.py: the problem as the user's turn, and the assistant's."""
    turn = {"role": "assistant", "content": answer} | ({} if reasoning is None else {"reasoning": reasoning})
    return {"messages": [*turns_before(item.problem, mode), turn]}


def pair(item: Item, chosen: tuple, rejected: tuple, mode: str = "") -> dict:
    """A row for dpo.py of two answers to a problem, each (reasoning or None, answer, right)."""
    before = turns_before(item.problem, mode)
    prompt = before[0]["content"] if len(before) == 1 else before             # dpo.py reads both forms
    return {"prompt": prompt, "chosen": text_of(*chosen[:2]), "rejected": text_of(*rejected[:2]), "chosen_right": chosen[2],
            "rejected_right": rejected[2]}


def rate(count: int, of: int) -> Rate | None:
    """The share `count` of `of` with its 95% bootstrap interval, or None where there are none."""
    return interval([True] * count + [False] * (of - count)) if of else None


# what the transforms share that sample several answers to each question

SAMPLES = ("--samples", lambda a: a.temperature or a.samples == 1, "with --temperature 0, where all answers are the same")


def different(item: Item, replies: list[Reply], args: Namespace, wanted: Callable[[bool], bool] = lambda right: True,
              most: int = 0) -> tuple[list[dict], Counter]:
    """As a transform's `keep`: conversations of the usable answers that differ, of which `wanted` (of right) takes some; at most
    `most`, 0: all."""
    usable = [a for a in (read(item, reply, args, args.plain) for reply in replies) if a is not None]
    good = [a for a in usable if wanted(a[2])]
    kept = list(dict.fromkeys(good))
    taken = kept[:most or None]
    dropped = Counter({UNUSABLE: len(replies) - len(usable), "wrong": len(usable) - len(good), "repeated": len(good) - len(kept),
                       "beyond_keep": len(kept) - len(taken)})
    return [conversation(item, reasoning, answer, args.mode) for reasoning, answer, _ in taken], +dropped


def tally_right(item: Item, replies: list[Reply], args: Namespace, plain: bool | None = None) -> Counter:
    plain = args.plain if plain is None else plain
    right = [bool(a and a[2]) for a in (read(item, reply, args, plain) for reply in replies)]
    return Counter(problems=1, answers=len(right), right=sum(right), solved=any(right))


def summary_right(counts: Counter) -> dict:
    return {UNUSABLE: counts[UNUSABLE], "repeated": counts["repeated"], "verified": rate(counts["right"], counts["answers"]),
            "problems_solved": round(counts["solved"] / max(1, counts["problems"]), 4)}
