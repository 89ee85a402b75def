"""Rewards and tasks in a user's own file: --reward my_rewards.py:brevity, --task my_task.py:MyTask."""

import json

import pytest
from helpers import refusal, run_main, state_of, tiny_checkpoint

import augment
import distill
import evaluate
import grpo
from formats import plugins
from rl.prompts import Prompts
from tasks.problems import load_problems, open_task
from tasks.rewards import REWARDS, parse_rewards, score_group
from tasks.task import Problem, Reply, Verdict, prompt_ids

BREVITY = "def brevity(problem, reply, group):\n    return 1 / (1 + len(reply.text))\n"
TASK = """
from tasks.task import Problem

class Doubling:
    def problem(self, i):
        return Problem(f"Twice {i}?", str(2 * i))

    def prompt(self, problem, mode):
        return f"Compute. {problem.question}"

    def grade(self, problem, reply):
        return problem.answer in reply.text

class Bare:
    count = 3
    def problem(self, i):
        return Problem(f"Number {i}?", str(i))
"""


@pytest.fixture
def folder(tmp_path, tokenizer, monkeypatch):
    """A checkpoint in the current folder, where users' files are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text(BREVITY)
    (tmp_path / "my_task.py").write_text(TASK)
    return tiny_checkpoint(tmp_path / "tiny", tokenizer)


FEW = ["--steps", 2, "--prompts", 2, "--group", 2, "--max-new-tokens", 4, "--mode", "plain", "--seed", 3]


def train(folder, *flags, out="run"):
    """grpo.py for two steps: exit code, records of its log, standard error."""
    code, _, err = run_main(grpo, "--init", folder, "--out", out, *FEW, *flags)
    return code, [json.loads(line) for line in open(f"{out}/log.jsonl")][1:], err


# rewards

def test_a_reward_of_a_file_is_mixed_with_others_by_weight(folder):
    mix = parse_rewards("answer:2+my_rewards.py:brevity:0.5")
    assert [(r.name, r.weight) for r in mix] == [("answer", 2), ("my_rewards.py:brevity", 0.5)]
    [score] = score_group(Problem("2 + 3?", "5"), [Reply("\\boxed{5}")], mix)
    assert score.reward == 2 + 0.5 / 10 and score.parts == {"answer": 1, "my_rewards.py:brevity": 1 / 10}
    assert parse_rewards("my_rewards.py:brevity")[0].weight == 1


def test_what_a_file_imports_and_defines_stays_the_same_for_all_its_names(folder, tmp_path):
    (tmp_path / "two.py").write_text("seen = []\ndef a(p, r, g):\n    seen.append(1)\n    return 0\n"
                                     "def b(p, r, g):\n    return len(seen)\n")
    [score] = score_group(Problem("q", "5"), [Reply("x")], parse_rewards("two.py:a+two.py:b"))
    assert score.reward == 1


@pytest.mark.parametrize("flags, message", [
    (["--reward", "none.py:brevity"], "none.py: no such file"),
    (["--reward", "my_rewards.py:levity"], "my_rewards.py has no levity (it has: brevity)"),
    (["--reward", "my_rewards.py:brevity:x"], "'x' is not a number"),
    (["--reward", "strict+my_rewards.py:brevity", "--data", "my_task.py:Doubling"], "'strict' checks steps, and my_task.py"),
    (["--reward", "broken.py:f"], "broken.py, line 2: SyntaxError"),
    (["--reward", "raises.py:f"], "raises.py, line 3: ZeroDivisionError: division by zero"),
    (["--reward", "raises.py:f+my_rewards.py:brevity"], "raises.py, line 3: ZeroDivisionError"),
    (["--reward", "my_rewards.py:BREVITY"], "has no BREVITY"),
    (["--task", "my_task.py:Trebling"], "my_task.py has no Trebling (it has: Doubling, Bare)"),
    (["--task", "my_task.py"], "use FILE.py:NAME"),
    (["--data", "my_task.py:Problem@0.5"], "must be a class with a method problem(i)"),
    (["--data", "none.py:MyTask@0.5"], "none.py: no such file"),
    ([], "give --data or --task")])
def test_what_cannot_be_loaded_is_one_line_before_anything_is_written(folder, tmp_path, flags, message):
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "raises.py").write_text("def f(p, r, g):\n    return 1\n1 / 0\n")
    data = [] if {"--data", "--task"} & set(flags) or not flags else ["--data", "world:ops=1"]
    before = sorted(tmp_path.rglob("*"))
    assert message in refusal(grpo, "--init", folder, "--out", "run", *FEW, *data, *flags)
    assert sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in str(p)) == before


@pytest.mark.parametrize("body, message", [
    ("    return {}[reply.text]", "rewards2.py, line 3: KeyError"), ("    return None", "rewards2.py:f: TypeError"),
    ("    return float('nan')", "rewards2.py:f: ValueError: the reward is nan")])
def test_a_reward_that_fails_at_the_first_step_ends_the_run(folder, tmp_path, body, message):
    (tmp_path / "rewards2.py").write_text(f"\ndef f(problem, reply, group):\n{body}\n")
    line = refusal(grpo, "--init", folder, "--out", "run", "--data", "world:ops=1", *FEW, "--reward", "answer+rewards2.py:f")
    assert message in line and not (tmp_path / "run" / "train_state.pt").exists()
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1           # the flags, and no step


def test_a_reward_of_ours_that_fails_at_the_first_step_ends_the_run_as_well(folder, tmp_path, monkeypatch):
    def broken(problem, reply, group):
        return {}[reply.text]
    monkeypatch.setitem(REWARDS, "broken", broken)
    line = refusal(grpo, "--init", folder, "--out", "run", "--data", "world:ops=1", *FEW, "--reward", "answer+broken")
    assert f"reward broken: tasks/test_plugins.py, line {broken.__code__.co_firstlineno + 1}: KeyError" in line
    assert not (tmp_path / "run" / "train_state.pt").exists()


def test_a_reward_that_fails_later_is_counted_and_said(folder, tmp_path):
    (tmp_path / "later.py").write_text("calls = []\ndef f(problem, reply, group):\n    calls.append(1)\n"
                                       "    if len(calls) == 6:\n        raise KeyError('six')\n    return len(calls)\n")
    code, records, err = train(folder, "--data", "world:ops=1", "--reward", "later.py:f")
    assert code == 0 and records[0]["reward"] == (1 + 2 + 3 + 4) / 4 and "failed_rewards" not in records[0]
    assert records[1]["reward"] == (5 + 0 + 7 + 8) / 4
    assert [failure[:2] for failure in records[1]["failed_rewards"]] == [["later.py:f", "later.py, line 5: KeyError: 'six'"]]
    assert "step 2: reward later.py:f failed on a completion, counted as 0: later.py, line 5: KeyError: 'six'" in err


def test_a_reward_that_fails_in_the_first_step_after_a_resume_is_counted_too(folder, tmp_path):
    (tmp_path / "later.py").write_text("import os\ndef f(problem, reply, group):\n    if os.path.exists('late'):\n"
                                       "        raise KeyError('late')\n    return 1.0\n")
    flags = ["--init", folder, "--out", "run", "--data", "world:ops=1", *FEW, "--reward", "later.py:f", "--schedule", "constant",
             "--warmup", 0]
    assert run_main(grpo, *flags, "--steps", 1)[0] == 0
    (tmp_path / "late").touch()
    code, _, err = run_main(grpo, *flags, "--steps", 2, "--resume")
    assert code == 0 and "step 2: reward later.py:f failed on a completion, counted as 0" in err


@pytest.mark.parametrize("late, flags, message", [
    (TASK.replace("return Problem(f\"Twice", "{}[i] if i == 5 else 0\n        return Problem(f\"Twice"),
     ["--task", "late.py:Doubling"], "late.py, line 6: KeyError: 5"),
    ("calls = []\ndef f(problem, reply, group):\n    calls.append(1)\n    return -(len(calls) > 9)\n",
     ["--data", "world:ops=1", "--reward", "late.py:f", "--scale", "mean"], "--scale mean divides by the mean reward"),
    (TASK.replace("str(2 * i))", "str(2 * i), 'So.' * (i < 5))"),
     ["--task", "late.py:Doubling", "--hint", "{question} {solution}"], "late.py:Doubling has no solution: Twice 5?")])
def test_what_fails_later_in_training_ends_the_run_with_its_steps_saved(folder, tmp_path, late, flags, message):
    (tmp_path / "late.py").write_text(late)
    script = distill if "--hint" in flags else grpo
    code, _, err = run_main(script, "--init", folder, "--out", "run", *FEW, *flags, "--steps", 9)
    assert code == 2 and message in err and "Traceback" not in err
    assert state_of(tmp_path / "run")["step"] == 2 and (tmp_path / "run" / "model.safetensors").exists()


def test_a_run_does_not_go_on_with_another_reward_or_task(folder, tmp_path):
    flags = ["--task", "my_task.py:Doubling", "--reward", "answer+my_rewards.py:brevity"]
    assert train(folder, *flags)[0] == 0
    (tmp_path / "my_rewards.py").write_text(BREVITY.replace("1 /", "2 /"))
    again = ["--init", folder, "--out", "run", *FEW, *flags, "--resume"]
    assert "--reward my_rewards.py has changed" in refusal(grpo, *again)
    (tmp_path / "my_rewards.py").write_text(BREVITY)
    (tmp_path / "my_task.py").write_text(TASK + "\n")
    assert "--data my_task.py:Doubling has changed" in refusal(grpo, *again)


# tasks

def test_a_task_of_a_file_is_asked_and_graded_as_it_says(folder, tokenizer):
    task = open_task("my_task.py:Doubling")
    p = task.problem(4)
    assert (p.question, p.answer, p.source, task.count) == ("Twice 4?", "8", "my_task.py:Doubling", None)
    assert task.prompt(p, "plain") == "Compute. Twice 4?"
    assert task.prompt(p, "think") == [{"role": "user", "content": "Compute. Twice 4? /think"}]
    assert prompt_ids(tokenizer, p, "plain") == tokenizer.encode("Compute. Twice 4?")
    assert prompt_ids(tokenizer, p, "no_think") == tokenizer.chat_prompt([{"role": "user",
                                                                          "content": "Compute. Twice 4? /no_think"}])
    assert [task.grade(p, Reply(text)).right for text in ("it is 8", "9")] == [True, False]
    [score] = score_group(p, [Reply("it is 8")], parse_rewards("answer", "my_task.py:Doubling"))
    assert (score.reward, score.verdict.answer_ok, score.verdict.process_ok) == (1, True, None)
    assert [p.question for p in load_problems("my_task.py:Doubling", 2)] == ["Twice 0?", "Twice 1?"]
    with pytest.raises(ValueError, match="never ends; set a limit"):
        load_problems("my_task.py:Doubling")


def test_a_task_that_says_no_more_is_asked_and_graded_as_a_file_of_questions(folder):
    task = open_task("my_task.py:Bare")
    p = task.problem(2)
    assert task.prompt(p, "plain") == "Number 2?\n"
    assert task.grade(p, Reply("So \\boxed{2}")).right and not task.grade(p, Reply("\\boxed{3}")).right
    assert [p.question for p in load_problems("my_task.py:Bare")] == ["Number 0?", "Number 1?", "Number 2?"]
    asked = [Prompts(["my_task.py:Bare"]).problem(0, i).question for i in range(6)]
    assert sorted(asked[:3]) == sorted(asked[3:]) == ["Number 0?", "Number 1?", "Number 2?"]


@pytest.mark.parametrize("method, message", [
    ("def problem(self, i): return {}", r"bad\.py:T: problem\(0\) gave \{\}; return a tasks\.task\.Problem"),
    ("def problem(self, i): return Problem('q', 2 * i)", r"bad\.py:T: the answer of problem\(0\) gave 0; return text"),
    ("def problem(self, i): return Problem(None, 'a')", r"bad\.py:T: the question of problem\(0\) gave None; return text"),
    ("def problem(self, i): return [][i]", r"bad\.py, line 3: IndexError"),
    ("def prompt(self, p, mode): return 3", r"bad\.py:T: prompt\(\) gave 3; return text"),
    ("def grade(self, p, r): return 'yes'", r"bad\.py:T: grade\(\) gave 'yes'; return True, False")])
def test_what_a_task_gives_is_checked(folder, tmp_path, method, message):
    good = "" if "problem" in method else "\n    def problem(self, i): return Problem('q', 'a')"
    (tmp_path / "bad.py").write_text(f"from tasks.task import Problem\nclass T:\n    {method}{good}\n")
    plugins.sys.modules.pop(str(tmp_path / "bad.py"), None)
    task = open_task("bad.py:T")
    with pytest.raises(plugins.PluginError, match=message):
        p = task.problem(0)
        task.prompt(p, "plain")
        task.grade(p, Reply("x"))
    flags = ["--init", folder, "--out", "run", *FEW, "--task", "bad.py:T"]
    assert "bad.py" in refusal(grpo, *flags)


OWN = """
from tasks.task import Problem

