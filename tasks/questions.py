"""Reads files of questions with answers: GSM8K, MATH, or any file with a question and an answer in each row.

A file may have any format that formats/rows.py reads. The prompt is the question (tasks/task.py), or for a base model a few
solved questions and then the question (`format_question`).
"""

import re
from collections.abc import Sequence

from formats.rows import read_rows, refuse_unknown, text_at
from tasks.answers import boxed
from tasks.task import Problem, Task

DOMAIN = ("domain", "subject", "category", "type")        # keys of a row that may say what its question is about


class Questions(Task):
    """The questions of a file, in memory. FileNotFoundError, or ValueError that names file and line."""

    def __init__(self, path: str):
        self.source = str(path)
        self.problems = [self._read(row, where) for where, row in read_rows(path)]
        self.count = len(self.problems)

    def problem(self, i: int) -> Problem:
        return self.problems[i]

    def _read(self, row, where: str) -> Problem:
        """Reads a row in the form of GSM8K, of MATH, or with plain question and answer."""
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
        question, other, solution = (text_at(row, key, where) for key in ("question", "problem", "solution"))
        answer, solution = text_at(row, "answer", where, numbers=True), solution or ""
        if question is None and other is None:
            raise ValueError(f"{where}: no field 'question' or 'problem'")
        if question is not None and other is not None and question != other:
            raise ValueError(f"{where}: \"question\" and \"problem\" differ; keep the one to ask")
        question = other if question is None else question
        if not question.strip():
            raise ValueError(f"{where}: the question is empty")
        if answer is None and "\\boxed" in solution:
            answer = boxed(solution)
        if answer is None:
            raise ValueError(f"{where}: no field 'answer', and no \\boxed answer in a field 'solution'")
        refuse_unknown(row, ("question", "problem", "answer", "solution"), where, "a row with a question")
        if "####" in answer:  # GSM8K keeps working and gold in one field, with calculator annotations like <<2*3=6>>
            working, _, gold = answer.rpartition("####")
            if "\n" in gold.strip():
                raise ValueError(f"{where}: after #### there must be only the answer, on one line, as in GSM8K")
            if working.strip() and solution.strip():
                raise ValueError(f"{where}: \"solution\" and \"answer\" (before ####) both hold the working; keep one")
            solution = solution or re.sub(r"<<[^<>]*>>", "", answer).strip()
            answer = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", gold)
        if not answer.strip():
            raise ValueError(f"{where}: the answer is empty")
        named = (row.get(key) for key in DOMAIN)
        return Problem(question, answer.strip(), solution, self, domain=next((x for x in named if isinstance(x, str) and x), ""))


def format_question(problem: Problem, shots: Sequence[Problem] = ()) -> str:
    """The prompt for a base model: solved questions, then the question, up to the start of the answer."""
    text = ""
    for shot in shots:
        solution = shot.solution.rstrip()
        if not re.search(r"####|\\boxed|^Answer: ", solution, re.MULTILINE):
            solution = f"{solution}\n#### {shot.answer}".lstrip()
        text += f"Question: {shot.question.strip()}\nAnswer: {solution}\n\n"
    return f"{text}Question: {problem.question.strip()}\nAnswer:"
