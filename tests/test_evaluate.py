"""Measures against their definitions."""

import contextlib
import errno
import itertools
import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import script
from helpers import run_main

import evaluate
from formats.files import write_json
from measuring import in_training
from measuring.in_training import evaluate_all
from measuring.questions import file_accuracy, grade_world, world_accuracy
from measuring.text import bits_per_byte
from sampler import Completion, Sampler
from tasks.accuracy import BY_PROBLEM, gain, gains, interval, parse_band, pass_at_k, rates
from tasks.tables import world_samples
from tasks.verify import mark_lines
from tasks.world import World


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
    def generate(self, prompts, n=1, limits=0, *_, **options):
        graded.append(options | {"limits": limits})
        return [[Completion(p, ids(reply(tokenizer.decode(p), j)), finish="stop") for j in range(n)] for p in prompts]
    def ids(text):
        """Thinking marks in the text become the special tokens."""
        parts = re.split("(</?think>)", text)
        return [i for part in parts for i in ([tokenizer.special[part]] if part in tokenizer.special
                                              else tokenizer.encode(part))]
    graded = []
    monkeypatch.setattr(Sampler, "generate", generate)
    return graded


def known_problems(spec="ops=1-3,split=test", count=40):
    """{question: problem} of the first problems of each number of operations."""
    world, known = World.from_spec(spec), {}
    for ops in list(world.ops):
        world.ops = [ops]
        known |= {p.question: p for p in map(world.problem, range(count))}
    return known


def test_world_accuracy_of_a_model_that_knows_and_one_that_guesses(tiny, tokenizer, monkeypatch):
    known = {p.question + "\n": p for ops in "123" for p in map(World(ops=ops, split="test").problem, range(40))}
    answer_with(monkeypatch, tokenizer, lambda prompt, j: known[prompt].solution)
    table = world_accuracy(tiny, tokenizer, "world:ops=1-3,split=test", 40)
    assert [r["ops"] for r in table if "ops" in r] == [1, 2, 3] and sum(r["problems"] for r in table if "context"
            in r) == 120
    assert all(r["process"]["pass@1"] == (1.0, 1.0, 1.0) and r["why"] == "" for r in table)
    answer_with(monkeypatch, tokenizer, lambda prompt, j: "Answer: 3")
    row = world_accuracy(tiny, tokenizer, "world:ops=2,split=test", 200)[0]
    assert row["process"]["pass@1"][0] == 0 and 0.03 < row["answer"]["pass@1"][0] < 0.25 and row["why"] == "missing"
    assert sum(c for c, _ in row["answered"]) == round(200 * row["answer"]["pass@1"][0]) and row["right"] == [[0, 1]] * 200
    answer_with(monkeypatch, tokenizer, lambda prompt, j: known[prompt].solution if j == 0 else "")
    row = world_accuracy(tiny, tokenizer, "world:ops=2,split=test", 30, ks=(1, 4))[0]
    assert row["process"]["pass@1"][0] == 0.25 and row["process"]["pass@4"][0] == 1.0
    assert row["right"] == [[1, 4]] * 30 and row["empty"] == 0.75 and row["thinking"] == 0
    row = world_accuracy(tiny, tokenizer, "world:ops=2,split=test", 30, ks=(1, 2, 4), samples=6)[0]
    assert list(row["process"]) == ["pass@1", "pass@2", "pass@4"] and row["right"] == [[1, 6]] * 30


def question_of(prompt):
    return prompt.removeprefix("<|im_start|>user\n").partition("<|im_end|>")[0].removesuffix(" /think").removesuffix(
        " /no_think")


def test_training_on_a_gpu_samples_in_its_own_dtype(monkeypatch):
    """Not always in bfloat16: float32 is to stay float32, and weights of float64 cannot be multiplied by those of bfloat16."""
    asked = []
    monkeypatch.setattr(in_training, "world_accuracy", lambda *_, dtype, **__: asked.append(dtype) or [])
    models = [SimpleNamespace(head=SimpleNamespace(is_cuda=cuda)) for cuda in (True, False)]
    for model, autocast in itertools.product(models, (torch.autocast("cpu", torch.bfloat16), contextlib.nullcontext(), None)):
        evaluate_all(model, None, ["world:ops=1"], {"": {}}, autocast=autocast)
    assert asked == [torch.bfloat16, None, None, None, None, None]


