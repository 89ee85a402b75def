"""Muon for the hidden matrices, AdamW for everything else, and the learning-rate schedules.

Muon (Keller Jordan, 2024) takes momentum, and finds the nearest orthogonal matrix by a Newton-Schulz iteration, so that an update
moves every direction equally. All other parameters are trained by AdamW (arXiv 1711.05101); see `split_by_role`.

Simpler than it could be: under DDP and FSDP2 every rank orthogonalises every matrix, instead of sharing this work.
"""

import math

import torch
from torch import nn

from training.weights import complete, sharded_like

BETAS = (0.9, 0.95)                                       # AdamW's


def orthogonalise(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Newton-Schulz: moves all singular values of g (..., rows, columns) towards 1; returns a tensor of the same shape.

    The coefficients are Jordan's. They are fast, but not exact: singular values end between about 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16() if g.is_cuda else g
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * y @ y) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum; only for matrices. The step is scaled by sqrt(max(1, rows / columns)), so that the
    outputs change equally for every shape. Weight decay is decoupled: w *= 1 - lr * decay."""

    def __init__(self, matrices: list, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape = {}                                                     # same shapes are orthogonalised together
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if not state:
                    state["momentum"] = torch.zeros_like(w)
                state["momentum"].lerp_(w.grad, 1 - group["momentum"])
                g = w.grad.lerp(state["momentum"], group["momentum"])         # Nesterov: look one step ahead
                by_shape.setdefault(tuple(w.shape), []).append((w, complete(g)))
            for (rows, columns), pairs in by_shape.items():
                updates = orthogonalise(torch.stack([g for _, g in pairs]))   # (matrices, rows, columns)
                for (w, _), u in zip(pairs, updates):
                    u = sharded_like(u, w)
                    w.mul_(1 - group["lr"] * group["weight_decay"])
                    w.add_(u, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def split_by_role(model: nn.Module) -> tuple[list, list]:
    """(hidden matrices, all other parameters), each in the model's order.

    A hidden matrix is the weight of a module whose `role` is "hidden" (see model.Linear). It maps hidden vectors to hidden
    vectors, so it makes sense to move every direction equally. Other parameters belong to separate outputs: the embedding and the
    head (one for each token), a router (one for each expert), norms and biases. A module without a role, such as a plain
    nn.Linear, is among the others."""
    hidden = {id(w) for module in model.modules() if getattr(module, "role", "") == "hidden"
              for w in module.parameters(recurse=False) if w.ndim == 2}
    parameters = list(model.parameters())
    return [w for w in parameters if id(w) in hidden], [w for w in parameters if id(w) not in hidden]


def muon(matrices: list, others: list, lr: float, adam_lr: float, weight_decay: float) -> list:
    """Muon at `lr` for the matrices, AdamW at `adam_lr` for the others."""
    return [Muon(matrices, lr=lr, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=adam_lr, betas=BETAS, weight_decay=0.0, fused=True)]


def adamw(matrices: list, others: list, lr: float, adam_lr: float, weight_decay: float) -> list:
    """AdamW at `lr` for all."""
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)]


# What --optimizer may be. An entry takes (matrices, others, lr, adam_lr, weight_decay) and returns a list of optimisers. Weight
# decay is only for the matrices, so that embeddings, norms and biases are not pulled to zero. "adamw" does not use adam_lr, so
# --adam-lr is refused with it (training/flags.py). With any other entry the flag is accepted, so the entry should use it.
OPTIMIZERS = {"muon": muon, "adamw": adamw}


def build(model: nn.Module, kind: str = "muon", lr: float = 0.02, adam_lr: float = 0.003, weight_decay: float = 0.0) -> list:
    """The optimisers of a model, from an entry of OPTIMIZERS. Each group of parameters stores its peak rate as "peak_lr"."""
    optimizers = OPTIMIZERS[kind](*split_by_role(model), lr, adam_lr, weight_decay)
    for group in (g for o in optimizers for g in o.param_groups):
        group["peak_lr"] = group["lr"]
    return optimizers


# What --schedule may be. An entry takes the share that is made of the steps behind the warm-up, how many steps are left, and over
# how many of the last steps the rate falls. It returns how far the rate is on the way from the floor up to the peak, 0 to 1.
SCHEDULES = {
    "constant": lambda done, left, decay: 1.0,
    "cosine": lambda done, left, decay: 0.5 * (1 + math.cos(math.pi * done)),
    "wsd": lambda done, left, decay: min(1.0, left / max(1.0, decay)),
}


def schedule(step: int, steps: int, kind: str = "wsd", warmup: float = 0.01, decay: float = 0.2, floor: float = 0.0) -> float:
    """The share of the peak learning rate at a step (0 .. steps-1), by an entry of SCHEDULES.

    constant   flat after the warm-up
    cosine     half a cosine down to `floor`
    wsd        flat, then linearly down to `floor` over the last `decay` of the steps (warm-up, stable, decay: arXiv 2404.06395)

    warmup and decay are shares of the steps, floor is a share of the peak. A run with "constant" can be followed by a second run
    from its end, with "cosine" or with "wsd" and decay 1.
    """
    n = warmup * steps
    if kind not in SCHEDULES:
        raise ValueError(f"--schedule {kind}: use one of {', '.join(SCHEDULES)}")
    if step < n:
        return (step + 1) / (n + 1)
    share = SCHEDULES[kind]((step - n) / max(1.0, steps - n), steps - step, decay * steps)
    return floor + (1 - floor) * share


def set_lr(optimizers: list, share: float) -> float:
    """Sets every group to `share` of its peak; returns the first group's rate."""
    for group in (g for o in optimizers for g in o.param_groups):
        group["lr"] = group["peak_lr"] * share
    return optimizers[0].param_groups[0]["lr"]
