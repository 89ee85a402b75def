"""A mismatch put in on purpose: what the sampler draws and reports, what the trainer sees of it, and that all else stays."""

import json
from unittest import mock

import pytest
import torch
from helpers import run_main, state_of, tiny_checkpoint
from test_policy_updates import Stopped, compare, stop_after_first_save

import grpo
from engine.draws import SamplingParams, draw, truncate, uniform
from model import load
from rl.mismatch import Mismatch, parse_mismatch
from rl.rollouts import Rollouts

D = torch.float64
FLAGS = ["--data", "world:ops=1-2,split=rl", "--mode", "plain", "--reward", "random", "--prompts", 4, "--group", 4, "--steps", 2,
         "--max-new-tokens", 12, "--dtype", "float64", "--lr", 0.01, "--seq-len", 128]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("mismatch") / "init", tokenizer)


def run(folder, out, *flags):
    """The records of the steps, the saved state, and the sampled groups of each call."""
    groups, score = [], Rollouts.score

    def noted(self, problem, number, completions, cap, seed):
        groups.append(completions)
        return score(self, problem, number, completions, cap, seed)
    with mock.patch.object(Rollouts, "score", noted):
        code, _, err = run_main(grpo, "--init", folder, "--out", out, *FLAGS, *flags)
    assert code == 0, err
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [r for r in records if "reward" in r], state_of(out), groups, records[0]["flags"]


def true_logprobs(model, c, temperature=1.0):
    """The model's distribution at each token of a completion: (tokens, V)."""
    ids = torch.tensor(c.prompt + c.tokens)
    return (model(ids[None, :-1])[0, len(c.prompt) - 1:] / temperature).log_softmax(-1)


# draws

def drawn(mismatch, logits, count, temperature=1.0):
    """Tokens and their reported log-probabilities, of `count` draws from the same logits (V,)."""
    u, options = uniform(3, torch.arange(count), torch.full((count,), 7)), mismatch.of_draws()
    params = SamplingParams(temperature, top_p=options["top_p"], distortion=options["distortion"])
    return *draw(logits.expand(count, -1), u, params), u


def test_noise_is_a_gaussian_of_its_size_on_every_token_of_the_vocabulary():
    """Independent of the draw, between tokens of the vocabulary and between draws; what is reported is what was drawn from."""
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=D)
    mismatch, temperature = Mismatch(noise=0.3), 0.7
    tokens, logprobs, u = drawn(mismatch, logits, 20_000, temperature)
    noise = (mismatch.logits(logits.expand(20_000, -1), u, temperature) - logits) / temperature          # (draws, V)
    assert abs(noise.mean().item()) < 0.002 and noise.std().item() == pytest.approx(0.3, rel=0.01)
    assert (noise.T @ noise / 20_000 / 0.09 - torch.eye(40)).abs().max() < 0.05
    assert abs(torch.corrcoef(torch.stack([noise[:, 0], u]))[0, 1]) < 0.03
    assert (noise / 0.3 > 1.6449).double().mean().item() == pytest.approx(0.05, abs=0.002)
    noisy = (logits / temperature + noise).log_softmax(-1)
    torch.testing.assert_close(logprobs, noisy.gather(1, tokens[:, None])[:, 0])
    # draws follow the noisy distribution: the sampler says truly what it is
    rho = (logits / temperature).log_softmax(-1)[tokens] - logprobs
    assert rho.exp().mean().item() == pytest.approx(1, abs=0.01) and rho.std() > 0.2


@pytest.mark.parametrize("mismatch", [Mismatch(), Mismatch(noise=0.3), Mismatch(rounding=True), Mismatch(report=0.1)])
def test_a_draw_takes_nothing_from_the_host(monkeypatch, mismatch):
    """On a GPU it is recorded in a CUDA graph, which can copy nothing from there."""
    logits, requests, seed = torch.randn(5, 40), torch.arange(5), torch.tensor(3)

    def refused(*_, **__):
        raise AssertionError("a tensor is made on the host")
    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, name, refused)
    for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, refused)
    draw(logits, uniform(seed, requests, requests), SamplingParams(0.7, distortion=mismatch.of_draws()["distortion"]))


def test_a_false_report_changes_no_draw():
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=D)
    tokens, logprobs, _ = drawn(Mismatch(report=0.1), logits, 20_000)
    plain, true, _ = drawn(Mismatch(), logits, 20_000)
    assert torch.equal(tokens, plain)
    apart = logprobs - true
    assert abs(apart.mean().item()) < 0.003 and apart.std().item() == pytest.approx(0.1, rel=0.02)
    assert drawn(Mismatch(noise=0.3, report=0.1), logits, 4)[1].tolist() != drawn(Mismatch(noise=0.3), logits, 4)[1].tolist()


def test_rounding_is_that_of_bfloat16_and_truncation_is_top_p():
    logits = torch.randn(64, 40, generator=torch.Generator().manual_seed(0)) * 3
    u = uniform(3, torch.arange(64), torch.zeros(64, dtype=torch.long))
    options = Mismatch(rounding=True).of_draws()
    tokens, logprobs = draw(logits, u, SamplingParams(distortion=options["distortion"]))
    expected = logits.bfloat16().float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected)
    assert 1e-4 < (logprobs - logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]).abs().mean() < 0.02
    options = Mismatch(truncated=0.6).of_draws()
    assert options["distortion"] is None                  # the sampler's own top-p
    tokens, logprobs = draw(logits, u, SamplingParams(top_p=options["top_p"]))
    torch.testing.assert_close(logprobs, truncate(logits, 0, 0.6).log_softmax(-1).gather(1, tokens[:, None])[:, 0])


