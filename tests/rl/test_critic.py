"""The policy with a value head is the policy, in each of its forms."""

from types import SimpleNamespace
from unittest import mock

import torch
from helpers import tiny_checkpoint

import kernels
from model import load
from rl.critic import ActorCritic
from training.ranks import Ranks


def test_ppo_compiles_the_layers_of_its_policy(tmp_path, tokenizer):
    """--compile reaches the layers through the value head, and the policy knows it, so that sampling leaves them alone."""
    model, _ = load(tiny_checkpoint(tmp_path / "m", tokenizer))
    run = SimpleNamespace(device=torch.device("cpu"), ranks=1, args=SimpleNamespace(checkpointing=False, compile=True))
    with torch._dynamo.config.patch(recompile_limit=8):
        Ranks.distribute(run, ActorCritic(model))
    assert model.compiled and all(layer._compiled_call_impl for layer in model.layers)


def test_ppo_computes_in_the_form_of_its_model(tmp_path, tokenizer):
    """With a value head the log-probabilities are those of the model alone, to the last bit, also in exact mode."""
    model, _ = load(tiny_checkpoint(tmp_path / "m", tokenizer))
    tokens, targets = torch.randint(0, 500, (2, 3, 40), generator=torch.Generator().manual_seed(0))
    used = []
    form = kernels._form
    def noted(x, exact):
        used.append(exact)
        return form(x, exact)
    for exact in (False, True):
        model.exact = exact
        used.clear()
        with mock.patch.object(kernels, "_form", noted):
            found = ActorCritic(model)(tokens, None, targets, 0.7, True)[:2]
        assert set(used) == {exact}                       # no block of it in the other form
        assert all(torch.equal(a, b) for a, b in zip(found, model(tokens, None, targets, 0.7, True), strict=True))
