"""Every command that README.md and the scripts' headers show is run, at toy size, in a folder with toy files.

The first command of each script is started as a user starts it; the others call its main() in this process, which saves the
seconds in which Python imports torch. Those that start many processes of their own are marked slow (make slow).
"""

import glob
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import HANG, ROOT, script
from helpers import measured_run, refusal, tiny_checkpoint

import bench
from benchmarks import peers as bench_peers
from tokenizer import Tokenizer

TOY_MODEL = "--layers 1 --width 16 --heads 2 --kv-heads 1"
TOY_ROWS = "--seq-len 64 --batch-tokens 256 --micro-tokens 0 --steps 2 --device cpu"
TOY_CHATS = "--seq-len 512 --batch-tokens 1024 --micro-tokens 0 --steps 2 --device cpu"
TOY = (  # flags added to the commands that match (the last one wins), so that they end in seconds on a CPU
    (r"pretrain\.py", TOY_ROWS), (r"pretrain\.py(?!.*--init)", TOY_MODEL),
    (r"pretrain\.py(?!.*--(init|tokenizer))", "--vocab-size 400"), (r"(sampler|chat)\.py", "--max-new-tokens 40"),
    (r"evaluate\.py.*--data world", "--problems 2"), (r"evaluate\.py.*--data (?!world)", "--limit 2 --max-new-tokens 4"),
    (r"evaluate\.py.*--needle", "--needle 64,places=0,depth=1 --problems 1 --attention 1"),
    (r"evaluate\.py.*--benchmark", "--limit 2 --max-new-tokens 4"), (r"evaluate\.py.*--contamination", "--max-new-tokens 8"),
    (r"tokenizer\.py train", "--vocab-size 400 --overwrite"), (r"data\.py prepare", "--workers 1 --tokens 3000"),
    (r"data\.py table", "--tokens 3000"), (r"(sft|dpo)\.py", TOY_CHATS),
    (r"(grpo|distill)\.py", "--steps 1 --device cpu"),
    (r"(grpo|distill)\.py(?!.*--on-policy 0 )", "--prompts 2 --group 2 --max-new-tokens 16"),
    (r"augment\.py (?!measure|corrupt)", "--count 6 --max-new-tokens 100 --temperature 1.5"), (r"report\.py", "--overwrite"),
    (r"tasks\.(world|knowledge|instructions|needle|text)", "--time 0.1"),
    (r"mix\.py", "--proxies 3 --steps 4 --batch-tokens 256 --pretrain='--seq-len 64 --device cpu' --max-epochs 0 --folds 3 "
     "--simulate 100 --average 4 --jobs 2"),
    (r"mix\.py.*--confirm", "--confirm 1"), (r"mix\.py(?!.*--init)", "--sizes 1x16"),
    (r"mix\.py(?!.*--(init|tokenizer))", "--vocab-size 400"),
    (r"recipes\.grpo_small", "--start-steps 2 --steps 1 --prompts 2 --group 2 --max-new-tokens 4"),
    (r"bench\.py(?! plan --(params|init|fit))", "--out results"),
    (r"bench\.py (?!real|plan --(params|init|fit))", "--toy"),
    (r"bench\.py (train|sampler|kernels|exact|groups|pretrain|async|all|plan --check)", "--rounds 1"),
    (r"bench\.py (?!real|learn|launches|async|answers|plan --check)", "--device cpu"),
)


def toy(command):
    more = [flags for pattern, flags in TOY if re.search(rf"\b{pattern}", command)]
    return " ".join([command.replace("--compile", "").replace("--device cuda", "--device cpu"), *more])


MANY_PROCESSES = ("python bench.py all", "python bench.py async", "python bench.py plan --check", "python bench.py launches",
                  "bash recipes/world_gpu.sh", "torchrun --nproc_per_node=8 mix.py")


