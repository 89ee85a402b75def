"""Generated tasks wherever a SPEC works: a tokenizer, pre-training, SFT, GRPO, evaluation and made data."""

import json

import pytest
from conftest import script
from helpers import refusal, run_main

import augment
import data
import dpo
import evaluate
import grpo
import pretrain
import sft
from tasks.problems import load_problems
from tasks.task import Reply

KNOWLEDGE, INSTRUCTIONS = "knowledge:people=6,relations=born+works", "instructions:tiny,ops=1"
LONG = "world:tiny,ops=1,style=long"
ROWS = ["--batch-tokens", 512, "--seq-len", 512, "--steps", 2, "--device", "cpu"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run on all of them, measured on what it learned, with a tokenizer trained on them."""
    here = tmp_path_factory.mktemp("generated")
    specs = [KNOWLEDGE, INSTRUCTIONS, LONG]
    script("tokenizer.py", "train", "--data", *specs, "--vocab-size", 600, "--out", here / "tok")
    shares = [*(f"{spec}@0.3" for spec in specs), f"{KNOWLEDGE},format=qa@0.1"]
    code, found, err = run_main(pretrain, "--data", *shares, "--out", here / "base", "--tokenizer", here / "tok", "--layers", 1,
                                "--width", 16, "--heads", 2, "--kv-heads", 1, *ROWS, "--eval-data", *specs, "--eval-problems", 4)
    assert code == 0, err
    return here / "base", found


def test_pretraining_reads_and_measures_them(base):
    _, found = base
    assert {row["source"] for row in found["mixture"]} == {KNOWLEDGE, INSTRUCTIONS, LONG, f"{KNOWLEDGE},format=qa"}
    assert all(row["tokens"] for row in found["mixture"])
    assert found["eval"][KNOWLEDGE]["problems"] == found["eval"][INSTRUCTIONS]["problems"] == 4
    assert set(found["eval"][KNOWLEDGE]["kinds"]) <= {"born", "works"} and found["eval"][LONG][0]["problems"] == 4


def test_sft_and_grpo_train_on_them(base, tmp_path):
    folder, _ = base
    code, found, err = run_main(sft, "--init", folder, "--data", KNOWLEDGE, INSTRUCTIONS, LONG, "--out", tmp_path / "sft", *ROWS,
                                "--no-think", 0.3, "--max-epochs", 9)
    assert code == 0 and all(row["tokens"] for row in found["mixture"]), err
    few = ["--steps", 2, "--prompts", 2, "--group", 2, "--max-new-tokens", 8, "--device", "cpu"]
    for mode, reward, specs in (("plain", "strict+process", [INSTRUCTIONS, LONG]),
                                ("think", "answer", [KNOWLEDGE, INSTRUCTIONS])):
        code, _, err = run_main(grpo, "--init", folder, "--data", *specs, "--out", tmp_path / mode, "--mode", mode,
                                "--reward", reward, *few)
        assert code == 0, err
        samples = [sample for line in open(tmp_path / mode / "log.jsonl") for sample in json.loads(line).get("samples", [])]
        asked = {p.question for spec in specs for p in load_problems(spec, 12)}
        assert samples and all(sample["question"] in asked for sample in samples)


def test_kept_answers_are_those_that_the_task_grades_as_right(base, tmp_path, monkeypatch):
    """Whatever comes from a model: here its answers are those of the problems, every second one."""
    folder, _ = base
    for spec in (KNOWLEDGE, INSTRUCTIONS):
        problems = {p.question: p for p in load_problems(spec, 12)}
        out = tmp_path / f"{spec[:5]}.jsonl"

        def reply(completion, tokenizer, limit, sample=0, problems=problems):
            p = next(p for p in problems.values() if p.question in tokenizer.decode(completion.prompt))
            return Reply(p.solution if list(problems.values()).index(p) % 2 else "Nobody knows.", 1, limit)
        monkeypatch.setattr(Reply, "of", reply)
        code, found, err = run_main(augment, "reject", "--init", folder, "--data", spec, "--count", 12, "--samples", 1,
                                    "--out", out, "--max-new-tokens", 4)
        assert code == 0, err
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert found["verified"][0] == 0.5 and len(rows) == 6
        for row in rows:
            p = next(p for p in problems.values() if p.question in row["messages"][0]["content"])
            assert row["messages"][1]["content"] == p.solution.strip()


def test_what_does_not_fit_is_one_line(base, tmp_path):
    folder, _ = base
    out = ["--out", tmp_path / "x"]
    assert "checks steps" in refusal(grpo, "--init", folder, "--data", KNOWLEDGE, "--reward", "strict", *out)
    assert "set a limit" in refusal(evaluate, "--init", folder, "--data", INSTRUCTIONS)
    assert "pairs come from a file" in refusal(dpo, "--init", folder, "--data", KNOWLEDGE, *out)
    assert "q_weight=2: use" in refusal(pretrain, "--init", folder, "--data", f"{KNOWLEDGE},q_weight=2", *out)
    assert "--max-epochs has no effect" in refusal(pretrain, "--init", folder, "--data", INSTRUCTIONS, "--max-epochs", 2, *out)
    assert "only a file can be read here" in refusal(evaluate, "--init", folder, "--text", KNOWLEDGE)
    assert "--tokens is needed" in refusal(data, "prepare", "--data", INSTRUCTIONS, "--tokenizer", folder, *out)
    assert not (tmp_path / "x").exists()
