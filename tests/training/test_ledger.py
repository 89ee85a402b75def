"""The ledger counts what a count by hand counts, through every script, once, and over kills, ranks and stages."""

import functools
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import data
import dpo
import grpo
import pretrain
import sft
from data import Stream
from model import Config, Transformer, load
from rl.critic import ActorCritic
from sampler import Sampler
from sources.conversations import Pairs
from training.batch import pair_batch
from training.ledger import Costs, Ledger, read_ledger, summary, write_ledger

SHAPE = dict(vocab_size=50, layers=3, width=16, heads=4, kv_heads=2, head_size=6, ff=24, attention="window+nope", window=3)


# by hand: every matrix product, and every query with every key that it sees

def product(m, k, n):
    return 2 * m * k * n


def one_token(position, predicts):
    """FLOPs of one token at a position of its document, in the model of SHAPE: no function of the repository."""
    flops = 0
    for layer in range(3):
        window = [3, 0, 3][layer]
        flops += product(1, 16, 4 * 6) + 2 * product(1, 16, 2 * 6) + product(1, 4 * 6, 16)                # q, k, v, o
        flops += 2 * product(1, 16, 24) + product(1, 24, 16)                                              # gate, up, down
        flops += 2 * (2 * 16)                                                                             # two norms' weights
        for key in range(position + 1):
            if not window or position - key < window:
                flops += 4 * (product(1, 6, 1) + product(1, 1, 6))            # each query head: its score, its share of a value
    flops += 2 * 16                                                                                       # the last norm
    return flops + (product(1, 16, 50) if predicts else 0)


def document(n):
    return sum(one_token(i, True) for i in range(n))


@pytest.mark.parametrize("tied", [True, False])
def test_a_forward_pass_by_hand(tied):
    costs = Costs.of(Transformer(Config(**SHAPE, tied=tied)))
    assert costs.forward([7]) == document(7) and costs.forward([7, 1, 2]) == document(7) + document(1) + document(2)
    assert costs.forward([]) == 0


def test_samples_by_hand():
    costs, flops = Costs.of(Transformer(Config(**SHAPE))), sum(one_token(i, False) for i in range(5))     # the prompt, once
    for n in (4, 1):
        flops += product(1, 16, 50)                                           # the first token is drawn from the prompt's state
        flops += sum(one_token(5 + i, True) for i in range(n - 1))            # the last one is not fed back
    assert costs.sampling(5, [4, 1]) == flops
    assert costs.sampling(5, []) == costs.sampling(5, [0]) == sum(one_token(i, False) for i in range(5))


def test_a_value_head_and_biases_count():
    plain, more = Transformer(Config(**SHAPE)), Transformer(Config(**SHAPE, qkv_bias=True, qk_norm="head"))
    bias_and_norms = 3 * (4 * 6 + 2 * 2 * 6 + 2 * 6)
    assert Costs.of(more).forward([3]) - Costs.of(plain).forward([3]) == 2 * 3 * bias_and_norms
    assert Costs.of(ActorCritic(plain)).forward([3]) - Costs.of(plain).forward([3]) == 2 * 3 * (16 + 1)


def test_a_packed_batch_is_its_documents():
    costs = Costs.of(Transformer(Config(**SHAPE)))
    lengths = [[5, 1, 3], [8], [2]]
    batch = data.batch_from([[(torch.arange(n + 1).numpy(), torch.ones(n + 1).numpy()) for n in row] for row in lengths], 10)
    assert costs.forward_batch(batch) == sum(document(n) for row in lengths for n in row)                 # and no padding


def test_the_usual_convention():
    model = Transformer(Config(**SHAPE))
    n = sum(w.numel() for w in model.parameters())
    assert Costs.of(model).usual(100) == model.flops_per_token(100) == 6 * n + 12 * 3 * 4 * 6 * 100


# runs

def own(folder):
    return read_ledger(folder)["own"] | {"total": read_ledger(folder)["total"]}


