"""Compares the weights of two checkpoints: how many have moved, and how far.

    python evaluate.py --init runs/mid runs/grpo --compared-with runs/base

There is no one threshold beyond which a weight has moved, so several are given:

    bf16         the two differ when both are rounded to bfloat16: what a checkpoint in that precision would show
    0.01, 0.1    it has changed by more than this share of the root mean square of its tensor, as that was before

The norm is that of the change, divided by the norm of the weights before (Frobenius). Tensors are taken together by their kind,
which is the last part of their name (q_proj, down_proj, ...), and all of them as "all".
"""

from collections.abc import Mapping

import torch
from torch import Tensor

THRESHOLDS = (0.01, 0.1)


class Sums:
    """What is added up over the tensors of a kind."""

    def __init__(self):
        self.weights, self.moved = 0, dict.fromkeys(("bf16", *map(str, THRESHOLDS)), 0)
        self.squares = self.change = 0.0

    def add(self, before: Tensor, after: Tensor) -> None:
        old, change = before.double(), after.double() - before.double()
        unit = float(old.square().mean().sqrt())
        self.weights += old.numel()
        self.moved["bf16"] += int((before.bfloat16() != after.bfloat16()).sum())
        for share in THRESHOLDS:
            self.moved[str(share)] += int((change.abs() > share * unit).sum())
        self.squares += float(old.square().sum())
        self.change += float(change.square().sum())

    def found(self) -> dict:
        """norm is null where the weights were all 0 and no longer are."""
        norm = (self.change / self.squares) ** 0.5 if self.squares else None if self.change else 0.0
        return {"weights": self.weights, "moved": {name: round(n / self.weights, 6) for name, n in self.moved.items()},
                "norm": norm if norm is None else float(f"{norm:.6g}")}


@torch.no_grad()
def weight_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, dict]:
    """{kind, or "all": {"weights": how many, "moved": {threshold: share of them}, "norm": of the change}}.

    before, after: tensors by name. ValueError where the two have other names or shapes, or weights that are not numbers."""
    for name in sorted(before.keys() | after.keys()):
        shapes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (before, after)]
        if shapes[0] != shapes[1]:
            sizes = ["absent" if shape is None else "x".join(map(str, shape)) for shape in shapes]
            raise ValueError(f"{name} is {sizes[0]} in one and {sizes[1]} in the other; only checkpoints of one shape can be "
                             "compared")
        if not (before[name].isfinite().all() and after[name].isfinite().all()):
            raise ValueError(f"{name} has weights that are not numbers (NaN or infinite)")
    kinds, every = {}, Sums()
    for name in before:
        kind = name.removesuffix(".weight").rpartition(".")[2] if name.endswith(".weight") else ".".join(name.split(".")[-2:])
        for sums in (kinds.setdefault(kind, Sums()), every):
            sums.add(before[name], after[name])
    return {"all": every.found()} | {kind: sums.found() for kind, sums in kinds.items()}


def lines(found: dict[str, dict]) -> list[str]:
    """The result of `weight_change` as a table."""
    head = [f"{'weights':<26}{'how many':>14}{'bf16':>10}" + "".join(f"{f'> {share:g} rms':>12}" for share in THRESHOLDS)
            + f"{'norm':>10}"]
    return head + [f"{kind:<26}{row['weights']:>14,}{row['moved']['bf16']:>10.2%}"
                   + "".join(f"{row['moved'][str(share)]:>12.2%}" for share in THRESHOLDS)
                   + ("       new" if row["norm"] is None else f"{row['norm']:>10.4f}") for kind, row in found.items()]
