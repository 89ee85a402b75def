"""Chooses the problems of each step, and their order.

`Prompts` takes problems from weighted sources. The order depends only on the seed: it is the same for any number of ranks, and a
resumed run continues at the same position.
"""

import numpy as np

from data import split_spec
from tasks.problems import open_task
from tasks.task import Problem
from tokenizer import Tokenizer


class Prompts:
    """Problems from SOURCE[@WEIGHT] specs. A world is endless. A file, or another task that ends, is read in a new permutation in
    each epoch.

    tokenizer, device: of the model that is asked, for tasks that need them (Task.prepare).
    given: how many problems each source has given so far: the position to resume from.
    pool: keys (source, i) of the problems to ask, in order (made by `keep`). Empty: all problems of the sources."""

    def __init__(self, specs: list[str], seed: int = 0, tokenizer: Tokenizer | None = None, device: str = "cpu"):
        named = [split_spec(s) for s in specs]
        self.specs, self.seed = [name for name, _ in named], seed
        self.weights = np.array([weight for _, weight in named]) / sum(weight for _, weight in named)
        self.sources = [open_task(name, tokenizer, device) for name in self.specs]
        self.given, self.pool = [0] * len(named), []

    def problem(self, source: int, i: int) -> Problem:
        """Problem i of a source. If the source ends, i counts on through all epochs."""
        task = self.sources[source]
        if task.count is None:
            return task.problem(i)
        epoch, at = divmod(i, task.count)
        return task.problem(int(np.random.default_rng([self.seed, source, epoch]).permutation(task.count)[at]))

    def next(self) -> Problem:
        """The next problem: from the source that most lacks problems for its share, or the next one of the pool."""
        total = sum(self.given)
        if self.pool:
            source, i = self.pool[total % len(self.pool)]
            self.given[source] += 1
            return self.problem(source, i)
        source = int(np.argmax(self.weights * (total + 1) - np.array(self.given)))
        self.given[source] += 1
        return self.problem(source, self.given[source] - 1)

    def candidates(self, count: int) -> list[tuple[int, int]]:
        """Keys (source, i) of the next problems, each question once: `count` of them, or fewer if the files have fewer."""
        keys, asked = [], set()
        for _ in range(4 * count):                        # a file or a world may repeat questions
            before = list(self.given)
            question = self.next().question
            if question not in asked and len(keys) < count:
                asked.add(question)
                keys.append(next((s, before[s]) for s, n in enumerate(self.given) if n != before[s]))
        return keys

    def keep(self, rates: dict[tuple[int, int], float], low: float, high: float, easy_first: bool = False) -> None:
        """Makes the pool from measured pass rates {(source, i): rate}: the problems within [low, high], the edge of competence
        (OlmoRL, OctoThinker). easy_first: a curriculum, sorted from high to low rates; else the order stays. ValueError if no
        problem is left."""
        self.pool = [key for key, rate in rates.items() if low <= rate <= high]
        if easy_first:
            self.pool.sort(key=lambda key: -rates[key])
        self.given = [0] * len(self.sources)
        if not self.pool:
            raise ValueError(f"--keep-rate {low:g} {high:g}: none of {len(rates)} prompts has such a pass rate; widen it, or "
                             "use other prompts")

    def table(self) -> list[dict]:
        """As the table of a mixture (data.Mixture.table), in prompts instead of tokens: of each source its share, the prompts
        that were asked, how many different ones there are (of an endless source those that were asked), and epochs."""
        rows, total = [], max(1, sum(self.given))
        for s, (name, task, asked) in enumerate(zip(self.specs, self.sources, self.given, strict=True)):
            unique = sum(source == s for source, _ in self.pool) if self.pool else task.count or asked
            rows.append({"source": name, "share": round(asked / total, 4), "prompts": asked, "unique_prompts": unique,
                         "epochs": round(asked / max(1, unique), 3)})
        return rows

    def state(self) -> dict:
        return {"given": list(self.given), "pool": [list(key) for key in self.pool]}

    def restore(self, state: dict) -> None:
        self.given, self.pool = list(state["given"]), [tuple(key) for key in state["pool"]]
