"""Which problems are asked, and in which order.

`Prompts` gives out problems from weighted sources. The order depends on the seed alone: it is the same for any number of
ranks, and a resumed run goes on where it stopped.
"""

import numpy as np

from data import split_spec
from tasks.problems import open_task
from tasks.task import Problem


class Prompts:
    """Problems from SOURCE[@WEIGHT] specs. A world never ends; a file, or another task that ends, is read in a new permutation in
    each epoch.

    given: how many problems each source has given so far, which is the place to resume from.
    pool: keys (source, i) of the only problems to ask, in their order (made by `keep`); empty: all of the sources."""

    def __init__(self, specs: list[str], seed: int = 0):
        named = [split_spec(s) for s in specs]
        self.specs, self.seed = [name for name, _ in named], seed
        self.weights = np.array([weight for _, weight in named]) / sum(weight for _, weight in named)
        self.sources = [open_task(name) for name in self.specs]
        self.given, self.pool = [0] * len(named), []

    def problem(self, source: int, i: int) -> Problem:
        """Problem i of a source; of one that ends, i counts through all epochs."""
        task = self.sources[source]
        if task.count is None:
            return task.problem(i)
        epoch, at = divmod(i, task.count)
        return task.problem(int(np.random.default_rng([self.seed, source, epoch]).permutation(task.count)[at]))

    def next(self) -> Problem:
        """The next problem, from the source that is furthest behind its share; of a pool, the next in its order."""
        total = sum(self.given)
        if self.pool:
            source, i = self.pool[total % len(self.pool)]
            self.given[source] += 1
            return self.problem(source, i)
        source = int(np.argmax(self.weights * (total + 1) - np.array(self.given)))
        self.given[source] += 1
        return self.problem(source, self.given[source] - 1)

    def candidates(self, count: int) -> list[tuple[int, int]]:
        """Keys (source, i) of the next problems, each question once: `count` of them, or fewer if the files have no more."""
        keys, asked = [], set()
        for _ in range(4 * count):                        # the first epoch of a file, or a world's problems, may repeat some
            before = list(self.given)
            question = self.next().question
            if question not in asked and len(keys) < count:
                asked.add(question)
                keys.append(next((s, before[s]) for s, n in enumerate(self.given) if n != before[s]))
        return keys

    def keep(self, rates: dict[tuple[int, int], float], low: float, high: float, easy_first: bool = False) -> None:
        """Makes the pool from measured pass rates {(source, i): rate}: those within [low, high], the edge of competence (OlmoRL,
        OctoThinker). easy_first: a curriculum, by falling rate; else the order stays. ValueError if none is left."""
        self.pool = [key for key, rate in rates.items() if low <= rate <= high]
        if easy_first:
            self.pool.sort(key=lambda key: -rates[key])
        self.given = [0] * len(self.sources)
        if not self.pool:
            raise ValueError(f"--keep-rate {low:g} {high:g}: none of {len(rates)} prompts has such a pass rate; widen it, or "
                             "take other prompts")

    def state(self) -> dict:
        return {"given": list(self.given), "pool": [list(key) for key in self.pool]}

    def restore(self, state: dict) -> None:
        self.given, self.pool = list(state["given"]), [tuple(key) for key in state["pool"]]
