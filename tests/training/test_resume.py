"""The same command with --resume goes on as if it had not stopped; other flags or other data are refused, by name."""

import ast
import json
import shutil

import pytest
import torch
from conftest import ROOT
from helpers import assert_same_state, killed_in, refusal, run_main, state_of, steps_of, tiny_checkpoint, write_rows

import distill
import dpo
import grpo
import pretrain
import sft
from sources.fingerprint import fingerprint
from sources.shards import prepare
from training import optim
from training.ledger import read_ledger
from training.run import Run


@pytest.fixture(scope="module")
def start(tmp_path_factory, tokenizer):
    """A checkpoint, and files of text, questions, conversations and pairs."""
    folder = tmp_path_factory.mktemp("start")
    tiny_checkpoint(folder / "init", tokenizer)
    tiny_checkpoint(folder / "teacher", tokenizer, seed=1)
    questions = [f"The lions number {i}. How many lions?" for i in range(40)]
    write_rows(folder / "text.jsonl", [{"text": q} for q in questions])
    write_rows(folder / "questions.jsonl", [{"question": q, "answer": f"#### {i}"} for i, q in enumerate(questions)])
    write_rows(folder / "chats.jsonl", [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": str(i)}]}
                                        for i, q in enumerate(questions)])
    write_rows(folder / "pairs.jsonl", [{"prompt": q, "chosen": str(i), "rejected": str(i + 1)} for i, q in enumerate(questions)])
    (folder / "hint.txt").write_text("{question} It is {answer}")
    return folder


COMMON = ["--dtype", "float64", "--log-every", 1, "--device", "cpu"]
GRPO = ["--mode", "plain", "--reward", "random", "--prompts", 2, "--group", 2, "--max-new-tokens", 6, "--rows", 8, *COMMON]
TAUGHT = ["--teacher", "TEACHER", *GRPO[:2], *GRPO[4:]]
NO_PROMPTS = GRPO[:4] + GRPO[6:]                          # where --batch-tokens says how many
TEXT = ["--batch-tokens", 256, "--seq-len", 128, *COMMON]
NEW = ["--layers", 1, "--width", 16, "--heads", 2, "--kv-heads", 1]
WORLD = "world:ops=1-2"


def begin(start, module, flags):
    """The flags of a run that starts from the checkpoint, files by their short names."""
    flags = [start / "teacher" if f == "TEACHER" else f for f in flags]
    flags = [f"{start}/{f}" if str(f).partition("@")[0].endswith((".jsonl", "shards", ".txt")) else f for f in flags]
    return ["--tokenizer" if module is pretrain else "--init", start / "init", *flags]


def stopped(monkeypatch, module, *flags, at):
    """Runs a script until it has saved the state after so many steps, and no further."""
    real = Run.save

    def save(run, *args, **more):
        real(run, *args, **more)
        if run.step == at:
            raise SystemExit(9)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", save)
        assert run_main(module, *flags)[0] == 9


RUNS = [(pretrain, ["--data", "text.jsonl@0.7", WORLD + "@0.3", *NEW, *TEXT])]
RUNS += [(sft, ["--data", WORLD, "chats.jsonl@0.5", *TEXT, *more]) for more in (
    [], ["--loss", "iw"], ["--loss", "psft", "--refresh", 2])]
RUNS += [(dpo, ["--data", "pairs.jsonl", *TEXT, "--lr", 1e-4, "--loss", loss]) for loss in ("dpo_norm", "simpo", "kto")]
RUNS += [(grpo, ["--data", WORLD, *GRPO, *more]) for more in (
    ["--exact", "--dtype", "float32"], ["--async-steps", 0, "--replace", 2], ["--loss", "ppo"],
    ["--keep-rate", 0, 1, "--candidates", 7, "--replace", 2], ["--max-new-tokens", "4", "8@3", "--schedule", "wsd"])]
BESIDE = ["--sft-data", "chats.jsonl@0.5", WORLD, "--sft-weight", 0.5, "--sft-tokens", 256, "--seq-len", 128]
RUNS += [(grpo, ["--data", WORLD, *GRPO, *BESIDE, *more]) for more in ([], ["--updates", 2, "--async-steps", 0])]
RUNS += [(grpo, ["--data", f"text:{WORLD},documents=20,kind={kind}", *GRPO, "--reward", "score+random", *more])
         for kind, more in (
    ("rlp", ["--loss", "rlp", "--tau", 0.5]), ("rlpt,judge_errors=0.5", ["--mode", "think"]))]
RUNS += [(distill, ["--data", WORLD, *TAUGHT, *more]) for more in (
    ["--exact", "--dtype", "float32"], ["--loss", "reverse", "--top-k", 4, "--async-steps", 0],
    ["--hint", "{question} {answer}", "--loss", "jsd"],
    ["--loss", "forward", "--on-policy", 0.5, "--data", WORLD, "chats.jsonl", "--batch-tokens", 256, "--seq-len", 128])]
