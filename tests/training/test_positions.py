"""A checkpoint with other positions: another base of the rotary embedding, YaRN on all layers or on those without a window.

The flags of pretrain.py, what they write, and what they refuse. The angles are compared with formulas in float64.
"""

import dataclasses
import math

import pytest
import torch
from helpers import run_main, tiny_checkpoint

import pretrain
from formats.huggingface import kind_of
from model import Config, Transformer, load

SHAPE = dict(vocab_size=60, layers=4, width=64, heads=2)
HYBRID = SHAPE | dict(attention="window+window+rope+nope", window=16)


def with_flags(c, *flags):
    args = pretrain.flags().parse_args(["--data", "x", "--out", "o", "--init", "i", *map(str, flags)])
    return pretrain.with_positions(c, args)


def yarn(hd, theta, factor, old, fast=32.0, slow=1.0):
    """Angle for each position of each pair: pair i turns old / (2 pi theta^(2 i / hd)) times within the old context. From `fast`
    turns on it keeps its speed, up to `slow` turns it is slower by the factor, and between the two it depends on i linearly."""
    def pair_of(turns):
        return hd / 2 * math.log(old / (2 * math.pi * turns), theta)
    first, last = max(math.floor(pair_of(fast)), 0), min(math.ceil(pair_of(slow)), hd - 1)
    speeds = []
    for i in range(hd // 2):
        share = min(max((i - first) / (last - first), 0.0), 1.0)
        speed = theta ** (-2 * i / hd)
        speeds.append(speed / factor * share + speed * (1 - share))
    return torch.tensor(speeds, dtype=torch.float64)


POSITIONS = torch.tensor([[0, 1, 7, 500]])


def assert_angles(found, speeds, size):
    for ours, function in zip(found, (torch.cos, torch.sin), strict=True):
        theirs = size * function(POSITIONS[..., None, None].double() * speeds)
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-3)  # positions times angles are of float32


@pytest.mark.parametrize("full_only", [False, True])
def test_yarn_by_its_formula(full_only):
    c = with_flags(Config(**HYBRID), "--yarn-factor", 4, "--yarn-context", 256, "--yarn-beta-fast", 16, "--yarn-beta-slow", 2,
                   *["--yarn-full-only"] * full_only)
    angles = Transformer(c).angles(POSITIONS)
    slowed, plain = yarn(32, 10_000.0, 4, 256, 16, 2), 10_000.0 ** (-torch.arange(0, 32, 2, dtype=torch.float64) / 32)
    assert (slowed - plain).abs().max() > 0.01 and slowed[0] == plain[0]      # a part is slowed down, a part is not
    growth = 0.1 * math.log(4) + 1
    assert_angles(angles["rope"], slowed, growth)
    assert_angles(angles["window"], *((plain, 1.0) if full_only else (slowed, growth)))
    assert angles["nope"] == (None, None)
    assert c.context == 1024 and kind_of(c) == ("nanothink" if full_only else "smollm3")


def test_the_defaults_of_yarn_and_another_base(monkeypatch):
    c = with_flags(Config(**SHAPE, context=512), "--yarn-factor", 2, "--rope-theta", 50_000, "--seq-len", 64)
    assert c.rope_theta == 50_000 and c.context == 1024
    angles = Transformer(c).angles(POSITIONS)
    assert_angles(angles["rope"], yarn(32, 50_000.0, 2, 512), 0.1 * math.log(2) + 1)
    monkeypatch.setattr(pretrain, "longest_rows", lambda folder: 128)         # known of a run folder, whatever its config allows
    assert with_flags(Config(**SHAPE, context=2048), "--yarn-factor", 4).context == 512
    again = with_flags(c, "--yarn-factor", 8)                                 # from the context of the first model
    assert again.rope_scaling["original_max_position_embeddings"] == 512 and again.context == 4096
    longer = with_flags(Config(**SHAPE, context=512), "--rope-theta", 1e6, "--seq-len", 4096)
    assert longer == dataclasses.replace(Config(**SHAPE), rope_theta=1e6, context=4096)
    assert with_flags(c, "--seq-len", 4096) == c                              # without the flags nothing changes


def test_a_checkpoint_with_yarn_keeps_what_no_flag_says():
    """As OLMo 3 has it: other bounds, no scaling of windows."""
    olmo = dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=64, beta_fast=8, beta_slow=2, truncate=False,
                attention_factor=0.1 * math.log(2) + 1)
    shape = SHAPE | dict(attention="window+rope", window=16, qk_norm="full", norm_after=True, rope_scaling=olmo,
                         scale_windows=False)
    assert kind_of(Config(**shape)) == "olmo3"
    c = with_flags(Config(**shape), "--yarn-factor", 4)
    assert kind_of(c) == "olmo3" and not c.scale_windows and c.context == 256
    assert c.rope_scaling == dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=8, beta_slow=2,
                                  truncate=False)
    changed = with_flags(Config(**shape), "--yarn-factor", 4, "--yarn-beta-fast", 32, "--yarn-beta-slow", 1)
    assert (changed.rope_scaling["beta_fast"], changed.rope_scaling["beta_slow"]) == (32, 1)
    for key in ("attention_factor", "mscale"):
        with pytest.raises(ValueError, match=f"its YaRN has {key}=1.5"):
            with_flags(Config(**shape | {"rope_scaling": olmo | {key: 1.5}}), "--yarn-factor", 4)


@pytest.mark.parametrize("config, flags, words", [
    (SHAPE | dict(attention="nope"), ("--rope-theta", 5e5), "i: no layer has RoPE"),
    (SHAPE, ("--yarn-factor", 2, "--yarn-full-only"), "no layers with RoPE have a window"),
    (SHAPE | dict(attention="window+nope", window=8), ("--yarn-factor", 2, "--yarn-full-only"),
     "all layers with RoPE have a window"),
    (SHAPE, ("--yarn-factor", 0.5), "--yarn-factor 0.5: use a number above 1"), (SHAPE, ("--rope-theta", 0.5), "rope_theta=0.5"),
    (SHAPE, ("--yarn-factor", 2, "--yarn-beta-fast", 1), "--yarn-beta-fast must be above"),
    (SHAPE | dict(rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                    original_max_position_embeddings=64)), ("--yarn-factor", 2), "scaled by llama3 already")])
def test_what_changes_nothing_is_refused(config, flags, words):
    with pytest.raises(ValueError, match=words):
        with_flags(Config(**config), *flags)


def test_the_script_trains_and_saves_with_the_new_positions(tmp_path, tokenizer):
    """And a resumed run has them too, though it begins from the old checkpoint again."""
    init = tiny_checkpoint(tmp_path / "init", tokenizer, attention="window+rope", window=16)
    flags = ["--init", init, "--out", tmp_path / "run", "--data", "world:ops=1", "--batch-tokens", 256, "--seq-len", 128,
             "--schedule", "constant", "--warmup", 0, "--device", "cpu",
             "--rope-theta", 300, "--yarn-factor", 4, "--yarn-context", 32, "--yarn-full-only"]
    for steps, more in ((1, []), (2, ["--resume"])):
        code, found, err = run_main(pretrain, *flags, "--steps", steps, *more)
        assert code == 0 and found["steps"] == steps, err
        c = load(tmp_path / "run")[0].config
        assert (c.rope_theta, c.context, c.scale_windows, c.rope_scaling["factor"]) == (300.0, 128, False, 4.0)
