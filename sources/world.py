"""Problems of the reasoning world as documents: world:ops=1-4,..."""

from collections.abc import Iterator

import numpy as np

from sources.shares import in_share
from tasks.world import World
from tokenizer import Tokenizer


def world_of(spec: str) -> tuple[World, float, float]:
    """A `world:...` of documents -> (World, q_weight, chat). The last two are options only for documents."""
    options = [part.partition("=") for part in spec.removeprefix("world:").split(",")]
    own = {"q_weight": 0.1, "chat": 0.0}
    for key, _, value in options:
        if key in own:
            try:
                own[key] = float(value)
            except ValueError:
                own[key] = -1.0
            if not 0 <= own[key] <= 1:
                raise ValueError(f"world option {key}={value}: use a number from 0 to 1")
    return World.from_spec(",".join(k + eq + v for k, eq, v in options if k not in own)), own["q_weight"], own["chat"]


def sample_texts(spec: str, count: int) -> Iterator[str]:
    """Texts to train a tokenizer on."""
    world = world_of(spec)[0]
    yield from (f"{p.question}\n{p.solution}" for p in map(world.problem, range(count)))


class WorldDocuments:
    """Problems of the world, endless: document i is problem i, as text or as a chat."""

    count = None

    def __init__(self, spec: str, tokenizer: Tokenizer):
        self.world, self.q_weight, self.chat = world_of(spec)
        self.tokenizer = tokenizer

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        problem = self.world.problem(i)
        if in_share(i, self.chat):
            reply = {"role": "assistant", "content": problem.solution.rpartition("\n")[2],
                     "reasoning": problem.reasoning}
            ids, mask = self.tokenizer.encode_chat([{"role": "user", "content": problem.question}, reply])
            return np.array(ids), np.where(np.array(mask) > 0, 1.0, self.q_weight).astype(np.float32)
        question = self.tokenizer.encode_document(problem.question + "\n")
        solution = self.tokenizer.encode(problem.solution)
        weights = np.ones(len(question) + len(solution) + 1, np.float32)
        weights[:len(question)] = self.q_weight
        return np.array(question + solution + [self.tokenizer.eot]), weights


def open_documents(spec: str, tokenizer: Tokenizer) -> WorldDocuments:
    return WorldDocuments(spec, tokenizer)