RUNS += [(distill, ["--data", "chats.jsonl", "--teacher", "TEACHER", "--loss", "jsd", "--on-policy", 0, *TEXT])]
RUNS += [(grpo, ["--data", "questions.jsonl", WORLD, *GRPO]), (grpo, ["--data", WORLD, *NO_PROMPTS, "--batch-tokens", 48])]


@pytest.mark.parametrize("module, flags", RUNS, ids=lambda x: getattr(x, "__name__", None) or "_".join(map(str, x[-3:])))
def test_the_same_command_goes_on_bit_for_bit(start, tmp_path, one_thread, module, flags):
    """As if it had not been killed."""
    flags = [*begin(start, module, flags), "--steps", 4, "--save-every", 1]
    assert run_main(module, *flags, "--out", tmp_path / "whole")[0] == 0
    killed_in(3, module, *flags, "--out", tmp_path / "run")
    assert state_of(tmp_path / "run")["step"] == 3        # of psft after its second snapshot, which is not --init
    code, result, err = run_main(module, *flags, "--out", tmp_path / "run", "--resume")
    assert code == 0 and result["steps"] == 4, err[-2000:]
    whole, run = state_of(tmp_path / "whole"), state_of(tmp_path / "run")
    assert run["more"]["recent"]                          # what the goals remember
    for key in ("weights", "optimizers", "stream", "random", "inputs", "guard", "more"):
        assert_same_state(whole[key], run[key])
    ledgers = [read_ledger(tmp_path / name) for name in ("whole", "run")]
    assert {**ledgers[0], "name": ""} == {**ledgers[1], "name": ""} and ledgers[0]["own"]["training"] > 0
    assert steps_of(tmp_path / "run") == steps_of(tmp_path / "whole") and len(steps_of(tmp_path / "run")) == 4


def test_no_script_changes_its_flags_once_the_run_is_there():
    """Else they would be saved other than they are compared. What follows from flags is filled in before, from flags alone."""
    for name in ("pretrain", "sft", "dpo", "grpo", "distill"):
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        functions = {n.name: list(ast.walk(n)) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}

        def changes(n):
            assigned = isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and ast.unparse(n.value).endswith("args")
            return assigned or isinstance(n, ast.Call) and ast.unparse(n).startswith(("setattr(args", "vars(args).update"))
        able = {f for f, inside in functions.items() if f != "main" and any(map(changes, inside))}
        [made] = [n.lineno for n in functions["main"] if isinstance(n, ast.Call) and ast.unparse(n.func) == "Run"]
        late = [n.lineno for n in functions["main"] if getattr(n, "lineno", 0) > made
                and (changes(n) or isinstance(n, ast.Call) and ast.unparse(n.func) in able)]
        assert not late, (name, late)


def test_states_of_older_runs_still_resume(start, tmp_path):
    """They do not know later flags; the oldest have no fingerprints, and hold some flags as given that are filled in now."""
    flags = ["--init", start / "init", "--data", WORLD, *NO_PROMPTS, "--exact", "--dtype", "float32", "--batch-tokens", 24]
    assert run_main(grpo, *flags, "--out", tmp_path / "run", "--steps", 1)[0] == 0
    state = state_of(tmp_path / "run")
    assert state["args"]["old"] == "sampler" and state["args"]["prompts"] == 24 // 12
    del state["args"]["mask_truncated"], state["args"]["task"]
    torch.save(state, tmp_path / "run" / "train_state.pt")
    code, result, err = run_main(grpo, *flags, "--out", tmp_path / "run", "--steps", 2, "--resume")
    assert code == 0 and result["steps"] == 2, err
    del state["inputs"]
    state["args"] |= {"scale": "", "kl_kind": "k3"}
    torch.save(state, tmp_path / "run" / "train_state.pt")
    for more in (["--mask-truncated"], ["--group", 3]):
        assert "started with" in refusal(grpo, *flags, "--out", tmp_path / "run", "--steps", 2, "--resume", *more)
    code, result, err = run_main(grpo, *flags, "--out", tmp_path / "run", "--steps", 2, "--resume")
    assert code == 0 and result["steps"] == 2, err


def test_an_older_state_of_ppo_with_every_layer_twice_still_resumes(start, tmp_path):
    flags = ["--init", start / "init", "--data", WORLD, *NO_PROMPTS, "--loss", "ppo", "--prompts", 2, "--out", tmp_path / "run"]
    assert run_main(grpo, *flags, "--steps", 1)[0] == 0
    state = state_of(tmp_path / "run")
    state["weights"] |= {n.removeprefix("model."): w for n, w in state["weights"].items() if n.startswith("model.layers.")}
    torch.save(state, tmp_path / "run" / "train_state.pt")
    code, result, err = run_main(grpo, *flags, "--steps", 2, "--resume")
    assert code == 0 and result["steps"] == 2, err
    assert not any(name.startswith("layers.") for name in state_of(tmp_path / "run")["weights"])


