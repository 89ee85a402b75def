"""What a transform works on, opened by SPEC: problems of tasks, documents of files, or only numbers."""

import itertools
from argparse import Namespace
from collections.abc import Callable, Iterator

from formats.texts import read_texts
from sources.kinds import kind_of
from tasks.options import is_generated
from tasks.problems import numbers_of, open_task
from tasks.task import Problem
from transforms import Item

Cut = Callable[[str], list[str]]


def open_items(takes: str, args: Namespace, cut: Cut) -> Iterator[Item]:
    """The items of --data, in order and numbered. takes: "problems", "documents" or "nothing" (transforms/__init__.py); cut: cuts
    a document into the pieces that a teacher reads. What is wrong with a file is found here, before the first item, but for the
    rows of a file of texts. FileNotFoundError, or ValueError that says what is wrong."""
    if takes == "nothing":
        return (Item(i) for i in range(args.count))
    opened = []
    for spec in args.data:
        if takes == "documents" and is_generated(spec):
            opened.append(_lessons(spec, args.count))
        elif takes == "documents" and kind_of(spec) in ("text", "conversations"):
            opened.append(_texts(spec, args.count, cut))
        else:
            opened.append(_problems(spec, args.count))
    return (Item(number, *found) for number, found in enumerate(found for source in opened for found in source))


def _problems(spec: str, count: int) -> Iterator[tuple[str, int, str, Problem]]:
    task = open_task(spec)
    if not count and task.count is None:
        raise ValueError("--count is needed with a world, or another task that never ends")
    numbered = ((i, task.problem(i)) for i in numbers_of(task, count or None))
    return ((spec, i, document_of(problem), problem) for i, problem in numbered)


def _lessons(spec: str, count: int) -> Iterator[tuple[str, int, str, Problem | None]]:
    """The documents of a generated task, as they would be trained on. One that is more than its lesson (the biography that a
    question about a person is taken from) comes as text alone."""
    task = open_task(spec)
    if not count and task.lessons is None:
        raise ValueError("--count is needed with a world, or another task that never ends")

    def lesson(i):
        found, text = task.lesson(i), "".join(task.document(i))
        return (spec, i, document_of(found), found) if found.question in text else (spec, i, text, None)
    return map(lesson, range(min(count or task.lessons, task.lessons or count)))


def _texts(spec: str, count: int, cut: Cut) -> Iterator[tuple[str, int, str]]:
    next(read_texts(spec))                                # a file that cannot be read is refused here
    pieces = (piece for text in read_texts(spec) if text.strip() for piece in cut(text))
    return ((spec, i, piece) for i, piece in enumerate(itertools.islice(pieces, count or None)))


def document_of(problem: Problem) -> str:
    """A problem as a document: the question, and the solution with the answer (where it has no solution, the answer)."""
    return f"{problem.question}\n{problem.solution or problem.answer}"


def pieces_of(text: str, length: Callable[[str], int], most: int) -> list[str]:
    """A document as pieces of at most `most` tokens each: whole lines where they fit, else parts of a line. Nothing is lost but
    blank edges. length: the number of tokens of a text."""
    pieces, piece, size = [], "", 0
    for line in text.splitlines(keepends=True):
        for part in _parts(line, length, most):
            tokens = length(part)
            if piece and size + tokens > most:
                pieces, piece, size = [*pieces, piece], "", 0
            piece, size = piece + part, size + tokens
    return [piece.strip("\n") for piece in [*pieces, piece] if piece.strip()]


def _parts(line: str, length, most):
    """A line, in halves of halves where it is longer than a piece may be; halves end behind a blank where there is one."""
    if length(line) <= most or len(line) < 2:
        return [line]
    middle = line.rfind(" ", 1, len(line) // 2) + 1 or len(line) // 2
    return [*_parts(line[:middle], length, most), *_parts(line[middle:], length, most)]
