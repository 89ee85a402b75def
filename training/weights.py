"""Gathers complete weights from shards, and shards them again: with FSDP2 (--shard) each rank holds a part of every parameter.

Simpler than big trainers: to save, the complete weights are gathered on every rank.

A shard is a DTensor. Its module is imported only where one is made, because that makes commands start slowly.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor, which holds a part."""
    return hasattr(tensor, "full_tensor")


def complete(tensor: torch.Tensor) -> torch.Tensor:
    """The complete tensor, on its device; the tensor itself if it is no shard. Of a shard, all ranks must call this together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A complete tensor, on the device of the parameter: sharded if that is."""
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)


def full(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU. A sharded tensor is gathered; then all ranks must call this together."""
    return complete(tensor).detach().cpu().clone()


def full_weights(model: nn.Module) -> dict:
    """{name: a copy of the complete weight on the CPU}."""
    return {name: full(w) for name, w in model.state_dict().items()}


def like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A complete tensor, moved to the device of the parameter and sharded like it."""
    return sharded_like(tensor.to(parameter.device), parameter)


@torch.no_grad()
def restore_weights(model: nn.Module, weights: dict) -> None:
    """Copies complete weights into the model. ValueError if they are those of another model."""
    own = model.state_dict()
    if own.keys() != weights.keys():
        raise ValueError(f"train_state.pt holds other weights: {sorted(own.keys() ^ weights.keys())[:5]}")
    for name, w in own.items():
        w.copy_(like(weights[name].to(w.dtype), w))


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Put this around evaluation: with FSDP2 it gathers the parameters outside the layers (the layers gather their own)."""
    sharded = hasattr(model, "unshard")
    if sharded:
        model.unshard()
    try:
        yield
    finally:
        if sharded:
            model.reshard()