# runs

def test_without_it_nothing_changes_and_with_it_the_exact_zero_does(folder, tmp_path):
    """From 0.0 to what was asked for; the log holds the flag, and what is trained on is what was drawn."""
    steps, plain, _, flags = run(folder, tmp_path / "plain", "--exact")
    assert flags["mismatch"] == [] and flags["old"] == "sampler" and all(r["logprob_diff_max"] == 0 for r in steps)
    for spec, least, most in (("noise=0.3", 0.2, 0.3), ("report=0.05", 0.03, 0.05), ("rounding", 1e-4, 0.01),
                              ("truncated=0.5", 0.4, 0.8)):
        steps, state, groups, flags = run(folder, tmp_path / spec, "--exact", "--mismatch", spec)
        assert flags["mismatch"] == [spec] and flags["old"] == "trainer"
        assert least < steps[0]["logprob_diff_mean"] < most, spec
        same = all(torch.equal(w, state["weights"][n]) for n, w in plain["weights"].items())
        assert same == spec.startswith("report")          # without a correction nobody looks at what is reported
        model = load(folder, dtype=D)[0]
        for c in groups[0]:
            true = true_logprobs(model, c)
            apart = torch.tensor([true[t, token].item() - c.logprobs[t] for t, token in enumerate(c.tokens)])
            assert apart.abs().max() > 1e-6
            if spec == "truncated=0.5":                   # only likely tokens, each reported as likelier than it is
                kept = truncate(true, 0, 0.5)
                assert (apart < 0).all() and all(kept[t, token] > -1e9 for t, token in enumerate(c.tokens))


@pytest.mark.parametrize("flags, options", [
    ("--mismatch noise=0.3 --correction icepop --cap 1.2 --cap-low 0.9 --exact",
     {"correction": "icepop", "cap": 1.2, "cap_low": 0.9}),
    ("--mismatch truncated=0.9 rounding --loss dppo_kl --exact", {"loss": "dppo_kl"}),
    ("--mismatch report=0.3 noise=0.2 --sequence-mask 0.05 --updates 2 --minibatches 2 --exact",
     {"sequence_mask": 0.05, "updates": 2, "minibatches": 2})], ids=["icepop", "dppo_kl", "sequence mask"])
def test_whole_updates_under_a_mismatch(monkeypatch, folder, tmp_path, flags, options):
    """As tests/rl/test_policy_updates.py has it, from what was drawn and reported; pi_old is the trainer's, also with --exact."""
    compare(monkeypatch, folder, tmp_path / "run", flags.split(), {"loss": "grpo"} | options)


def test_stale_weights_are_those_of_k_updates_ago(monkeypatch, folder, tmp_path):
    """Every token of step s was drawn with the weights after s - K updates, and reports their log-probability."""
    weights, found = [], []
    publish, score = Rollouts.publish, Rollouts.score

    def noted(self, problem, number, completions, cap, seed):
        found.append((len(weights), completions))
        return score(self, problem, number, completions, cap, seed)

    def updated(self, model, step):
        weights.append(None)
        publish(self, model, step)
    state, end_of_step = {}, grpo.Run.end_of_step

    def kept(self, *args, **options):
        state[self.step + 1] = {n: w.clone() for n, w in self.model.state_dict().items()}
        return end_of_step(self, *args, **options)
    with (mock.patch.object(Rollouts, "score", noted), mock.patch.object(Rollouts, "publish", updated),
          mock.patch.object(grpo.Run, "end_of_step", kept)):
        code, _, err = run_main(grpo, "--init", folder, "--out", tmp_path / "run", *FLAGS, "--steps", 5, "--mismatch", "stale=2",
                                "--exact", "--correction", "tis")
    assert code == 0, err
    model = load(folder, dtype=D)[0]
    for step, completions in found:
        if step > 2:
            model.load_state_dict(state[step - 2])
        for c in completions:
            true = true_logprobs(model, c)
            assert c.versions == [max(0, step - 2)] * len(c.tokens)
            assert c.logprobs == pytest.approx([true[t, token].item() for t, token in enumerate(c.tokens)], abs=1e-9)
    assert {step for step, _ in found} == set(range(5))
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    apart = [r["logprob_diff_mean"] for r in steps if "reward" in r]
    assert apart[0] == 0 and all(x > 1e-4 for x in apart[1:])


def test_a_stale_run_goes_on_bit_for_bit(folder, tmp_path):
    flags = ["--steps", 5, "--mismatch", "stale=2", "noise=0.1", "--correction", "tis"]
    _, whole, *_ = run(folder, tmp_path / "whole", *flags)
    flags += ["--save-every", 3]
    with mock.patch.object(grpo.Run, "save", autospec=True, side_effect=stop_after_first_save(grpo.Run.save)):
        with pytest.raises(Stopped):
            run(folder, tmp_path / "half", *flags)
    assert state_of(tmp_path / "half")["step"] == 3
    _, resumed, *_ = run(folder, tmp_path / "half", *flags, "--resume")
    assert all(torch.equal(w, resumed["weights"][n]) for n, w in whole["weights"].items())


def test_specs():
    assert parse_mismatch(["noise=0.05", "rounding", "truncated=0.9", "stale=3", "report=1e-3"]) == Mismatch(
        0.05, True, 0.9, 3, 1e-3)
    assert parse_mismatch([]) == Mismatch() and Mismatch(stale=2).of_draws() == {"top_p": 1.0, "distortion": None}
