"""Probes for contamination: does a model know how a question goes on, of which it is shown the first part? (arXiv 2507.10532)

A question is cut behind 40, 60 or 80 percent of its words, and the model goes on greedily, without any template. What it says is
compared with the rest of the question:

    rouge_l     F1 of the longest common subsequence of words, between the rest and as many words of the continuation
    exact       whether these words are the same, one by one
    answer      whether the continuation comes to the right answer, though the question was never shown in full

A model that has not seen the question scores low in `exact`, except at 80 percent, where little is left to guess: look at 40 and
60. A control are questions that no corpus can have, such as fresh ones of the world.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.accuracy import interval, rate_text
from tasks.benchmarks.ask import before
from tasks.problems import asked_of, problems_of
from tasks.task import Problem, Reply, Task

STOP = ("\nQuestion:",)


def shares(text: str) -> list[float]:
    """The type of --contamination: "0.4,0.6" -> [0.4, 0.6]."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"{text}: use shares between 0 and 1, such as 0.4,0.6,0.8")
    return found


def cut(question: str, share: float) -> tuple[str, str]:
    """The question up to this share of its words, and the rest. At least one word is on each side, if there are two."""
    ends = [word.end() for word in re.finditer(r"\S+", question)]
    if len(ends) < 2:
        raise ValueError(f"the question {question[:40]!r} has fewer than two words, so it cannot be cut")
    at = ends[min(max(1, round(share * len(ends))), len(ends) - 1) - 1]
    return question[:at], question[at:]


def rouge_l(said: str, rest: str) -> float:
    """ROUGE-L (F1) of a continuation: 2 L / (n + m), where L is the length of the longest common subsequence of their words, of
    letters and digits in small letters. Of the continuation, as many words count as the rest has."""
    a, b = (re.findall(r"[a-z0-9]+", text.lower()) for text in (said, rest))
    a = a[:len(b)]
    if not b:
        return 0.0
    row = [0] * (len(b) + 1)                              # row[j]: for the words of a so far and the first j of b
    for word in a:
        above = row
        row = [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
    return 2 * row[-1] / (len(a) + len(b))


def exact(said: str, rest: str) -> bool:
    """Whether the continuation begins with the rest, word for word."""
    wanted = rest.split()
    return said.split()[:len(wanted)] == wanted


def probe(problems: Sequence[Problem], parts: Sequence[float],
          ask: Callable[[list[str], Sequence[str]], list[list[Reply]]]) -> list[dict]:
    """A row for each share: {"share", "problems", "rouge_l", "exact", "answer"}, each with its interval.

    ask: as in tasks/benchmarks/score.py; it must decode greedily."""
    rows = []
    for share in parts:
        halves = [cut(p.question, share) for p in problems]
        replies = [each[0] for each in ask([first for first, _ in halves], STOP)]
        said = [replace(reply, text=before(reply.text, STOP)) for reply in replies]
        rests = [rest for _, rest in halves]
        rows.append({"share": share, "problems": len(problems),
                     "rouge_l": interval([rouge_l(reply.text, rest) for reply, rest in zip(said, rests, strict=True)]),
                     "exact": interval([exact(reply.text, rest) for reply, rest in zip(said, rests, strict=True)]),
                     "answer": interval([p.task.grade(p, reply).answer_ok for p, reply in zip(problems, said, strict=True)])})
    return rows


def probe_all(tasks: dict[str, Task], reply: Callable, args: argparse.Namespace) -> dict:
    """{"contamination:NAME": {"rows": those of `probe`}} for each task, and prints them. Of a world and of needles --problems are
    taken, of all others --limit, as evaluate.py asks them. reply: replies_to of a checkpoint."""
    found = {}
    for name, task in tasks.items():
        def ask(prompts, stops, name=name):
            return reply(prompts, [args.max_new_tokens] * len(prompts), stop_texts=stops, rows=args.rows, progress=name)
        found[f"contamination:{name}"] = {"rows": probe(shown(name, task, args), args.contamination, ask)}
        print_probe(name, found[f"contamination:{name}"]["rows"])
    return found


def shown(name: str, task: Task, args: argparse.Namespace) -> list[Problem]:
    """The problems of a task whose questions are shown in part."""
    if task.count is None:
        return problems_of(task, args.problems if name.startswith(("world:", "needle:")) else args.limit or None)
    return asked_of(problems_of(task)[args.shots or 0:], args.limit, args.seed)


def check(name: str, task: Task, args: argparse.Namespace) -> None:
    """ValueError for a question that cannot be cut, before anything is measured."""
    for problem in shown(name, task, args) if args.contamination else ():
        cut(problem.question, args.contamination[0])


def print_probe(name: str, rows: list[dict]) -> None:
    for r in rows:
        cells = ((title, rate_text(r[key])) for title, key in (("ROUGE-L", "rouge_l"), ("word for word", "exact"),
                                                               ("right answer", "answer")))
        print(f"{name}, after {r['share']:.0%} of the words of {r['problems']} questions: " + ", ".join(map(" ".join, cells)))
