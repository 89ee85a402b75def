"""What tasks write as documents: world:ops=1-4,...  knowledge:people=100,...  instructions:...  needle:..."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from sources.shares import in_share
from tasks.options import set_apart
from tasks.problems import open_task
from tasks.task import Task
from tokenizer import Tokenizer


def open_lessons(spec: str) -> tuple[Task, float, float]:
    """A SPEC of documents -> (task, q_weight, chat), the last two being options of documents alone."""
    own = {"q_weight": 0.1, "chat": 0.0}
    rest, given = set_apart(spec, own)
    for key, value in given.items():
        try:
            own[key] = float(value)
        except ValueError:
            own[key] = -1.0
        if not 0 <= own[key] <= 1:
            raise ValueError(f"{spec.partition(':')[0]} option {key}={value}: use a number from 0 to 1")
    task = open_task(rest)
    return task, own["q_weight"], 1.0 if task.format == "chat" else own["chat"]


def sample_texts(spec: str, count: int) -> Iterator[str]:
    """Texts to train a tokenizer on."""
    task = open_lessons(spec)[0]
    for i in range(min(count, task.lessons or count)):
        yield "".join(task.document(i))
        if task.tools:                                    # the words of calls and of roles
            yield "\n".join(f"{m['role']}\n{m['content']}" for m in task.messages(task.lesson(i)))


class GeneratedDocuments:
    """What a task writes: document i is its lesson i, as text or as a chat."""

    def __init__(self, spec: str, tokenizer: Tokenizer):
        self.task, self.q_weight, self.chat = open_lessons(spec)
        self.task.prepare(tokenizer)
        self.tokenizer, self.count = tokenizer, self.task.lessons

    @cached_property
    def tokens(self) -> int:
        """Tokens in all documents of a task that ends."""
        return sum(len(self.get(i)[0]) for i in range(self.count))

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Document i: tokens (n,) and loss weights (n,), q_weight on what is given and 1 on what follows."""
        if in_share(i, self.chat):
            lesson = self.task.lesson(i)
            messages = [{"role": "user", "content": lesson.question}, *self.task.messages(lesson)]
            ids, mask = self.tokenizer.encode_chat(messages)
            return np.array(ids), np.where(np.array(mask) > 0, 1.0, self.q_weight).astype(np.float32)
        given, learned = self.task.document(i)
        given, learned = self.tokenizer.encode_document(given), self.tokenizer.encode(learned)
        weights = np.ones(len(given) + len(learned) + 1, np.float32)
        weights[:len(given)] = self.q_weight
        return np.array(given + learned + [self.tokenizer.eot]), weights


def open_documents(spec: str, tokenizer: Tokenizer) -> GeneratedDocuments:
    return GeneratedDocuments(spec, tokenizer)