# other data

FILES = [(pretrain, ["--data", "text.jsonl", WORLD, *NEW, *TEXT], "text.jsonl"),
         (pretrain, ["--data", "shards", WORLD, *NEW, *TEXT], "shards"),
         (pretrain, ["--data", WORLD, *NEW, *TEXT], "init"),
         (sft, ["--data", "questions.jsonl", *TEXT], "questions.jsonl"),
         (sft, ["--data", "chats.jsonl@2", WORLD, *TEXT], "chats.jsonl"),
         (dpo, ["--data", "pairs.jsonl", *TEXT], "pairs.jsonl"),
         (dpo, ["--data", "pairs.jsonl", *TEXT, "--reference", "other"], "other"),
         (grpo, ["--data", WORLD, "questions.jsonl", *GRPO], "questions.jsonl"),
         (grpo, ["--data", WORLD, *GRPO, "--kl", 0.1], "init"),
         (grpo, ["--data", WORLD, *GRPO, *BESIDE], "chats.jsonl"),
         (distill, ["--data", WORLD, *TAUGHT], "teacher"),
         (distill, ["--data", WORLD, *TAUGHT, "--hint", "hint.txt"], "hint.txt")]


@pytest.mark.parametrize("module, flags, changed", FILES, ids=lambda x: getattr(x, "__name__", None) or "".join(x)[:40]
                         if isinstance(x, str) else None)
def test_data_that_has_changed_is_named_and_nothing_is_touched(start, tmp_path, tokenizer, monkeypatch, module, flags, changed):
    shutil.copytree(start, tmp_path / "start")
    start, out = tmp_path / "start", tmp_path / "run"
    shutil.copytree(start / "init", start / "other")
    prepare([str(start / "text.jsonl")], start / "init", start / "shards", workers=1)
    flags = [start / "other" if f == "other" else f for f in flags]
    flags = [*begin(start, module, flags), "--out", out, "--steps", 3, "--save-every", 1]
    stopped(monkeypatch, module, *flags, at=2)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    place = {"shards": "shards/tokens_00000.npy", "init": "init/model.safetensors", "other": "other/tokenizer.json",
             "teacher": "teacher/model.safetensors", "hint.txt": "hint.txt"}
    file = start / place.get(changed, changed)
    was = file.read_bytes()
    if changed in place:
        others = [was[:-1] + bytes([was[-1] ^ 1])]
    else:
        lines = was.splitlines(keepends=True)
        others = [b"".join(lines[:5]), was + lines[3], was.replace(b"lions", b"tiger")]
    for other in others:                                  # shorter, longer, and another of the same size
        assert other != was
        file.write_bytes(other)
        line = refusal(module, *flags, "--resume")
        assert f"{start / changed} has changed" in line and "put the old one back" in line
        assert before == {p.name: p.read_bytes() for p in out.iterdir()}
    file.write_bytes(was)
    code, result, err = run_main(module, *flags, "--resume")
    assert code == 0 and result["steps"] == 3, err


def test_a_tool_that_has_changed_is_named(start, tmp_path, monkeypatch):
    tool = tmp_path / "own.py"
    tool.write_text("def shout(text):\n    return text.upper()\n")
    flags = ["--init", start / "init", "--data", WORLD, *GRPO, "--mode", "chat", "--tool", f"{tool}:shout", "calculator"]
    flags += ["--steps", 3, "--save-every", 1, "--out", tmp_path / "run"]
    stopped(monkeypatch, grpo, *flags, at=1)
    tool.write_text("def shout(text):\n    return text.lower()\n")
    assert f"--tool {tool}:shout has changed" in refusal(grpo, *flags, "--resume")


def test_a_state_without_fingerprints_does_not_run_off_the_end_of_a_shorter_file(start, tmp_path, monkeypatch):
    file = shutil.copy(start / "text.jsonl", tmp_path / "text.jsonl")
    flags = ["--data", file, *NEW, *TEXT, "--tokenizer", start / "init"]
    flags += ["--steps", 9, "--save-every", 1, "--out", tmp_path / "run"]
    stopped(monkeypatch, pretrain, *flags, at=1)
    state = state_of(tmp_path / "run")
    del state["inputs"]
    assert state["stream"]["mixture"]["cursors"] != [0]
    torch.save(state, tmp_path / "run" / "train_state.pt")
    write_rows(file, ['{"text": "The owls number 3."}'])
    assert f"--data {file}: holds 1 documents now" in refusal(pretrain, *flags, "--resume")


# the number of steps

