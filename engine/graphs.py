"""CUDA graphs: hundreds of small launches on a GPU, recorded once and replayed as a single one."""

from collections.abc import Callable, Hashable
from typing import Any

import torch


class Graphs:
    """One graph for each key. A graph reads and writes the tensors that it was recorded with, so these stay where they are; where
    one of them is replaced, `clear` drops the graphs. enabled: False calls the work itself each time, as on a CPU."""

    def __init__(self, enabled: bool):
        self.enabled, self.captured, self.pool = enabled, {}, None

    def clear(self) -> None:
        self.captured, self.pool = {}, None

    def replay(self, key: Hashable, work: Callable, changed: torch.Tensor) -> Any:
        """What work() returns: recorded when the key first comes, replayed after that. The next replay of the key overwrites
        the tensors that are returned. changed: the tensor that work() does not only overwrite, but counts on from."""
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
        """Compiles what the work needs, beside the current stream. What it writes is written again by the replay."""
        before, aside = changed.clone(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                work()
                changed.copy_(before)
        torch.cuda.current_stream().wait_stream(aside)
