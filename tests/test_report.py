"""The report: its numbers against hand-computed ones, and the page from made-up logs, whole, partial and damaged."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import HANG, script
from helpers import run_main

import report
from page import numbers, plots, sections
from page import stages as reading
from page.stages import Stage
from training.ledger import Ledger, write_ledger

SPEC = "world:ops=1-3,split=test"
EVIL = "<script>alert('&')</script>"


# A made-up pipeline: five stages that log what their scripts log.

def head(name, folder, init="", **flags):
    flags = {"init": init, "out": str(folder), "data": ["world:ops=2-3,split=rl@0.8", "world:ops=1@0.2"], "steps": 60,
             "batch_tokens": 1024, "lr": 0.01, "seed": 0, "compile": False} | flags
    return {"flags": flags, "script": name, "versions": {"python": "3.11", "torch": "2"}, "commit": "abc1234",
            "ranks": 1, "device": "CPU", "parameters": 900_000}


def row(ops, counts, n=4):
    rate = float(np.mean(counts)) / n
    return {"ops": ops, "problems": len(counts), "process": {"pass@1": [rate, max(0, rate - 0.1), min(1, rate + 0.1)]},
            "answer": {"pass@1": [rate, rate, rate]}, "why": "missing", "right": [[c, n] for c in counts]}


def sample(ops, ok):
    text = f"a 1 + 1 = b {2 if ok else 3}\nAnswer: 2\n{EVIL}"
    return {"ops": ops, "question": f"Q{ops} {EVIL}", "gold": "", "text": text, "ok": ok,
            "reason": "ok" if ok else "b: result 3, it is 2",
            "lines": [["a 1 + 1 = b 2" if ok else "a 1 + 1 = b 3", ok], ["Answer: 2", True], [EVIL, None]]}


def measured(counts, ok):
    rows = [row(1, [4, 4]), row(2, counts), row(3, counts), {"context": "zoo", "problems": 4}]
    return {SPEC: {"rows": rows, "samples": [sample(2, ok)]}, "gsm8k.jsonl": {"accuracy": {"pass@1": [0.25, 0.1, 0.4]}},
            "held_out.txt": {"bits_per_byte": 1.5}}


@pytest.fixture
def pipeline(tmp_path):
    """(run folders, evaluation file)."""
    extra = {"pretrain.py": {}, "sft.py": {"nll": 0.5, "entropy": 0.4},
             "dpo.py": {"chosen": -5.0, "rejected": -9.0, "margin": 0.3, "accuracy": 0.8},
             "grpo.py": {"reward": 0.5, "reward_std": 0.4, "answer": 0.6, "process": 0.5, "length_mean": 40.0,
                         "length_max": 90, "zero_spread": 0.2, "logprob_diff_mean": 0.0, "logprob_diff_max": 0.0,
                         "seconds": 2.0, "rollout_share": 0.5, "rollout_tokens_per_second": 300.0,
                         "samples": [{"question": "Q?", "text": f"{EVIL}\0\ud800", "reward": 0.0, "reason": "none"}]}}
    folders = []
    for stage, name in {"base": "pretrain.py", "mid": "pretrain.py", "sft": "sft.py", "dpo": "dpo.py",
                        "grpo": "grpo.py"}.items():
        folder = tmp_path / "runs" / stage
        folder.mkdir(parents=True)
        records = [head(name, folder, str(folders[-1]) if folders else "")]
        every = {"grad_norm": 1.0, "tokens_per_second": 100.0} | extra[name]
        records += [{"step": i, "loss": 3 / i} | every for i in range(1, 61)]
        records.append({"result": {"steps": 60, "loss": 0.05, "seconds": 100.0, "eval": {SPEC: [row(2, [1, 1], 1)]}}})
        (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        folders.append(folder)
    results = {str(f): measured([2, 3, 4, 3] if f.name == "grpo" else [0, 1, 2, 1], f.name == "grpo") for f in folders}
    (tmp_path / "evaluation.json").write_text(json.dumps({
        "flags": {"k": [1, 4], "temperature": 0.7, "samples": 4, "band": "", "solved": "1"}, "results": results}))
    return folders, tmp_path / "evaluation.json"


def make(tmp_path, folders, *more):
    """Runs the script; returns (page, JSON line)."""
    out = tmp_path / "out.html"
    done = script("report.py", "--runs", *folders, "--out", out, *more)
    return out.read_text(), done.json


class Checker(HTMLParser):
    """Notes what is not closed as it was opened, all text, and everything that would be loaded."""
    VOID = {"meta", "br", "img", "link", "input", "hr", "wbr"}

    def __init__(self, page):
        super().__init__()
        self.open, self.faults, self.text, self.loads, self.tags = [], [], [], [], set()
        self.feed(page)
        self.faults += self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.loads += [v for k, v in attributes if k in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at line {self.getpos()[0]}")

    def handle_data(self, data):
        self.text.append(data)


def check(page):
    found = Checker(page)
    assert not found.faults and not found.loads
    assert not found.tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"https?://|@import|url\(", page)
    return " ".join(" ".join(found.text).split())


# Numbers.

def test_rates_and_gains_by_hand():
    before, after = {2: row(2, [0, 1, 2, 1])}, {2: row(2, [2, 3, 4, 3])}
    assert numbers.rate_of(before, [2])[0] == pytest.approx(0.25)
    # pass@2 of c right ones among 4: 1 - C(4-c, 2) / 6
    assert numbers.per_problem(before, [2], 2) == pytest.approx([0, 1 - 3 / 6, 1 - 1 / 6, 1 - 3 / 6])
    assert numbers.per_problem(before, [2], 8) == []
    # every problem gains exactly two of four, so resampling problems moves nothing
    assert numbers.paired_gain(before, after, [2]) == [0.5, 0.5, 0.5]
    assert numbers.paired_gain(before, {2: row(2, [1])}, [2]) == []


def test_rates_without_per_problem_results():
    old = {1: row(1, [4, 4]), 2: row(2, [0, 0, 4, 0])}
    del old[1]["right"], old[2]["right"]
    assert numbers.rate_of(old, [2]) == [0.25, 0.15, 0.35]                     # one row: its own interval
    assert numbers.rate_of(old, [1, 2]) == [pytest.approx((2 * 1 + 4 * 0.25) / 6)]
    assert numbers.rate_of(old, [1, 2], 8) == [] and numbers.paired_gain(old, old, [1, 2]) == []


def test_the_interval_covers_the_mean_of_many_problems():
    rng = np.random.default_rng(0)
    before, after = rng.binomial(8, 0.4, 300), rng.binomial(8, 0.6, 300)
    mean, low, high = numbers.paired_gain({1: row(1, before.tolist(), 8)}, {1: row(1, after.tolist(), 8)}, [1])
    assert mean == pytest.approx((after - before).mean() / 8, abs=1e-4)
    error = 1.96 * ((after - before) / 8).std() / math.sqrt(300)
    assert (mean - low, high - mean) == pytest.approx((error, error), rel=0.15)


@pytest.mark.parametrize("data, band", [
    (["world:ops=4-6,split=rl"], [4, 5, 6]), (["world:ops=1-3@0.2", "world:ops=4-6,chat=0.25@0.8"], [4, 5, 6]),
    (["world:ops=5"], [5]), (["world:ops=20-30"], [1, 2, 3, 4, 5, 6, 7]), (["gsm8k.jsonl"], [1, 2, 3, 4, 5, 6, 7])])
def test_band(data, band):
    stage = Stage(Path("x"), {"flags": {"data": data}})
    assert numbers.band_of(stage, range(1, 8)) == band and numbers.band_of(stage, range(1, 8), "2-3") == [2, 3]


def test_before_and_after_is_the_last_rl_and_what_it_started_from():
    stages = [Stage(Path(n), {"script": s, "flags": {"init": i}}) for n, s, i in (
        ("base", "pretrain.py", ""), ("sft", "sft.py", "base"), ("dpo", "dpo.py", "sft"), ("rl", "grpo.py", "sft"))]
    assert [s.name for s in reading.before_and_after(stages)] == ["sft", "rl"]
    assert [s.name for s in reading.before_and_after(stages[:3])] == ["sft", "dpo"]
    stages[3].about["flags"]["init"] = "elsewhere"
    assert [s.name for s in reading.before_and_after(stages)] == ["dpo", "rl"]
    assert reading.before_and_after(stages[:1]) == (None, stages[0])


def test_running_mean():
    assert plots.running_mean([1, 2, 3, 4, 5], 3).tolist() == pytest.approx([1.5, 2, 3, 4, 4.5])
    assert plots.running_mean([1.0, 2.0], 1).tolist() == [1, 2]


@pytest.mark.parametrize("low, high, expected", [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 850, [0, 200, 400, 600, 800]), (-23, 0, [-20, -15, -10, -5, 0]),
    (0, 4e-14, [0, 1e-14, 2e-14, 3e-14, 4e-14])])
def test_ticks(low, high, expected):
    assert plots.ticks(low, high) == pytest.approx(expected, abs=0)


def test_numbers_in_words():
    assert [plots.short(x) for x in (0, 0.123456, 12.34, 1234, 45_600, 3_482_000, -0.5, -5e-9, 1.2e10)] == [
        "0", "0.123", "12.3", "1,234", "45.6k", "3.48M", "−0.5", "−5e−9", "12B"]
    assert [plots.clock(s) for s in (42, 150, 7200)] == ["42 s", "2.5 min", "2.0 h"]
    assert plots.whole_rate([0.5, 0.25, 0.75]).replace("\xa0", " ") == "0.50 [0.25, 0.75]"
    assert plots.whole_rate([-0.1], "+.2f") == "-0.10" and plots.whole_rate([]) == "–"


def test_a_plot_puts_values_where_its_axes_say():
    plot = plots.Plot((0, 10), (0, 1), "step")
    assert plot.y(0) == plot.height - 34 and plot.y(1) == 8 and plot.x(5) == (plot.x(0) + plot.x(10)) / 2
    assert plots.line_plot("x", {"empty": []}) == ""
    flat = plots.line_plot("flat", {"zero": [(1, 0.0), (2, 0.0)]})
    assert flat.count("0 → 0") == 2                                           # in the legend and for screen readers


# The page.

def test_the_whole_page(pipeline, tmp_path):
    folders, evaluation = pipeline
    page, result = make(tmp_path, folders, "--evaluation", evaluation)
    text = check(page)
    assert result["stages"] == ["base", "mid", "sft", "dpo", "grpo"] and result["bytes"] == len(page.encode())
    assert (result["before"], result["after"], result["band"]) == ("dpo", "grpo", [2, 3])
    assert result["verified"] == [0.25, 0.75] and result["gain"] == [0.5, 0.5, 0.5]
    assert result["gain_on_solved"] == [0, 0, 0] and result["logprob_diff_max"] == 0
    assert "RL raises verified accuracy at 2 to 3 operations, from 0.25 to 0.75" in text and "to the last bit" in text
    for expected in (
            "grpo.py", "900k", "61.4k", "Verified pass@k", "Log-probability of the answers", "Entropy", "Margin",
            "Response length", "Sampler against trainer", "b: result 3, it is 2", "--batch-tokens", "abc1234",
            "gsm8k.jsonl: pass@1", "0.25 [0.10, 0.40]", "1.50", "step 60, reward 0.00"):
        assert expected in text.replace("\xa0", " "), expected
    assert EVIL not in page and EVIL in text and "\x00" not in page and "␀" in text
    # RL: 60 steps of 2 s, half of each in rollouts, 300 tokens/s
    stages = [reading.read_stage(f) for f in folders]
    assert numbers.used(stages[4]) == (120, 18_000) and numbers.used(stages[0]) == (100, 60 * 1024)
    # a bar's height is its rate
    bars = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', page)]
    assert max(bars) == 260 - 42 and round((260 - 42) * 0.75, 1) in bars


def test_what_it_cost(pipeline, tmp_path):
    """Of each stage by hand: its own FLOPs, and those of all before it, made data included, which count once."""
    folders, _ = pipeline
    made = Ledger("made.jsonl", {})
    made.add("teacher", 70_000, 30_000)
    write_ledger(tmp_path / "made.jsonl", made.found())
    for i, folder in enumerate(folders[:3]):
        ledger = Ledger(folder, {})
        if i:
            ledger.inherit(folders[i - 1], checkpoint=True)
            ledger.inherit(tmp_path / "made.jsonl")
        else:
            ledger.inherit(tmp_path / "downloaded", checkpoint=True)
        ledger.add("training", 10_000 * (i + 1), 20_000)
        write_ledger(folder, ledger.found())
    records = (folders[1] / "log.jsonl").read_text().splitlines()
    result = json.loads(records[-1])
    used = {"share": 0.75, "tokens": 12_000, "unique_tokens": 40_000, "epochs": 0.3}
    result["result"]["mixture"] = [{"source": "made.jsonl"} | used]
    result["result"]["prompts"] = [{"source": "world:ops=9", "share": 1, "prompts": 64, "unique_prompts": 32, "epochs": 2}]
    (folders[1] / "log.jsonl").write_text("\n".join([*records[:-1], json.dumps(result)]))
    page, _ = make(tmp_path, folders)
    text = check(page)
    rows = [re.sub("<[^>]+>", " ", row).split() for row in re.findall("<tr>.*?</tr>", page)]
    assert ["base", "20k", "–", "0", "10k", "0", "0", "0", "10k", "10k"] in rows
    assert ["mid", "20k", "40k", "0", "20k", "0", "0", "70k", "20k", "100k"] in rows
    assert ["sft", "20k", "–", "0", "30k", "0", "0", "70k", "30k", "130k"] in rows
    assert ["dpo"] + ["–"] * 9 in rows                    # of an older version
    assert ["mid", "made.jsonl", "75.0%", "12k", "40k", "0.30"] in rows
    assert "lower bounds" in text and "downloaded" in text and "64 prompts" in text


def test_missing_pieces(pipeline, tmp_path):
    folders, evaluation = pipeline
    page, result = make(tmp_path, folders[:1])                                # one run, measured by itself only
    assert "gain" not in result and "Verified pass@1" in check(page) and "grpo" not in page

    page, result = make(tmp_path, folders[1:3], "--overwrite")                # no RL: the last stage and the one before
    assert (result["before"], result["after"], result["gain"]) == ("mid", "sft", [0, 0, 0])
    assert "does not measurably move" in check(page)

    rows = {str(f): {SPEC: [{k: v for k, v in r.items() if k != "right"} for r in found[SPEC]["rows"]]}
            for f, found in json.loads(evaluation.read_text())["results"].items()}
    evaluation.write_text(json.dumps({"k": [1]} | rows))                      # evaluate.py's last line of output
    page, result = make(tmp_path, folders, "--overwrite", "--evaluation", evaluation)
    assert result["gain"] is None and "no interval" in check(page) and "Verified pass@k" not in page

    for folder in folders:                                                    # no evaluation at all
        log = (folder / "log.jsonl").read_text().splitlines()
        (folder / "log.jsonl").write_text("\n".join(log[:-1]) + '\n{"step": 61, "lo')
    page, result = make(tmp_path, folders, "--overwrite")
    text = check(page)
    assert "Nothing was measured" in text and "not finished: step 60 of 60" in text and "last line is cut off" in text

    (folders[0] / "log.jsonl").write_text(log[0] + "\n" + json.dumps({"resumed_at": 0}))
    (folders[1] / "log.jsonl").write_text("")                                 # zero records, and not even a first one
    text = check(make(tmp_path, folders[:2], "--overwrite")[0])
    assert "No step was logged" in text and "the log is empty" in text and "resumed at step 0" in text


def test_values_that_are_no_numbers_are_not_drawn(tmp_path):
    stage = Stage(tmp_path, records=[{"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": None},
                                     {"step": 4, "loss": math.inf}, {"step": 5}])
    assert stage.curve("loss") == [(2, 1.0)] and "nan" not in sections.training([stage])


def test_runs_that_were_moved_keep_their_evaluation(pipeline, tmp_path):
    folders, evaluation = pipeline
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    moved = [tmp_path / "moved" / f.name for f in folders]
    assert make(tmp_path, moved, "--evaluation", evaluation)[1]["gain"] == [0.5, 0.5, 0.5]
    other = tmp_path / "other" / "base"                                       # the same last name as one that is there
    shutil.copytree(moved[0], other)
    stages = [reading.read_stage(f) for f in (moved[0], other)]
    evaluation.write_text(json.dumps({"results": {str(moved[0]): measured([1, 1], True)}}))
    reading.read_evaluation(evaluation, stages)
    assert stages[0].tables and not stages[1].tables


@pytest.mark.parametrize("whole", [True, False])
def test_benchmarks_and_probes_stand_beside_other_measurements(pipeline, tmp_path, whole):
    """Of a file of evaluate.py, and of its last line."""
    folders, evaluation = pipeline
    scores = {"benchmark": "GSM8K", "problems": 2, "right": {"rl": [[1, 1], [0, 1]]},
              "rl": {"asked": "chat", "accuracy": {"pass@1": [0.25, 0, 1]}}, "few-shot": {"accuracy": {"pass@1": [0.75, 0, 1]}}}
    probed = [{"share": 0.4, "problems": 2, "exact": [0, 0, 0], "rouge_l": [0.1, 0, 1], "answer": [0.125, 0, 1]}]
    found = {str(folders[-1]): {"benchmark:gsm8k": scores, "contamination:world:x": {"rows": probed} if whole else probed}}
    evaluation.write_text(json.dumps({"results": found} if whole else {"k": [1], "gain": []} | found))
    page, _ = make(tmp_path, folders, "--evaluation", evaluation)
    for part in ("GSM8K, rl: pass@1", "GSM8K, few-shot: pass@1", "contamination:world:x, 40% of a question shown", "0.75",
                 "0.12"):
        assert part in page, part
    assert "Nothing was measured" not in page


def test_own_greedy_accuracies_do_not_stand_beside_sampled_ones(pipeline, tmp_path):
    folders, evaluation = pipeline
    stages = [reading.read_stage(f) for f in folders[:2]]
    for stage in stages:
        stage.add("q.jsonl", {"accuracy": {"pass@1": [0.5, 0, 1]}})
        stage.add("held.txt", {"bits_per_byte": 2.0})
    evaluation.write_text(json.dumps({"results": {str(folders[1]): {"q.jsonl": {"accuracy": {"pass@1": [0.1, 0, 1]}}}}}))
    reading.read_evaluation(evaluation, stages)
    assert [s.others.get("q.jsonl: pass@1") for s in stages] == [None, [0.1, 0, 1]]
    assert all(s.others["held.txt: bits per byte"] == [2.0] for s in stages)


def test_bad_input_is_one_line(pipeline, tmp_path):
    folders, evaluation = pipeline
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text('{"runs/x": {}}')
    (tmp_path / "rows.json").write_text(json.dumps({"results": {str(folders[0]): {"world:tiny": {"rows": [1], "samples": []}}}}))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "log.jsonl").write_text('{"flags": {}}\nnonsense\n{"step": 1}\n')
    (tmp_path / "there.html").write_text("mine")
    new = ("--out", tmp_path / "new.html")
    for command, said in (
        (("--runs", tmp_path / "nowhere", *new), "no such folder"),
        (("--runs", tmp_path / "empty", *new), "no log.jsonl"),
        (("--runs", damaged, *new), "line 2"),
        (("--runs", folders[0], "--out", tmp_path / "there.html"), "--overwrite"),
        (("--runs", folders[0], "--evaluation", tmp_path / "list.json", *new), "list.json"),
        (("--runs", folders[0], "--evaluation", tmp_path / "other.json", *new), "runs/x"),
        (("--runs", folders[0], "--evaluation", tmp_path / "none.json", *new), "none.json"),
        (("--runs", folders[0], "--evaluation", tmp_path / "rows.json", *new), "world:tiny is not what evaluate.py writes"),
        (("--runs", *new), "--runs"),
    ):
        done = script("report.py", *command, ok=False)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "new.html").exists() and (tmp_path / "there.html").read_text() == "mine"


@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser_nothing_is_wider_than_the_window(pipeline, tmp_path, width):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not browser:
        pytest.skip("no Chromium")
    page, _ = make(tmp_path, pipeline[0], "--evaluation", pipeline[1])
    # headless windows have a least width, so the page is looked at through a frame
    measure = """<script>addEventListener("load", () => { const d = frames[0].document;
        document.title = [d.documentElement.scrollWidth, d.querySelectorAll("svg.plot").length].join(" ") })</script>"""
    frame = f'<iframe src="out.html" style="width:{width}px; height:800px; border:0">'
    (tmp_path / "frame.html").write_text(measure + frame)
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                           "--disable-background-networking", "--disable-component-update", "--disable-sync",
                           "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
                           (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=HANG)
    found = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    assert int(found[1]) <= width and int(found[2]) > 20


@pytest.mark.parametrize("ended", ["--until-accuracy", "--until-loss", "--max-epochs", ""])
def test_a_stage_that_ended_as_it_was_meant_to_is_finished(ended, tmp_path):
    (tmp_path / "mid").mkdir()
    result = {"steps": 120, "loss": 0.5} | ({"ended_by": ended} if ended else {})
    records = [{"flags": {"steps": 600, "until_accuracy": 0.9, "until_loss": 0.0, "max_epochs": 2.0}, "script": "sft.py"},
               {"step": 120, "loss": 0.5}, {"result": result, "step": 120}]
    (tmp_path / "mid/log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    code, _, err = run_main(report, "--runs", tmp_path / "mid", "--out", tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    assert code == 0, err
    assert ("not finished: step 120 of 600" in page) == (not ended)
    assert ended == "" or f"<dt>ended by</dt><dd>{ended}" in page