def test_steps_may_be_raised_where_the_learning_rates_so_far_do_not_depend_on_them(start, tmp_path):
    flags = ["--init", start / "init", "--data", WORLD, *GRPO, "--save-every", 1]
    assert run_main(grpo, *flags, "--out", tmp_path / "whole", "--steps", 4)[0] == 0
    for steps in (1, 3, 4, 4):                            # the last time there is nothing left to do, and the folder stays
        before = fingerprint(str(tmp_path / "run"))
        code, result, err = run_main(grpo, *flags, "--out", tmp_path / "run", "--steps", steps, "--resume")
        assert code == 0 and result["steps"] == steps, err
    assert fingerprint(str(tmp_path / "run")) == before
    assert_same_state(state_of(tmp_path / "whole")["weights"], state_of(tmp_path / "run")["weights"])
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [(r["resumed_at"], r["steps"]) for r in log if "resumed_at" in r] == [(1, 3), (3, 4)]
    line = refusal(grpo, *flags, "--out", tmp_path / "run", "--steps", 2, "--resume")
    assert "was started with --steps 4" in line and "4 steps are made already" in line
    assert state_of(tmp_path / "run")["step"] == 4


@pytest.mark.parametrize("more, raised", [
    (["--schedule", "constant", "--warmup", 0.5], False), (["--schedule", "cosine", "--warmup", 0], False),
    (["--schedule", "wsd", "--warmup", 0, "--decay", 0.25], True), (["--schedule", "wsd", "--warmup", 0, "--decay", 1], False)])
def test_where_they_do_the_flags_that_are_in_the_way_are_named(start, tmp_path, monkeypatch, more, raised):
    flags = ["--init", start / "init", "--data", "chats.jsonl", *TEXT, "--out", tmp_path / "run", "--save-every", 1, *more]
    flags[3] = start / "chats.jsonl"
    stopped(monkeypatch, sft, *flags, "--steps", 4, at=2)
    if raised:
        assert run_main(sft, *flags, "--steps", 8, "--resume")[1]["steps"] == 8
        wanted = [0.005 * optim.schedule(s, 8, "wsd", 0, 0.25) for s in range(8)]
        log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert [r["lr"] for r in log if "lr" in r] == pytest.approx(wanted)
    else:
        line = refusal(sft, *flags, "--steps", 8, "--resume")
        assert "was started with --steps 4" in line and f"--schedule {more[1]}" in line


def test_a_flag_that_an_older_version_did_not_have_is_no_difference_unless_it_is_set(start, tmp_path, monkeypatch):
    flags = ["--init", start / "init", "--data", start / "chats.jsonl", *TEXT, "--steps", 4, "--save-every", 1]
    flags += ["--schedule", "wsd", "--out", tmp_path / "run"]
    stopped(monkeypatch, sft, *flags, at=2)
    state = state_of(tmp_path / "run")
    assert state["args"].pop("decay") == 0.2                 # a default that is not 0
    torch.save(state, tmp_path / "run" / "train_state.pt")
    assert "was started with no --decay" in refusal(sft, *flags, "--resume", "--decay", 0.5)
    assert run_main(sft, *flags, "--resume")[1]["steps"] == 4


def test_flags_are_told_as_one_types_them(start, tmp_path):
    flags = ["--init", start / "init", "--data", WORLD, *GRPO, "--out", tmp_path / "run", "--steps", 1]
    more = ["--max-new-tokens", "4", "8@3", "--mask-truncated", "--keep-rate", 0, 1, "--candidates", 4]
    assert run_main(grpo, *flags, *more)[0] == 0
    line = refusal(grpo, *flags, "--resume", "--recompute", "--async-steps", 1)
    for flag in ("--max-new-tokens 4 8@3", "--mask-truncated", "--keep-rate 0.0 1.0", "no --recompute", "no --async-steps"):
        assert flag in line


def test_a_fingerprint_sees_all_of_a_file_and_the_same_blocks_of_large_weights(tmp_path):
    file = tmp_path / "model.safetensors"
    data = bytes(range(256)) * 4
    file.write_bytes(data)
    whole, sampled = fingerprint(str(file), 4, 8), fingerprint(str(tmp_path), 4, 8)
    seen = 0
    for at in range(len(data)):
        file.write_bytes(data[:at] + b"?" + data[at + 1:])
        assert (fingerprint(str(file), 4, 8) != whole) == (data[at:at + 1] != b"?")
        seen += fingerprint(str(tmp_path), 4, 8) != sampled
    assert 8 * 4 - 1 <= seen <= 9 * 4                     # blocks of 4 bytes, evenly spread
    file.write_bytes(data + b"?")
    assert fingerprint(str(tmp_path), 4, 8) != sampled                        # the size counts as well
    assert fingerprint("hf:org/name") == "" and fingerprint("world:ops=1") != fingerprint("world:ops=1,seed=1")
