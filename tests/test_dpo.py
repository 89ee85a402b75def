"""Preference training: the losses against the papers' formulas, how pairs are read and packed, the same gradient
however a batch is split, exact resume without a second reference pass, clear refusals."""

import functools
import json
import math
from decimal import Decimal, getcontext
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import (
    a_run,
    assert_same_gradients,
    assert_same_state,
    kill_after,
    on_two_ranks,
    refusal,
    run_main,
    state_of,
    steps_of,
    tiny_checkpoint,
    write_rows,
)

import dpo
from data import Stream
from model import load
from sources.conversations import Pairs
from tasks.world import World
from tokenizer import Tokenizer
from training.batch import pair_batch
from training.weights import full


def rows(count=40):
    """Pairs of the world: the right solution, and one with another answer (of now and then another length)."""
    made = []
    for problem in map(World(ops="1-2").problem, range(count)):
        thought = f"<think>\n{problem.reasoning}\n</think>\n\nAnswer: "
        wrong = f"{thought}{(int(problem.answer) + 1) % 10}" if len(made) % 3 else "Answer: I do not know."
        made.append({"prompt": problem.question, "chosen": thought + problem.answer, "rejected": wrong})
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("dpo") / "init", tokenizer)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return str(write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows()))


# losses

def numbers(seed=0, N=7):
    """Sums of policy and reference, and lengths, of N pairs: three of (N, 2), the first with a gradient."""
    torch.manual_seed(seed)
    lengths = torch.randint(3, 30, (N, 2)).double()
    policy, reference = (-lengths * torch.rand(N, 2, dtype=torch.float64) for _ in range(2))
    return policy.requires_grad_(), reference, lengths


def by_the_book(loss, policy, reference, lengths, beta, smoothing=0.0, gamma=1.0, z=0.0, weights=(1.0, 1.0)):
    """The losses from probabilities and odds, a pair at a time, as the papers have them."""
    found = []
    for n in range(len(policy)):
        (pc, pr), (rc, rr), (lc, lr) = policy[n], reference[n], lengths[n]
        if loss == "ipo":
            found.append((torch.log(torch.exp(pc - rc) / torch.exp(pr - rr)) - 0.5 / beta) ** 2)
        elif loss == "simpo":
            x = beta / lc * pc - beta / lr * pr - gamma
            found.append(-torch.log(1 / (1 + torch.exp(-x))))
        elif loss == "orpo":
            c, r = torch.exp(pc / lc), torch.exp(pr / lr)
            odds = (c / (1 - c)) / (r / (1 - r))
            found.append(-pc / lc - beta * torch.log(1 / (1 + 1 / odds)))
        elif loss == "kto":
            good = weights[0] * (1 - 1 / (1 + torch.exp(-beta * (pc - rc - z))))
            bad = weights[1] * (1 - 1 / (1 + torch.exp(-beta * (z - (pr - rr)))))
            found.append((good + bad) / 2)
        else:
            if loss == "dpo_norm":
                pc, rc, pr, rr = pc / lc, rc / lc, pr / lr, rr / lr
            x = torch.exp(beta * (pc - rc)) / (torch.exp(beta * (pc - rc)) + torch.exp(beta * (pr - rr)))
            found.append(-(1 - smoothing) * torch.log(x) - smoothing * torch.log(1 - x))
    return torch.stack(found)


@pytest.mark.parametrize("loss, more", [
    ("dpo", {}), ("dpo", {"smoothing": 0.2}), ("dpo_norm", {}), ("ipo", {}), ("simpo", {"gamma": 0.7}), ("orpo", {}),
    ("kto", {"z": 0.3, "weights": (1.3, 0.7)})])
def test_losses_and_gradients_are_the_formulas(loss, more):
    policy, reference, lengths = numbers()
    beta = dpo.LOSSES[loss].beta
    found = {"dpo": lambda: dpo.dpo_loss(dpo.margins(policy, reference), beta, **more),
             "dpo_norm": lambda: dpo.dpo_loss(dpo.margins(policy / lengths, reference / lengths), beta),
             "ipo": lambda: dpo.ipo_loss(dpo.margins(policy, reference), beta),
             "simpo": lambda: dpo.simpo_loss(dpo.margins(policy / lengths, 0 * lengths), beta, **more),
             "orpo": lambda: dpo.orpo_loss(policy / lengths, beta),
             "kto": lambda: dpo.kto_loss(policy - reference, beta=beta, **more)}[loss]()
    wanted = by_the_book(loss, policy, reference, lengths, beta, **more)
    assert found.shape == (7,) and (found - wanted).abs().max() < 1e-10
    [a], [b] = (torch.autograd.grad(x.sum(), policy) for x in (found, wanted))
    assert (a - b).abs().max() < 1e-10 and b.abs().max() > 1e-3


