"""augment.py around the transforms: resumed runs write the same file, the ledger counts right, and a user's transform works."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import HANG, ROOT, script
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import augment
import sft
from sampler import Sampler
from tasks.problems import load_problems
from training.ledger import read_ledger
from transforms import Ask, Item
from transforms.parts import output, teachers

WORLD = "world:ops=1-3,split=sft"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("making") / "init", tokenizer)


def command(folder, out, *more):
    return ["distill", "--init", folder, "--data", WORLD, "--count", 30, "--chunk", 4, "--max-new-tokens", 60, "--samples", 2,
            "--temperature", 1.5, "--out", out, *more]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The file, and the ledger, of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "made.jsonl"
    found = script("augment.py", *command(folder, out)).json
    assert 0 < found["written"] < 60
    return out.read_bytes(), ledger(out)


def ledger(out):
    found = json.loads(out.with_name(out.name + ".ledger.json").read_text())
    found["name"] = found["name"].split()[-1]             # without the path
    found.get("summary", {}).pop("out", None)
    return found


# ---- killed and resumed

def test_a_killed_run_goes_on_to_the_very_same_file(folder, whole, tmp_path):
    out = tmp_path / "made.jsonl"
    started = subprocess.Popen([sys.executable, "augment.py", *map(str, command(folder, out))], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.time() + HANG
    while time.time() < deadline and started.poll() is None:
        if out.exists() and ledger(out)["items"] >= 8:
            started.send_signal(signal.SIGKILL)
            started.wait()
            break
        time.sleep(0.002)
    else:
        raise AssertionError(started.communicate()[1].decode()[-2000:])
    assert 8 <= ledger(out)["items"] < 30 and not ledger(out)["finished"]
    assert "exists already" in refusal(augment, *command(folder, out))
    script("augment.py", *command(folder, out, "--resume"))
    assert (out.read_bytes(), ledger(out)) == whole


@pytest.mark.parametrize("moment", ["before the rows", "within a row", "before the ledger"])
@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_it_may_die_at_any_moment(folder, whole, tmp_path, monkeypatch, moment, chunks):
    out, done = tmp_path / "made.jsonl", []
    write, to_disk = output.Output.write, output.write_ledger

    class Killed(BaseException):
        pass

    def dies(self, items, rows, *more):
        if len(done) == chunks:
            done.append("now")
            if moment == "before the rows":
                raise Killed
            if moment == "within a row":
                self._begin()
                with open(self.path, "ab") as f:
                    f.write(b'{"messages": [{"role"')
                raise Killed
        else:
            done.append("chunk")
        return write(self, items, rows, *more)

    def no_ledger(path, value):
        if moment == "before the ledger" and done[-1:] == ["now"]:
            raise Killed
        return to_disk(path, value)
    with monkeypatch.context() as patch:
        patch.setattr(output.Output, "write", dies)
        patch.setattr(output, "write_ledger", no_ledger)
        with pytest.raises(Killed):
            script("augment.py", *command(folder, out))
    script("augment.py", *command(folder, out, "--resume"))
    assert (out.read_bytes(), ledger(out)) == whole
    script("augment.py", *command(folder, out, "--resume"))                   # nothing is left to do
    assert (out.read_bytes(), ledger(out)) == whole


def test_a_resume_is_refused_where_it_could_not_go_on(folder, tokenizer, tmp_path):
    out = tmp_path / "o"
    data = write_rows(tmp_path / "q.jsonl", [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(4)])
    args = ["distill", "--init", folder, "--data", data, "--max-new-tokens", 4, "--out", out, "--resume"]
    assert run_main(augment, *args)[0] == 0               # there was nothing to resume: it begins
    before = out.read_bytes()
    assert "temperature is another one" in refusal(augment, *args, "--temperature", 1)
    with open(data, "a") as f:
        f.write('{"question": "5 + 5?", "answer": "10"}\n')
    assert f"{data} is another one" in refusal(augment, *args)
    assert out.read_bytes() == before
    (tmp_path / "o.ledger.json").unlink()
    assert "o.ledger.json is missing" in refusal(augment, *args)
    out.write_text("mine")
    assert "exists already" in refusal(augment, *args[:-1]) and out.read_text() == "mine"


def test_ctrl_c_ends_in_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(augment, "make", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = run_main(augment, *command(folder, tmp_path / "o.jsonl"))
    assert code == 130 and "--resume goes on" in err and "Traceback" not in err


# ---- what it cost, and where rows come from

def test_the_ledger_equals_a_count_by_hand(folder, tokenizer, tmp_path, monkeypatch):
    drawn = []

    class Watched(Sampler):
        def generate(self, *args, **more):
            found = super().generate(*args, **more)
            drawn.extend(found)
            return found
    monkeypatch.setattr(teachers, "Sampler", Watched)
    out = tmp_path / "o.jsonl"
    code, found, err = run_main(augment, *command(folder, out))
    assert code == 0, err
    # two layers of width 32, four heads and two kv heads of size 8, a feed-forward of 128; the embedding is the head
    body, head = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 128 + 2 * 32) + 32, len(tokenizer) * 32
    prefill = decode = tokens = 0
    for completions in drawn:
        prompt = len(completions[0].prompt)
        prefill += sum(2 * body + 4 * 2 * 4 * 8 * seen for seen in range(1, prompt + 1))          # once for both samples
        for c in completions:
            tokens += len(c.tokens)
            decode += 2 * head * len(c.tokens)            # each is drawn, and each but the last is fed back
            decode += sum(2 * body + 4 * 2 * 4 * 8 * (prompt + k) for k in range(1, len(c.tokens)))
    cost = ledger(out)["teachers"]["init"]
    assert (cost["prefill_flops"], cost["decode_flops"]) == (prefill, decode)
    assert read_ledger(out)["own"]["teacher"] == prefill + decode == found["flops"]["teacher"] == found["flops"]["total"]
    assert found["flops"]["unknown"] == [str(folder)] and read_ledger(out)["tokens"]["teacher"] == tokens
    assert cost["drawn_tokens"] == tokens and cost["prompt_tokens"] == sum(len(c[0].prompt) for c in drawn)
    assert cost["answers"] == 60 == found["written"] + sum(found["dropped"].values())


def test_every_row_says_where_it_comes_from_and_is_read(folder, tokenizer, tmp_path, whole):
    rows = [json.loads(line) for line in whole[0].splitlines()]
    problems = load_problems(WORLD, 30)
    for row in rows:
        meta = row["meta"]
        assert meta["teacher"] == str(folder) and meta["transform"] == "distill" and meta["seed"] == 0 and meta["tokens"] > 0
        assert meta["source"] == WORLD and row["messages"][0]["content"] == problems[meta["index"]].question
    assert [row["meta"]["item"] for row in rows] == sorted(row["meta"]["item"] for row in rows)
    data = tmp_path / "made.jsonl"
    data.write_bytes(whole[0])
    assert run_main(sft, "--init", folder, "--data", data, "--out", tmp_path / "sft", "--steps", 1, "--seq-len", 512,
                    "--batch-tokens", 512)[0] == 0


def test_questions_drawn_from_a_file_keep_their_numbers(folder, tmp_path):
    data = write_rows(tmp_path / "q.jsonl", [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(30)])
    out = tmp_path / "o.jsonl"
    assert run_main(augment, "distill", "--init", folder, "--data", data, "--count", 9, "--max-new-tokens", 200,
                    "--temperature", 1.5, "--out", out)[0] == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows and all(row["messages"][0]["content"] == f"{row['meta']['index']} + 1?" for row in rows)


def test_a_stop_text_ends_a_completion_where_it_is_complete(tiny, tokenizer):
    sampler = Sampler(tiny, tokenizer, rows=4)
    prompts = ["Zoo. The lions number 3.", "School."]
    free = sampler.generate(prompts, 3, 60, 1.0, seed=1, stop=set())
    for stops in ([("lions",), ("e",)], [(), ("th", "q")]):
        ended = sampler.generate(prompts, 3, 60, 1.0, seed=1, stop=set(), stop_texts=stops)
        for texts, before, after in zip(stops, free, ended):
            for a, b in zip(before, after):
                said = [tokenizer.decode(a.tokens[:k]) for k in range(len(a.tokens) + 1)]
                first = next((k for k, text in enumerate(said) if any(stop in text for stop in texts)), None)
                assert (b.tokens, b.finish) == ((a.tokens[:first], "stop") if first else (a.tokens, "length"))
    assert any(c.finish == "stop" for c in ended[1])


def test_asks_of_an_item_draw_apart(folder):
    """Two asks alike are two draws, so are two rounds; which draws does not depend on the other items or their order."""
    args = augment.flags().parse_args(list(map(str, command(folder, "x", "--plain"))))
    teacher = teachers.open_teacher("init", args)
    items = [Item(n, "q", n, "", None) for n in range(3)]
    asks = [Ask("Zoo. The lions", max_new_tokens=12), Ask("Zoo. The lions", max_new_tokens=12)]
    def texts(order, round=0):
        found, _ = teachers.ask_all({"init": teacher}, [(items[n], asks) for n in order], round)
        return {n: [reply.text for [reply] in replies] for n, replies in zip(order, found)}
    once = texts([0, 1, 2])
    assert len({text for said in once.values() for text in said}) == 6
    assert not {text for said in texts([0, 1, 2], 1).values() for text in said} & {t for said in once.values() for t in said}
    assert texts([2, 0]) == {n: once[n] for n in (2, 0)}


# ---- a transform of one's own

SHOUT = '''
"""Asks twice, and writes in capitals."""
from collections import Counter
from transforms import Ask

class Shout:
    """Writes in capitals."""
    def flags(self, parser):
        parser.add_argument("--mark", default="!")
    def ask(self, item, args, rng):
        return [Ask(item.problem.question + chr(10) + str(rng.random())[:3], n=2, max_new_tokens=3)]
    def ask_again(self, item, answers, args, rng):
        return [Ask(answers[0][0].text + "again", max_new_tokens=2)] if item.number % 2 and len(answers) < 2 else []
    def keep(self, item, answers, args):
        if item.number == 3:
            return [], Counter(too_loud=1)
        texts = [reply.text.upper() + args.mark for replies in answers for reply in replies]
        return [{"text": item.problem.question + texts[-1], "meta": {"asks": len(answers), "of": len(texts)}}], Counter()
    def tally(self, item, answers, args):
        return Counter(seen=1)
    def summary(self, counts, args):
        return {"seen": counts["seen"], "loud": counts["too_loud"]}
'''


def plugins_forget(path):
    """A file is run once in a program; this one is another now."""
    sys.modules.pop(str(path.resolve()))


def test_a_transform_of_a_users_own(folder, tmp_path, monkeypatch):
    own = tmp_path / "my_transform.py"
    own.write_text(SHOUT)
    out = tmp_path / "o.jsonl"
    args = [f"{own}:Shout", "--init", folder, "--plain", "--data", "world:ops=1", "--count", 5, "--chunk", 2, "--mark", "?"]
    code, found, err = run_main(augment, *args, "--out", out)
    assert code == 0, err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert found["written"] == len(rows) == 4 and found["dropped"] == {"too_loud": 1}
    assert (found["seen"], found["loud"]) == (5, 1)
    metas = [row["meta"] for row in rows]
    assert [(m["item"], m["asks"], m["of"]) for m in metas] == [(0, 1, 2), (1, 2, 3), (2, 1, 2), (4, 1, 2)]
    assert all(row["text"].endswith("?") and row["meta"]["transform"].endswith("my_transform.py:Shout") for row in rows)
    assert ledger(out)["teachers"]["init"]["answers"] == 5 * 2 + 2
    monkeypatch.setattr(augment, "ROUNDS", 3)
    run_main(augment, *args, "--out", tmp_path / "again.jsonl", "--chunk", 5)
    assert (tmp_path / "again.jsonl").read_text() == out.read_text()          # whatever the chunks
    own.write_text(SHOUT.replace(" and len(answers) < 2", "") + "\n")
    plugins_forget(own)
    assert "ask_again still asks after 3 rounds" in refusal(augment, *args, "--out", tmp_path / "endless.jsonl")
    assert "Shout is another one" in refusal(augment, *args, "--out", out, "--resume")


@pytest.mark.parametrize("text, words", [
    ("class Shout:\n    def ask(self, item, args, rng):\n        return []\n", "has no function keep"),
    ("class Shout:\n    TAKES = 'all'\n    def ask(self, *_): return []\n    def keep(self, *_): return []\n", "TAKES is 'all'"),
    ("class Shout:\n    def ask(self, *_): return ['x']\n    def keep(self, *_): return []\n", "ask gave ['x']; return a list"),
    ("class Shout:\n    def ask(self, *_): return []\n    def keep(self, *_): return [{}]\n", "keep gave [{}]; return (a list"),
    ("class Shout:\n    def ask(self, item, args, rng):\n        return item.nothing\n    def keep(self, *_): pass\n",
     "own.py, line 3: AttributeError"),
    ("x = (", "own.py, line 1: SyntaxError"), ("Other = 1", "has no Shout")])
def test_what_is_wrong_with_it_is_one_line(folder, tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(text)
    assert words in refusal(augment, "own.py:Shout", "--init", folder, "--data", "world:ops=1", "--count", 1,
                            "--out", "o.jsonl")


def test_no_such_transform(tmp_path, monkeypatch):
    assert "invalid choice: 'nothing'" in refusal(augment, "nothing", "--out", "x")
    assert "no such file" in refusal(augment, "nothing.py:X", "--out", "x")
    assert torch.is_grad_enabled()
