"""The documents of a corpus, for the text task: from files, and from other tasks.

    texts, task = read_corpus("wiki.txt", 0)                  [("", the whole file)], None
    texts, task = read_corpus("gsm8k/train.jsonl", 100)       [(a question, its worked answer), ...], the task of the file
    texts, task = read_corpus("world:tiny,ops=1-3", 100)      [(a question, its solution), ...], the world
"""

import itertools

from formats.rows import given, read_rows
from formats.texts import read_texts
from tasks.options import is_generated, need
from tasks.problems import open_task
from tasks.questions import Questions
from tasks.task import Task

DOCUMENTS = 1000                     # of an endless source, if no number is given


def read_corpus(corpus: str, documents: int = 0) -> tuple[list[tuple[str, str]], Task | None]:
    """[(what is given, the text)] of each document; and the task that wrote them, if it can say what a solution states.

    documents: how many, from the beginning; 0: all, of an endless source DOCUMENTS. FileNotFoundError, or ValueError in one line.
    """
    if is_generated(corpus) or has_questions(corpus):
        task = open_task(corpus)
        ends = task.lessons if is_generated(corpus) else task.count
        texts = [_parts(task, i) for i in range(min(documents or ends or DOCUMENTS, ends or documents or DOCUMENTS))]
        return texts, task if task.has_steps or isinstance(task, Questions) else None
    texts = [("", text) for text in itertools.islice(read_texts(corpus), documents or None) if text.strip()]
    need(texts, f"text:{corpus}: holds no text, all of its documents are empty")
    return texts, None


def has_questions(path: str) -> bool:
    """Whether the first row of a file is a question."""
    if path.endswith(".txt"):
        return False
    _, row = next(read_rows(path))
    keys = {key for key, value in row.items() if given(value)} if isinstance(row, dict) else set()
    return "text" not in keys and bool({"question", "problem"} & keys)


def _parts(task, i):
    before, text = task.document(i)
    return before, text or f"Answer: {task.lesson(i).answer}"
