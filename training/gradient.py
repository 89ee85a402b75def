"""The gradient of a step, which is the same for any micro-batches and any number of ranks; and clipping of its norm."""

import contextlib
from collections.abc import Callable

import torch
from torch import nn

from training import metrics
from training.ranks import Ranks
from training.weights import complete


def accumulate(ranks: Ranks, wrapped: nn.Module, batches: list, loss_of: Callable, weight: float, found: dict) -> float:
    """Adds up the gradient of the mean loss over the micro-batches of a step and over all ranks; returns the mean loss.

    - ranks: a Ranks (or a Run). wrapped: the module that Ranks.distribute returned.
    - loss_of(batch): returns the sum of the weighted losses of a micro-batch, and its metrics {name: (sum, divisor)}, which are
      added to `found`.
    - weight: the divisor of the mean, over all micro-batches and ranks. It is known before the first backward pass, so the
      gradient does not depend on micro-batches or ranks.
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
    """Scales the gradient down to norm `largest` if it is larger; returns its norm before."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
    return float(complete(norm))
