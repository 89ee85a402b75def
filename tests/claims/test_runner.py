"""claims/run.py: a claim as a student writes it, run by the scripts themselves; every claim's commands; the refusals."""

import functools
import importlib
import json
import re
import shlex

import pytest
from conftest import ROOT, script

from claims import run, tiny
from claims.runner.claim import HOLDS, OPEN, Setting
from claims.runner.commands import in_order, make
from tasks.options import is_generated, set_apart
from tasks.problems import open_task

CLAIM = '''
"""Training helps: a planted effect. And a planted null: other draws from the same checkpoint."""
from claims.runner.claim import Claim, positive
from claims.runner.commands import make

WORLD = "world:ops=1,contexts=zoo,operators=+,modulus=2,branch=0,split="
SMALL = ["--layers", 2, "--width", 32, "--heads", 4, "--qk-norm", "head", "--batch-tokens", 2048, "--device", "cpu"]


def measured(s, checkpoint, seed=0):
    return make("evaluate.py", "--init", checkpoint, "--data", WORLD + "test", "--problems", 40, "--k", 1, 4, "--temperature", 1,
                "--seed", seed)


def trained(s, words, steps):
    return make("pretrain.py", "--tokenizer", words, "--data", WORLD + "pretrain", *SMALL, "--steps", steps, "--seed", s.seed)


def arms(s):
    words = make("tokenizer.py", "train", "--data", WORLD + "pretrain", "--vocab-size", 400)
    long, short = trained(s, words, STEPS), trained(s, words, 1)
    return {"long": measured(s, long), "short": measured(s, short), "long, again": measured(s, long, seed=1)}


def statistic(r):
    effect = r["long"].rate(of="answered") - r["short"].rate(of="answered")
    return {"effect": effect, "again": r["long, again"].rate(of="answered") - r["long"].rate(of="answered"),
            "both": effect}


CLAIM = Claim(number="1", says="Training helps.", source="a student", theirs="+1", would_show="above 0", arms=arms,
              statistic=statistic, headline="effect", verdict=lambda n: positive(n["effect"]), null="again", oracle="both")
'''


def records(folder):
    return [json.loads(line) for line in (folder / "claims.jsonl").read_text().splitlines()]


def test_a_claim_of_forty_lines(tmp_path):
    """Written, run, and judged: the planted effect holds; where nothing is planted it does not."""
    assert len(CLAIM.strip().splitlines()) <= 40
    for name, steps in (("helps", 100), ("nothing", 1)):
        (tmp_path / f"{name}.py").write_text(CLAIM.replace("STEPS", str(steps)))
    done = script("-m", "claims.run", tmp_path / "helps.py", tmp_path / "nothing.py", "--runs", tmp_path / "runs", "--results",
                  tmp_path, "--jobs", 2)
    helps, nothing = sorted(records(tmp_path), key=lambda r: r["claim"])
    assert (helps["claim"], helps["verdict"], nothing["claim"], nothing["verdict"]) == ("helps", HOLDS, "nothing", OPEN)
    assert helps["numbers"]["effect"][1] > 0.2 and nothing["numbers"]["effect"] == [0, 0, 0] and "oracle" in nothing["why"]
    assert helps["seed"] == 0 and helps["budget"] == "small" and helps["minutes"] > 0 and helps["commands"] == 6
    # what both need was made once: a tokenizer, two bases (one of them shared), and what measures these
    assert "7 commands, 0 of them done before" in done.stderr and len(list((tmp_path / "runs").iterdir())) == 7
    assert helps["costs"]["long"]["tokens"] > 90 * helps["costs"]["short"]["tokens"] > 0
    assert helps["costs"]["long"]["flops"] > 90 * helps["costs"]["short"]["flops"] > 0
    again = script("-m", "claims.run", tmp_path / "helps.py", "--runs", tmp_path / "runs", "--results", tmp_path)
    assert "6 commands, 6 of them done before" in again.stderr and records(tmp_path)[-1]["numbers"] == helps["numbers"]


SCRIPTS = {"pretrain.py": "pretrain", "sft.py": "sft", "grpo.py": "grpo", "dpo.py": "dpo", "augment.py": "augment",
           "mix.py": "mix", "distill.py": "distill"}


@functools.cache
def opened(word):
    """Opens the task of a word that is a SPEC; an option that is unknown or given twice is a ValueError."""
    if isinstance(word, str) and is_generated(spec := word.removeprefix("loss:").partition("@")[0]):
        open_task(set_apart(spec, ("q_weight", "chat"))[0])               # these two are of documents, not of the task


@pytest.mark.parametrize("name", run.all_claims())
def test_the_commands_of_every_claim_are_such_that_the_scripts_take(name):
    """Parsed by the scripts' own flags, at each budget; arms share what they can, and seeds do not."""
    claim, lines = run.find_claim(name), {}
    for setting in (Setting(), Setting(1), Setting(budget="full"), Setting(budget="toy")):
        arms = claim.arms(setting)
        commands = in_order(arms.values())
        lines[setting] = {c.name for c in commands}
        if setting.budget != "toy":                       # where filters that a toy cannot pass are off (Setting.unless_toy)
            assert len(set(arms.values())) == len(arms), "two arms are the same command, so their difference is nothing"
        for command in commands:
            for word in command.words:
                opened(word)
            if command.script in SCRIPTS:
                script_, *words = command.line(ROOT)
                importlib.import_module(SCRIPTS[command.script]).flags().parse_args(words)
    small, other, *_ = lines.values()
    assert len(small & other) <= len(small) / 3, "seeds share what depends on the seed"
    for text in (claim.says, claim.source, claim.theirs, claim.would_show):
        assert text and "\n" not in text
    assert re.match(r"\d+[a-z]?$", claim.number)


