"""Muon, groups and schedules against their definitions."""

import math

import pytest
import torch

import pretrain
from model import Config, Linear, Transformer
from rl.critic import ActorCritic
from training import optim


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (16, 64)])
def test_orthogonalise_keeps_the_singular_vectors_and_levels_the_values(shape):
    torch.manual_seed(0)
    g = torch.randn(3, *shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    out = optim.orthogonalise(g)
    levelled = u.mT @ out @ v.mT                                              # diagonal in the same basis
    diagonal = torch.diagonal(levelled, dim1=-2, dim2=-1)
    assert (levelled - torch.diag_embed(diagonal)).abs().max() < 1e-6
    assert diagonal[s > 0.05 * s.amax(-1, keepdim=True)].min() > 0.6 and diagonal.max() < 1.25


def test_muon_step_by_hand():
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(8, 4))
    before, muon, buffer = w.detach().clone(), optim.Muon([w], lr=0.1, momentum=0.9, weight_decay=0.01), torch.zeros(8,
            4)
    for _ in range(3):
        w.grad = torch.randn(8, 4)
        buffer = 0.9 * buffer + 0.1 * w.grad
        update = optim.orthogonalise((0.1 * w.grad + 0.9 * buffer)[None])[0]
        before = before * (1 - 0.1 * 0.01) - 0.1 * math.sqrt(2) * update
        muon.step()
        torch.testing.assert_close(w.detach(), before)


def test_muon_minimises():
    torch.manual_seed(0)
    target, w = torch.randn(16, 16), torch.nn.Parameter(torch.zeros(16, 16))
    muon = optim.Muon([w], lr=0.3)
    for step in range(200):
        optim.set_lr([type("O", (), {"param_groups": [muon.param_groups[0] | {"peak_lr": 0.3}]})], 1.0)
        muon.param_groups[0]["lr"] = 0.3 * (1 - step / 200)
        w.grad = w.detach() - target
        muon.step()
    assert (w - target).norm() / target.norm() < 0.1


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_parameter_has_one_home_and_decay_falls_on_hidden_matrices_alone(kind):
    model = Transformer(Config(vocab_size=50, layers=2, width=32, qk_norm="head", qkv_bias=True, tied=False))
    names = {id(w): n for n, w in model.named_parameters()}
    groups = [g for o in optim.build(model, kind, weight_decay=0.1) for g in o.param_groups]
    homes = [names[id(w)] for g in groups for w in g["params"]]
    assert sorted(homes) == sorted(names.values())
    decayed = {names[id(w)] for g in groups if g["weight_decay"] for w in g["params"]}
    assert decayed == {n for n in names.values() if n.endswith("_proj.weight")}


@pytest.mark.parametrize("options", [{}, dict(tied=False), dict(qk_norm="full", norm_after=True), dict(qkv_bias=True)])
def test_muon_gets_the_matrices_inside_the_layers_in_the_models_order(options):
    model = Transformer(Config(vocab_size=50, layers=2, width=32, **options))
    inside = [n for n, w in model.named_parameters() if "layers." in n and w.ndim == 2]
    names = {id(w): n for n, w in model.named_parameters()}
    for policy in (model, ActorCritic(model)):
        matrices, others = optim.split_by_role(policy)
        assert [names[id(w)] for w in matrices] == inside and len(matrices) + len(others) == len(list(policy.parameters()))


def test_what_scores_is_not_for_muon():
    """A router in a layer, with its role set or as a plain nn.Linear: the rate of each score is its own (AdamW)."""
    model = Transformer(Config(vocab_size=50, layers=1, width=32))
    mlp = model.layers[0].mlp
    mlp.router, mlp.expert, mlp.gate = Linear(32, 8, bias=False), Linear(32, 8, bias=False), torch.nn.Linear(32, 4)
    mlp.router.role = "router"
    matrices = {id(w) for w in optim.split_by_role(model)[0]}
    assert id(mlp.expert.weight) in matrices and not {id(mlp.router.weight), id(mlp.gate.weight)} & matrices


def test_a_new_optimiser_is_one_entry(monkeypatch):
    monkeypatch.setitem(optim.OPTIMIZERS, "sgd", lambda matrices, others, lr, adam_lr, weight_decay: [
        torch.optim.SGD(matrices, lr=lr, weight_decay=weight_decay), torch.optim.SGD(others, lr=adam_lr)])
    args = pretrain.flags().parse_args("--data x --out x --optimizer sgd --lr 0.5 --adam-lr 0.25".split())
    model = Transformer(Config(vocab_size=50, layers=1, width=32))
    first, second = optim.build(model, args.optimizer, args.lr, args.adam_lr, 0.1)
    assert optim.set_lr([first, second], 0.5) == 0.25 and second.param_groups[0]["lr"] == 0.125
    assert len(first.param_groups[0]["params"]) == 7 and first.param_groups[0]["weight_decay"] == 0.1


def test_schedules():
    s = optim.schedule
    assert [round(s(i, 100, "wsd", warmup=0.1, decay=0.2), 3) for i in (0, 9, 10, 50, 80, 90, 99)] == [0.091, 0.909, 1,
            1, 1, 0.5, 0.05]
    assert s(0, 100, "cosine", warmup=0) == 1.0 and s(50, 100, "cosine", warmup=0) == pytest.approx(0.5) and s(99, 100,
            "cosine", warmup=0, floor=0.1) < 0.11
    assert {s(i, 100, "constant", warmup=0) for i in range(100)} == {1.0}
    assert s(50, 100, "wsd", warmup=0, decay=1.0) == 0.5
    with pytest.raises(ValueError, match="use one of constant, cosine, wsd"):
        s(50, 100, "step")
