"""Data made by models: what is kept, dropped and counted, in which form, and that the training scripts read it."""

import json
from types import SimpleNamespace

import pytest
from conftest import script
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import augment
import dpo
import sft
from formats.chat import split_thinking
from sampler import Completion
from sources.conversations import Pairs, open_conversations
from tasks.problems import load_problems
from transforms.parts import teachers, turns

WORLD = "world:ops=1-3,split=sft"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("augment") / "init", tokenizer)


@pytest.fixture
def answers(monkeypatch, tokenizer):
    """Replaces the sampler: answers.say(side, problem, sample) -> text, or (text, "length") for one that is cut off."""
    told = SimpleNamespace(prompts=[], say=None)

    class Told:
        def __init__(self, model, tokenizer, rows):
            pass

        def generate(self, prompts, n, *_, **__):
            told.prompts.append([tokenizer.decode(p) for p in prompts])
            side, found = len(told.prompts) - 1, []
            for i, prompt in enumerate(prompts):
                found.append([])
                for j in range(n):
                    text = told.say(side, i, j)
                    text, finish = text if isinstance(text, tuple) else (text, "stop")
                    end = [tokenizer.im_end] if finish == "stop" else []
                    think, text = text.startswith("<think>"), text.removeprefix("<think>")
                    before, closed, after = text.partition("</think>")
                    ids = [tokenizer.think] * think + tokenizer.encode(before)
                    ids += [tokenizer.end_think] * bool(closed) + tokenizer.encode(after) + end
                    found[-1].append(Completion(prompt, ids, [0.0] * len(ids), finish))
            return found
    monkeypatch.setattr(teachers, "Sampler", Told)
    return told


def chat(problem, answer=None):
    return f"<think>\n{problem.reasoning}\n</think>\n\nAnswer: {answer or problem.answer}"


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pairs_differ_in_what_they_say_and_not_in_form(folder, answers, tmp_path, tokenizer):
    problems = load_problems(WORLD, 6)

    def say(side, i, _):
        if i == 3:
            return chat(problems[3]) if side == 0 else problems[3].solution    # equal but for the form
        if i == 4:
            return (chat(problems[4]), "length") if side == 0 else "Answer: 1"
        if i == 5:
            return chat(problems[5]) if side == 0 else "\n"
        return chat(problems[i]) if side == 0 else problems[i].solution.rpartition("\n")[0] + "\nAnswer: 77"
    answers.say, out = say, tmp_path / "sub" / "pairs.jsonl"
    code, result, err = run_main(augment, "pairs", "--strong", folder, "--weak", folder, "--weak-plain",
                                 "--data", WORLD, "--count", 6, "--out", out)
    assert code == 0, err
    rows = sorted(read(out), key=lambda r: [p.question for p in problems].index(r["prompt"]))
    assert [r["prompt"] for r in rows] == [p.question for p in problems[:3]]
    for row, problem in zip(rows, problems):
        assert row["chosen"] == chat(problem) and row["rejected"] == chat(problem, 77)
        assert row["chosen_right"] and not row["rejected_right"]
    assert (result["written"], result["problems"], result["equal"], result["cut_off_or_empty"]) == (3, 6, 1, 2)
    assert result["strong_verified"][0] == round(5 / 6, 4) and result["weak_verified"][0] == round(1 / 6, 4)
    assert result["chosen_verified"][0] == 1 and result["rejected_verified"][0] == 0 and "no more often" not in err
    strong, weak = answers.prompts
    assert strong[0] == f"<|im_start|>user\n{problems[0].question}<|im_end|>\n<|im_start|>assistant\n"
    assert weak[0] == f"{problems[0].question}\n"
    assert Pairs(str(out), tokenizer, 512).count == 3


def test_a_strong_side_that_is_no_better_is_said(folder, answers, tmp_path):
    problems = load_problems(WORLD, 4)
    answers.say = lambda side, i, _: chat(problems[i], 55 + side)
    code, result, err = run_main(augment, "pairs", "--strong", folder, "--weak", folder, "--data", WORLD, "--count", 4,
                                 "--out", tmp_path / "p.jsonl")
    assert code == 0 and result["written"] == 4 and "right no more often than the rejected" in err


def test_rejection_sampling_keeps_the_verified_and_different(folder, answers, tmp_path, tokenizer):
    problems = load_problems(WORLD, 3)
    answers.say = lambda _, i, j: {0: chat(problems[i]), 1: chat(problems[i]), 2: chat(problems[i], 99),
                                   3: f"Answer: {problems[i].answer}"}[j] if i else chat(problems[0], 99)
    out = tmp_path / "kept.jsonl"
    args = ["reject", "--init", folder, "--data", WORLD, "--count", 3, "--samples", 4]
    code, result, err = run_main(augment, *args, "--out", out)
    assert code == 0, err
    # of problems 1 and 2 one of two equal right answers; the right number without steps does not count in the world
    assert result["written"] == 2 and result["repeated"] == 2 and result["problems_solved"] == 0.6667
    assert result["verified"][0] == pytest.approx(4 / 12, abs=1e-4)
    for row in read(out):
        problem = next(p for p in problems if p.question == row["messages"][0]["content"])
        assert row["messages"][1] == {"role": "assistant", "content": f"Answer: {problem.answer}",
                                      "reasoning": problem.reasoning}
    assert open_conversations(str(out), tokenizer, 512).count == 2
    answers.say = lambda _, i, j: chat(problems[i]) + ("." if j else "")
    assert run_main(augment, *args, "--keep", 1, "--out", tmp_path / "one.jsonl")[1]["written"] == 3


