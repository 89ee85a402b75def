"""The value function of PPO: a value head, and the clipped value loss (arXiv 1707.06347)."""

from pathlib import Path

import torch
from torch import nn

from model import Transformer
from tokenizer import Tokenizer


class ActorCritic(nn.Module):
    """The policy, with a value head on its last hidden states."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model
        self.value = nn.Linear(model.config.width, 1, dtype=model.head.dtype)
        nn.init.zeros_(self.value.weight)

    @property
    def layers(self) -> nn.ModuleList:                    # with an attribute a checkpoint would have every layer twice
        return self.model.layers

    def compile_layers(self, **options) -> None:
        self.model.compile_layers(**options)

    def forward(self, tokens: torch.Tensor, documents: torch.Tensor, targets: torch.Tensor, temperature: float,
                entropy: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.model.hidden(tokens, documents)
        logprobs, entropies = self.model.target_logprobs(x, targets, temperature, entropy)
        return logprobs, entropies, self.value(x.to(self.value.weight.dtype)).squeeze(-1)             # each (B, T)

    def save(self, folder: str | Path, tokenizer: Tokenizer, weights: dict) -> None:
        own = {k.removeprefix("model."): w for k, w in weights.items() if k.startswith("model.")}
        self.model.save(folder, tokenizer, own)           # only train_state.pt has the value head


def value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float = 0.2) -> torch.Tensor:
    """PPO's clipped value loss: all (B, T) -> (B, T)."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