def test_the_world_in_a_chat(tiny, tokenizer, monkeypatch):
    """The question is the user's turn, and reasoning in a think block counts as the steps."""
    known, prompts = known_problems(), []
    def reply(prompt, j):
        prompts.append(prompt)
        p = known[question_of(prompt)]
        opened = "" if prompt.endswith("<think>\n") else "<think>\n"
        return p.solution if "</think>" in prompt else f"{opened}{p.reasoning}\n</think>\n\nAnswer: {p.answer}"
    graded = answer_with(monkeypatch, tokenizer, reply)
    spec = "world:ops=1-3,split=test"
    for options, end, thinking in (
            ({}, "assistant\n", 1), ({"think": True}, "<think>\n", 1), ({"think": False}, "</think>\n\n", 0),
            ({"user_suffix": " /think"}, "assistant\n", 1), ({"user_suffix": " /no_think"}, "</think>\n\n", 0)):
        table = world_accuracy(tiny, tokenizer, spec, 40, chat=True, **options)
        assert all(r["process"]["pass@1"][0] == 1.0 and r["thinking"] == thinking and r["empty"] == 0 and
                   r["well_formed"] == 1 for r in table)
        suffix = options.get("user_suffix", "")
        assert prompts[-1].endswith(end) and f"{suffix}<|im_end|>\n<|im_start|>assistant\n" in prompts[-1]
    world_accuracy(tiny, tokenizer, spec, 40, chat=True, think=True, think_budget=17)
    assert graded[-1]["think_budget"] == 17
    for limit, problem in zip(graded[-1]["limits"], list(known.values())[80:]):
        assert limit >= 2 * len(tokenizer.encode(problem.solution)) + 30


def test_manner_of_replies(tiny, tokenizer, monkeypatch):
    known = known_problems(count=12)
    def reply(prompt, j):
        p = known[question_of(prompt)]
        return [p.solution, f"<think>\n{p.solution}", f"<think>\n{p.reasoning}\n</think>\n\n", ""][j]
    answer_with(monkeypatch, tokenizer, reply)
    row = world_accuracy(tiny, tokenizer, "world:ops=3,split=test", 12, ks=(1, 4), chat=True)[0]
    assert row["thinking"] == 0.5 and row["empty"] == 0.75 and row["cut_off"] == 0
    assert len(row["lengths"]) == 12 and sum(n for _, n in row["lengths"]) == 48
    assert sum(tokens for tokens, _ in row["lengths"]) / 48 == pytest.approx(row["tokens"], abs=0.05)
    assert row["right"] == row["answered"] == [[1, 4]] * 12 and row["answer"]["pass@1"][0] == 0.25 and row["steps"] == 0.75
    assert row["formed"] == [[0, 4]] * 12 and row["well_formed"] == 0         # in a chat the steps belong into a think block
    found = evaluate_all(tiny, tokenizer, ["world:ops=3,split=test"], {"": dict(chat=True)}, problems=12)
    assert "right" not in found["world:ops=3,split=test"][0] and found["world:ops=3,split=test"][0]["problems"] == 12


