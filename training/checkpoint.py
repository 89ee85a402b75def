"""Saves and restores the complete state of training.

train_state.pt has everything that a resumed run needs to continue as if it had never stopped: the weights again, the optimisers,
the position in the data, the random states, the state of the guard, and what the script adds. A resumed run starts from this file
alone. It is written atomically, so a kill at any moment leaves a consistent state. Only the newest checkpoint is kept.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from formats.files import write_atomically
from training.guard import Guard
from training.ledger import write_ledger
from training.weights import full, full_weights, like, restore_weights

# random states

def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)


def random_state() -> dict:
    version, numbers, gauss = random.getstate()
    state = {"python": [version, list(numbers), gauss], "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


# optimisers

def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict:
    """{parameter name: {state name: complete tensor or number}}: independent of ranks and of the order of parameters."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: {key: full(value) if isinstance(value, torch.Tensor) else value for key, value in state.items()}
            for p, state in optimizer.state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, saved: dict) -> None:
    """Restores what `optimizer_state` returned, on the device of each parameter. Tensors with one element (the number of steps,
    which a fused AdamW reads on the GPU) are never sharded."""
    def place(value, p):
        if not isinstance(value, torch.Tensor):
            return value
        return like(value, p) if value.ndim else value.to(p.device)
    parameters = dict(model.named_parameters())
    for name, state in saved.items():
        p = parameters[name]
        optimizer.state[p] = {key: place(value, p) for key, value in state.items()}


# the complete state

def state_of(model: nn.Module, optimizers: list, data: Any, guard: Guard) -> dict:
    """The part of train_state.pt that training changes. data: the source of batches or prompts; it has state() and restore(). All
    ranks must call this together."""
    return {"weights": full_weights(model), "optimizers": [optimizer_state(o, model) for o in optimizers],
            "stream": data.state(), "guard": guard.state(), "random": random_state()}


def restore(state: dict, model: nn.Module, optimizers: list, data: Any, guard: Guard) -> None:
    """Restores what `state_of` returned."""
    restore_weights(model, state["weights"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        restore_optimizer(optimizer, model, saved)
    data.restore(state["stream"])
    guard.restore(state["guard"])
    set_random_state(state["random"])


def write(folder: Path, model: nn.Module, tokenizer: Any, state: dict) -> str:
    """Writes the Hugging Face folder, then train_state.pt. Returns "", or the error (for example a full disk); then the older
    checkpoint is unchanged. The first time train_state.pt comes first, so that weights without it are never those of a run that
    was killed while it saved (training/resume.py refuses them). The tokenizer comes before it: a run that goes on needs both."""
    def write_state():
        write_atomically(folder / "train_state.pt", lambda path: torch.save(state, path))
    first = not (folder / "train_state.pt").exists()
    try:
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            if tokenizer is not None:
                tokenizer.save(folder)
            write_state()
        model.save(folder, tokenizer, state["weights"])
        write_ledger(folder, state["ledger"])
        if not first:
            write_state()
    except Exception as e:                                # torch and safetensors raise other errors for a full disk
        if not isinstance(e, (OSError, RuntimeError)) and type(e).__name__ != "SafetensorError":
            raise
        return f"{folder}: cannot write the checkpoint of step {state['step']} ({e}); the one before it is unharmed"
    return ""