def test_distilling_keeps_everything_and_knows_modes_and_files(folder, answers, tmp_path, tokenizer):
    questions = [{"question": f"What is {i} + 1?", "answer": f"Easy.\n#### {i + 1}"} for i in range(5)]
    data, out = write_rows(tmp_path / "q.jsonl", questions), tmp_path / "d.jsonl"
    answers.say = lambda _, i, j: "Answer: 3"
    code, result, err = run_main(augment, "distill", "--init", folder, "--data", data, "--mode", "no_think",
                                 "--out", out)
    assert code == 0 and result["written"] == 5 and result["verified"][0] == 0.2, err
    assert answers.prompts[0][0].endswith(" /no_think<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    for row in read(out):
        assert row["messages"][0]["content"].endswith("? /no_think")
        assert row["messages"][1] == {"role": "assistant", "content": "Answer: 3", "reasoning": ""}
    ids, weights = open_conversations(str(out), tokenizer, 512).get(0)
    assert tokenizer.decode(ids[weights > 0]) == "Answer: 3<|im_end|>"


@pytest.mark.parametrize("text", ["4", "<think>\nadd\n</think>\n\n4", "<think>\n\n</think>\n\n4"])
def test_text_of_is_the_inverse_of_split_thinking(text):
    assert turns.text_of(*split_thinking(text)) == text and turns.turn_of(text, False) == split_thinking(text)


def test_the_plain_form(tokenizer):
    assert turns.turn_of("a 1 + 2 = b 3\nAnswer: 3\n", True) == ("a 1 + 2 = b 3", "Answer: 3")
    assert turns.turn_of("Answer: 3", True) == ("", "Answer: 3") and turns.turn_of(" \n", True) == ("", "")


def test_from_checkpoints_to_training(folder, tokenizer, tmp_path):
    """The commands as a user runs them, with random models, whose nonsense is packed, learned and counted."""
    other = tiny_checkpoint(tmp_path / "other", tokenizer, seed=1)
    few = ["--count", 8, "--max-new-tokens", 300, "--temperature", 1.5, "--data", WORLD]
    made = script("augment.py", "pairs", "--strong", folder, "--weak", other, "--weak-plain", *few,
                  "--out", tmp_path / "p.jsonl")
    assert made.json["written"] >= 1
    assert made.json["written"] + made.json["equal"] + made.json["cut_off_or_empty"] == 8
    assert "no more often than the rejected" in made.stderr
    taught = run_main(augment, "distill", "--init", folder, *few, "--out", tmp_path / "d.jsonl")[1]
    assert taught["written"] >= 1
    flags = ["--init", folder, "--steps", 2, "--seq-len", 1600, "--batch-tokens", 1600]
    assert run_main(sft, *flags, "--data", tmp_path / "d.jsonl", "--out", tmp_path / "sft")[0] == 0
    assert run_main(dpo, *flags, "--data", tmp_path / "p.jsonl", "--out", tmp_path / "dpo")[0] == 0
    # the draws depend on the seed alone
    again = run_main(augment, "distill", "--init", folder, *few, "--rows", 3, "--out", tmp_path / "e.jsonl")[1]
    assert again["written"] == taught["written"]
    assert (tmp_path / "d.jsonl").read_text() == (tmp_path / "e.jsonl").read_text()
    nothing = run_main(augment, "reject", "--init", folder, *few, "--samples", 1, "--out", tmp_path / "r.jsonl")
    assert nothing[1]["written"] == 0 and "nothing was kept" in nothing[2] and (tmp_path / "r.jsonl").read_text() == ""


@pytest.mark.parametrize("flags, message", [
    ("distill --data world:ops=1", "--count is needed with a world"),
    ("distill --data no.jsonl", "no.jsonl: no such file"),
    ("distill --data world:ops=1 --count 2 --plain --mode think", "plain text has no modes"),
    ("distill --data world:ops=1 --count -1", "--count: -1: use a whole number"),
    ("distill --data world:ops=1 --count 1 --colour", "--colour"),
    ("distill --data world:ops=1 --count 1 --init nowhere", "nowhere/config.json: no such file"),
    ("reject --data world:ops=1 --count 1 --samples 0", "--samples: 0: use a whole number")])
def test_bad_flags_are_one_line(folder, tmp_path, flags, message):
    command, *rest = flags.split()
    assert message in refusal(augment, command, "--init", folder, "--out", tmp_path / "o.jsonl", *rest)
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize("name", ["o.jsonl.gz", "o.parquet", "o.txt", "o.json"])
def test_a_name_that_says_another_kind_of_file_is_refused(folder, tmp_path, name):
    line = refusal(augment, "distill", "--init", folder, "--data", "world:ops=1", "--count", 1, "--out", tmp_path / name)
    assert "use a name that ends in .jsonl" in line and not list(tmp_path.iterdir())


def test_an_existing_file_is_left_alone(folder, tmp_path):
    out = tmp_path / "o.jsonl"
    out.write_text("mine")
    assert "exists already" in refusal(augment, "distill", "--init", folder, "--data", "world:ops=1", "--out", out)
    assert out.read_text() == "mine"
