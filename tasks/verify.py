"""Checks a completion against a problem of the reasoning world, step by step.

A gold step is right if the text has a line for the same quantity, with the same operands and operation, the right values after
their names, and the right result. (This is s(v) of arXiv 2512.07783, but stricter: there only the operands are compared.) Lines
for quantities that the gold solution does not have are ignored. If a quantity is computed twice, the lines must agree. Steps
count inside and outside a think block; the answer counts only outside.
"""

import re
from typing import Any

from formats.chat import after_thinking
from tasks.facts import Step
from tasks.verdict import Verdict

MAX_TEXT = 100_000   # characters that are read: the first ones for steps, the last ones for answers

# A line may share its row with a thinking mark: "<think>lions 3 + 4 = owls 7</think>".
_NAME, _NUMBER = r"([a-z][A-Za-z ]{0,60}?)", r"(-?\d{1,9})"
_OPEN, _CLOSE = r"^(?:</?think>)?[ \t]*", r"[ \t.]*(?=</think>|$)"
LINE = re.compile(rf"{_OPEN}(?:{_NAME} )?{_NUMBER} ([-+*]) (?:{_NAME} )?{_NUMBER} = {_NAME} {_NUMBER}{_CLOSE}", re.M)
ANSWER = re.compile(rf"{_OPEN}Answer: {_NUMBER}{_CLOSE}", re.M)


def verify(problem: Any, text: str) -> Verdict:
    """Whether the text solves the problem (a world.WorldProblem)."""
    found, twice = {}, set()
    for parts in LINE.findall(text[:MAX_TEXT]):
        line = _read(parts)
        target = line[0].target
        if found.setdefault(target, line) != line:
            twice.add(target)
    right, reason = 0, ""
    for gold in problem.steps:
        if gold.target not in found:
            why = "missing"
        elif gold.target in twice:
            why = "computed twice, with two results"
        else:
            why = _fault(problem, gold, *found[gold.target])
        right += not why
        if why and not reason:
            reason = f"{gold.target}: {why}"
    answer = final_answer(text)
    answer_ok = answer is not None and int(answer) == int(problem.answer)
    if not reason and not answer_ok:
        reason = "no answer" if answer is None else f"answer {answer}, it is {problem.answer}"
    return Verdict(answer_ok, right == len(problem.steps), right / len(problem.steps), reason or "ok")


def mark_lines(problem: Any, text: str) -> list[tuple[str, bool | None]]:
    """Each line of the text with True (a gold step or the answer, and right), False (wrong) or None (neither)."""
    gold_steps = {step.target: step for step in problem.steps}
    lines, said = text.split("\n"), after_thinking(text)
    first_said = len(lines) if said is None else len(lines) - 1 - said.count("\n")
    marked = []
    for number, line in enumerate(lines):
        step, answer, mark = LINE.search(line), ANSWER.search(line), None
        if step:
            step, stated = _read(step.groups(default=""))
            mark = not _fault(problem, gold_steps[step.target], step, stated) if step.target in gold_steps else None
        elif answer and number >= first_said:
            mark = int(answer[1]) == int(problem.answer)
        marked.append((line, mark))
    return marked


def final_answer(text: str) -> str | None:
    """The number on the last "Answer:" line outside of thinking, as text, or None."""
    answers = ANSWER.findall((after_thinking(text) or "")[-MAX_TEXT:])
    return answers[-1] if answers else None


def _read(parts):
    """The groups of LINE -> (Step, {name of an operand: the value after it})."""
    a, a_value, op, b, b_value, target, value = parts
    return Step(target, op, a or int(a_value), b or int(b_value), int(value)), {a: int(a_value), b: int(b_value)}


def _fault(problem, gold, step, stated):
    """What is wrong with a step for the quantity of a gold step, or ""."""
    wrong = [name for name, value in stated.items() if name and problem.values.get(name) != value]
    if {step.left, step.right} != {gold.left, gold.right}:
        return f"computed from {step.left} and {step.right}, not from {gold.left} and {gold.right}"
    if step.normal() != gold.normal():
        return f"operation {step.left} {step.op} {step.right}, not {gold.left} {gold.op} {gold.right}"
    if wrong:
        return f"takes {wrong[0]} for {stated[wrong[0]]}, it is {problem.values[wrong[0]]}"
    return "" if step.value == gold.value else f"result {step.value}, it is {gold.value}"