def test_identities():
    policy, reference, _ = numbers(1)
    h = dpo.margins(policy, reference)
    same = dpo.dpo_loss(dpo.margins(policy, policy.detach()), 0.3)
    assert torch.allclose(same, torch.full_like(same, math.log(2)), rtol=1e-15)
    assert torch.allclose(dpo.dpo_loss(h, 0.3, 0.5), dpo.dpo_loss(-h, 0.3, 0.5), rtol=1e-15)
    assert torch.allclose(dpo.simpo_loss(h, 2.0, 0.0), dpo.dpo_loss(h, 2.0), rtol=1e-15)
    best = torch.tensor([1 / (2 * 0.1)], dtype=torch.float64, requires_grad=True)
    dpo.ipo_loss(best, 0.1).sum().backward()
    assert float(best.grad) == 0
    at_reference = dpo.kto_loss(policy - policy.detach(), 0.0)
    assert torch.allclose(at_reference, torch.full_like(at_reference, 0.5), rtol=1e-15)


def test_orpo_keeps_its_digits_near_certainty():
    """log1p(-exp(m)) has few digits left there, and none at m = 0."""
    getcontext().prec = 60

    def log_odds(m):
        p = Decimal(m).exp()
        return float((p / (1 - p)).ln())
    for m in (-1e-5, -3.3e-4, -0.5, -9.0):
        means = torch.tensor([[m, -2.0]], dtype=torch.float64)
        x = log_odds(m) - log_odds(-2.0)
        assert float(dpo.orpo_loss(means, 1.0)) == pytest.approx(-m + math.log1p(math.exp(-x)), rel=1e-10)
    sure = torch.zeros(1, 2, requires_grad=True)          # float32, p = 1
    dpo.orpo_loss(sure).sum().backward()
    assert torch.isfinite(sure.grad).all()


# pairs

def test_every_form_of_a_pair_gives_the_same_documents(tokenizer, tmp_path):
    q, good, bad = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4", "reasoning": "add"}, "5"
    text = "<think>\nadd\n</think>\n\n4"
    forms = [{"prompt": "2 + 2?", "chosen": text, "rejected": bad}, {"prompt": [q], "chosen": text, "rejected": bad},
             {"chosen": [q, good], "rejected": [q, {"role": "assistant", "content": bad}]},
             {"prompt": "2 + 2?", "chosen": [q, good], "rejected": [q, {"role": "assistant", "content": bad}]},
             {"prompt": [q], "chosen": [good], "rejected": [{"role": "assistant", "content": bad}]}]
    source = Pairs(str(write_rows(tmp_path / "a.jsonl", forms)), tokenizer, 128)
    (first, mask, _), (second, _, _) = source.get(0)
    assert tokenizer.decode(first[mask > 0]) == text + "<|im_end|>" and "5<|im_end|>" in tokenizer.decode(second)
    for i in range(1, source.count):
        for (ids, weights, _), (other, others, _) in zip(source.get(i), source.get(0), strict=True):
            assert np.array_equal(ids, other) and np.array_equal(weights, others)


def test_earlier_answers_and_empty_blocks_are_prompt(tokenizer, tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
             {"role": "user", "content": "2 + 2?"}]
    row = {"prompt": turns, "chosen": "<think>\n\n</think>\n\n4", "rejected": "5"}
    [chosen, rejected] = Pairs(str(write_rows(tmp_path / "a.jsonl", [row])), tokenizer, 128).get(0)
    assert [tokenizer.decode(ids[w > 0]) for ids, w, _ in (chosen, rejected)] == ["4<|im_end|>", "5<|im_end|>"]


