"""The gradient of a step, the same for any split into micro-batches and any number of ranks; and its norm, clipped."""

import contextlib
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from training import metrics
from training.ranks import Ranks


def accumulate(ranks: Ranks, wrapped: nn.Module, batches: list, loss_of: Callable, weight: float, found: dict) -> float:
    """Adds up the gradient of the mean loss over the micro-batches of a step and over all ranks; returns that mean.

    ranks: a Ranks (or a Run). wrapped: what Ranks.distribute returned. loss_of(batch) returns the sum of a micro-batch's
    weighted losses, and its metrics {name: (sum, divisor)}, which are added to `found`. weight: the divisor of the mean, over
    everything. Since it is known before the first backward pass, neither the split nor the number of ranks changes the gradient.
    """
    total = 0.0
    for i, batch in enumerate(batches):
        last = i == len(batches) - 1
        if hasattr(wrapped, "set_requires_gradient_sync"):                    # FSDP2
            wrapped.set_requires_gradient_sync(last)
        quiet = wrapped.no_sync() if not last and hasattr(wrapped, "no_sync") else contextlib.nullcontext()
        with quiet:
            with ranks.autocast():
                loss, more = loss_of(batch.to(ranks.device))
            (loss * (ranks.ranks / max(weight, 1e-9))).backward()             # DDP and FSDP average over ranks: undo it
        metrics.add(found, more)
        total += float(loss.detach())
    return ranks.sum(total)[0] / max(weight, 1e-9)


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scales the gradient down to norm `largest`; returns the norm it had."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
