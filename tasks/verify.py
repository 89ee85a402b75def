"""Checks a completion against a problem of the reasoning world, step by step.

A gold step is right if the text has a line for the same quantity, with the same operands and operation, the right values after
their names, and the right result. (This is s(v) of arXiv 2512.07783, but stricter: there only the operands are compared.) Lines
for quantities that the gold solution does not have are ignored. If a quantity is computed twice, the lines must agree. Steps
count inside and outside a think block; the answer counts only outside.

A step may be taken back: "No, owls 8 is wrong." cancels the lines above it that give the owls as 8. What then stands is graded,
so an error that is corrected costs nothing. Four things still count as errors: an error that is not taken back, a correction
that is wrong itself, a step that is taken back and not done again, and a later step that uses the number that was taken back.
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
TAKEN_BACK = re.compile(rf"{_OPEN}No, {_NAME} {_NUMBER} is wrong{_CLOSE}", re.M)
LINE_OR_BACK = re.compile(f"{LINE.pattern}|{TAKEN_BACK.pattern}", re.M)
ANSWER = re.compile(rf"{_OPEN}Answer: {_NUMBER}{_CLOSE}", re.M)
# what the long style (tasks/styles.py) has between its steps: facts, checks, and steps taken back
REMARK = re.compile(rf"{_OPEN}(?:The |Check: |No, )", re.M)


def steps_of(text: str) -> dict[str, list[tuple[Step, dict]]]:
    """The steps that stand in a text: {quantity: its different lines}, each line as the step and {operand: the value stated
    beside it}. More than one line contradict each other."""
    found = {}                                            # {quantity: {value: {line: None}}}
    for *parts, back, value in LINE_OR_BACK.findall(text[:MAX_TEXT]):
        if back:
            found.get(back, {}).pop(int(value), None)
            continue
        step, stated = _read(parts)
        found.setdefault(step.target, {}).setdefault(step.value, {})[step, tuple(stated.items())] = None
    return {target: [(step, dict(stated)) for lines in values.values() for step, stated in lines]
            for target, values in found.items() if values}


def verify(problem: Any, text: str) -> Verdict:
    """Whether the text solves the problem (a world.WorldProblem)."""
    found, right, reason = steps_of(text), 0, ""
    for gold in problem.steps:
        if gold.target not in found:
            why = "missing"
        elif len(found[gold.target]) > 1:
            why = "computed twice, with two results"
        else:
            why = _fault(problem, gold, *found[gold.target][0])
        right += not why
        if why and not reason:
            reason = f"{gold.target}: {why}"
    answer = final_answer(text)
    answer_ok = answer is not None and int(answer) == int(problem.answer)
    if not reason and not answer_ok:
        reason = "no answer" if answer is None else f"answer {answer}, it is {problem.answer}"
    return Verdict(answer_ok, right == len(problem.steps), right / len(problem.steps), reason or "ok")


def mark_lines(problem: Any, text: str) -> list[tuple[str, bool | None]]:
    """Each line of the text with True (a gold step or the answer, and right), False (wrong, also if it is taken back) or None
    (neither)."""
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


def step_lines(text: str) -> list[str]:
    """The lines of a text that compute something, in order, without thinking marks and trailing dots."""
    return [" ".join([*filter(None, operands), "=", target, value]) for *operands, target, value in LINE.findall(text[:MAX_TEXT])]


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
