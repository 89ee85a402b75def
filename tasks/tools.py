"""Tools that a reply may call: how a call is written, the calculator, and which calls are needless.

A call is the end of a turn of the assistant. What the tool answers is a turn of its own; then the assistant goes on:

    <|im_start|>assistant
    <tool_call>calculator 93 + 48</tool_call><|im_end|>
    <|im_start|>tool
    141<|im_end|>
    <|im_start|>assistant
    lions 93 + 48 = owls 141
    Answer: 141<|im_end|>

Why turns, and not a call in the middle of one: every ChatML template writes turns of any role as they are, so a conversation with
calls is a list of messages and nothing else. Its ids and its loss mask are made like those of any other. And a call ends at an
end token, where the sampler stops anyway.

Between the marks stands NAME ARGUMENT, which is short, or the JSON that Qwen2.5, Qwen3 and Hermes write, with one argument:
{"name": "calculator", "arguments": {"expression": "93 + 48"}}. Both are read.

A tool is a function str -> str. The calculator is built in; others are functions in a user's file, given as --tool FILE.py:NAME
(engine/calls.py runs them).

Simpler than it could be: one call in a turn, with one argument.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from formats import plugins
from formats.chat import CALL, END_CALL
from tasks.expression import Steps, evaluate
from training import cli

ERROR = "error: "                     # how the answer of a call that failed begins
LONGEST = 1000                        # characters of an answer; a longer one is an error
CALCULATOR = "calculator"
_ARITHMETIC = re.compile(r"[-+*/^(). 0-9]{1,200}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class Call(NamedTuple):
    """One call of a reply, with its answer. The tool's turn is completion.tokens[start:end]."""
    name: str                         # "" for a call that cannot be read
    argument: str
    answer: str
    failed: bool
    start: int
    end: int


def written(name: str, argument: str) -> str:
    """A call as the end of a turn."""
    return f"{CALL}{name} {argument}{END_CALL}"


def call_in(said: str) -> tuple[str, str] | None:
    """(name, argument) of the call with which a turn ends, or None if it does not end with one. Of a call that cannot be read:
    ("", the reason)."""
    _, found, rest = said.partition(CALL)
    if not found or not rest.rstrip().endswith(END_CALL):
        return None
    inside = rest.rstrip().removesuffix(END_CALL).strip()
    if CALL in inside or END_CALL in inside:
        return "", "use one call in a turn"
    if not inside.startswith("{"):
        name, _, argument = inside.partition(" ")
        return name, argument.strip()
    try:
        call = json.loads(inside)
        name, arguments = call["name"], call["arguments"]
        [argument] = arguments.values() if isinstance(arguments, dict) else [arguments]
        if not isinstance(name, str) or not isinstance(argument, str | int | float):
            raise ValueError
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", 'write {"name": NAME, "arguments": {KEY: TEXT}}'
    return name, str(argument)


def calculate(text: str) -> str:
    """The value of an arithmetic expression: exact for + - * / ^ of whole and decimal numbers, "7/2" for a fraction; 1,234 is a
    number. ValueError for anything else. Time and size are bounded (tasks/expression.py); there is no eval."""
    plain = _THOUSANDS.sub("", text)
    values = evaluate(plain, Steps()) if _ARITHMETIC.fullmatch(plain) else None
    if values is None:
        raise ValueError("write numbers, brackets and + - * / ^")
    if values[0] is None:
        raise ValueError("it has no value")
    return format(values[0], ".12g") if isinstance(values[0], float) else str(Fraction(values[0]))


@dataclass(frozen=True)
class Toolbox:
    """The tools that a reply may call.

    specs     {name: SPEC}: "calculator", or FILE.py:NAME
    most      calls in a reply; each one after that is answered with an error
    seconds   that one call of a function in a file may take
    """
    specs: Mapping[str, str] = field(default_factory=lambda: {CALCULATOR: CALCULATOR})
    most: int = 4
    seconds: float = 5.0

    def call_in(self, said: str) -> tuple[str, str] | None:
        """As the function; what a turn says is without its think block."""
        return call_in(said)


