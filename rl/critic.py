"""The value side of PPO: a value head, generalised advantage estimation, and the clipped value loss (arXiv 1707.06347)."""

import torch
from torch import nn


class ActorCritic(nn.Module):
    """The policy with ppo's value head on its last hidden states."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.value = nn.Linear(model.config.width, 1, dtype=model.head.dtype)
        nn.init.zeros_(self.value.weight)

    @property
    def layers(self):                                     # no attribute, or a checkpoint would hold every layer twice
        return self.model.layers

    def compile_layers(self, **options):
        self.model.compile_layers(**options)

    def forward(self, tokens, documents, targets, temperature, entropy):
        x = self.model.hidden(tokens, documents)
        logprobs, entropies = self.model.scores(x, targets, temperature, entropy)
        return logprobs, entropies, self.value(x.to(self.value.weight.dtype)).squeeze(-1)             # each (B, T)

    def save(self, folder, tokenizer, weights):
        own = {k.removeprefix("model."): w for k, w in weights.items() if k.startswith("model.")}
        self.model.save(folder, tokenizer, own)           # the value head is kept in train_state.pt alone


def gae(rewards, values, mask, documents, gamma=1.0, lam=1.0):
    """Generalised advantage estimation (arXiv 1506.02438) in packed rows: all (B, T) -> advantages (B, T).

    With values 0 and lam 1 it is the discounted return of each token. Runs over the tokens that count, from the last."""
    out, next_value, running = torch.zeros_like(rewards), rewards.new_zeros(len(rewards)), rewards.new_zeros(len(rewards))
    for t in range(rewards.shape[1] - 1, -1, -1):
        if t + 1 < rewards.shape[1]:                      # nothing flows in from another document
            same = (documents[:, t] == documents[:, t + 1]).to(rewards.dtype)
            next_value, running = next_value * same, running * same
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        step = delta + gamma * lam * running
        counts = mask[:, t] > 0
        running, next_value = torch.where(counts, step, running), torch.where(counts, values[:, t], next_value)
        out[:, t] = running * counts
    return out


def value_loss(values, old_values, returns, clip=0.2):
    """PPO's clipped value loss: all (B, T) -> (B, T)."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def moments(run, x, mask):
    """Mean and standard deviation over the places where the mask is 1, of all micro-batches and ranks: lists of (B, T)."""
    n, total, squares = run.sum(*(sum(float((v.double() ** k * m).sum()) for v, m in zip(x, mask, strict=True))
                                  for k in range(3)))
    mean = total / max(1.0, n)
    return mean, max(0.0, squares / max(1.0, n) - mean ** 2) ** 0.5


def whiten(run, x, mask):
    """x minus its mean, over its standard deviation."""
    mean, deviation = moments(run, x, mask)
    return [(v - mean) / (deviation + 1e-6) for v in x]
