"""A policy loss is one entry of a table: a new one needs no other line of code, and no other code knows its name."""

import ast
import json

import pytest
import torch
from conftest import ROOT
from helpers import run_main, tiny_checkpoint

import grpo
from rl import losses
from rl.losses import LOSSES, Clip, PolicyLoss

FLAGS = ["--data", "world:ops=1-2,split=rl", "--mode", "plain", "--reward", "random", "--prompts", 4, "--group", 4, "--steps", 2,
         "--max-new-tokens", 12, "--dtype", "float64", "--lr", 0.01, "--updates", 2, "--seq-len", 128]


def masked(ratio, logprobs, advantages, clip):
    """The example of rl/losses.py."""
    inside = (ratio >= 1 - clip.low) & (ratio <= 1 + clip.high)
    return torch.where(inside, -ratio * advantages, 0.0)


def outside(ratio, logprobs, advantages, clip):
    return {"masked_share": (ratio < 1 - clip.low) | (ratio > 1 + clip.high)}


@pytest.fixture
def entry(monkeypatch):
    entry = PolicyLoss(surrogate=masked, mean="token", reads=("clip_low", "clip_high"), clip_low=0.05, clip_high=0.05,
                       metrics=outside, refuses=((lambda args: args.entropy > 0, "--loss masked takes no --entropy"),))
    monkeypatch.setitem(LOSSES, "masked", entry)
    return entry


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("new_loss") / "init", tokenizer)


def test_the_example_in_the_docstring_runs():
    scope = vars(losses) | {"LOSSES": {}}
    lines = losses.__doc__.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("    def masked"))
    exec("\n".join(line.removeprefix("    ") for line in lines[start:]), scope)
    ratio, A = torch.tensor([[0.5, 0.9, 1.1, 1.5]]), torch.tensor([[1.0, -1.0, 2.0, 1.0]])
    made, clip = scope["LOSSES"]["masked"], Clip(0.2, 0.2)
    assert made.surrogate(ratio, ratio.log(), A, clip).tolist() == masked(ratio, ratio.log(), A, clip).tolist()
    assert masked(ratio, ratio.log(), A, clip)[0].tolist() == pytest.approx([0.0, 0.9, -2.2, 0.0])


def test_a_new_entry_is_a_loss_of_the_script(entry, folder, tmp_path):
    """Its metric is in the log, its settings apply, and the mask has its effect."""
    norms = {}
    for name, more in {"masked": [], "wide": ["--clip-low", 1, "--clip-high", 100]}.items():
        code, _, err = run_main(grpo, "--init", folder, "--out", tmp_path / name, *FLAGS, "--loss", "masked", *more)
        assert code == 0, err
        about, *steps = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        steps = [r for r in steps if "reward" in r]
        assert "clip_low" not in steps[0] and "entropy" in steps[0]
        assert about["flags"]["clip_low"] == (1 if more else 0.05)
        assert any(r["masked_share"] > 0 for r in steps) == (not more)
        norms[name] = [r["grad_norm"] for r in steps]
    assert norms["masked"] != norms["wide"]


@pytest.mark.parametrize("flags, message", [(["--dual-clip", 3], "--dual-clip has no effect with --loss masked"),
                                            (["--entropy", 0.1], "--loss masked takes no --entropy"),
                                            (["--lam", 0.5], "--lam has no effect with --loss masked")])
def test_what_it_has_no_use_for_is_refused(entry, folder, tmp_path, flags, message):
    code, _, err = run_main(grpo, "--init", folder, "--out", tmp_path / "run", *FLAGS, "--loss", "masked", *flags)
    assert code == 2 and message in err and not (tmp_path / "run").exists()


def test_a_misspelt_entry_is_refused_at_once():
    for wrong in ({"ratio": "tokens"}, {"mean": "group"}, {"scale": None}, {"advantages": losses.GAE}, {"old": "old"}):
        with pytest.raises(ValueError, match="policy loss"):
            PolicyLoss(**wrong)


def test_nothing_but_the_table_knows_a_loss_by_name():
    """No comparison with a loss's name outside of rl/losses.py, where a new loss could be forgotten."""
    files = [ROOT / "grpo.py", *(ROOT / "rl").glob("*.py"), *(ROOT / "training").glob("*.py")]
    for path in files:
        for node in [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Compare)]:
            constants = {x.value for x in ast.walk(node) if isinstance(x, ast.Constant)}
            assert not constants & set(LOSSES), f"{path.name}, line {node.lineno}"


def test_the_script_lists_every_loss():
    table = grpo.__doc__.split("mean over", 1)[1].split("\n\n", 1)[0]         # from its head to its end
    assert [line.split()[0] for line in table.splitlines()[1:]] == list(LOSSES)
