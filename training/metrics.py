"""The metrics of a step: {name: (sum, divisor)}.

A loss function returns such a dict with its loss. It has the sums over the micro-batch: {"entropy": (the sum over the tokens, the
number of tokens)}. Sums and divisors are first added over the micro-batches of a step and over all ranks, and then divided. So a
mean in the log does not depend on micro-batches or ranks. To log one more number, add an entry.

A metric may be missing on some ranks, say because none of their samples has it: it is a mean over the others then. Where its
divisor is 0 on all of them, nothing was measured, and the step has no such metric.
"""

import math
import zlib
from collections.abc import Collection

import torch

from training.ranks import Ranks


class Largest(float):
    """A metric for which the log shows the largest value: {"length_max": Largest(812)}."""


def add(metrics: dict, more: dict) -> None:
    """Adds the metrics of `more` to those of `metrics`, in place. Sums and divisors may be numbers, or tensors with one element.
    A tensor stays on its device: reading it would make the CPU wait for the GPU at every micro-batch."""
    for name, value in more.items():
        if isinstance(value, Largest):
            metrics[name] = max(metrics.get(name, value), value)
            continue
        total, divisor = (x.detach() if isinstance(x, torch.Tensor) else x for x in value)
        before = metrics.get(name, (0, 0))
        metrics[name] = before[0] + total, before[1] + divisor


def means(metrics: dict, ranks: Ranks) -> dict[str, float]:
    """{name: value over all ranks}, without means over nothing. All ranks must call this together."""
    largest = names_of_all(metrics, ranks)
    names = [name for name in largest if not largest[name]]
    sums = ranks.sum(*(x for name in names for x in metrics.get(name, (0, 0)))) if names else []
    found = {name: sums[2 * i] / sums[2 * i + 1] for i, name in enumerate(names) if sums[2 * i + 1]}
    for name in sorted(largest.keys() - set(names)):
        found[name] = ranks.max(float(metrics.get(name, -math.inf)))
    return {name: found[name] for name in [*metrics, *sorted(found.keys() - metrics.keys())] if name in found}


def names_of_all(metrics: dict, ranks: Ranks) -> dict[str, bool]:
    """{name: whether it is a Largest} of the metrics of all ranks, in the same order on each of them: they are summed by their
    place. ValueError where a name is a Largest on one rank and a mean on another.

    Names are sent around only in a step where they differ, which a checksum tells."""
    own = {name: isinstance(metrics[name], Largest) for name in sorted(metrics)}
    mark = zlib.crc32(repr(own).encode())
    if ranks.max(mark) == -ranks.max(-mark):
        return own
    union = {}
    for other in ranks.gather(own):
        for name, largest in other.items():
            if union.setdefault(name, largest) != largest:
                raise ValueError(f"metric {name!r}: some ranks give (sum, divisor) and others a Largest; give the same on all")
    return dict(sorted(union.items()))


def check_names(metrics: Collection[str], taken: Collection[str]) -> None:
    """ValueError where a metric has a name that the log uses itself: one of the two would be lost."""
    if both := sorted(set(metrics) & set(taken)):
        raise ValueError(f"metric {both[0]!r}: the log has something else under this name; give the metric another one")