def test_every_claim_has_a_number_of_its_own():
    numbers = [run.find_claim(name).number for name in run.all_claims()]
    assert len(set(numbers)) == len(numbers)


def test_the_example_of_the_readme_is_a_claim(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "claims" / "README.md").read_text(), re.S)
    (tmp_path / "my_claim.py").write_text(code)
    done = script("-m", "claims.run", tmp_path / "my_claim.py", "--show", "--budget", "toy", "--runs", tmp_path / "runs")
    lines = [line for line in done.stdout.splitlines() if line.startswith("python ")]
    assert len(lines) == 10 and not (tmp_path / "runs").exists()
    reinforced = [line for line in lines if shlex.split(line)[1] == "grpo.py"]
    assert len(reinforced) == 2 and all("--steps 2 " in line for line in reinforced)
    for word in {word for line in lines for word in shlex.split(line)}:
        opened(word)
    assert done.stdout.startswith("# ") and "(late, RL)" in done.stdout


def refused(*words):
    done = script("-m", "claims.run", *words, ok=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("claims.run: ")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.mark.parametrize("word", ["{}", "{}@0.3", "{}:CLASS", "loss:{}", "needle:length=256,haystack={},seed=1",
                                  "text:{},kind=rlpt@2"])
def test_a_file_that_a_word_names_is_part_of_the_name(tmp_path, word):
    file = tmp_path / "h.txt"
    file.write_text("one")
    command = make("evaluate.py", "--data", word.format(file))
    again = make("evaluate.py", "--data", word.format(file))
    assert command.name == again.name
    file.write_text("two")
    assert make("evaluate.py", "--data", word.format(file)).name != command.name
    assert make("evaluate.py", "--data", "world:" + "x" * 5000).name          # longer than any name of a file


def test_refusals(tmp_path):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "wrong.py").write_text("CLAIM = 3\n")
    (tmp_path / "broken.py").write_text(CLAIM.replace("def arms(s):", "def arms(s):\n    1 / 0"))
    line = CLAIM[:CLAIM.index("def arms")].count("\n") + 2
    assert "--list, --table or --page" in refused()
    assert "no such claim; there are " in refused("nothing") and "no such claim" in refused("tiny")
    assert "has no CLAIM" in refused(tmp_path / "empty.py") and "is no Claim" in refused(tmp_path / "wrong.py")
    assert f"broken.py, line {line}: ZeroDivisionError" in refused(tmp_path / "broken.py", "--runs", tmp_path / "runs")
    assert "no effect without a claim to measure" in refused("--list", "--seed", 1)
    assert "has no result of a claim" in refused("--page", tmp_path / "page.html", "--results", tmp_path)


def test_a_failure_is_told_and_the_exit_code_says_so(tmp_path):
    (tmp_path / "fails.py").write_text(CLAIM.replace('"--vocab-size", 400', '"--vocab-size", 3').replace("STEPS", "2"))
    done = script("-m", "claims.run", tmp_path / "fails.py", "--runs", tmp_path / "runs", "--results", tmp_path, ok=False)
    assert done.returncode == 1 and not (tmp_path / "claims.jsonl").exists() and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "seed 0: no result, because tokenizer-" in last and "exit code 2" in last


def test_an_error_in_one_claim_does_not_stop_the_others(tmp_path):
    """Each is measured by one command, so this is quick. The page shows a claim of a user's too."""
    arms, rest = CLAIM.replace("STEPS", "2").split("def statistic")
    arms = arms[:arms.index("    long, short")] + '    return {"long": words}\n\n\n'
    statistic = 'def statistic(r):\n    return {"effect": 1.0, "again": 0.0, "both": 1.0}\n\n\n'
    good = arms + statistic + rest[rest.index("CLAIM ="):]
    for name, text in (("bad", good.replace('return {"effect": 1.0', 'return {"effect": 1 / 0')), ("good", good)):
        (tmp_path / f"{name}.py").write_text(text)
    done = script("-m", "claims.run", tmp_path / "bad.py", tmp_path / "good.py", "--runs", tmp_path / "runs", "--results",
                  tmp_path, "--page", tmp_path / "page.html", ok=False)
    assert done.returncode == 1 and [r["claim"] for r in records(tmp_path)] == ["good"], done.stderr
    assert "bad" in (last := done.stderr.splitlines()[-1]) and "no result, because" in last and "ZeroDivisionError" in last
    assert "Training helps." in (tmp_path / "page.html").read_text()


def test_toy_results_and_the_table_of_other_results_stay_out(tmp_path):
    assert "--table writes the table of this repository" in refused("--table", "--results", tmp_path)


def test_slots(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert run.slots("cuda", 3) == [{"CUDA_VISIBLE_DEVICES": c} for c in "464"] and len(run.slots("cuda", 0)) == 2
    assert run.slots("cpu", 3) == [{"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}] * 3


def test_budgets():
    assert [[Setting(budget=b).steps(n) for n in (60, 240)] for b in ("small", "full", "toy")] == [[60, 240], [240, 960], [2, 4]]
    words = tiny.tokenizer()
    base = tiny.base(Setting(3), words)
    line = tiny.grpo(Setting(3), base, max_new_tokens=[32, "64@20"], exact=True).line(ROOT)
    assert line[line.index("--max-new-tokens"):][:3] == ["--max-new-tokens", "32", "64@20"] and "--exact" in line
