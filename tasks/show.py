"""Shows what a generated task writes and asks, or measures how fast it is: what python -m tasks.world and its like run."""

import time
from collections.abc import Callable

from formats.chat import END_THINK, THINK
from tasks.task import Reply, Task
from training import cli


def document_text(task: Task, i: int) -> str:
    """Document i of a task, for people to read."""
    if task.format != "chat":
        return "".join(task.document(i))
    lesson = task.lesson(i)
    working, said = task.reply(lesson)
    return f"user: {lesson.question}\nassistant: " + (f"{THINK}\n{working}\n{END_THINK}\n\n" if working else "") + said


def shown(task: Task, i: int) -> str:
    """Document i; what is wrong in it, if anything is; and problem i, where that is something else."""
    lesson, problem, text = task.lesson(i), task.problem(i), document_text(task, i)
    verdict = task.grade(lesson, Reply(lesson.solution))
    if not verdict.right:
        text += f"\n(wrong: {verdict.reason})"
    if problem.question not in text:
        text += f"\n(asked: {task.prompt(problem, 'plain').strip()} {problem.answer})"
    return text


def main(text: str, open_task: Callable[[str], Task], default: str) -> None:
    """The command line of a generated task."""
    parser = cli.Parser(text)
    parser.add_argument("--data", default=default, help=f"which one: {default.partition(':')[0]}:option=value,...")
    parser.add_argument("--show", type=cli.non_negative_int, default=3, metavar="N", help="documents to print")
    parser.add_argument("--time", type=cli.not_negative, default=0.0, metavar="S",
                        help="seconds to generate for; prints problems per second")
    args = parser.parse_args()
    with cli.bad_input():
        task = open_task(args.data)
        count = min([args.show, *(n for n in (task.count, task.lessons) if n is not None)])
        for i in range(count):
            print(f"{shown(task, i)}\n")
    result = {"shown": count}
    if args.time:
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < args.time:
            task.problem(n % task.count if task.count else n)
            n += 1
        result["problems_per_second"] = round(n / (time.perf_counter() - start))
    cli.finish(result)
