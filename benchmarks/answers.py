"""Measures the answer check (tasks/answers.py): how fast it is, and how often it is right; bench.py answers runs this.

There are four sets of checks:

- our own cases (tests/tasks/answer_cases.py);
- the solutions of GSM8K and MATH-500 against their gold answers, if these files exist;
- strings that are made to take long;
- with --cases, a file of other people's cases. Only the counts are kept.

If math-verify (0.9, pip install math-verify) is installed, it judges the cases too. Times are the processor time of this
thread, so other programs do not count.
"""

import gc
import json
import logging
import os
import random
import runpy
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from formats.rows import read_rows
from tasks.answers import check_answer, same_answer
from tasks.problems import load_problems

HERE = Path(__file__).parent.parent
DATA = ("gsm8k/test.jsonl", "math500/test.jsonl")
PIECES = r"""
    { } ( ) [ ] | < > = + - * / ^ _ ! , ; : . ? % $ $$ & \\ \( \) \[ \] \{ \} \frac \frac{ \sqrt \sqrt[ \pm \cup \pi \sin \log_
    \le \approx \left( \text{ \boxed{ \boxed{1} \boxed #### <answer> </answer> <think> </think> \begin{pmatrix} \end{pmatrix}
    \begin{array}{cc} \binom \lfloor \overline{3} \langle ^{ 9**9**9 99999! 1e999999 10^{10^{10}} 2\frac12 1,234 0.333... 1/0 x xy
    abc e f( °""".split()
PIECES += [" ", "\n", "9" * 50, " answer is ", "Answer:", " and ", " or ", " not ", " million", " km/h",
           " m", " apples", "a b ", "\\", "²"]


def timed(function: Callable, arguments: Iterable[tuple]) -> tuple[list, dict]:
    """Calls a function with each of the arguments; returns (the results, {"checks", "mean_ms", "worst_ms"})."""
    gc.collect()
    gc.freeze()                       # without this, garbage collection over all objects of torch would count sometimes
    results, seconds = [], []
    for each in arguments:
        start = time.thread_time()
        results.append(function(*each))
        seconds.append(time.thread_time() - start)
    return results, {"checks": len(results), "mean_ms": round(1e3 * statistics.mean(seconds), 3),
                     "worst_ms": round(1e3 * max(seconds), 1), "above_100_ms": sum(s > 0.1 for s in seconds)}


def ours(kind: str, first: str, second: str) -> bool:
    return same_answer(first, second) if kind == "pair" else check_answer(first, second)


def math_verify() -> Callable[[str, str, str], bool] | None:
    """The judge of math-verify, or None if it is not installed."""
    try:
        from math_verify import parse, verify
    except ModuleNotFoundError:
        return None
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def judge(kind, first, second):
        try:
            gold = parse(f"${second}$") if kind == "pair" else parse(second) or parse(f"${second}$")
            return bool(verify(gold, parse(f"${first}$" if kind == "pair" else first)))
        except Exception:                                  # an error counts as "not right"
            return False
    return judge


def own_cases() -> list[tuple]:
    """[(kind, candidate or completion, gold, whether it is right)] of tests/tasks/answer_cases.py."""
    tables = runpy.run_path(str(HERE / "tests" / "tasks" / "answer_cases.py"))
    return [(kind, *case, right) for name, kind, right in (("EQUAL", "pair", True), ("UNEQUAL", "pair", False),
                                                           ("RIGHT", "text", True), ("WRONG", "text", False))
            for case in tables[name]]


def cases_of(file: str) -> list[tuple]:
    """The rows of a JSONL file: {"text", "gold", "right"} for a completion, {"a", "b", "right"} for a pair of answers."""
    cases = []
    for where, row in read_rows(file):
        kind, names = ("pair", ("a", "b")) if isinstance(row, dict) and "a" in row else ("text", ("text", "gold"))
        if not isinstance(row, dict) or [type(row.get(n)) for n in (*names, "right")] != [str, str, bool]:
            raise ValueError(f'{where}: use {{"text": "...", "gold": "...", "right": true}}, or "a" and "b" for two answers')
        cases.append((kind, *(row[n] for n in names), row["right"]))
    if not cases:
        raise ValueError(f"{file}: no cases in this file")
    return cases


