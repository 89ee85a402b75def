"""Reads a question of the reasoning world, so that one that a model has written itself can be checked, too.

    problem = read_question("Zoo, mod 10. The lions number 3. The owls number the lions plus 4. How many owls?")
    problem.task.verify(problem, "lions 3 + 4 = owls 7\nAnswer: 7")

The facts may stand in any order and in any of the wordings of tasks/words.py. They are solved one by one: a fact whose operands
are known gives its quantity; one whose result is known gives the operand that is not (plus and minus alone), as in a reversed
question.
"""

import re
from dataclasses import replace

from tasks.facts import Leaf, Step
from tasks.graph import COMPUTE
from tasks.styles import value_of
from tasks.words import ASK, CONTEXTS, OPERATORS, SAY_LEAF, SAY_STEP
from tasks.world import World, WorldProblem

_NAME, _NUMBER = r"[a-z]{1,30}(?: in [A-Z][a-z]{1,30} [A-Z][a-z]{1,30})?", r"-?\d{1,9}"       # "owls", "owls in Oak Park"
_LEFT, _RIGHT = (rf"(?:the (?P<{side}>{_NAME})|(?P<{side}_value>{_NUMBER}))" for side in ("left", "right"))
_EXPRESSION = f"{_LEFT} (?P<op>{'|'.join(OPERATORS.values())}) {_RIGHT}"
_SIGNS = {word: sign for sign, word in OPERATORS.items()}


def _pattern(wording: str) -> re.Pattern:
    """"The {x} number {e}." as a regular expression."""
    places = {"{x}": f"(?P<x>{_NAME})", "{v}": f"(?P<v>{_NUMBER})", "{e}": f"(?P<e>{_EXPRESSION})"}
    return re.compile("".join(places.get(part, re.escape(part)) for part in re.split(r"(\{\w\})", wording)))


HEAD = re.compile(rf"({'|'.join(name for name, _ in CONTEXTS.values())})(?:, mod (\d{{1,9}}))?\.")
LEAVES, STEPS, ASKS = ([_pattern(wording) for wording in wordings] for wordings in (SAY_LEAF, SAY_STEP, ASK))


def read_question(text: str) -> WorldProblem | None:
    """The problem of a question (its first line); None where it is none: a sentence that no problem has, a quantity that is told
    twice, facts that contradict each other, or not enough of them. The problem has no solution, only what checks one."""
    question = text.strip().partition("\n")[0]
    head, *sentences = re.split(r"(?<=[.?]) ", question)
    begun, asked = HEAD.fullmatch(head), sentences and _first(ASKS, sentences.pop())
    modulus = int(begun[2] or 0) if begun else 0
    facts = [_fact(sentence) for sentence in sentences]
    if not begun or not asked or None in facts or modulus == 1:
        return None
    told = [(type(fact), fact.name if isinstance(fact, Leaf) else fact.target) for fact in facts]
    solved = _solve(facts, modulus) if len(set(told)) == len(told) else None
    if solved is None or asked["x"] not in solved[1]:
        return None
    steps = _needed(asked["x"], *solved)
    if not steps:                                         # it asks for a number that stands in it
        return None
    context = next(key for key, (name, _) in CONTEXTS.items() if name == begun[1])
    return WorldProblem(question, str(solved[1][asked["x"]]), "", World(), len(steps), context, tuple(steps), solved[1], modulus,
                   tuple(facts))


def _first(patterns, sentence):
    return next(filter(None, (pattern.fullmatch(sentence) for pattern in patterns)), None)


def _fact(sentence: str) -> Leaf | Step | None:
    if found := _first(LEAVES, sentence):
        return Leaf(found["x"], int(found["v"]))
    if found := _first(STEPS, sentence):
        left, right = (found[side] or int(found[f"{side}_value"]) for side in ("left", "right"))
        return Step(found["x"], _SIGNS[found["op"]], left, right, 0)
    return None


def _solve(facts, modulus) -> tuple[list[Step], dict[str, int]] | None:
    """All steps that can be computed, in an order in which they can, and the values of all quantities; None where they
    contradict each other."""
    values, steps = {fact.name: fact.value for fact in facts if isinstance(fact, Leaf)}, []
    waiting = [fact for fact in facts if isinstance(fact, Step)]
    while ready := [step for fact in waiting if (step := _turned(fact, values))]:
        step = ready[0]
        value = COMPUTE[step.op](value_of(step.left, values), value_of(step.right, values))
        value = value % modulus if modulus else value
        if values.setdefault(step.target, value) != value:
            return None
        steps.append(replace(step, value=value))
        waiting = [fact for fact in waiting if {fact.target, fact.left, fact.right} != {step.target, step.left, step.right}]
    return steps, values


def _turned(fact: Step, values) -> Step | None:
    """The step by which a fact gives a quantity from known ones: itself, or turned round; None where too little is known."""
    def known(x):
        return isinstance(x, int) or x in values
    if known(fact.left) and known(fact.right):
        return fact
    if fact.target not in values or fact.op == "*" or not (known(fact.left) or known(fact.right)):
        return None
    if fact.op == "+":
        other, hidden = (fact.left, fact.right) if known(fact.left) else (fact.right, fact.left)
        return Step(hidden, "-", fact.target, other, 0)
    if known(fact.left):
        return Step(fact.right, "-", fact.left, fact.target, 0)
    return Step(fact.left, "+", fact.target, fact.right, 0)


def _needed(asked: str, steps: list[Step], values) -> list[Step]:
    """Those of the steps that lead to what is asked."""
    wanted, found = {asked}, []
    for step in reversed(steps):
        if step.target in wanted:
            found.append(step)
            wanted |= {x for x in (step.left, step.right) if isinstance(x, str)}
    return found[::-1]
