"""Whole weights from shards and back: under FSDP2 (--shard) each rank holds a part of every parameter.

Simpler than big trainers: to be saved, full weights are gathered on every rank.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


def full(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU; of a sharded tensor the whole of it, and then all ranks must call this together."""
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().cpu().clone()


def full_weights(model: nn.Module) -> dict:
    """{name: whole weight, a copy on the CPU}."""
    return {name: full(w) for name, w in model.state_dict().items()}


def like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor, placed and sharded as the parameter is."""
    tensor = tensor.to(parameter.device)
    sharded = isinstance(parameter, DTensor)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements) if sharded else tensor


@torch.no_grad()
def restore_weights(model: nn.Module, weights: dict) -> None:
    """Copies whole weights into the model's own. ValueError where they are those of another model."""
    own = model.state_dict()
    if own.keys() != weights.keys():
        raise ValueError(f"train_state.pt holds other weights: {sorted(own.keys() ^ weights.keys())[:5]}")
    for name, w in own.items():
        w.copy_(like(weights[name].to(w.dtype), w))


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Around evaluation: under FSDP2 the parameters outside the layers are whole meanwhile (the layers see to theirs)."""
    sharded = hasattr(model, "unshard")
    if sharded:
        model.unshard()
    try:
        yield
    finally:
        if sharded:
            model.reshard()