def judged(judge: Callable[[str, str, str], bool], cases: list[tuple]) -> tuple[dict, list[bool]]:
    """How often a judge is right, and its errors of both kinds; returns (its counts and times, its verdicts)."""
    verdicts, times = timed(judge, [case[:3] for case in cases])
    wrong = [verdict for verdict, case in zip(verdicts, cases) if verdict != case[3]]
    counts = {"right": len(cases) - len(wrong), "false_positives": sum(wrong), "false_negatives": len(wrong) - sum(wrong)}
    return counts | times, verdicts


def hostile(count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Random strings made of meaningful pieces, often repeated many times."""
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.3:
            text = (rng.choice(PIECES) + rng.choice(PIECES)) * rng.randint(1, 2000)
        else:
            text = "".join(rng.choice(PIECES) * rng.choice([1, 1, 1, 2, 7, 60, 300]) for _ in range(rng.randint(1, 20)))
        yield ("pair", text[:512], text[:500] + rng.choice(PIECES)) if rng.random() < 0.5 else ("text", text, text[:400])


def bench_answers(cases_file: str, seed: int, toy: bool = False) -> dict:
    """{"own", "cases", "real", "hostile", "golds"}: counts and times; "own" and "cases" have them for each judge."""
    judges = {"ours": ours} | ({"math_verify": math_verify()} if math_verify() else {})
    found = {"judges": {name: version("math-verify") if name == "math_verify" else "" for name in judges}}
    sets = {"own": own_cases()[::40 if toy else 1]} | ({"cases": cases_of(cases_file)} if cases_file else {})
    for name, cases in sets.items():
        found[name] = {"traps": sum(not case[3] for case in cases)}
        for judge, function in judges.items():
            found[name][judge], verdicts = judged(function, cases)
            if judge == "ours":
                for verdict, (_, first, second, right) in zip(verdicts, cases):
                    if verdict != right:
                        print(f"taken for {'right' if verdict else 'wrong'}: {first[-150:]!r}  gold {second[-150:]!r}")
    found["real"] = {}
    golds = []
    for name in DATA:
        file = Path(os.environ.get("NANOTHINK_DATA", HERE.parent / "shared" / "data")) / name
        if file.is_file():
            problems = load_problems(str(file), limit=5 if toy else None)
            found["real"][name], _ = judged(ours, [("text", p.solution, p.answer, True) for p in problems])
            golds = sorted({p.answer for p in problems}) if "math" in name else golds
    pairs = [("pair", a, b) for i, a in enumerate(golds) for b in golds[i + 1:]]
    if pairs:      # gold answers of different problems that are judged equal (such as 1,-2 and -2,1) are printed for a reader
        verdicts, times = timed(ours, pairs)
        found["golds"] = {"equal": sum(verdicts)} | times
        print("golds that are the same:", json.dumps([pair[1:] for pair, verdict in zip(pairs, verdicts) if verdict]))
    found["hostile"] = timed(ours, hostile(200 if toy else 100_000, seed))[1]
    return found


def lines(result: dict) -> list[str]:
    """A line of text for each set and judge."""
    both = [name for name in ("own", "cases") if name in result]
    rows = [(f"{name}, {judge}", result[name][judge]) for name in both for judge in result["judges"]]
    rows += [*result["real"].items(), *((name, result[name]) for name in ("golds", "hostile") if name in result)]
    names = ("right", "false_positives", "false_negatives")
    counts = [", ".join(f"{r[name]} {name.replace('_', ' ')}" for name in names if name in r) for _, r in rows]
    return [f"{name:<20} {r['checks']:>7} checks, mean {r['mean_ms']:.3f} ms, worst {r['worst_ms']:.1f} ms   {count}"
            for (name, r), count in zip(rows, counts)]