COMMON = ["--steps", 3, "--device", "cpu", "--seq-len", 128, "--batch-tokens", 512, "--save-every", 2]


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("ledger") / "init", tokenizer)


def documents_of(stream, steps):
    """Lengths of the documents in the first batches, read from the numbers of documents in each row."""
    found = []
    for _ in range(steps):
        for batch in stream.next():
            for row in batch.documents.tolist():
                found += [row.count(d) for d in set(row) - {-1}]
    return found


def test_pretraining_is_counted_and_a_later_stage_inherits_it(base, tmp_path, tokenizer):
    model, _ = load(base)
    code, result, err = run_main(pretrain, "--init", base, "--data", "world:ops=1-2", "--out", tmp_path / "mid", *COMMON)
    assert code == 0, err
    lengths = documents_of(Stream(["world:ops=1-2"], tokenizer, 128, 512), 3)
    found = read_ledger(tmp_path / "mid")
    assert found["tokens"]["training"] == sum(lengths) < 3 * 512
    assert found["own"]["training"] == 3 * Costs.of(model).forward(lengths)
    assert found["training_usual"] == 3 * 512 * model.flops_per_token(128) and found["own"]["rollouts"] == 0
    assert found["unknown"] == [str(base)] and found["total"] == found["own"]["training"]
    assert result["flops"] == {"training": found["total"], "training_usual": found["training_usual"], "inherited": 0,
                               "total": found["total"], "unknown": [str(base)]}
    code, result, err = run_main(sft, "--init", tmp_path / "mid", "--data", "world:ops=1-2", "--out", tmp_path / "sft", *COMMON,
                                 "--loss", "psft", "--refresh", 2)
    assert code == 0, err
    later = read_ledger(tmp_path / "sft")
    assert later["own"]["scoring"] * 3 == later["own"]["training"] > 0        # pi_old: one forward pass over each batch
    assert later["tokens"]["scoring"] == later["tokens"]["training"]
    assert later["inherited"] == {found["name"]: {"own": found["own"], "tokens": found["tokens"]}}
    assert later["total"] == found["total"] + sum(later["own"].values()) == result["flops"]["total"]
    assert later["unknown"] == [str(base)]


@pytest.mark.parametrize("loss", ["dpo", "kto", "simpo"])
def test_preference_training_counts_its_reference(base, tmp_path, tokenizer, loss):
    rows = [{"prompt": f"How many lions in {i}?", "chosen": f"Answer: {i}", "rejected": "Answer: none at all"} for i in range(12)]
    pairs = write_rows(tmp_path / "pairs.jsonl", rows)
    code, _, err = run_main(dpo, "--init", base, "--data", pairs, "--out", tmp_path / "dpo", *COMMON, "--loss", loss)
    assert code == 0, err
    costs, opener = Costs.of(load(base)[0]), functools.partial(Pairs, T=128, mismatched=loss == "kto")
    stream = Stream([str(pairs)], tokenizer, 128, 512, make=pair_batch, opener=opener)
    [source], found = stream.mixture.sources, read_ledger(tmp_path / "dpo")["own"]
    once = costs.forward([len(ids) - 1 for i in range(source.count) for ids, *_ in source.get(i)])        # every answer, before
    lengths = documents_of(stream, 3)
    assert found["training"] == 3 * costs.forward(lengths)
    # kto's baseline is one more forward pass over each batch; simpo has no reference
    assert found["scoring"] == {"dpo": once, "kto": once + costs.forward(lengths), "simpo": 0}[loss]


GRPO = ["--mode", "plain", "--reward", "random", "--prompts", 4, "--group", 2, "--max-new-tokens", 6, "--rows", 8, *COMMON[2:4],
        "--dtype", "float32", "--steps", 2]


@pytest.mark.parametrize("more, looks, updates", [
    ([], 0, 1),
    (["--kl", 0.1], 2, 1),                                # under the policy and under the reference
    (["--updates", 2, "--replace", 1], 1, 2),
    (["--async-steps", 1, "--correction", "tis"], 0, 1),
    (["--sft-data", "world:ops=1", "--sft-tokens", 256, "--seq-len", 128], 0, 1)])