def open_tools(specs: Sequence[str], most: int = 4, seconds: float = 5.0) -> Toolbox | None:
    """The toolbox of --tool; None without any. plugins.PluginError for a file that cannot be loaded, ValueError for a name given
    twice."""
    found = {}
    for spec in specs:
        name = spec.rpartition(":")[2]
        if name in found:
            raise ValueError(f"--tool {spec}: two tools have the name {name}")
        if spec != CALCULATOR and not callable(plugins.load(spec)):
            raise plugins.PluginError(f"{spec}: is no function; write one, {name}(text) -> text")
        found[name] = spec if spec == CALCULATOR else f"{Path(plugins.file_of(spec)).resolve()}:{name}"
    return Toolbox(found, most, seconds) if found else None


def tool_spec(text: str) -> str:
    """The type of --tool."""
    return text if text == CALCULATOR else plugins.spec(text)


def add_tool_flags(p: argparse.ArgumentParser) -> None:
    """The flags of scripts whose models may call tools."""
    p.add_argument("--tool", metavar="FILE.py:NAME", nargs="+", type=tool_spec, default=[],
                   help=f"tools that a reply may call: functions str -> str of your own, or {CALCULATOR} (tasks/tools.py)")
    p.add_argument("--max-calls", type=cli.positive_int, default=4, help="calls in a reply; each one after that fails")
    p.add_argument("--tool-seconds", type=cli.above_zero, default=5.0, help="seconds that a call of your function may take")


# when they have an effect (see cli.Parser)
TOOL_NEEDS = (
    ("--max-calls", lambda a: a.tool, "without a --tool; the calculator of world:calls=N may be called N times"),
    ("--tool-seconds", lambda a: any(spec != CALCULATOR for spec in a.tool), "without a --tool FILE.py:NAME"),
)


# calls in solutions of the world

def calls_of(steps: Sequence[Any], values: Mapping[str, int]) -> list[str]:
    """The expression that computes each step (a facts.Step), such as "93 + 48"."""
    def number(operand):
        return operand if isinstance(operand, int) else values[operand]
    return [f"{number(step.left)} {step.op} {number(step.right)}" for step in steps]


def messages_with_calls(solution: str, line: re.Pattern, most: int, again: Callable[[], bool]) -> list[dict]:
    """A solution as turns of a chat: before each step the calculator is called with the numbers of its line, at most `most` times
    in all.

    line      what matches a step (tasks/verify.py)
    again()   whether a call is made a second time"""
    messages, said, left = [], [], most
    for text in solution.split("\n"):
        step = line.search(text)
        for _ in range(min(left, 1 + again()) if step else 0):
            expression = " ".join(step.group(2, 3, 5))
            messages += [{"role": "assistant", "content": "\n".join([*said, written(CALCULATOR, expression)])},
                         {"role": "tool", "content": calculate(expression)}]
            said, left = [], left - 1
        said.append(text)
    return [*messages, {"role": "assistant", "content": "\n".join(said)}]


def needless_calls(calls: Sequence[Call], useful: Sequence[str] | None = None) -> int:
    """The number of calls that failed, that repeat an earlier one, or that ask for nothing useful. useful: the expressions that
    are; None: not known, so only failures and repetitions count."""
    seen, needless = set(), 0
    wanted = None if useful is None else {_normal(text) for text in useful}
    for call in calls:
        key = call.name, _normal(call.argument)
        needless += call.failed or key in seen or (wanted is not None and key[1] not in wanted)
        seen.add(key)
    return needless


def _normal(expression):
    """An expression without spaces, and the same for a + b and b + a."""
    text = re.sub(r"\s", "", expression)
    parts = re.fullmatch(r"(\d+)([+*])(\d+)", text)
    return parts[2].join(sorted(parts.group(1, 3))) if parts else text