def test_a_pair_lies_in_one_row_chosen_first(tokenizer, pairs):
    stream = Stream([pairs], tokenizer, 256, 1024, opener=functools.partial(Pairs, T=256), make=pair_batch)
    known = stream.mixture.sources[0]
    known.reference = torch.arange(2 * known.count).view(-1, 2).double()
    lookup = {float(ref): ids for i in range(known.count) for ids, _, ref in known.get(i)}
    for _ in range(5):
        [batch] = stream.next()
        for row in range(len(batch.tokens)):
            documents, last = batch.documents[row], int(batch.documents[row].max())
            assert last % 2 == 1                          # whole pairs only
            for d in range(last + 1):
                ref = float(batch.reference[row, d])
                assert ref % 2 == d % 2 and (d % 2 == 0 or ref == float(batch.reference[row, d - 1]) + 1)
                assert np.array_equal(batch.tokens[row][documents == d].numpy(), lookup[ref][:-1])
    state = stream.state()
    again = Stream([pairs], tokenizer, 256, 1024, opener=functools.partial(Pairs, T=256), make=pair_batch)
    again.restore(state)
    again.mixture.sources[0].reference = known.reference
    [a], [b] = stream.next(), again.next()
    assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_sums_are_those_of_each_answer_alone(folder, tokenizer, pairs):
    model, _ = load(folder, dtype=torch.float64)
    source = Pairs(pairs, tokenizer, 384, mismatched=True)
    with torch.no_grad():
        packed = dpo.answer_sums(model, pair_batch([source.get(0) + source.get(1), source.get(2)], 600), 3)
        for n in range(3):
            for k, (ids, weights, _) in enumerate(source.get(n)):
                tokens = torch.from_numpy(ids.astype(np.int64))[None]
                alone = (model(tokens).log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])[:, 0]
                         * torch.from_numpy(weights[1:]))
                assert float(packed[0][n, k]) == pytest.approx(float(alone.sum()), rel=1e-11)
                assert float(packed[1][n, k]) == weights.sum()
    # the mismatched answer is the chosen one of the next pair, after the prompt of this pair
    (ids, weights, _), (other, others, _) = source.get(0)[2], source.get(1)[0]
    prompt = int(np.argmax(weights))
    assert np.array_equal(ids[:prompt], source.get(0)[0][0][:prompt])
    assert np.array_equal(ids[weights > 0], other[others > 0])


@pytest.mark.parametrize("size", [2, 3])
def test_reference_logprobs_are_in_their_places(folder, tokenizer, pairs, size):
    model, _ = load(folder, dtype=torch.float64)
    source = Pairs(pairs, tokenizer, 384, mismatched=size == 3)
    table = dpo.reference_logprobs(a_run(), model, source, rows=7)
    assert table.shape == (40, size)
    for i in (0, 17, 39):
        alone = dpo.answer_sums(model, pair_batch([source.get(i)], 384), size)[0].detach()
        assert torch.allclose(table[i], alone[0], rtol=1e-12)
    source.reference = table
    args = dpo.flags().parse_args(f"--data x --out x --loss {'kto' if size == 3 else 'dpo'}".split())
    loss, seen = dpo.batch_loss(args, model, pair_batch([source.get(3)], 384))
    assert float(loss.detach()) == pytest.approx(0.5 if size == 3 else math.log(2), rel=1e-12) and abs(seen["margin"][0]) < 1e-10


def test_mass_is_the_probability_of_both_answers(monkeypatch):
    """The mean over pairs of what the two answers have together, whatever the loss does with their log-probabilities."""
    likely = torch.tensor([[0.5, 0.25], [0.2, 0.1]], dtype=torch.float64)
    for name in dpo.LOSSES:
        size = 3 if name == "kto" else 2
        policy = torch.cat([likely, torch.full((2, 1), 0.9, dtype=torch.float64)], 1)[:, :size].log()
        monkeypatch.setattr(dpo, "answer_sums", lambda *_, p=policy: [p, torch.full_like(p, 7), p - 1])
        seen = dpo.batch_loss(dpo.flags().parse_args(f"--data x --out x --loss {name}".split()), None, None)[1]
        assert seen["mass"][1] == 2 and float(seen["mass"][0]) / 2 == pytest.approx((0.75 + 0.3) / 2)
        if dpo.LOSSES[name].reference:                    # it was 1 / e of this before
            assert float(seen["mass_change"][0]) / 2 == pytest.approx((0.75 + 0.3) / 2 * (1 - math.exp(-1)))


# one gradient