def test_reinforcement_counts_what_it_draws_scores_and_trains(base, tmp_path, monkeypatch, more, looks, updates):
    """What was drawn is read from the engine's requests, what was trained from the batches that the policy saw."""
    requests, trained = [], []
    submit, policy_loss, read = Sampler.submit, grpo.PolicyUpdate.policy_loss, Stream.next

    def submitted(sampler, *args, **options):
        made = submit(sampler, *args, **options)
        requests.append([r.completion for r in made])
        return made

    def seen(update, batch, same_weights):
        trained.extend([row.count(d) for row in batch.documents.tolist() for d in set(row) - {-1}])
        return policy_loss(update, batch, same_weights)

    def given(stream, *args):
        found = read(stream, *args)
        trained.extend([row.count(d) for batch in found for row in batch.documents.tolist() for d in set(row) - {-1}])
        return found
    monkeypatch.setattr(Sampler, "submit", submitted)
    monkeypatch.setattr(grpo.PolicyUpdate, "policy_loss", seen)
    monkeypatch.setattr(Stream, "next", given)
    code, result, err = run_main(grpo, "--init", base, "--data", "world:ops=1-2", "--out", tmp_path / "rl", *GRPO, *more)
    assert code == 0, err
    costs, found = Costs.of(load(base)[0]), read_ledger(tmp_path / "rl")
    # a group that was never finished, or never asked for, is not in it: those in flight at the end
    done = [g for g in requests if all(c.finish for c in g)][:8 if "--async-steps" in more else None]
    assert found["own"]["rollouts"] == sum(costs.sampling(len(g[0].prompt), [len(c.tokens) for c in g]) for g in done) > 0
    assert found["tokens"]["rollouts"] == sum(len(c.tokens) for g in done for c in g)
    assert found["own"]["training"] == 3 * costs.forward(trained) == result["flops"]["training"]
    assert found["own"]["scoring"] == looks * costs.forward(trained) // updates


# inheritance

def made_file(path, flops, *before):
    """A file of made data whose teacher took so many FLOPs."""
    ledger = Ledger(path, {})
    ledger.add("teacher", flops, 10)
    for other in before:
        ledger.inherit(other)
    write_rows(path, [{"text": f"The lions number {i}. How many lions are there in all?"} for i in range(40)])
    write_ledger(path, ledger.found())
    return path


def test_made_data_brings_its_cost_and_what_comes_two_ways_counts_once(base, tmp_path):
    made = made_file(tmp_path / "made.jsonl", 1000)
    again = made_file(tmp_path / "again.jsonl", 50, made)
    code, _, err = run_main(pretrain, "--init", base, "--data", f"{made}@0.5", f"{again}@0.5", "--out", tmp_path / "a", *COMMON)
    assert code == 0, err
    first = read_ledger(tmp_path / "a")
    assert first["total"] == 1050 + first["own"]["training"] and len(first["inherited"]) == 2
    code, _, err = run_main(pretrain, "--init", tmp_path / "a", "--data", made, "--out", tmp_path / "b", *COMMON)
    assert code == 0, err
    second = read_ledger(tmp_path / "b")
    assert second["total"] == first["total"] + second["own"]["training"]      # made.jsonl is in a's cost already
    code, _, err = run_main(grpo, "--init", base, "--data", "world:ops=1", "--out", tmp_path / "c", *GRPO, "--steps", 1,
                            "--sft-data", f"{again}@2", "--sft-tokens", 128, "--seq-len", 128)
    assert code == 0, err
    third = read_ledger(tmp_path / "c")
    assert third["total"] == 1050 + sum(third["own"].values()) and third["inherited"].keys() < second["inherited"].keys()


