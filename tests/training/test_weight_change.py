"""How many weights moved, against a count by hand; and the same between two folders, by evaluate.py."""

import math

import pytest
import torch
from helpers import refusal, run_main, tiny_checkpoint

import evaluate
from model import load
from training.weight_change import lines, weight_change


def test_against_a_count_by_hand():
    """Eight weights in two kinds. The first tensor's root mean square is 1; that of the second is 2."""
    before = {"layers.0.q_proj.weight": torch.tensor([1.0, -1, 1, -1]), "layers.0.k_proj.weight": torch.full((2, 1), 2.0),
              "layers.1.k_proj.weight": torch.tensor([[2.0], [0.0]]), "layers.0.q_proj.bias": torch.zeros(1)}
    after = {name: w.clone() for name, w in before.items()}
    after["layers.0.q_proj.weight"] += torch.tensor([0.001, 0.005, 0.05, -0.5])   # bf16 has steps of 0.0078 above 1
    after["layers.0.k_proj.weight"][0] += 0.012           # 0.01 of 2 is more, and above 2 bf16 has steps of 0.0156
    after["layers.1.k_proj.weight"] += torch.tensor([[0.0], [1e-6]])              # small, but beside 0 it is all there is
    found = weight_change(before, after)
    assert list(found) == ["all", "q_proj", "k_proj", "q_proj.bias"]
    q, k, every = found["q_proj"], found["k_proj"], found["all"]
    assert q["weights"] == 4 and q["moved"] == {"bf16": 0.75, "0.01": 0.5, "0.1": 0.25}
    assert q["norm"] == pytest.approx(math.sqrt((0.001 ** 2 + 0.005 ** 2 + 0.05 ** 2 + 0.5 ** 2) / 4), rel=1e-4)
    assert k["weights"] == 4 and k["moved"] == {"bf16": 0.5, "0.01": 0, "0.1": 0}
    assert k["norm"] == pytest.approx(0.012 / math.sqrt(12), rel=1e-3)
    assert every["weights"] == 9 and every["moved"]["bf16"] == round(5 / 9, 6) and every["moved"]["0.1"] == round(1 / 9, 6)
    assert found["q_proj.bias"] == {"weights": 1, "moved": dict.fromkeys(("bf16", "0.01", "0.1"), 0), "norm": 0}
    grown = weight_change(before, after | {"layers.0.q_proj.bias": torch.ones(1)})["q_proj.bias"]
    assert grown["moved"] == dict.fromkeys(("bf16", "0.01", "0.1"), 1) and grown["norm"] is None   # there was nothing before
    assert len(lines(found)) == 5 and "75.00%" in lines(found)[2]


def test_what_cannot_be_compared():
    w = {"a.weight": torch.ones(2, 3)}
    for other, message in (({"a.weight": torch.ones(3, 3)}, "2x3 in one and 3x3 in the other"), ({}, "absent in the other"),
                           ({"a.weight": torch.full((2, 3), math.nan)}, "not numbers")):
        with pytest.raises(ValueError, match=message):
            weight_change(w, other)


@torch.no_grad()
def test_between_two_checkpoints(tokenizer, tmp_path):
    """Exactly the weights that were changed, in a model with a tied head; a checkpoint has not moved from itself."""
    one = tiny_checkpoint(tmp_path / "one", tokenizer, tied=True)
    model, _ = load(one)
    weight = model.layers[0].mlp.down_proj.weight
    weight[0] *= 1.5
    model.save(tmp_path / "two", tokenizer)
    code, line, err = run_main(evaluate, "--init", one, tmp_path / "two", "--compared-with", one)
    assert code == 0, err
    same, other = (line[str(folder)][f"weights against {one}"] for folder in (one, tmp_path / "two"))
    assert same["all"]["moved"] == dict.fromkeys(same["all"]["moved"], 0) and same["all"]["norm"] == 0
    size = sum(w.numel() for w in model.parameters())
    assert other["all"]["weights"] == size and other["all"]["moved"]["bf16"] == round(weight.shape[1] / size, 6)
    assert {kind for kind, row in other.items() if row["norm"]} == {"all", "down_proj"}
    before = load(one)[0].layers[0].mlp.down_proj.weight
    every = torch.cat([layer.mlp.down_proj.weight.flatten() for layer in load(one)[0].layers])
    expected = float((weight - before).norm() / every.norm())
    assert other["down_proj"]["norm"] == pytest.approx(expected, rel=1e-4)
    small = tiny_checkpoint(tmp_path / "small", tokenizer, tied=True, ff=16)
    assert "only checkpoints of one shape" in refusal(evaluate, "--init", one, "--compared-with", small)
