"""The metrics of a step: {name: (sum, divisor)}.

A loss function returns such a dict beside its loss, with the sums over its micro-batch: {"entropy": (the sum over the tokens,
the number of tokens)}. Sums and divisors are added over the micro-batches of a step and over all ranks, and only then divided,
so a mean in the log depends neither on the split into micro-batches nor on the number of ranks. To log one number more, add an
entry.
"""

import torch


class Largest(float):
    """A metric of which the log shows the largest: {"length_max": Largest(812)}."""


def add(metrics: dict, more: dict) -> None:
    """Adds the metrics of `more` to those of `metrics`, in place. Sums and divisors may be numbers or tensors of one number; a
    tensor stays on its device, for to read it would make the CPU wait for the GPU at every micro-batch."""
    for name, value in more.items():
        if isinstance(value, Largest):
            metrics[name] = max(metrics.get(name, value), value)
            continue
        total, divisor = (x.detach() if isinstance(x, torch.Tensor) else x for x in value)
        before = metrics.get(name, (0, 0))
        metrics[name] = before[0] + total, before[1] + divisor


def means(metrics: dict, ranks) -> dict[str, float]:
    """{name: value over all ranks}. All ranks must call this together, with the same names."""
    names = sorted(name for name, value in metrics.items() if not isinstance(value, Largest))      # in one order on all ranks
    sums = ranks.sum(*(x for name in names for x in metrics[name])) if names else []
    found = {name: sums[2 * i] / max(sums[2 * i + 1], 1e-9) for i, name in enumerate(names)}
    for name in sorted(metrics.keys() - found.keys()):
        found[name] = ranks.most(float(metrics[name]))
    return {name: found[name] for name in metrics}