def test_a_reference_and_a_proxy_bring_their_cost(base, tmp_path):
    """Or are among the unknown, if they have no ledger."""
    rows = [{"prompt": "How many?", "chosen": str(i), "rejected": "none"} for i in range(12)]
    pairs, other = write_rows(tmp_path / "pairs.jsonl", rows), shutil.copytree(base, tmp_path / "other")
    text = f"text:world:ops=1-2,documents=5,kind=rpt,entropy=0.1,proxy={other}"
    for known in (False, True):
        ledger = Ledger(other, {})
        ledger.add("training", 1000, 10)
        if known:
            write_ledger(other, ledger.found())
        for module, more in ((dpo, ["--data", pairs, *COMMON, "--reference", other]), (grpo, ["--data", text, *GRPO])):
            out = tmp_path / f"{module.__name__}{known}"
            code, _, err = run_main(module, "--init", base, "--out", out, *more, "--steps", 1)
            assert code == 0, err
            found = read_ledger(out)
            assert found["unknown"] == [str(base)] + [str(other)] * (not known)
            assert found["total"] == 1000 * known + sum(found["own"].values())


def test_shards_carry_the_cost_of_what_they_were_made_of(base, tmp_path):
    made = made_file(tmp_path / "made.jsonl", 1000)
    for sources, total in ((["world:ops=1"], None), ([made, "world:ops=1"], 1000)):
        out = tmp_path / f"shards{len(sources)}"
        code, _, err = run_main(data, "prepare", "--data", *sources, "--tokenizer", base, "--out", out, "--tokens", 2000,
                                "--workers", 1)
        assert code == 0, err
        assert (read_ledger(out) or {"total": None})["total"] == total


def test_a_run_written_over_another_is_another(tmp_path):
    old, new = Ledger(tmp_path, {"seed": 0}), Ledger(tmp_path, {"seed": 1})
    assert old.name != new.name and old.name == Ledger(tmp_path, {"seed": 0}).name


def test_a_broken_ledger_is_refused(base, tmp_path):
    text = write_rows(tmp_path / "text.jsonl", [{"text": "The lions number 3."}] * 9)
    for broken in ("{", "[]", "{}", '{"name": "x", "own": 3, "tokens": {}, "inherited": {}}'):
        (tmp_path / "text.jsonl.ledger.json").write_text(broken)
        line = refusal(pretrain, "--init", base, "--data", text, "--out", tmp_path / "run", *COMMON)
        assert "text.jsonl.ledger.json" in line and not (tmp_path / "run").exists()


# sums

def test_ranks_add_up_exactly_and_a_restored_sum_counts_once():
    numbers = [3 ** 40 + 1, 2 ** 60 + 7]                  # far above what float64 holds to the last digit
    ranks = SimpleNamespace(ranks=2)

    def found_by(ledgers):
        asked = []
        ranks.sum = lambda *n: asked.append(n) or [0.0] * len(n)
        for ledger in ledgers:
            ledger.found(ranks)
        assert all(x < 2 ** 52 for n in asked for x in n)
        ranks.sum = lambda *n: [float(a) + float(b) for a, b in zip(*asked)]
        return ledgers[0].found(ranks)
    ledgers = [Ledger("run", {}), Ledger("run", {})]
    for ledger, n in zip(ledgers, numbers):
        ledger.add("rollouts", n, 5)
    found = found_by(ledgers)
    assert found["own"]["rollouts"] == sum(numbers) == found["total"] and found["tokens"]["rollouts"] == 10
    resumed = [Ledger("run", {}), Ledger("run", {})]
    for rank, ledger in enumerate(resumed):
        ledger.restore(found, sums=rank == 0)
        ledger.add("training", 1)
    assert found_by(resumed)["total"] == sum(numbers) + 2


def test_the_last_line_leaves_out_what_cost_nothing():
    ledger = Ledger("run", {})
    ledger.add("training", 6, 2)
    assert json.loads(json.dumps(summary(ledger.found()))) == {"training": 6, "inherited": 0, "total": 6}
