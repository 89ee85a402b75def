"""Opens tasks by their SPEC, and loads their problems.

    open_task("world:ops=1-4,split=test")                   the reasoning world (tasks/world.py)
    open_task("knowledge:people=100")                       facts about people who do not exist (tasks/knowledge.py)
    open_task("instructions:ops=1-2")                       how an answer is to be given (tasks/instructions.py)
    open_task("needle:length=1k-4k")                        a fact told once in a long text (tasks/needle.py)
    open_task("text:corpus.txt,kind=rlpt")                  what a text goes on with (tasks/text.py)
    open_task("gsm8k/test.jsonl")                           a file of questions with answers (tasks/questions.py)
    open_task("my_task.py:MyTask")                          a class in a file of your own (tasks/user_task.py)
    load_problems("world:ops=1-4,split=test", limit=100)    a list of problems
"""

import argparse
import random
from collections.abc import Sequence

import numpy as np

from formats import plugins
from tasks.options import GENERATED, is_generated
from tasks.questions import Questions
from tasks.task import Problem, Task
from tasks.user_task import UserTask
from tokenizer import Tokenizer


def open_task(spec: str, tokenizer: Tokenizer | None = None, device: str = "cpu") -> Task:
    """The task of a SPEC. FileNotFoundError, or ValueError that says what is wrong with it.

    tokenizer, device: of the model that is asked, if there is one (Task.prepare)."""
    if is_generated(spec):
        kind = spec.partition(":")[0]
        task = plugins.in_package("tasks", kind, GENERATED[kind]).from_spec(spec)
    else:
        task = UserTask(spec) if plugins.is_plugin(spec) else Questions(spec)
    if tokenizer is not None:
        task.prepare(tokenizer, device)
    return task


def load_problems(spec: str, limit: int | None = None, seed: int = 0) -> list[Problem]:
    """Problems of the task of a SPEC; see `problems_of`."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1; got {limit}")
    return problems_of(open_task(spec), limit, seed)


def problems_of(task: Task, limit: int | None = None, seed: int = 0) -> list[Problem]:
    """All problems of a task, or `limit` of them, sampled without replacement. An endless task, such as a world, needs a limit
    and gives its first problems (the seed of a world is in its SPEC: world:seed=1,...)."""
    return [task.problem(i) for i in numbers_of(task, limit, seed)]


def asked_of(problems: Sequence, limit: int = 0, seed: int = 0) -> list:
    """`limit` of the problems that a checkpoint is asked, sampled without replacement, in their order; 0: all."""
    order = np.random.default_rng(seed).permutation(len(problems))[:limit or None]
    return [problems[i] for i in sorted(order.tolist())]


def numbers_of(task: Task, limit: int | None = None, seed: int = 0) -> Sequence[int]:
    """The numbers of these problems in the task."""
    if task.count is None:
        if limit is None:
            kind = task.source.partition(":")[0]
            what = f"a {kind} is endless" if is_generated(task.source) else "the task never ends"
            raise ValueError(f"{task.source}: {what}; set a limit")
        return range(limit)
    if limit is not None and limit < task.count:
        return random.Random(seed).sample(range(task.count), limit)
    return range(task.count)


def add_task_flag(parser: argparse.ArgumentParser) -> None:
    """--task, for scripts whose --data names tasks."""
    parser.add_argument("--task", metavar="FILE.py:CLASS", nargs="+", type=plugins.spec, default=[],
                        help="tasks of your own (tasks/user_task.py); the same as --data FILE.py:CLASS")


def join_tasks(args: argparse.Namespace) -> None:
    """Appends --task to --data. ValueError if both are empty."""
    args.data = [*args.data, *args.task]
    if not args.data:
        raise ValueError("give --data or --task: where the problems come from")
