"""CUDA graphs: hundreds of small launches on a GPU, recorded once and replayed as a single one."""

from collections.abc import Callable, Hashable
from typing import Any

import torch


class Graphs:
    """One graph for each key. A graph reads and writes the tensors with which it was recorded, so they must stay in place. If one
    of them is replaced, call `clear`, which drops the graphs. enabled: False calls the function each time, as on a CPU."""

    def __init__(self, enabled: bool):
        self.enabled, self.captured, self.pool = enabled, {}, None

    def clear(self) -> None:
        self.captured, self.pool = {}, None

    def replay(self, key: Hashable, work: Callable, changed: torch.Tensor) -> Any:
        """The result of work(). It is recorded at the first call with a key, and replayed after that. The next replay of the key
        overwrites the returned tensors. changed: a tensor that work() both reads and changes (a counter)."""
        if not self.enabled:
            return work()
        if key not in self.captured:
            self._warm_up(work, changed)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                made = work()
            self.pool = graph.pool()                      # all graphs share their memory: only one of them runs at a time
            self.captured[key] = graph, made
        graph, made = self.captured[key]
        graph.replay()
        return made

    @staticmethod
    def _warm_up(work, changed):
        """Runs work() on another stream, to compile what it needs. The replay writes all results again."""
        before, aside = changed.clone(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                work()
                changed.copy_(before)
        torch.cuda.current_stream().wait_stream(aside)