def commands():
    """(where, command, fresh) of each fenced or indented command line that starts a program of ours. fresh: the first one of its
    script, which gets a process of its own. One that stands in several places is run once."""
    found, scripts = {}, set()
    rooms = [p for p in sorted(ROOT.glob("*/*.py")) + sorted(ROOT.glob("kernels/*/*.py")) if p.parts[-2] != "tests"]
    pages, scripts_of_shell = [ROOT / "README.md", ROOT / "results" / "README.md"], sorted((ROOT / "recipes").glob("*.sh"))
    for path in [*pages, *sorted(ROOT.glob("*.py")), *rooms, *scripts_of_shell]:
        text = path.read_text()
        if path.suffix == ".py":
            head = re.match(r'\s*r?"""(.*?)"""', text, re.S)
            text = head[1] if head else ""
        for line in text.replace("\\\n", " ").splitlines():
            line = line.lstrip("# ").strip()
            line = re.split(r"\s{3,}(?![-\s])", line)[0]                              # a note may follow a command
            if re.match(r"python (\w+\.py|-m \w+\.\w+ --)|torchrun .*\.py|(\w+=\S+ )*bash recipes/|make \w+", line):
                program = line.replace("-m ", "").split()[1]
                fresh = line.startswith("python") and program not in scripts
                scripts |= {program} if fresh else set()
                slow = [pytest.mark.slow] if line.startswith(MANY_PROCESSES) else []
                found.setdefault(line if line.startswith("python") else (path.name, line), pytest.param(
                    path.name, line, fresh, id=f"{path.name}: {line[:90]}", marks=slow))
    return [*found.values()]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, toy_run):
    """A folder that has every file the commands name."""
    here = tmp_path_factory.mktemp("commands")
    text = "".join(f"The lions number {i % 10}. It is a fine day in the zoo, {i} of them.\n" for i in range(400))
    questions = "".join(json.dumps({"question": f"What is {i} + 1?", "answer": f"It is {i + 1}.\n#### {i + 1}"})
                        + "\n" for i in range(60))
    chats = "".join(json.dumps({"messages": [{"role": "user", "content": f"Say {i}."},
                                             {"role": "assistant", "content": f"{i}"}]}) + "\n" for i in range(40))
    pages = "".join(json.dumps({"text": f"The lions number {i}.", "book": i // 4}) + "\n" for i in range(40))
    pairs = "".join(json.dumps({"prompt": f"Say {i}.", "chosen": f"{i}", "rejected": f"{i} {i}"}) + "\n" for i in range(40))
    thought = "".join(json.dumps({"text": f"What is {i} + 1?\n<think>\n{i} and 1\n</think>\nIt is {i + 1}."}) + "\n"
                      for i in range(9))
    for name, content in {"corpus.txt": text, "thought.jsonl": thought, "held_out.txt": text[:2000], "stories.txt": text,
                          "problems.jsonl": questions, "corpus/a.jsonl": questions,
                          "gsm8k/test.jsonl": questions, "gsm8k/train.jsonl": questions, "data/gsm8k/test.jsonl": questions,
                          "data/math500/test.jsonl": questions.replace("question", "problem"),
                          "conversations.jsonl": chats, "pairs.jsonl": pairs, "pivots.jsonl": pairs,
                          "pages.jsonl": pages, "labels.jsonl": questions}.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    for name in ("base", "text", "mix", "mid", "sft", "cold", "calls", "dpo", "grpo"):
        shutil.copytree(toy_run, here / "runs" / name, ignore=shutil.ignore_patterns("train_state.pt"))
        shutil.copytree(here / "runs" / name, here / "runs" / "laptop" / name)
    for N in (1_000_000, 2_000_000):                      # runs that measured themselves
        measured_run(here / "runs" / "sweep" / str(N), N)
    tiny_checkpoint(here / "qwen3", Tokenizer.train([text], 300))
    shutil.copytree(toy_run, here / "smollm2", ignore=shutil.ignore_patterns("log.jsonl", "train_state.pt"))
    call("python evaluate.py --init runs/laptop/dpo runs/laptop/grpo --data world:ops=1,split=test --problems 2 --k 1 2 "
         "--out runs/laptop/evaluation.json", here)
    shutil.copy(here / "runs" / "laptop" / "evaluation.json", here / "evaluation.json")
    for name in ("tokenizer", "runs/tokenizer"):
        shutil.copytree(toy_run, here / name, ignore=lambda folder,
                        names: [n for n in names if "token" not in n and "template" not in n])
    return here


def call(command, cwd):
    """Runs `python SCRIPT FLAGS` in this process, from a folder; the JSON of its last line."""
    _, name, *flags = shlex.split(command)
    flags = [found for word in flags for found in (sorted(glob.glob(word, root_dir=cwd)) if "*" in word else [word])]
    with mock.patch.dict(bench_peers.SHAPE), mock.patch("builtins.input", side_effect=EOFError):
        return script(name, *flags, cwd=cwd).json


def run(command, cwd, **env):
    return subprocess.run(command, shell=True, cwd=cwd, capture_output=True, text=True, timeout=HANG,
                          env=os.environ | {"OMP_NUM_THREADS": "1",
                                            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"} | env)


@pytest.mark.parametrize("where, command, fresh", commands())
def test_command(where, command, fresh, sandbox):
    if command.startswith("make"):
        if shutil.which("make"):
            assert run(f"make --dry-run {command.split()[1]}", ROOT).returncode == 0
        return
    if re.search(r"recipes/(laptop|spurious|midtraining|star|generations|text_rl|long_context)\.sh", command):
        return                                                                # has a test of its own, below
    if "one_gpu.sh" in command:
        command = f"bash {ROOT}/recipes/one_gpu.sh corpus/ held_out.txt"
        done = run(command, sandbox, OUT=str(sandbox / "runs/one_gpu"),
                   VOCAB="400", STEPS="2", MODEL=f"{TOY_MODEL} {TOY_ROWS}")
        assert done.returncode == 0, done.stderr[-3000:]
        return
    if "gsm8k.sh" in command or "world_gpu.sh" in command:                    # small, and on a CPU
        if where == "README.md":                                              # the recipe's own header has the same command
            assert command in {c.values[1] for c in commands() if c.values[0] != where}
            return
        done = run(command.replace("recipes/", f"{ROOT}/recipes/"), sandbox, OUT=f"{sandbox}/made_{abs(hash(command))}",
                   GPU="--device cpu", SAMPLE="--device cpu", SFT="2", GRPO="2", PROMPTS="2", GROUP="2", NEW="8", LIMIT="2",
                   BASE="3", MID="2", BATCH="4096", WINDOW="512", MODEL="--layers 1 --width 32 --heads 2 --kv-heads 1",
                   VOCAB="400", PROBLEMS="2", SOLVED="1-2", EDGE="3-4")
        assert done.returncode == 0, done.stderr[-3000:]
        return
    if "node.sh" in command or "two_nodes.sh" in command:                     # eight GPUs and more; two ranks have tests, below
        script = re.search(r"recipes/\w+\.sh", command)[0]
        done = run(f"bash -n {ROOT}/{script}", sandbox)
        assert done.returncode == 0, done.stderr
        return
    if command.startswith("python bench.py largest"):
        assert "needs a GPU" in refusal(bench, "largest")
        return
    if command == "python bench.py readme":
        return                                        # it writes into this repository; tests/benchmarks has its test
    if re.match(r"python bench\.py (pipeline|rl|spurious|harness)", command):
        return                          # the recipes have tests of their own; TRL and lm-eval are not installed for tests
    command = toy(command)
    out = re.search(r"--out (\S+)", command)
    if out and "bench" not in command:
        made = sandbox / f"made_{where}{Path(out[1]).suffix}"
        shutil.rmtree(made, ignore_errors=True)
        made.unlink(missing_ok=True)
        command = command.replace(out[0], f"--out {made}")
    command = command.replace("--nproc_per_node=8", "--standalone --nproc_per_node=2")
    command = re.sub(r"--data (corpus/)\*", r"--data \1*", command)
    if "shards" in command and "prepare" not in command and not (sandbox / "shards").exists():
        call("python data.py prepare --data corpus.txt --tokenizer tokenizer --out shards --workers 1", sandbox)
    if command.startswith("python") and not fresh:
        assert isinstance(call(command, sandbox), dict)
        return
    words = re.sub(r"(\w+\.py)", lambda m: shlex.quote(str(ROOT / m[1])), command, count=1)
    done = run(words, sandbox, **{"PYTHONPATH": str(ROOT)} if " -m " in words else {})
    assert done.returncode == 0, f"{words}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    json.loads(done.stdout.strip().splitlines()[-1])


NODE = dict(ROLLOUT_RANKS="1", SHARD="", TORCHRUN=f"{sys.executable} -m torch.distributed.run",
            MORE="--prompts 2 --group 2 --max-new-tokens 8 --steps 2 --rows 4 --device cpu")


def test_recipe_for_a_node(sandbox, tmp_path):
    """Two ranks of one node: one learns, the other samples."""
    done = run(f"bash {ROOT}/recipes/node.sh {sandbox}/smollm2 {sandbox}/gsm8k/train.jsonl", sandbox, GPUS="2",
               OUT=str(tmp_path / "run"), **NODE)
    assert done.returncode == 0 and json.loads(done.stdout.strip().splitlines()[-1])["steps"] == 2, done.stderr[-3000:]


def test_recipe_for_two_nodes(sandbox, tmp_path):
    """Two agents of torchrun that meet, a rank each: node 0 learns and prints, node 1 samples, whichever process is older."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        host = f"localhost:{s.getsockname()[1]}"
    with ThreadPoolExecutor() as pool:
        nodes = [pool.submit(run, f"bash {ROOT}/recipes/two_nodes.sh {n} {host} {sandbox}/smollm2 {sandbox}/gsm8k/train.jsonl",
                             sandbox, GPUS="1", OUT=str(tmp_path / "run"), **NODE) for n in (1, 0)]
    for node in nodes:
        assert node.result().returncode == 0, node.result().stderr[-3000:]
    second, first = (node.result().stdout.strip() for node in nodes)
    assert json.loads(first.splitlines()[-1])["steps"] == 2 and second == ""


def test_laptop_recipe(tmp_path):
    """The whole pipeline, a few steps of each stage."""
    command = f"bash {ROOT}/recipes/laptop.sh"
    few = dict(BASE="3", MID="2", SFT="2", GRPO="1", PROBLEMS="2", PYTHON=sys.executable)
    done = run(command, tmp_path, OUT=str(tmp_path / "out"), **few)
    assert done.returncode == 0, done.stderr[-3000:]
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [f.rpartition("/")[2] for f in evaluation["results"]] == ["base", "mid", "sft", "grpo"]
    assert len(evaluation["gain"]) == 6 and all(g["k"] == 8 for g in evaluation["gain"]) and "verified accuracy" in done.stdout
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    again = run(command, tmp_path, OUT=str(tmp_path / "out"))
    assert again.returncode == 2 and "exists already" in again.stderr


def test_branches_of_mid_training(tmp_path):
    """The stable stage, one branch, and reinforcement on both, a few steps of each."""
    few = dict(STABLE="4", DECAY="2", GRPO="3", PROBLEMS="2", STYLES="long", PYTHON=sys.executable)
    done = run(f"bash {ROOT}/recipes/midtraining.sh", tmp_path, OUT=str(tmp_path / "out"), **few)
    assert done.returncode == 0, done.stderr[-3000:]
    logs = [json.loads(line) for line in (tmp_path / "out" / "long-rl" / "log.jsonl").read_text().splitlines()]
    assert logs[0]["flags"]["max_new_tokens"] == ["64", "112@2", "160@3"] and logs[-1]["step"] == 3
    evaluation = json.loads((tmp_path / "out" / "long.json").read_text())
    assert len(evaluation["results"]) == 2 and "<svg" in (tmp_path / "out" / "stable.html").read_text()


def test_a_longer_context(tmp_path):
    """One of the ways: YaRN, from a base of 64 tokens to 128; and its needles beside those of the base."""
    few = dict(BASE="2", MORE="2", PROBLEMS="1", LENGTHS="64-128", SHORT="64", LONG="128", WAYS="yarn", PYTHON=sys.executable,
               SHAPE="--layers 2 --width 16 --heads 2 --kv-heads 1 --attention rope+nope")
    done = run(f"bash {ROOT}/recipes/long_context.sh", tmp_path, OUT=str(tmp_path / "out"), **few)
    assert done.returncode == 0, done.stderr[-3000:]
    config = json.loads((tmp_path / "out" / "yarn" / "config.json").read_text())
    assert config["rope_parameters"]["factor"] == 2 and config["rope_parameters"]["original_max_position_embeddings"] == 64
    found = [next(iter(r.values())) for r in json.loads((tmp_path / "out" / "needles.json").read_text())["results"].values()]
    assert [r["window"] for r in found] == [64, 128] and len(found[1]["attention"]) == 2
    assert [[row["beyond"] for row in r["lengths"]] for r in found] == [[False, True], [False, False]]


@pytest.mark.slow
def test_the_contrast_of_rewards(toy_run, tmp_path):
    """The arms of the study of rewards that mean nothing, a step of each."""
    contrast = run(f"bash {ROOT}/recipes/spurious.sh", tmp_path, INIT=str(toy_run), STEPS="1", PROBLEMS="2",
                   OUT=str(tmp_path / "spurious"), PYTHON=sys.executable, RESULTS=str(tmp_path / "results"))
    assert contrast.returncode == 0, contrast.stderr[-3000:]
    record = json.loads((tmp_path / "results" / "bench_spurious.jsonl").read_text())
    assert [a["reward"] for a in record["arms"]] == ["strict", "answer", "random", "incorrect"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["star", "rft"])
def test_rounds_of_learning_from_what_was_right(able, tmp_path, method):
    """Two rounds of STaR (or the one of RFT), on a task of which any model solves a half; each round begins at the base."""
    (tmp_path / "parity.py").write_text(
        "from tasks.task import Problem\nfrom tasks.world import World\n"
        "class Parity:\n    count = 40\n"
        "    def problem(self, i):\n        return Problem(World().problem(i).question, 'even')\n"
        "    def grade(self, problem, reply):\n        return sum(map(ord, reply.text)) % 2 == 0\n")
    done = run(f"bash {ROOT}/recipes/star.sh", tmp_path, METHOD=method, INIT=str(able), OUT=str(tmp_path / "out"), ROUNDS="2",
               DATA=f"{tmp_path}/parity.py:Parity", TEST=f"{tmp_path}/parity.py:Parity", COUNT="40", STEPS="2", SAMPLES="4",
               PROBLEMS="2", PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr[-3000:]
    rounds = 2 if method == "star" else 1
    assert list(json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]) == [
        str(able), *(f"{tmp_path}/out/round{i + 1}" for i in range(rounds))]
    first = [json.loads((tmp_path / "out" / f"round{i + 1}" / "log.jsonl").read_text().splitlines()[0]) for i in range(rounds)]
    assert [record["flags"]["init"] for record in first] == [str(able)] * rounds
    ledgers = [json.loads((tmp_path / "out" / f"made{i + 1}.jsonl.ledger.json").read_text()) for i in range(rounds)]
    assert [ledger["settings"]["init"] for ledger in ledgers] == [str(able), f"{tmp_path}/out/round1"][:rounds]


@pytest.mark.slow
def test_generations_of_self_made_data(tmp_path):
    """Each arm a generation of a tiny model; what was written is measured beside real documents."""
    pytest.importorskip("datasketch")
    done = run(f"bash {ROOT}/recipes/generations.sh", tmp_path, OUT=str(tmp_path / "out"), STEPS="60", COUNT="30",
               GENERATIONS="1", PROBLEMS="2", ARMS="self answers+real", SHAPE="--layers 2 --width 32 --qk-norm head",
               PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr[-3000:]
    for arm in ("self", "answers+real"):
        measured = json.loads((tmp_path / "out" / arm / "measure.json").read_text())
        assert len(measured) == 2 and all(m["rows"] > 0 for m in measured.values())
        assert len(json.loads((tmp_path / "out" / arm / "evaluation.json").read_text())["results"]) == 2


@pytest.mark.slow
def test_reinforcement_on_text_beside_next_token_training(tmp_path):
    """One kind, a few steps of each stage; next-token training takes as many FLOPs."""
    few = dict(BASE="4", COLD="2", RL="2", RLVR="1", PROBLEMS="2", KINDS="rlpt", PYTHON=sys.executable)
    done = run(f"bash {ROOT}/recipes/text_rl.sh", tmp_path, OUT=str(tmp_path / "out"), **few)
    assert done.returncode == 0, done.stderr[-3000:]
    spent, read, two = (sum(json.loads((tmp_path / "out" / name / "ledger.json").read_text())["own"].values())
                        for name in ("rlpt", "rlpt-mixed", "probe"))
    assert abs(read - spent) < two
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [f.rpartition("/")[2] for f in evaluation["results"]] == [
        "cold", "cold-rlvr", "rlpt", "rlpt-rlvr", "rlpt-mixed", "rlpt-mixed-rlvr"]
    assert "<svg" in (tmp_path / "out" / "rlpt.html").read_text()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_and_sampling_on_a_gpu(tmp_path):
    """In each way it learns what a CPU learns."""
    flags, losses = "--layers 2 --width 64 --batch-tokens 8192 --steps 30 --eval-problems 20", {}
    for name, more in {"cpu": "--device cpu", "plain": "", "compiled": "--compile", "checkpointing": "--checkpointing"}.items():
        done = run(f"python {ROOT}/pretrain.py --data world:ops=1 --eval-data world:ops=1,split=test {flags} "
                   f"{more if name == 'cpu' else '--device cuda ' + more} --out {tmp_path}/{name}", tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        losses[name] = json.loads(done.stdout.strip().splitlines()[-1])["loss"]
    assert all(abs(loss - losses["cpu"]) < 0.1 for loss in losses.values()), losses
    sample = f"python {ROOT}/sampler.py --init {tmp_path}/plain --prompt Zoo --max-new-tokens 8"
    done = run(f"{sample} --device cuda --dtype bfloat16", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_goes_on_bit_for_bit(tmp_path):
    flags = "--data world:ops=1 --layers 2 --width 64 --batch-tokens 8192 --schedule constant --warmup 0 --device cuda"
    for out, steps in (("whole", 6), ("parts", 3), ("parts", 6)):
        done = run(f"python {ROOT}/pretrain.py {flags} --steps {steps} --out {tmp_path}/{out} --resume", tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
