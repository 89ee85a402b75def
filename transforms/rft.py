"""Rejection sampling fine-tuning: of many answers to a question one for each distinct way of solving it (arXiv 2308.01825).

    python augment.py rft --init runs/sft --data gsm8k/train.jsonl --samples 16 --out paths.jsonl

An answer is kept if its final answer is right and so is every step: on the world as the verifier says, elsewhere by its inline
equations (tasks/equations.py), all of which must hold. Two answers to a question with the same list of steps are the same path,
and one is written: the one whose text is farther, by edit distance, from the texts of the other paths. What makes a student
better is the number of distinct paths and not of samples, so the last line reports `paths_per_question`. The paper trains a
fresh base on the original solutions and these; recipes/star.sh shows the commands.

`reject` is the simpler form: right answers whose texts differ.
"""

import random
from argparse import Namespace
from collections import Counter

from tasks.equations import equations
from tasks.task import Problem, Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import turns


def flags(parser: cli.Parser) -> None:
    turns.mode_flag(parser)
    parser.add_argument("--samples", type=cli.positive_int, default=16, help="answers to each question; the paper draws 100")
    parser.add_argument("--keep", type=cli.non_negative_int, default=0, help="most paths kept to one question; 0: all")
    parser.needs += (turns.SAMPLES,)


def check(args: Namespace) -> None:
    turns.check_mode(args, [args.plain])


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    return [turns.ask_problem(item, args, plain=args.plain, n=args.samples)]


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    good, dropped = [], Counter()
    for reply in answers[0]:
        usable = turns.read(item, reply, args, args.plain)
        fault = turns.UNUSABLE if usable is None else fault_of(item.problem, reply)
        if fault:
            dropped[fault] += 1
        else:
            good.append((item.problem.task.steps_in(reply.text), *usable[:2]))
    paths = distinct([(steps, turns.text_of(reasoning, answer)) for steps, reasoning, answer in good])
    taken = paths[:args.keep or None]
    dropped |= Counter(same_steps=len(good) - len(paths), beyond_keep=len(paths) - len(taken))
    return [turns.conversation(item, *good[i][1:], args.mode) for i in taken], +dropped


def fault_of(problem: Problem, reply: Reply) -> str:
    """Why an answer is no good path: "wrong", "wrong_steps" though the answer is right, or "" where nothing is."""
    verdict = problem.task.grade(problem, reply)
    if not verdict.answer_ok:
        return "wrong"
    steps_ok = verdict.process_ok
    if steps_ok is None:                                  # nobody knows the steps; those that can be calculated must hold
        steps_ok = all(equation.holds for equation in equations(reply.text))
    return "" if steps_ok else "wrong_steps"


def distinct(paths: list[tuple[list[str], str]]) -> list[int]:
    """Which (steps, text) to keep: one of each list of steps, in the order in which the lists first appear.

    Of texts with the same steps a later one takes the place of the one that is held where the sum of its edit distances to the
    held texts of the other lists is greater."""
    held = {}                                             # {steps: number of the path that is held for them}
    for number, (steps, text) in enumerate(paths):
        key = tuple(steps)
        if key not in held:
            held[key] = number
            continue
        if text != paths[held[key]][1]:
            others = [paths[i][1] for other, i in held.items() if other != key]
            if sum(edit_distance(text, o) for o in others) > sum(edit_distance(paths[held[key]][1], o) for o in others):
                held[key] = number
    return list(held.values())


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance: how many characters to insert, delete or replace.

    A column of the usual table at a time, as two integers with a bit for each row: where a value is one more, or one less, than
    in the row above (Hyyro's form of Myers's algorithm, doi 10.1145/316542.316550)."""
    if not a or not b:
        return len(a) + len(b)
    where, all_rows, last = {}, (1 << len(a)) - 1, 1 << (len(a) - 1)
    for i, char in enumerate(a):
        where[char] = where.get(char, 0) | 1 << i
    more, less, distance = all_rows, 0, len(a)
    for char in b:
        same = where.get(char, 0)
        diagonal = (((same & more) + more) ^ more) | same | less
        right_more = (less | ~(diagonal | more)) & all_rows               # against the column to the left
        right_less = more & diagonal
        distance += bool(right_more & last) - bool(right_less & last)
        right_more, right_less = right_more << 1 | 1, right_less << 1
        more = (right_less | ~(same | less | right_more)) & all_rows
        less = right_more & (same | less) & all_rows
    return distance


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    return turns.tally_right(item, answers[0], args) + Counter(paths=len(keep(item, answers, args)[0]))


def summary(counts: Counter, args: Namespace) -> dict:
    """Beside what `reject` says: how many paths there are to a question."""
    return turns.summary_right(counts) | {"same_steps": counts["same_steps"], "wrong_steps": counts["wrong_steps"],
                                          "paths_per_question": round(counts["paths"] / max(1, counts["problems"]), 4)}