def gradients(folder, pairs, micro=None, shard=False, losses=tuple(dpo.LOSSES)):
    """The loss and the whole gradient of one batch by each loss: {loss: (loss, {parameter: gradient})}."""
    run, found = a_run(shard=shard), {}
    for name in losses:
        args = dpo.flags().parse_args(f"--data x --out x --loss {name}".split())
        model, tokenizer = load(folder, dtype=torch.float64)
        stream = Stream([pairs], tokenizer, 800, 6400, make=pair_batch,
                        opener=functools.partial(Pairs, T=800, mismatched=name == "kto"))
        [source] = stream.mixture.sources
        if dpo.LOSSES[name].reference:
            source.reference = dpo.reference_logprobs(run, model, source, 4) - 0.5 - torch.arange(source.size) / 5
        wrapped = run.distribute(model)
        batches = stream.next(run.rank, run.ranks, micro)
        z = dpo.kto_baseline(run, wrapped, batches) if name == "kto" else 0.0
        weight = dpo.count_pairs(batches, source.size)
        loss = run.backward(wrapped, batches, lambda b, a=args, w=wrapped, z=z: dpo.batch_loss(a, w, b, z), weight)
        assert run.weight > 12 and (name != "kto" or z == pytest.approx(0.9, rel=1e-6))
        found[name] = loss, {n: full(w.grad) for n, w in model.named_parameters()}
    return found


def test_micro_batches_and_ranks_change_no_gradient(folder, pairs, tmp_path):
    whole = gradients(folder, pairs)
    for micro in (1, 3):
        assert_same_gradients(gradients(folder, pairs, micro), whole)
    call = f"gradients({str(folder)!r}, {pairs!r}"
    code = f"from test_dpo import gradients\nfound = [{call}), {call}, 3, True, ['kto'])]"
    for found in on_two_ranks(tmp_path, code):
        assert_same_gradients(found, {k: whole[k] for k in found})


# the script

def common_flags(folder, pairs):
    return ["--init", folder, "--data", pairs, "--seq-len", 384, "--batch-tokens", 1536, "--log-every", 1, "--lr", 1e-3]


@pytest.mark.parametrize("loss", list(dpo.LOSSES))
def test_each_loss_trains(folder, pairs, tmp_path, loss):
    more = ["--eval-data", "world:ops=1,split=test", "--eval-problems", 2] if loss == "dpo" else []
    code, result, err = run_main(dpo, *common_flags(folder, pairs), "--out", tmp_path / "run", "--steps", 15, "--loss",
                                 loss, *more)
    assert code == 0, err
    assert len(result.get("eval", {})) == (loss == "dpo")
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    records = [r for r in records if "margin" in r]
    assert result["steps"] == 15 == len(records) and result["margin"] > records[0]["margin"] + 0.02
    assert {"chosen", "rejected", "margin", "accuracy", "seconds", "mixture"} <= result.keys()
    first = {"dpo": math.log(2), "dpo_norm": math.log(2), "ipo": 25, "kto": 0.5}
    if loss in first:                                     # the policy is the reference still
        assert records[0]["loss"] == pytest.approx(first[loss], rel=1e-4)
        assert abs(records[0]["chosen_change"]) < 1e-4 and records[-1]["rejected_change"] < 0
    else:
        assert "chosen_change" not in result
    assert err.count("less likely than under the reference") == any(r.get("chosen_change", 0) < -0.1 for r in records)


def test_killed_in_between_it_resumes_bit_for_bit_without_a_second_reference(folder, pairs, tmp_path):
    flags = [*common_flags(folder, pairs), "--steps", 60, "--save-every", 3]
    assert run_main(dpo, *flags, "--out", tmp_path / "whole")[0] == 0
    kill_after(8, dpo, *flags, out=tmp_path / "run")
    assert 0 < state_of(tmp_path / "run")["step"] < 60
    with mock.patch.object(dpo, "reference_logprobs", side_effect=AssertionError("computed again")):
        assert run_main(dpo, *flags, "--out", tmp_path / "run", "--resume")[0] == 0
    a, b = state_of(tmp_path / "run"), state_of(tmp_path / "whole")
    for state in (a, b):                                  # they say the name of the folder
        del state["args"], state["ledger"]["name"]
    assert_same_state(a, b)
    assert steps_of(tmp_path / "run") == steps_of(tmp_path / "whole")


def test_a_resume_with_other_pairs_is_refused(folder, tmp_path):
    data = write_rows(tmp_path / "a.jsonl", rows(10))
    flags = [*common_flags(folder, data), "--out", tmp_path / "run", "--steps", 2]
    assert run_main(dpo, *flags)[0] == 0
    write_rows(data, rows(11)[1:])
    assert "has changed since" in refusal(dpo, *flags, "--resume")


