"""Reads the questions of a benchmark, from a local file or the hub, in whichever of its forms the row has.

    open_benchmark("gsm8k", "data")     data/gsm8k/test.jsonl (.jsonl.gz, .parquet), or data/gsm8k.jsonl
    open_benchmark("gsm8k", "")         the same in $NANOTHINK_DATA, or in ../shared/data
    open_benchmark("gsm8k", "hub")      from the Hugging Face hub

A benchmark is a task (tasks/task.py): its prompts are those of tasks/benchmarks/ask.py, its grades those of checks.py.
"""

import ast
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from formats.hub import stream
from formats.rows import given, read_rows, refuse_unknown
from tasks.answers import boxed
from tasks.benchmarks.ask import LETTERS, chat_prompt, few_shot_prompt
from tasks.benchmarks.checks import check_choice, check_near
from tasks.benchmarks.entries import BENCHMARKS, Benchmark
from tasks.task import Problem, Reply, Task
from tasks.verdict import Verdict

HUB = "hub"
ENDINGS = ("jsonl", "jsonl.gz", "parquet")
HERE = Path(__file__).resolve().parents[2]


@dataclass
class BenchmarkProblem(Problem):
    """A question of a benchmark. With choices, the answer is the letter of one."""
    choices: tuple[str, ...] = field(default=(), kw_only=True)
    margin: float = field(default=0.0, kw_only=True)          # how far a number may be from the answer


class BenchmarkTask(Task):
    """The questions of a benchmark, in memory. skipped: how many rows are none of its questions (Benchmark.left_out)."""

    def __init__(self, name: str, rows: Iterable[tuple[str, object]], source: str):
        self.name, self.benchmark, self.source = name, BENCHMARKS[name], source
        self.problems, self.skipped = [], 0
        for where, row in rows:
            row = in_small_letters(row, where, self.benchmark)
            if self.benchmark.left_out(row):
                self.skipped += 1
            else:
                self.problems.append(self._read(row, where))
        if not self.problems:
            raise ValueError(f"{source}: has no question of {self.benchmark.title}")
        self.count = len(self.problems)

    def problem(self, i: int) -> BenchmarkProblem:
        return self.problems[i]

    def prompt(self, problem: BenchmarkProblem, mode: str) -> str | list[dict]:
        """Mode "plain": worked examples and the question, for a base model; else the question in a chat."""
        return few_shot_prompt(problem, self.benchmark.shots) if mode == "plain" else chat_prompt(problem, mode)

    def grade(self, problem: BenchmarkProblem, reply: Reply) -> Verdict:
        if problem.choices:
            ok = check_choice(reply.text, problem.answer, problem.choices)
        else:
            ok = check_near(reply.text, problem.answer, self.benchmark.tolerance, problem.margin)
        return Verdict(ok, None, None, "ok" if ok else
                       f"answer {str(self.answer_in(reply.text))[:80]}, it is {problem.answer}")

    def _read(self, row: dict, where: str) -> BenchmarkProblem:
        b = self.benchmark
        texts = [text_of(row, names, where) for names in b.question.split()]
        if not texts[-1]:
            raise ValueError(f"{where}: no question of {b.title}: the field {one_of(b.question.split()[-1])} is missing or empty")
        solution = text_of(row, b.solution, where)
        choices = choices_in(value_at(row, b.choices, where), where)
        answer = value_at(row, b.answer, where)
        if answer is None and "\\boxed" in solution:
            answer = boxed(solution)
        if answer is None:
            raise ValueError(f"{where}: no answer: the field {one_of(b.answer)} is missing" +
                             (", and no \\boxed{} is in the solution" if b.solution else ""))
        gold = letter_of(answer, choices, where) if choices else b.gold(as_text(answer, where, b.answer))
        if not gold:
            raise ValueError(f"{where}: the answer is empty")
        margin = margin_of(text_of(row, b.margin, where), where, b.margin)
        return BenchmarkProblem(b.join(*texts), gold, solution, task=self, choices=choices, margin=margin)


def open_benchmark(name: str, folder: str = "") -> BenchmarkTask:
    """A benchmark. folder: "" for the usual ones, "hub" for the hub. FileNotFoundError, or ValueError that names file and row."""
    benchmark = BENCHMARKS[name]
    if folder == HUB:
        return BenchmarkTask(name, rows_of_hub(benchmark), f"hf:{benchmark.hub}")
    file = file_of(name, folder)
    return BenchmarkTask(name, read_rows(file), str(file))


def rows_of_hub(benchmark: Benchmark) -> Iterator[tuple[str, object]]:
    for number, row in enumerate(stream(benchmark.hub, benchmark.split), 1):
        yield f"hf:{benchmark.hub}, row {number}", row


