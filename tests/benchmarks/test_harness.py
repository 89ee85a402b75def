"""The comparison with lm-eval, with a program in its place that writes what it would write."""

import json
import os
import stat
import sys

import pytest
import torch
from helpers import refusal, write_rows

import bench
from benchmarks import harness, tables
from model import load_both
from tasks.benchmarks.read import open_benchmark

FAKE = """#!{python}
import json, pathlib, sys
flags = dict(zip(sys.argv[3::2], sys.argv[4::2]))
assert sys.argv[1:3] == ["-m", "lm_eval"] and flags["--model"] == "hf" and flags["--batch_size"] == "20", sys.argv
folder, name = pathlib.Path(flags["--include_path"]), flags["--tasks"].removeprefix("nanothink_")
task = (folder / (name + ".yaml")).read_text()
assert "max_gen_toks: 256" in task and str(folder / (name + ".jsonl")) in task
metric = "exact_match" if name == "gsm8k" else "math_verify"
rows = [json.loads(line) for line in (folder / (name + ".jsonl")).read_text().splitlines()]
out = pathlib.Path(flags["--output_path"]) / "model"
out.mkdir(parents=True)
said = json.loads((folder / "said.json").read_text())[name]
with open(out / "samples_x.jsonl", "w") as f:
    for i in reversed(range(len(rows))):
        text, read, right = said[i]
        f.write(json.dumps({{"doc_id": i, "doc": rows[i], "resps": [[text]], "filtered_resps": [read], metric: right}}) + "\\n")
"""


@pytest.fixture
def fake(tmp_path):
    """An interpreter whose lm_eval module writes keep/said.json as its answers."""
    path = tmp_path / "python"
    path.write_text(FAKE.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    for name, field in (("gsm8k", "question"), ("math500", "problem")):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_rows(tmp_path / "data" / name / "test.jsonl", [
            {field: f"What is {i} + 1?", "answer": str(i + 1), "solution": f"\\boxed{{{i + 1}}}"} if name == "math500" else
            {field: f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(4)])
    return str(path)


def test_answers_beside_each_other(fake, toy_run, tmp_path, monkeypatch, capsys):
    """Four questions: the same text and verdict; the same text, two verdicts; two texts, one verdict; neither."""
    keep, out = tmp_path / "keep", tmp_path / "results"
    keep.mkdir()
    _, tokenizer = load_both(toy_run, "cpu", torch.float32)
    ours = ["The answer is 1.", "It is 2 or 5.", "So 3.", "The answer is 9."]
    said = [["The answer is 1.", "1", 1.0], ["It is 2 or 5.", "5", 1.0], ["So it is 3", "3", 1.0], ["The answer is 4.", "4", 1.0]]
    (keep / "said.json").write_text(json.dumps({"gsm8k": said, "math500": said}))
    for name in harness.NAMES:
        write_rows(keep / f"ours_{name}.jsonl", [{"text": t, "tokens": tokenizer.encode(t)} for t in ours])
    flags = ["harness", "--init", toy_run, "--benchmark-data", tmp_path / "data", "--python", fake, "--keep", keep, "--limit", 4,
             "--out", out]
    monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, flags)])
    bench.main()
    [record] = [json.loads(line) for line in (out / "bench_harness.jsonl").read_text().splitlines()]
    assert [r["benchmark"] for r in record["rows"]] == ["GSM8K", "MATH500"] and record["template"] == "rl"
    for r, read in zip(record["rows"], (["1", "5", "3", "4"], [None] * 4)):
        assert (r["questions"], r["ours_right"], r["lm_eval_right"], r["same_text"]) == (4, 2, 4, 2)
        assert (r["same_verdict"], r["same_verdict_on_one_text"]) == (2, 3)
        assert r["same_answer"] == (2 if read[0] else None)                  # 1 and 3; not 2 or 5, nor 9 and 4
        assert [q["lm_eval"] for q in r["answers"]] == read and [q["gold"] for q in r["answers"]] == ["1", "2", "3", "4"]
        assert [q["ours_right"] for q in r["answers"]] == [True, False, True, False]
        assert ["parting" in q for q in r["answers"]] == [False, False, True, True]
    printed = capsys.readouterr().out
    assert "GSM8K: 4 questions, right 2 (lm-eval 4); the same text 2, the same verdict 2, on one text 3" in printed
    assert "question 1, gold 2: ours " in printed and "the same text, read in two ways" in printed
    prompts = [json.loads(line) for line in (keep / "gsm8k.jsonl").read_text().splitlines()]
    task = open_benchmark("gsm8k", str(tmp_path / "data"))
    assert prompts[0]["prompt"] == tokenizer.decode(tokenizer.chat_prompt(task.prompt(task.problem(0), "chat")))
    monkeypatch.setattr(tables, "newest", lambda name: {("CPU", "float32"): record})
    table = tables.harness_table()
    assert "| GSM8K | 4 | 2 | 4 | 2 | 2 | 2 | 3 |" in table and table.count("<details>") == 2
    assert table.count("| the same text, read in two ways |") == 2
    monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, flags[:-4]), "--limit", "3", "--out", str(out)])
    assert "is of another comparison" in refusal(bench, *flags[:-4], "--limit", 3, "--out", out)
    model, tokenizer = load_both(toy_run, "cpu", torch.float32)
    with torch.no_grad():
        model.norm.weight *= 2
    model.save(tmp_path / "other", tokenizer)             # the same prompts, other answers
    assert "holds the answers of another checkpoint" in refusal(bench, *flags, "--init", tmp_path / "other")


def test_a_python_without_lm_eval(fake, toy_run, tmp_path):
    flags = ("--init", toy_run, "--benchmark-data", tmp_path / "data", "--limit", 2, "--out", tmp_path / "results")
    message = refusal(bench, "harness", *flags, "--python", "/no/such/python", "--keep", tmp_path / "a")
    assert "--python /no/such/python: cannot be run" in message
    os.chmod(fake, 0o755)
    message = refusal(bench, "harness", *flags, "--python", fake, "--keep", tmp_path / "b")        # it fails: no said.json
    assert "lm-eval ended with 1" in message and 'pip install "lm_eval[math]"' in message


@torch.no_grad()
def test_our_side_and_where_texts_part(tiny, tokenizer, tmp_path):
    """Greedy continuations, kept in the file; the first other token, and by how much it is less likely."""
    model = tiny
    asked = ["The lions number 3.", [{"role": "user", "content": "How many owls?"}]]
    found = harness.our_answers(model, tokenizer, "x", asked, "rl", tmp_path)
    prompts = [tokenizer.encode_document(asked[0]), tokenizer.chat_prompt(asked[1])]
    for one, prompt in zip(found, prompts):
        ids = list(prompt)
        for token in one["tokens"][:6]:
            assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
            ids.append(token)
    assert harness.our_answers(None, None, "x", asked, "rl", tmp_path) == found              # from the file
    ours = found[0]["tokens"]
    logits = model(torch.tensor([prompts[0] + ours[:2]]))[0, -1]
    other = int(logits.topk(2).indices[1])
    theirs = type("Text", (), {"encode": lambda self, text: [*ours[:2], other, 5], "stop_ids": {0}})()
    same, nats = harness.parting(model, theirs, prompts[0], ours, "x")
    assert same == 2 and nats == pytest.approx(float(logits[ours[2]] - logits[other]), abs=1e-6) and nats > 0
    short = type("Text", (), {"encode": lambda self, text: ours[:3], "stop_ids": ()})()
    assert harness.parting(model, short, prompts[0], ours[:3], "x") == (3, 0.0)