def test_another_reference(folder, pairs, tokenizer, tmp_path):
    tiny_checkpoint(tmp_path / "other", tokenizer, seed=5)
    code, result, err = run_main(dpo, *common_flags(folder, pairs), "--out", tmp_path / "run", "--steps", 1,
                                 "--reference", tmp_path / "other")
    assert code == 0 and abs(result["chosen_change"]) > 1e-2, err
    words = Tokenizer.train(["another vocabulary of the same size " * 3], 280)
    tiny_checkpoint(tmp_path / "foreign", words)
    message = refusal(dpo, *common_flags(folder, pairs), "--out", tmp_path / "new", "--reference", tmp_path / "foreign")
    assert "has another vocabulary than --init" in message and not (tmp_path / "new").exists()


SAME = {"prompt": "a", "chosen": "b", "rejected": "b"}
LONG = {"prompt": "x y " * 110, "chosen": "a", "rejected": "b"}
APART = {"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
         "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}


@pytest.mark.parametrize("row, message", [
    (SAME, "line 41: chosen equals rejected"), (LONG, "line 41: the pair, 2 answers each with their prompt,"),
    (LONG, "raise --seq-len to at least"), (APART, "line 41: chosen and rejected answer different prompts"),
    ({"prompt": "a", "chosen": "b"}, 'line 41: a pair needs the fields "chosen" and "rejected"'),
    ({"chosen": "a", "rejected": "b"}, "line 41: chosen and rejected must each end a conversation"),
    ({"prompt": [{"role": "robot", "content": "a"}], "chosen": "a", "rejected": "b"}, "line 41: unknown role 'robot'"),
    ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "line 41: message 0 must have"),
    ("{", "line 41: not valid JSON")])
def test_bad_rows_are_named(folder, tmp_path, row, message):
    data = write_rows(tmp_path / "a.jsonl", [*rows(40), row])
    assert message in refusal(dpo, *common_flags(folder, data), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags, message", [
    ("--data world:ops=1", "pairs come from a file"), ("--beta 0", "--beta: 0: use a number above 0"),
    ("--loss ipo --label-smoothing 0.1", "no effect with --loss ipo"), ("--label-smoothing 0.7", "use a number from 0 to 0.5"),
    ("--gamma 1", "--gamma has no effect with --loss dpo"), ("--loss simpo --reference x", "has no reference"),
    ("--reference nowhere", "nowhere/config.json: no such file"), ("--init nowhere", "nowhere/config.json"),
    ("--batch-tokens 1000", "must be a multiple of --seq-len")])
def test_bad_flags_are_one_line(folder, pairs, tmp_path, flags, message):
    assert message in refusal(dpo, *common_flags(folder, pairs), "--out", tmp_path / "run", *flags.split())
    assert not (tmp_path / "run").exists()


def test_kto_needs_two_pairs(folder, tmp_path):
    data = write_rows(tmp_path / "a.jsonl", rows(1))
    assert "needs at least two" in refusal(dpo, *common_flags(folder, data), "--out", tmp_path / "run", "--loss", "kto")


def test_a_system_text_beside_the_prompt_is_its_first_turn(tokenizer, tmp_path):
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
    pair = {"chosen": "Hello.", "rejected": "Go away."}
    said = {key: [{"role": "assistant", "content": text}] for key, text in pair.items()}
    forms = [pair | {"prompt": "Hi", "system": "Be brief."}, pair | {"prompt": [system, user]},
             pair | {"prompt": [user], "system": "Be brief.", "score_chosen": 3.0, "id": 1},
             {key: [system, user, *turns] for key, turns in said.items()}, said | {"prompt": "Hi", "system": "Be brief."},
             {key: [user, *turns] for key, turns in said.items()} | {"prompt": "Hi", "system": "Be brief."},
             {key: [system, user, *turns] for key, turns in said.items()} | {                       # as in UltraFeedback
                 "messages": [system, user, *said["chosen"]], "prompt_id": "x", "chosen_rating": 5, "rejected_model": "m"}]
    pairs = Pairs(str(write_rows(tmp_path / "a.jsonl", forms)), tokenizer, 512)
    (ids, weights), (other, _), start = pairs.pairs[0]
    assert tokenizer.decode(ids).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert tokenizer.decode(ids[weights > 0]) == "Hello.<|im_end|>" and "Go away." in tokenizer.decode(other)
    for (a, w), (b, _), at in pairs.pairs[1:]:
        assert np.array_equal(a, ids) and np.array_equal(w, weights) and np.array_equal(b, other) and at == start