def test_samples_say_which_lines_are_right(tiny, tokenizer, monkeypatch):
    known = known_problems(count=8)
    def reply(prompt, j):
        p = known[question_of(prompt)]
        lines = p.reasoning.split("\n")
        wrong = re.sub(r"(\d+)$", lambda m: str(int(m[1]) + 1), lines[0])
        thought = ["<think>", wrong, "unicorns 3 + 4 = dragons 7", "hm", *lines[1:], "Answer: 77", "</think>"]
        return "\n".join([*thought, "", f"Answer: {p.answer}"])
    answer_with(monkeypatch, tokenizer, reply)
    graded = grade_world(tiny, tokenizer, "world:ops=1-3,split=test", 8, chat=True)
    samples = world_samples(graded, 2)
    assert [s["ops"] for s in samples] == [1, 1, 2, 2, 3, 3]
    for s in samples:
        right = [True] * (s["ops"] - 1)
        assert [mark for _, mark in s["lines"]] == [None, False, None, None, *right, None, None, None, True]
        assert "\n".join(line for line, _ in s["lines"]) == s["text"] and not s["ok"] and "result" in s["reason"]
        assert s["gold"] == known[s["question"]].solution and known[s["question"]].ops == s["ops"]
    json.dumps(samples)
    for p in known.values():
        marks = [mark for _, mark in mark_lines(p, p.solution)]
        assert marks == [True] * (p.ops + 1)
        assert mark_lines(p, f"<think>\n{p.solution}")[-1][1] is None        # said inside an unclosed block
        assert mark_lines(p, "Answer: 77") == [("Answer: 77", False)]
        for step, line in zip(p.steps, p.reasoning.split("\n")):              # as verify judges it
            for text in (line, line + "1", line.replace(step.op, "+")):
                [(_, mark)] = mark_lines(p, text)
                assert mark == (World().verify(p, text).steps_ok > 0)


def test_gain_pairs_the_problems():
    before = [{"ops": 1, "right": [[0, 4], [4, 4]]}, {"ops": 2, "right": [[0, 4], [1, 4]]}, {"context": "zoo"}]
    after = [{"ops": 1, "right": [[4, 4], [4, 4]]}, {"ops": 2, "right": [[2, 4], [3, 4]]}, {"context": "zoo"}]
    assert gain(before, after, range(2, 3)) == (0.5, 0.5, 0.5)               # the same for each: no doubt is left
    mean, low, high = gain(before, after, range(1, 3))
    assert mean == 0.5 and 0 <= low < 0.5 < high <= 1
    assert gain(before, before, {1, 2}) == (0, 0, 0)
    with pytest.raises(ValueError):
        gain(before, [{"ops": 1, "right": [[1, 4]]}], {1})
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):                                                      # pairs that agree for the most part
        easy = rng.random(100)
        tables = [[{"ops": 1, "right": [[int(x), 8] for x in rng.binomial(8, np.clip(easy + shift, 0, 1))]}]
                  for shift in (0, 0.1)]
        truth = float(np.mean(np.clip(easy + 0.1, 0, 1) - easy))
        _, low, high = gain(*tables, {1})
        hits += low <= truth <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_gains_from_each_checkpoint_to_the_next():
    def found(*right):
        rows = [{"ops": 1, "right": [[1, 1]]}, {"ops": 2, "right": [[x, 1] for x in right]}]
        return {"world:ops=1-2": {"rows": rows}, "q.jsonl": {}}
    measured = {"a": found(0, 0), "b": found(0, 1), "c": found(1, 1)}
    done = gains(measured, {"band": range(2, 5), "solved": range(1, 2), "none": range(7, 9)})
    assert [(g["before"], g["after"], g["band"], g["ops"], g["gain"][0]) for g in done] == [
        ("a", "b", "band", [2, 4], 0.5), ("a", "b", "solved", [1, 1], 0), ("b", "c", "band", [2, 4], 0.5),
        ("b", "c", "solved", [1, 1], 0)]
    of_two = {name: {"world:": {"rows": [{"ops": 2, "right": [[c, 2], [1, 2]]}]}} for name, c in (("a", 0), ("b", 1))}
    at_2 = gains(of_two, {"band": range(2, 5)}, 2)[0]
    assert (at_2["k"], at_2["gain_at_k"][0], at_2["gain"][0]) == (2, 0.5, 0.25) and "k" not in done[0]
    assert parse_band("--band", "4-6") == range(4, 7) and parse_band("--band", "3") == range(3, 4)
    for bad in ("6-4", "0-2", "a", "3-", "-3", ""):
        with pytest.raises(ValueError, match="--band .*a range such as 4-6"):
            parse_band("--band", bad)


def test_write_json_leaves_nothing_behind_when_it_fails(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"x": [1]})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"x": [1]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "b.json", {"x": object()})
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.json"]


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
    assert found["tokens"] > 5 and found["thinking"] == found["empty"] == found["cut_off"] == 0
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


