"""Measures against their definitions."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from conftest import script

from evaluate import bits_per_byte, file_accuracy, interval, pass_at_k, rates, world_accuracy
from sampler import Completion, Sampler


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for n in range(1, 8):
        for c in range(n + 1):
            samples = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(samples, k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


def test_interval_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for i in range(300):
        _, low, high = interval(rng.random(100) < 0.3, resamples=400, seed=i)
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_rates():
    assert rates([[True, False], [False, False]], (1, 2))["pass@1"][0] == 0.25 and rates([[True, False]],
            (2,))["pass@2"][0] == 1.0


@torch.no_grad()
def test_bits_per_byte_is_the_loss_of_each_piece(tiny, tokenizer):
    texts = ["Zoo, mod 10. The lions number 3. " * 20, "The owls é number 4. " * 3]
    found = bits_per_byte(tiny, tokenizer, texts, T=32, rows=3)
    bits = size = 0
    for text in texts:
        ids = tokenizer.encode(text)
        for at in range(0, len(ids) - 1, 32):
            piece = torch.tensor([ids[at:at + 33]])
            logits = tiny(piece[:, :-1])
            bits -= float(logits.log_softmax(-1).gather(2, piece[:, 1:, None]).sum()) / math.log(2)
        size += len(text.encode()) - len(tokenizer.token_bytes(ids[0]))
    assert found["bytes"] == size and found["bits_per_byte"] == pytest.approx(bits / size, abs=1e-4)


def test_a_uniform_model_needs_log_of_the_vocabulary(tiny, tokenizer):
    tiny.norm.weight.data.zero_()
    found = bits_per_byte(tiny, tokenizer, ["abc " * 50], T=16)
    assert found["loss"] == pytest.approx(math.log(tiny.config.vocab_size), abs=1e-4)


def answer_with(monkeypatch, tokenizer, reply):
    """Lets every sampler answer prompt i with reply(text of the prompt, sample index)."""
    def generate(self, prompts, n=1, *_, **__):
        return [[Completion(p, tokenizer.encode(reply(tokenizer.decode(p), j)), finish="stop") for j in range(n)]
                for p in prompts]
    monkeypatch.setattr(Sampler, "generate", generate)


def test_world_accuracy_of_a_model_that_knows_and_one_that_guesses(tiny, tokenizer, monkeypatch):
    from world import World
    known = {p.question + "\n": p for ops in "123" for p in map(World(ops=ops, split="test").problem, range(40))}
    answer_with(monkeypatch, tokenizer, lambda prompt, j: known[prompt].solution)
    table = world_accuracy(tiny, tokenizer, "world:ops=1-3,split=test", 40)
    assert [r["ops"] for r in table if "ops" in r] == [1, 2, 3] and sum(r["problems"] for r in table if "context"
            in r) == 120
    assert all(r["process"]["pass@1"] == (1.0, 1.0, 1.0) and r["why"] == "" for r in table)
    answer_with(monkeypatch, tokenizer, lambda prompt, j: "Answer: 3")
    row = world_accuracy(tiny, tokenizer, "world:ops=2,split=test", 200)[0]
    assert row["process"]["pass@1"][0] == 0 and 0.03 < row["answer"]["pass@1"][0] < 0.25 and row["why"] == "missing"
    answer_with(monkeypatch, tokenizer, lambda prompt, j: known[prompt].solution if j == 0 else "")
    row = world_accuracy(tiny, tokenizer, "world:ops=2,split=test", 30, ks=(1, 4))[0]
    assert row["process"]["pass@1"][0] == 0.25 and row["process"]["pass@4"][0] == 1.0


def test_file_accuracy_with_shots_and_chat(tiny, tokenizer, monkeypatch, tmp_path):
    rows = [{"question": f"What is {i} + {i}?", "answer": f"It is <<{i}+{i}={2 * i}>>{2 * i}.\n#### {2 * i}"} for i
            in range(12)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prompts = []
    def reply(prompt, j):
        prompts.append(prompt)
        number = int(prompt.rpartition("What is ")[2].split()[0])
        return f" Right away.\n#### {2 * number if number % 2 else 1}\n\nQuestion: another? #### 5"
    answer_with(monkeypatch, tokenizer, reply)
    found = file_accuracy(tiny, tokenizer, tmp_path / "q.jsonl", shots=2)
    assert found["problems"] == 10 and found["accuracy"]["pass@1"][0] == 0.5
    assert "#### 2" in prompts[0] and "<<" not in prompts[0] and prompts[0].rstrip().endswith("Answer:")
    prompts.clear()
    file_accuracy(tiny, tokenizer, tmp_path / "q.jsonl", chat=True, limit=3)
    assert len(prompts) == 3
    assert prompts[0].startswith("<|im_start|>user\nWhat is") and prompts[0].endswith("<|im_start|>assistant\n")


def test_commands(toy_run, tmp_path):
    (tmp_path / "held_out.txt").write_text("The lions number 3. " * 50)
    done = script("evaluate.py", "--init", toy_run, toy_run, "--data", "world:ops=1-2,split=test", "--problems", 4,
                  "--k", 1, 2, "--text", tmp_path / "held_out.txt")
    assert "verified accuracy on world:ops=1-2,split=test" in done.stdout and "process pass@2" in done.stdout
    assert done.json[str(toy_run)][str(tmp_path / "held_out.txt")]["bits_per_byte"] > 0
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2"}) + "\n")
    done = script("evaluate.py", "--init", toy_run, "--data", tmp_path / "q.jsonl", "--max-new-tokens", 4, "--show", 1)
    assert "1 questions" in done.stdout and "--- wrong, gold 2" in done.stdout
