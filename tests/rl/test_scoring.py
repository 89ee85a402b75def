"""The worth of a thought (RLP): two forward passes computed once more, the slow copy of the policy, and the whole step."""

import json

import pytest
import torch
from helpers import run_main, tiny_checkpoint

import grpo
from model import load_both
from rl.prompts import Prompts
from rl.rollouts import Rollouts
from rl.scoring import InformationGain
from sampler import Sampler
from tasks.rewards import parse_rewards
from tasks.task import prompt_ids

SPEC = "text:world:tiny,ops=1-3,documents=20,kind=rlp"
D = torch.float64


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A checkpoint that often closes its thoughts, and sometimes ends without doing so."""
    here = tmp_path_factory.mktemp("gain") / "init"
    tiny_checkpoint(here, tokenizer)
    model, _ = load_both(here, dtype=D)
    with torch.no_grad():
        hidden = model.hidden(torch.randint(len(tokenizer), (4, 32)), torch.zeros(4, 32, dtype=torch.long)).mean(dim=(0, 1))
        for token in (tokenizer.end_think, tokenizer.eot):
            model.head[token] = hidden * 5 / hidden.norm() ** 2
    model.float().save(here, tokenizer)
    return here


def logprob(model, before, after):
    """log p(after | before), from the logits of the whole text."""
    logits = model(torch.tensor([before + after]))[0].detach()
    return sum(float(logits[len(before) + k - 1].log_softmax(-1)[i]) for k, i in enumerate(after))


def by_hand(tokenizer, policy, average, rollout, mode):
    """The gain of a completion, from the ids of the text and what stands between the prompt and it."""
    p, c = rollout.problem, rollout.completion
    text = [i for i in c.tokens if i not in (tokenizer.eot, tokenizer.im_end)]
    between = [] if tokenizer.end_think in text else [tokenizer.end_think]
    between += tokenizer.encode("\n\n") if mode == "think" else []
    return (logprob(policy, c.prompt + text + between, list(p.next_ids))
            - logprob(average, list(p.before_ids), list(p.next_ids)))


@pytest.mark.parametrize("mode", ["plain", "think"])
@pytest.mark.parametrize("following", [1, 3])
def test_the_gain_is_that_of_two_forward_passes(tokenizer, folder, mode, following):
    policy, _ = load_both(folder, dtype=D)
    gain = InformationGain(policy, tokenizer, tau=0.5)
    torch.manual_seed(1)
    with torch.no_grad():                                 # the copy lags behind: else its passes would be the policy's
        for w in policy.parameters():
            w.add_(torch.randn_like(w) * 0.03)
    prompts = Prompts([f"{SPEC},next={following}"], 0, tokenizer)
    rollouts = Rollouts(prompts, tokenizer, parse_rewards("score"), P=10, G=4, mode=mode, caps=((0, 6),), gain=gain)
    found = [r for group in rollouts.collect(policy, 0).groups for r in group]
    for r in found:
        c = r.completion
        assert c.prompt == prompt_ids(tokenizer, r.problem, mode) and r.reply.text.startswith("<think>")
        assert c.prompt[-1] == tokenizer.think if mode == "plain" else tokenizer.decode(c.prompt).endswith("<think>\n")
        assert tokenizer.end_think not in c.tokens[:-1]   # a thought ends where its block does
        wanted = by_hand(tokenizer, policy, gain.average, r, mode)
        assert r.reply.gain == pytest.approx(wanted, abs=1e-9) and r.score.reward == r.reply.gain
        assert r.score.verdict.answer_ok == (wanted > 0)
    ends = {c.tokens[-1] if c.finish == "stop" else "cut" for c in (r.completion for r in found)}
    assert ends >= {tokenizer.end_think, tokenizer.eot, "cut"}                # all three ways to end were there
    assert len({round(r.reply.gain, 6) for r in found[:4]}) > 1


def test_the_copy_follows_by_tau(tokenizer, folder):
    policy, _ = load_both(folder, dtype=D)
    gain = InformationGain(policy, tokenizer, tau=0.75)
    wanted = {name: w.clone() for name, w in policy.state_dict().items()}
    for _ in range(3):
        with torch.no_grad():
            for w in policy.parameters():
                w.add_(torch.randn_like(w))
        gain.follow(policy)
        wanted = {name: 0.75 * w + 0.25 * policy.state_dict()[name] for name, w in wanted.items()}
    assert all((gain.state()[name] - w).abs().max() < 1e-12 for name, w in wanted.items())
    other = InformationGain(policy, tokenizer)
    other.restore(gain.state())
    assert all(torch.equal(other.state()[name], w) for name, w in gain.state().items())


def test_a_run_pays_trains_counts_and_saves_as_it_says(tokenizer, folder, tmp_path, monkeypatch):
    """Two steps: rewards against the weights of their step, advantages G / (G - 1) (r - mean) on the tokens of thoughts alone,
    the copy after each update, and every pass in the ledger."""
    seen, real = [], Rollouts.collect

    def collect(rollouts, model, step):
        found = real(rollouts, model, step)
        weights = {name: w.clone() for name, w in model.state_dict().items()}
        seen.append((found.groups, weights, {n: w.clone() for n, w in rollouts.gain.state().items()}, rollouts))
        return found
    monkeypatch.setattr(Rollouts, "collect", collect)
    code, found, err = run_main(grpo, "--init", folder, "--data", SPEC, "--out", tmp_path / "run", "--mode", "plain", "--reward",
                                "score", "--loss", "rlp", "--tau", 0.5, "--prompts", 3, "--group", 3, "--max-new-tokens", 6,
                                "--steps", 2, "--lr", 0.01, "--dtype", "float64", "--device", "cpu", "--temperature", 0.8)
    assert code == 0, err
    policy, _ = load_both(folder, dtype=D)
    average, _ = load_both(folder, dtype=D)
    start, lengths = policy.state_dict(), []
    for groups, weights, copy_then, _ in seen:
        policy.load_state_dict(weights)
        average.load_state_dict(copy_then)
        for group in groups:
            rewards = [by_hand(tokenizer, policy, average, r, "plain") for r in group]
            assert [r.reply.gain for r in group] == pytest.approx(rewards, abs=1e-9)
            assert [r.advantage for r in group] == pytest.approx([1.5 * (x - sum(rewards) / 3) for x in rewards], abs=1e-9)
            plain = len(group[0].problem.before_ids)
            lengths.append(plain)
            for r in group:
                ended = r.completion.tokens[-1] == tokenizer.eot
                closed = tokenizer.end_think in r.completion.tokens
                lengths.append(len(r.completion.prompt) + len(r.completion.tokens) - ended + (not closed))
    a, b = seen[0][2], seen[1][2]
    assert all(torch.equal(w, load_both(folder, dtype=D)[0].state_dict()[name]) for name, w in a.items())
    assert all((b[name] - (a[name] + seen[1][1][name]) / 2).abs().max() < 1e-12 for name in a)
    assert max(float((seen[1][1][name] - start[name]).abs().max()) for name in start) >= 0
    saved = torch.load(tmp_path / "run" / "train_state.pt", weights_only=True)
    last = {name: (b[name] + w) / 2 for name, w in saved["weights"].items()}
    assert all((saved["more"]["average"][name] - w).abs().max() < 1e-12 for name, w in last.items())
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert ledger["tokens"]["scoring"] == sum(lengths)    # next=1: a text has as many slots as tokens before the scored one


def test_other_tasks_beside_thoughts(tokenizer, folder):
    """In one batch some replies are thoughts and end with their block, and others go on."""
    policy, _ = load_both(folder, dtype=D)
    specs = [SPEC, "text:world:tiny,ops=1-3,documents=20,kind=rlpt", "world:tiny,ops=1"]
    rollouts = Rollouts(Prompts(specs, 0, tokenizer), tokenizer, parse_rewards("score+random"), P=12, G=4, mode="think",
                        caps=((0, 12),), gain=InformationGain(policy, tokenizer))
    groups = rollouts.collect(policy, 0).groups
    assert all((r.reply.gain is None) != r.problem.task.by_gain for group in groups for r in group)
    others = [r.completion.tokens for group in groups for r in group if not r.problem.task.by_gain]
    assert any(tokenizer.end_think in tokens[:-1] for tokens in others)


def test_ids_that_end_a_thought_need_no_token(folder, tokenizer):
    """Where </think> is ordinary text, a thought ends with it as well, and is closed with it."""
    policy, _ = load_both(folder, dtype=D)
    gain = InformationGain(policy, tokenizer)
    tokenizer_of_text = type("WithoutMarks", (), {name: getattr(tokenizer, name) for name in (
        "stop_ids", "decode", "encode", "im_start", "prefix")} | {"end_think": None})
    gain.tokenizer = tokenizer_of_text
    done = Sampler(policy, tokenizer).generate([[5]], 1, 4, seed=1)[0][0]
    done.tokens = tokenizer.encode("hm")
    assert tokenizer.decode(gain.closed(done)[1:]) == "hm</think>"
    done.tokens = tokenizer.encode("hm </think>")
    assert gain.closed(done)[1:] == done.tokens