def test_checkpoints_that_are_measured_are_kept_if_the_next_one_fails(tmp_path, monkeypatch):
    """And if the file cannot be written, the last line has all of them."""
    out, there = tmp_path / "result.json", {"data": []}

    def measured(folder, *_):
        if folder == "bad":
            raise there["error"]
        return {"world:x": {"rows": [], "samples": []}}
    for name, put in (("measure", measured), ("check_inputs", lambda *_: None), ("gains", lambda *_: [])):
        monkeypatch.setattr(evaluate, name, put)
    flags = ["--init", "good", "bad", "--data", "world:ops=1", "--out", out]
    for there["error"], code in ((ValueError("my_task.py, line 3"), 2), (KeyboardInterrupt(), None)):
        if code:
            assert run_main(evaluate, *flags)[0] == code
        else:
            with pytest.raises(KeyboardInterrupt):
                run_main(evaluate, *flags)
        assert not out.exists()
        assert list(json.loads((tmp_path / "result.json.unfinished").read_text())["results"]) == ["good"]
        (tmp_path / "result.json.unfinished").unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(evaluate, "write_text", full)
    printed = []
    monkeypatch.setattr(evaluate.cli, "finish", printed.append)
    code, _, err = run_main(evaluate, "--init", "good", "--data", "world:ops=1", "--out", out)
    assert code == 2 and printed == [{"k": [1], "gain": [], "good": {"world:x": []}}] and "No space left on device" in err


def test_the_sampler_draws_as_the_flags_say(toy_run, tokenizer, monkeypatch):
    asked = answer_with(monkeypatch, tokenizer, lambda prompt, j: "")
    script("evaluate.py", "--init", toy_run, "--data", "world:ops=1,split=test", "--problems", 1, "--k", 2, "--top-p", 0.5,
           "--top-k", 5, "--seed", 3)
    assert [{name: how[name] for name in ("top_p", "top_k", "seed")} for how in asked] == [{"top_p": 0.5, "top_k": 5, "seed": 3}]


def test_a_chat_with_a_budget_kept_in_a_file(toy_run, tmp_path):
    out, other = tmp_path / "result.json", tmp_path / "other"
    shutil.copytree(toy_run, other)
    arguments = ("evaluate.py", "--init", toy_run, other, "--data", "world:ops=1-3,split=test", "--problems", 3,
                 "--k", 1, 2, "--samples", 4, "--chat", "--think", 5, "--band", "2-3", "--solved", 1, "--out", out,
                 "--seed", 4)
    done = script(*arguments)
    kept, spec = json.loads(out.read_text()), "world:ops=1-3,split=test"
    assert kept["flags"]["seed"] == 4 and kept["flags"]["samples"] == 4 and kept["flags"]["problems"] == 3
    assert list(kept["results"]) == [str(toy_run), str(other)]
    rows, samples = kept["results"][str(toy_run)][spec].values()
    assert [row["right"] for row in rows if "ops" in row] == [[[0, 4]] * 3] * 3
    assert all(row["thinking"] == 1.0 and row["empty"] == 0 for row in rows)   # handed over, and something was said
    assert [s["ops"] for s in samples] == [1, 1, 2, 2, 3, 3] and "Time to answer.\n</think>\n\n" in samples[0]["text"]
    assert done.json[str(toy_run)][spec] == [{k: v for k, v in row.items() if k not in BY_PROBLEM} for row in rows]
    assert done.json["gain"] == kept["gain"] and [g["gain"] for g in kept["gain"]] == [[0, 0, 0]] * 2
    assert "gain in pass@1 on 2-3 operations (band), " in done.stdout
    written = out.read_bytes()
    again = script(*arguments, ok=False)
    assert again.returncode == 2 and "exists already" in again.stderr and out.read_bytes() == written
    for flag, value, message in (("--band", "7-9", "no --data world"), ("--think", "so", "use on, off"),
                                 ("--solved", "x", "use a number of operations")):
        assert message in script(*arguments, "--out", "", flag, value, ok=False).stderr
    plain = script("evaluate.py", "--init", toy_run, "--data", spec, "--think", "on", ok=False)
    assert "--think has no effect without a chat: --chat" in plain.stderr