def file_of(name: str, folder: str = "") -> Path:
    """The file of a benchmark, in a folder or in the usual ones. FileNotFoundError that says what was looked for."""
    usual = [os.environ.get("NANOTHINK_DATA"), HERE.parent / "shared" / "data"]
    folders = [Path(each) for each in ([folder] if folder else usual) if each]
    for place in folders:
        for own in (name, *BENCHMARKS[name].folders):
            for ending in ENDINGS:
                for file in (place / own / f"test.{ending}", place / f"{own}.{ending}"):
                    if file.is_file():
                        return file
    raise FileNotFoundError(f"no {name}/test.jsonl (nor .jsonl.gz or .parquet) in {' or '.join(map(str, folders))}; give the "
                            f"folder with --benchmark-data FOLDER, or --benchmark-data hub for hf:{BENCHMARKS[name].hub}")


# Fields of a row.

def in_small_letters(row: object, where: str, benchmark: Benchmark) -> dict:
    """The row with its keys as entries.py names them. ValueError for a row that is no object, and for keys that mean nothing."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
    found = {}
    for key, value in row.items():
        small = key.lower().replace(" ", "_")
        if small in found and found[small] != value:
            raise ValueError(f'{where}: "{key}" stands there twice, with different values; remove one')
        found[small] = value
    refuse_unknown(found, benchmark.fields, where, f"a question of {benchmark.title}")
    return found


def one_of(names: str) -> str:
    return " or ".join(f'"{name}"' for name in names.split("|"))


def value_at(row: dict, names: str, where: str) -> object:
    """The value of a field, whichever of its names it has; None if it is not given. ValueError if two of them differ."""
    found = {name: row[name] for name in names.split("|") if given(row.get(name))}
    values = list(found.values())
    if any(value != values[0] for value in values):
        raise ValueError(f"{where}: {' and '.join(map(repr, found))} differ; keep the right one")
    return values[0] if values else None


def text_of(row: dict, names: str, where: str) -> str:
    value = value_at(row, names, where)
    return "" if value is None else as_text(value, where, names)


def as_text(value: object, where: str, names: str) -> str:
    """A text, a number in digits (27.0 is "27"), or a list of these with commas between."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and value:
        return ", ".join(as_text(each, where, names) for each in value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if value == int(value) else format(Decimal(str(value)), "f")
    raise ValueError(f"{where}: {one_of(names)} must be text or a number; it is {str(value):.60}, "
                     f"a value of type {type(value).__name__}")


def margin_of(text: str, where: str, names: str) -> float:
    """How far a number may be from the gold one; 0 where the row does not say it."""
    try:
        margin = float(text or 0)
    except ValueError:
        margin = -1.0
    if not 0 <= margin < math.inf:
        raise ValueError(f"{where}: {one_of(names)} must be a number of at least 0; it is {text[:40]!r}")
    return margin


# Choices: ["9", "10"], "A) 9 B) 10", "a ) 9 , b ) 10", "['a ) 9', 'b ) 10']".

def choices_in(value: object, where: str) -> tuple[str, ...]:
    """The choices without their letters; () where there are none."""
    if isinstance(value, str) and value.startswith(("['", '["')):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            raise ValueError(f"{where}: the choices {value[:40]!r} are no list; one has a quote or a bracket too many or too "
                             "few") from None
    if isinstance(value, str):
        value = split_choices(value)
        if len(value) < 2:
            raise ValueError(f"{where}: the choices have no letters A), B), ... between which to split them")
    choices = tuple(without_letter(as_text(each, where, "choices"), LETTERS[i]) for i, each in enumerate(value or ()))
    if choices and not all(choices):
        raise ValueError(f"{where}: choice {LETTERS[choices.index('')]} is empty")
    return choices


def split_choices(text: str) -> list[str]:
    """Splits at A), B), ... in this order; brackets and small letters as they come."""
    starts, at = [], 0
    for letter in LETTERS:
        mark = re.compile(rf"(?:^|(?<=[\s,;]))\(?[{letter}{letter.lower()}] ?[).:](?=\s)").search(text, at)
        if not mark:
            break
        starts.append(mark.start())
        at = mark.end()
    return [text[a:b].strip(" ,;\n") for a, b in zip(starts, [*starts[1:], len(text)])]


def without_letter(text: str, letter: str) -> str:
    """"a ) a ) 6" -> "6", for the letter A: some rows have it twice."""
    return re.sub(rf"^(?:\(?[{letter}{letter.lower()}] ?[).:](?:\s+|$))+", "", text).strip()


def letter_of(answer: object, choices: tuple[str, ...], where: str) -> str:
    """The letter of the right choice: given as a letter, as its number from 0 on, or as the choice itself."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return LETTERS[answer]
    text = as_text(answer, where, "answer")
    letter = re.fullmatch(r"\(?([A-Ja-j])\)?[.:]?", text)
    if letter and letter[1].upper() in LETTERS[:len(choices)]:
        return letter[1].upper()
    if choices.count(text) == 1:
        return LETTERS[choices.index(text)]
    raise ValueError(f"{where}: the answer {text[:40]!r} is none of the {len(choices)} choices")