class Own:
    def problem(self, i):
        return Problem(f"Twice {i}?", str(2 * i))

    def examine(self, problem, replies):
        self.most = max(1, *(len(reply.text) for reply in replies))

    def score(self, problem, reply, group):
        return len(reply.text) / self.most

    def reply(self, problem):
        return "Add.", f"It is {problem.answer}"

    def useful_calls(self, problem):
        return ["1 + 1"]
"""


def test_what_else_a_task_says_is_used(folder, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    task = open_task("own.py:Own")
    p = task.problem(4)
    task.examine(p, [Reply("12"), Reply("1234")])
    assert [s.reward for s in score_group(p, [Reply("12"), Reply("1234")], parse_rewards("score"))] == [0.5, 1.0]
    assert task.messages(p) == [{"role": "assistant", "content": "It is 8", "reasoning": "Add."}]
    assert task.useful_calls(p) == ["1 + 1"]
    code, records, err = train(folder, "--task", "own.py:Own", "--reward", "score")
    assert code == 0 and all(0 <= r["reward"] <= 1 for r in records[:2]), err
    assert "own.py:Own: the score of its own is paid by --reward score" in refusal(
        grpo, "--init", folder, "--out", "other", *FEW, "--task", "own.py:Own", "--reward", "answer")
    assert open_task("my_task.py:Doubling").own_reward == ""


@pytest.mark.parametrize("base", ["", "(Task)"])
@pytest.mark.parametrize("line", ["lessons = 3", "tools = [1]", "def prepare(self, tokenizer, device): pass", "by_gain = True"])
def test_what_a_task_says_in_vain_is_refused(folder, tmp_path, base, line):
    body = f"class T{base}:\n    {line}\n    def problem(self, i): return Problem('q', 'a')\n"
    (tmp_path / "vain.py").write_text(f"from tasks.task import Problem, Task\n{body}")
    plugins.sys.modules.pop(str(tmp_path / "vain.py"), None)
    with pytest.raises(plugins.PluginError, match=r"vain\.py:T: \w+ would not be used in a task of your own"):
        open_task("vain.py:T")


def test_a_prompt_in_parts_is_evaluated(folder, tmp_path):
    (tmp_path / "parts.py").write_text(TASK.replace(
        'f"Compute. {problem.question}"',
        '[{"role": "user", "content": [{"type": "text", "text": t} for t in ("Compute. ", problem.question)]}]'))
    code, result, err = run_main(evaluate, "--init", folder, "--task", "parts.py:Doubling", "--limit", 2, "--chat",
                                 "--user-suffix", " /no_think", "--max-new-tokens", 4)
    assert code == 0 and result[str(folder)]["parts.py:Doubling"]["problems"] == 2, err


def test_a_verdict_of_its_own_may_have_steps(folder, tmp_path):
    (tmp_path / "steps.py").write_text(
        "from tasks.task import Problem, Task, Verdict\nclass Steps(Task):\n    has_steps = True\n"
        "    def problem(self, i):\n        return Problem(f'{i}?', str(i))\n"
        "    def grade(self, problem, reply):\n        return Verdict(True, 'so' in reply.text, 0.5, 'ok')\n")
    mix = parse_rewards("strict+process", "steps.py:Steps")
    task = open_task("steps.py:Steps")
    assert [s.reward for s in score_group(task.problem(1), [Reply("so 1"), Reply("1")], mix)] == [1.5, 0.5]
    assert task.grade(task.problem(1), Reply("so")) == Verdict(True, True, 0.5, "ok")


def test_training_evaluation_and_augmentation_take_a_task(folder, tmp_path, tokenizer):
    (tmp_path / "easy.py").write_text(TASK.replace("problem.answer in reply.text", "len(reply.text) % 2 == 0"))
    code, records, err = train(folder, "--task", "easy.py:Doubling", "--data", "world:ops=1@3", "--show-every", 1,
                               "--reward", "answer", "--steps", 4, "--prompts", 4)
    assert code == 0, err
    asked = [sample["question"] for record in records for sample in record.get("samples", [])]
    assert any(q.startswith("Twice") for q in asked) and any(q.startswith(("Zoo", "School", "Film", "Market")) for q in asked)
    assert json.loads(open("run/log.jsonl").readline())["flags"]["data"] == ["world:ops=1@3", "easy.py:Doubling"]
    code, result, err = run_main(evaluate, "--init", folder, "--task", "easy.py:Doubling", "--limit", 6, "--max-new-tokens", 8,
                                 "--out", "found.json")
    assert code == 0 and result[str(folder)]["easy.py:Doubling"]["problems"] == 6, err
    assert "never ends; set a limit" in refusal(evaluate, "--init", folder, "--task", "easy.py:Doubling")
    code, result, err = run_main(augment, "reject", "--init", folder, "--task", "easy.py:Doubling", "--count", 6,
                                 "--samples", 4, "--max-new-tokens", 200, "--temperature", 1.5, "--out", "kept.jsonl")
    assert code == 0, err
    rows = [json.loads(line) for line in open("kept.jsonl")]
    assert len(rows) == result["written"] > 0 and all(r["messages"][0]["content"].startswith("Compute. Twice") for r in rows)
