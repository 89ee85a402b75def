"""Flags: each one that is given has an effect or is refused, and each number is read by a type that knows its bounds; SPECs
are read as they are documented, and --eval-data asks what the run learns to answer."""

import importlib
import json
import os
import re
import shlex
import subprocess
from unittest import mock

import pytest
from conftest import ROOT
from helpers import given_options, refusal, run_main, tiny_checkpoint, write_rows
from test_commands import commands, toy

import data
import dpo
import grpo
import pretrain
import report
import sft
from data import split_spec
from measuring import questions as asking
from model import Config
from rl.lengths import parse_caps
from sources.conversations import problem_turns
from sources.kinds import kind_of
from sources.shards import open_shards, prepare
from tasks.task import prompt_ids
from tasks.world import World
from tokenizer import Tokenizer
from training import cli
from training.goals import Until

# Flags that have an effect whatever the others say. A flag of a script stands here, or in the script's table of needs and
# in CASES below; whoever adds one has to think which.
TRAINING = """init out data steps batch-tokens micro-tokens lr optimizer schedule warmup weight-decay clip seed device dtype
    compile checkpointing resume log-every save-every wandb eval-data seq-len"""
AUGMENT = "data task count out resume max-new-tokens temperature rows chunk seed device dtype"
ALWAYS = {
    "pretrain": f"{TRAINING} until-loss", "sft": f"{TRAINING} until-loss loss", "dpo": f"{TRAINING} loss beta exact",
    "grpo": f"""{TRAINING} task loss group mode reward max-new-tokens temperature rows updates minibatches kl entropy exact
        async-steps rollout-ranks replace mask-truncated overlong-buffer keep-rate show-every mismatch sft-data""",
    "distill": f"""{TRAINING.replace(" batch-tokens", "")} task teacher hint loss clip-divergence on-policy mode
        temperature exact""",
    "sampler": "init prompt chat max-new-tokens temperature colors device dtype",
    "chat": "init prompt system think tool max-new-tokens temperature colors device dtype",
    "evaluate": "init data task needle benchmark text compared-with out device dtype",
    "augment pairs": f"strong strong-plain weak weak-plain mode {AUGMENT}",
    "augment reject": f"init plain keep mode {AUGMENT}", "augment rft": f"init plain keep mode {AUGMENT}",
    "augment contrast": f"init plain samples pairs mode {AUGMENT}",
    "augment distill": f"init plain second third drop exclude truncate mode {AUGMENT}",
    "augment star": f"init plain no-hints mode {AUGMENT}",
    "augment pivotal": f"init plain samples gap low high paths mode {AUGMENT}",
    "augment measure": "files init count words topics out",
    "augment think": f"""init plain prompt focus back place drop-cut verified most-repeated least-overlap document-tokens
        {AUGMENT}""",
    "augment paraphrase": f"""init plain prompt with-document most-copied most-repeated least-overlap document-tokens
        {AUGMENT}""",
    "augment corrupt": "data task count out resume chunk how until-thought",
    "augment synthesise": f"init plain prompt topics most-repeated {AUGMENT.removeprefix('data task ')}",
    "mix": """sources target measure out proxies init steps batch-tokens pretrain bound temperature strength folds fit simulate
        average confirm jobs seed resume""",
    "report": "runs evaluation out overwrite", "tokenizer train": "data vocab-size out overwrite", "tokenizer show": "init text",
    "data prepare": "data tokenizer tokens out workers shard-tokens shard-dtype",
    "data table": "data tokenizer tokens seq-len seed",
    "bench": "what", "plan": "check", "world": "data show time",
    "knowledge": "data show time", "instructions": "data show time", "needle": "data show time", "text": "data show time",
    "judges": "data pairs seed",
}

# For every other flag: with these it is refused, with those it is accepted. {}: the flag and its value.
A_RUN, BENCH = "--out o --data world:ops=1", "{what} {{}}"
FROM, NEW, HELD_OUT = "--init i", "", "--eval-data world:ops=1"
OPTIMISER = {"--adam-lr 1": [("--optimizer adamw", "--optimizer muon")],
             "--decay 0.5": [("--schedule cosine", "--schedule wsd"), ("--schedule constant", "--schedule wsd")],
             "--floor 0.5": [("--schedule constant", "--schedule wsd"), ("--schedule wsd --decay 0", "--schedule cosine")],
             "--shard": [("ranks=1", "ranks=2")], "--eval-every 2": [("", HELD_OUT)],
             "--eval-problems 2": [("", HELD_OUT), ("--eval-data text.txt", "--eval-data text.txt questions.jsonl")]}
ENDING = {"--until-accuracy 1": [(HELD_OUT, f"{HELD_OUT} --eval-every 1"), ("--eval-every 1 --eval-data text.txt",
                                                                            f"{HELD_OUT} --eval-every 1")]}
EPOCHS = {"--max-epochs 2": [("--data world:ops=1@0.5", "--data world:ops=1@0.5 text.txt@2")]}
TOOLS = {"--max-calls 2": [("", "--tool calculator")], "--tool-seconds 1": [("--tool calculator", "--tool t.py:f")]}
DRAWS = {"--top-p 0.5": [("--temperature 0", "--temperature 1")], "--top-k 5": [("--temperature 0", "--temperature 1")]}
ON_A_FILE = [("--data world:ops=1 --k 2", "--data world:ops=1 f.jsonl")]
CASES = {
    "pretrain": (A_RUN, OPTIMISER | ENDING | EPOCHS | {
        f"--{name.replace('_', '-')} {value or ''}".strip(): [(FROM, NEW)] for name, value in given_options(Config).items()
        if name not in ("window", "rope_theta", "qk_scale")} | {
        "--qk-scale": [(FROM, "--qk-norm head"), ("", "--qk-norm full")],
        "--tokenizer t": [(FROM, NEW)], "--vocab-size 300": [(FROM, NEW), ("--tokenizer t", NEW)],
        "--window 8": [(FROM, "--attention window+rope"), ("", "--attention window")],
        "--rope-theta 9": [("--attention nope", "--attention nope+window"), ("--attention nope", FROM)],
        "--yarn-factor 4": [(NEW, FROM)]} | {
        f"--yarn-{flag}": [(FROM, f"{FROM} --yarn-factor 4"), (NEW, f"{FROM} --yarn-factor 4")]
        for flag in ("context 64", "beta-fast 16", "beta-slow 2", "full-only")} | {
        "--peak-tflops 9": [("--device cpu", "--device cuda")]}),
    "sft": (f"{FROM} {A_RUN}", OPTIMISER | ENDING | EPOCHS | {
        "--iw-form token": [("--loss sft", "--loss iw")], "--refresh 3": [("--loss iw", "--loss psft")],
        "--clip-high 0.1": [("--loss dft", "--loss psft")],
        "--unflagged 0.1": [("", "--no-think 0.5"), ("--no-think 1", "--no-think 0.5")],
        "--no-think 0.5": [("--data chats.jsonl", "--data chats.jsonl questions.jsonl@3"), ("--data chats.jsonl", "")]}),
    "dpo": (f"{FROM} --out o --data p.jsonl", OPTIMISER | {
        "--max-epochs 2": [("--data world:ops=1", "")], "--label-smoothing 0.1": [("--loss kto", "--loss simpo")],
        "--gamma 1": [("--loss dpo", "--loss simpo")], "--kto-weights 1 2": [("--loss orpo", "--loss kto")],
        "--reference r": [("--loss simpo", "--loss kto"), ("--loss orpo", "")]}),
    "grpo": (f"{FROM} {A_RUN}", OPTIMISER | TOOLS | {
        "--tool calculator": [("--mode plain", "")],
        "--prompts 4": [("--batch-tokens 4096", "")],
        "--think-budget 9": [("--mode plain", "--mode think"), ("--mode no_think", "--mode chat")],
        "--dual-clip 3": [("--loss cispo --updates 2", "--loss gspo --updates 2"), ("", "--minibatches 2")],
        "--clip-low 0.1": [("", "--old sampler"), ("--exact --async-steps 0", "--exact --async-steps 1")],
        "--clip-high 0.1": [("--loss dapo", "--loss dapo --minibatches 2")],
        "--scale none": [("--loss ppo", "--loss cispo"), ("--loss reinforce++", "")],
        "--gamma 0.9": [("--loss grpo", "--loss reinforce++"), ("--loss rloo", "--loss ppo")],
        "--lam 0.9": [("--loss reinforce++", "--loss ppo")], "--value-weight 1": [("--loss grpo", "--loss ppo")],
        "--kl-kind k2": [("", "--kl 0.1")], "--kl-in loss": [("--kl 0", "--kl 0.1")],
        "--tau-pos 2": [("--loss grpo --updates 2", "--loss sapo --updates 2"), ("--loss sapo", "--loss sapo --old sampler")],
        "--tau-neg 2": [("--loss dapo --updates 2", "--loss sapo --updates 2"), ("--loss sapo", "--loss sapo --minibatches 2")],
        "--correction tis": [("--exact", ""), ("--exact", "--exact --mismatch noise=0.1")],
        "--veto 1e-4": [("--exact", ""), ("--exact", "--exact --mismatch truncated=0.9")],
        "--old trainer": [("--exact", ""), ("--exact", "--exact --mismatch rounding")],
        "--sequence-mask 0.5": [("--exact", ""), ("--exact", "--exact --updates 2")],
        "--cap 3": [("--correction none", "--correction tis")], "--cap-low 0.3": [("--correction mis", "--correction icepop")],
        "--recompute": [("", "--async-steps 1"), ("--async-steps 0", "--rollout-ranks 1")],
        "--tau 0.9": [("--data text:c.txt,kind=rlpt", "--data text:c.txt,kind=rlp@2"), ("", "--data text:kind=rlp,c.txt")],
        "--sft-weight 2": [("", "--sft-data chats.jsonl@2 text.txt")], "--sft-tokens 512": [("", "--sft-data world:ops=1")],
        "--candidates 8": [("", "--keep-rate 0 1")], "--curriculum": [("", "--keep-rate 0 1")]}),
    "distill": (f"{FROM} {A_RUN} --teacher t", OPTIMISER | TOOLS | {
        "--tool calculator": [("--mode plain", ""), ("--on-policy 0", "--on-policy 0.5")],
        "--batch-tokens 512": [("", "--on-policy 0.5"), ("--on-policy 1", "--on-policy 0")],
        "--top-k 9": [("", "--loss forward"), ("--loss opd", "--loss jsd")],
        "--beta 0.1": [("--loss reverse", "--loss jsd"), ("", "--loss jsd")],
        "--think-budget 9": [("--mode plain", "--mode think")], "--recompute": [("", "--async-steps 1")],
        "--async-steps 1": [("--on-policy 0.5", "")], "--rollout-ranks 1": [("--on-policy 0", "")],
        "--max-new-tokens 9": [("--on-policy 0", f"--on-policy 0 {HELD_OUT}"), ("--on-policy 0", "--on-policy 0.5")],
        "--think-budget 8": [("--on-policy 0 --mode think", f"--on-policy 0 --mode think {HELD_OUT}")]} | {
        flag: [("--on-policy 0", "--on-policy 0.5")] for flag in ("--prompts 4", "--group 2", "--rows 9", "--show-every 3")}),
    "sampler": ("--init i --prompt x", DRAWS | {
        "--tool t.py:f": [("", "--chat")], "--max-calls 2": [("--chat", "--chat --tool calculator")],
        "--tool-seconds 2": [("--chat --tool calculator", "--chat --tool t.py:f")],
        "--system s": [("", "--chat")], "--think on": [("", "--chat")], "--seed 3": [("", "--temperature 1")]}),
    "chat": ("--init i", DRAWS | TOOLS | {"--seed 3": [("", "--temperature 1")]}),
    "evaluate": ("--init i", {
        "--exact": [("--compared-with c", "--compared-with c --text t.txt"), ("--compared-with c", "--data f.jsonl")],
        "--benchmark-data d": [("--data f.jsonl", "--benchmark gsm8k")], "--template rl": [("--data f.jsonl", "--benchmark all")],
        "--contamination 0.5": [("--text t.txt", "--data f.jsonl"), ("", "--benchmark gsm8k,ocw")],
        "--tool t.py:f": [("--data f.jsonl", "--data f.jsonl --chat")],
        "--max-calls 2": [("--data f.jsonl --chat", "--data f.jsonl --chat --tool calculator")],
        "--tool-seconds 2": [("--data f.jsonl --chat --tool calculator", "--data f.jsonl --chat --tool calculator t.py:f")],
        "--top-p 0.5": [("--data world:", "--data world: --k 2"), ("--data world: --k 2 --temperature 0", "--data world: --k 2")],
        "--top-k 5": [("--data world:", "--data world: --k 2"), ("--data world: --k 2 --temperature 0", "--data world: --k 2")],
        "--problems 3": [("--data f.jsonl", "--data world:ops=1"), ("--data f.jsonl", "--needle 64")],
        "--attention 2": [("--data world:", "--needle 64"), ("--data f.jsonl", "--data needle:length=64")],
        "--limit 3": ON_A_FILE, "--max-new-tokens 3": ON_A_FILE,
        "--show 3": [*ON_A_FILE, ("--text t.txt", "--benchmark ocw")],
        "--shots 2": [*ON_A_FILE, ("--data f.jsonl --chat", "--data f.jsonl --chat --plain i")],
        "--k 2": [("--text t.txt", "--data f.jsonl")], "--chat": [("--text t.txt", "--data f.jsonl")],
        "--rows 2": [("--text t.txt", "--data f.jsonl")], "--samples 3": [("--data world:", "--data world: --k 2")],
        "--temperature 1": [("--data world:", "--data world: --k 1 2")],
        "--seed 3": [("--data f.jsonl", "--data f.jsonl --limit 2"), ("--data world:", "--data world: --k 2")],
        "--plain i": [("--data f.jsonl", "--data f.jsonl --chat")], "--seq-len 64": [("--data f.jsonl", "--text t.txt")],
        **{flag: [("--data f.jsonl", "--data f.jsonl --chat"), ("--benchmark ocw --template few-shot", "--benchmark ocw")]
           for flag in ("--think on", "--user-suffix x")},
        "--keep 3": [("--data world:", "--data world: --out o"), ("--data f.jsonl --out o", "--data world: --out o")],
        "--band 1": [("--data world:", "--data world: --out o"), ("--data f.jsonl --out o", "--data world: --init i j")],
        "--solved 1": [("--data world:", "--data world: --init i j"), ("--data f.jsonl --out o", "--data world: --out o")]}),
    "augment pairs": ("pairs --strong s --weak w --data d --out o", DRAWS),
    "augment contrast": ("contrast --init i --data d --out o", DRAWS),
    "augment reject": ("reject --init i --data d --out o", DRAWS | {"--samples 3": [("--temperature 0", "--temperature 1")]}),
    "augment rft": ("rft --init i --data d --out o", DRAWS | {"--samples 3": [("--temperature 0", "")]}),
    "augment distill": ("distill --init i --data d --out o", DRAWS | {
        "--samples 3": [("--temperature 0", "")], "--second-plain": [("", "--second s")], "--third-plain": [("", "--third s")],
        "--truncate-share 0.5": [("", "--truncate 9")], "--most-repeated 0.5": [("--drop wrong", "--drop repetitive")],
        "--least-words 9": [("--drop wrong", "--drop wrong guessed")], "--choose c": [("", "--second s"), ("", "--third s")]}),
    "augment star": ("star --init i --data d --out o", {
        "--top-p 0.9": [("", "--temperature 1")], "--top-k 3": [("", "--temperature 1")],
        "--samples 3": [("", "--temperature 1")], "--prompt p": [("--no-hints", "")]}),
    "augment pivotal": ("pivotal --init i --data d --out o", DRAWS),
    "augment measure": ("measure f", {f: [("", "--init i")] for f in ("--entropy-tokens 9", "--device cpu", "--dtype float32")}),
    "augment think": ("think --init i --data d --out o", DRAWS | {"--whole": [("--plain", "")]}),
    "augment corrupt": ("corrupt --data d --out o", {
        "--filler x": [("--how swap", "--how blank")],
        "--seed 3": [("--how blank", "--how swap"), ("--how keep", "--how shuffle")]}),
    "augment paraphrase": ("paraphrase --init i --data d --out o", DRAWS),
    "augment synthesise": ("synthesise --init i --count 2 --out o", DRAWS | {
        "--sentences 2": [("", "--topics world:ops=1"), ("--topics t.txt", "--topics own.py:Task")],
        "--verified": [("--topics own.py:Task", "--topics own.py:Task --sentences 0"), ("", "--topics world:ops=1")]}),
    "mix": ("--sources a b --target t --out o", {
        "--sizes 1x16": [(FROM, NEW)], "--tokenizer t": [(FROM, NEW)], "--vocab-size 300": [(FROM, NEW), ("--tokenizer t", NEW)],
        "--max-epochs 2": [("--sources world:ops=1 world:ops=2", NEW)],
        "--run-tokens 2": [("--sources world:ops=1 world:ops=2", "--sources world:ops=1 b")],
        "--pareto t u": [("", "--measure u")]}),
    "bench": ("", {
        "--rounds 3": [("learn", "train")], "--steps 3": [("train", "learn")], "--device cpu": [("real", "bits")],
        "--dtype bfloat16": [("async", "probe")], "--tokens 3": [("train", "bits")], "--sizes 1.2B": [("bits", "pretrain")],
        "--seed 3": [("train", "pipeline")], "--keep k": [("learn", "async")], "--runs r": [("real", "spurious")],
        "--init i": [("train", "real")], "--data d": [("learn", "real")], "--toy": [("largest", "kernels")],
        "--out o": [("readme", "rl")], "--cases c": [("train", "answers")]} | {
        flag: [("answers", "harness")] for flag in (
            "--benchmark gsm8k", "--benchmark-data d", "--template few-shot", "--limit 3", "--python p")}),
    "plan": ("", {"--params 9": [("--init i", ""), ("--check", ""), ("--fit r", "")]} | {
        flag: [("--check", "")] for flag in (
            "--gpus 2", "--prompt-tokens 2", "--async-steps 2", "--rows 2", "--micro-tokens 2", "--memory-gb 2", "--flops 2",
            "--bandwidth 2", "--link 2", "--device cpu", "--fit r")} | {
        flag: [("--check", ""), ("--fit r", "")] for flag in (
            "--init i", "--prompts 2", "--group 2", "--response 2", "--longest 2")} | {
        flag: [("", "--fit r")] for flag in ("--budget 9", "--hours 9", "--law sigmoid")} | {
        "--steepness 1 2": [("", "--fit r"), ("--fit r --law sigmoid", "--fit r")]} | {
        flag: [("", "--check")] for flag in ("--toy", "--rounds 3", "--out o")}),
}


ROOMS = {"plan": "benchmarks", "world": "tasks", "knowledge": "tasks", "instructions": "tasks", "text": "tasks",
         "needle": "tasks", "judges": "tasks"}                               # of those not in the root


class Built(Exception):
    """Raised where a script would parse its command line."""


def parsers():
    """{script, and subcommand: its parser}, without running more of the scripts than what builds them."""
    found = {}
    for module in ("pretrain sft dpo grpo distill sampler chat evaluate augment mix report tokenizer data bench plan world "
                   "knowledge instructions needle text judges").split():
        made, init = [], cli.Parser.__init__

        def note(self, *args, made=made, init=init, **options):
            made.append((self, options.get("prog", "").split()[-1:]))
            init(self, *args, **options)
        with (mock.patch.object(cli.Parser, "__init__", note), mock.patch.object(cli.Parser, "parse_args", side_effect=Built),
              mock.patch("sys.argv", ["x"]), pytest.raises(Built)):
            importlib.import_module(f"{ROOMS[module]}.{module}" if module in ROOMS else module).main()
        for parser, prog in made if len(made) == 1 else made[1:]:
            found[" ".join([module, *(prog if len(made) > 1 else [])])] = parser
        found.setdefault(module, made[0][0])
    return found


PARSERS = parsers()


def parse(script, line):
    """The values of a command line, or the one line that refuses it. ranks=N in it is what torchrun would say."""
    words = shlex.split(line)
    ranks = next((w[6:] for w in words if w.startswith("ranks=")), "1")
    words = [w for w in words if not w.startswith("ranks=")]
    with (mock.patch("sys.argv", [f"{script.split()[0]}.py"]), mock.patch.dict("os.environ", WORLD_SIZE=ranks),
          mock.patch("sys.stderr.write") as said, mock.patch("torch.cuda.device_count", return_value=8),
          mock.patch("torch.cuda.set_device")):
        try:
            return PARSERS[script.split()[0]].parse_args(words)
        except SystemExit as e:
            assert e.code == 2
    message = "".join(call.args[0] for call in said.call_args_list)
    assert message.endswith("\n") and message.count("\n") == 1 and message.startswith(f"{script.split()[0]}.py: "), message
    return message


@pytest.mark.parametrize("script", ALWAYS)
def test_each_flag_has_an_effect_always_or_says_when(script):
    parser = PARSERS[script]
    flags = {name.lstrip("-") for name in parser.names.values()}
    sometimes = {flag.lstrip("-") for row in parser.needs for flag in row[0].split()} & flags
    always = set(ALWAYS[script].split())
    assert always | sometimes == flags and not always & sometimes
    tried = {flag.split()[0].lstrip("-") for flag in CASES.get(script, ("", {}))[1]}
    assert tried == sometimes


@pytest.mark.parametrize("script", CASES)
def test_a_flag_without_effect_is_refused(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("text.txt", "some text"), ("questions.jsonl", '{"question": "1 + 1?", "answer": "2"}'),
                       ("chats.jsonl", '{"messages": [{"role": "user", "content": "a"}]}')):
        (tmp_path / name).write_text(text)
    start, flags = CASES[script]
    for flag, pairs in flags.items():
        for idle, works in pairs:
            refused, accepted = (parse(script, f"{start} {others} {flag}") for others in (idle, works))
            assert isinstance(refused, str) and f"{flag.split()[0]} has no effect" in refused, (idle, flag, refused)
            assert "leave it out" in refused
            assert not isinstance(accepted, str), (works, flag, accepted)


def test_what_is_not_given_is_not_refused_and_defaults_stay():
    a = parse("grpo", f"--init i {A_RUN} --exact")
    assert (a.veto, a.lr, a.steps, a.keep_rate, a.max_new_tokens) == (0.0, 2e-4, 100, None, ["128"])
    assert vars(a).keys() == {dest for dest in PARSERS["grpo"].names}
    assert parse("pretrain", f"--init i {A_RUN}").layers == 4
    assert "--layers --width have no effect with --init" in parse("pretrain", f"--init i {A_RUN} --width 8 --layers 2")
    assert "leave them out" in parse("pretrain", f"--init i {A_RUN} --width 8 --layers 2")
    for script, line in (("dpo", "--until-loss 1"), ("grpo", "--until-accuracy 1"), ("sft", "--peak-tflops 9"),
                         ("sft", "--clip-low 1")):
        assert "unrecognized arguments" in parse(script, f"--init i {A_RUN} {line}")


@pytest.mark.parametrize("script", PARSERS)
def test_each_number_has_a_type_that_knows_its_bounds(script):
    for action in PARSERS[script]._actions:
        assert action.type not in (int, float), f"{action.dest}: take a type of training/cli.py"
        if action.type is None or action.dest in ("device", "out"):
            assert not isinstance(action.default, (int, float)) or isinstance(action.default, bool), action.dest
            continue
        for bad in ("nan", "inf", "-inf", "1e999", "-1", "-1e-9", "x", "", "9" * 5000, "9" * 400, "1.5.1"):
            with pytest.raises(cli.argparse.ArgumentTypeError, match="use "):
                action.type(bad)
        defaults = action.default if isinstance(action.default, list) else [action.default]
        assert all(d is None or action.type(str(d)) == d for d in defaults), action.dest


@pytest.mark.parametrize("script, line", [
    ("pretrain", "--lr nan"), ("sft", "--warmup 2"), ("dpo", "--decay -1"), ("grpo", "--temperature nan"), ("grpo", "--clip -1"),
    ("grpo", "--clip 0"), ("grpo", "--kl nan"), ("grpo", "--seed -1"), ("pretrain", "--seed 99999999999999999999"),
    ("grpo", "--temperature 0"), ("grpo", "--log-every 0"), ("pretrain", "--steps 0"), ("pretrain", "--device tpu"),
    ("pretrain", "--device cuda:1"), ("grpo", "--dual-clip 1"), ("grpo", "--cap 0.5"), ("grpo", "--keep-rate 0.5 2"),
    ("dpo", "--label-smoothing 0.6"), ("dpo", "--beta 0"), ("sft", "--no-think 1.1"), ("pretrain", "--heads 0"),
    ("pretrain", "--layers 1.5"), ("distill", "--beta 1"), ("distill", "--on-policy 1.1"),
    ("grpo", "--rollout-ranks -1"), ("grpo", "--lam 1.01"), ("sft", "--lr -inf")])
def test_a_bad_number_is_one_line(script, line):
    assert line.split()[0] in parse(script, f"--init i {A_RUN} {line}")


def test_a_device_that_is_not_there():
    for script, start in (("sampler", "--init i --prompt x"), ("evaluate", "--init i --data world:"), ("bench", "train")):
        assert "use cpu" in parse(script, f"{start} --device tpu") and "no such GPU" in parse(script, f"{start} --device cuda:8")
        assert parse(script, f"{start} --device cuda:7").device == "cuda:7"


def test_kernels_run_on_the_device_that_is_given():
    """Triton's kernels and CUDA graphs run on the current device, whatever device their tensors are on."""
    with mock.patch("torch.cuda.device_count", return_value=8), mock.patch("torch.cuda.set_device") as chosen:
        assert [cli.device(text) for text in ("cpu", "cuda")] == ["cpu", "cuda"] and not chosen.called
        assert cli.device("cuda:7") == "cuda:7"
    chosen.assert_called_once_with(7)


@pytest.mark.parametrize("where, command", [
    c.values[:2] for c in commands()
    if not c.values[1].startswith(("bash", "make", "python -m recipes.")) and "=" not in c.values[1].split()[0]])
def test_documented_commands_give_no_idle_flag(where, command):
    command = command.split(" &&")[0]
    script, *words = shlex.split(re.sub(r"^(python -m tasks\.|python|torchrun \S+) ?", "", command))
    script = script.removesuffix(".py")
    script, words = ("plan", words[1:]) if script == "bench" and words[:1] == ["plan"] else (script, words)
    lines = [words]
    if not re.search(r"bench\.py (pipeline|rl|spurious|largest|readme|harness)", command):    # test_commands.py runs the others
        small = re.sub(r"^(python -m tasks\.|python|torchrun \S+) ?", "", toy(command))
        lines.append(shlex.split(small)[1 + (script == "plan"):])
    for line in lines:
        values = parse(script, f"{shlex.join(line)} ranks={8 if 'torchrun' in command else 1}")
        assert not isinstance(values, str), values


RECIPES = {"laptop": "", "spurious": "", "one_gpu": "corpus held_out.txt", "world_gpu": "",
           "gsm8k": "model train.jsonl test.jsonl", "node": "model train.jsonl", "two_nodes": "1 10.0.0.1:29500 model rows.jsonl"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_give_no_idle_flag(name, tmp_path):
    """At their full size: what a recipe calls is noted in place of Python, and then parsed."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("some text")
    note = tmp_path / "note.sh"
    note.write_text(f"#!/usr/bin/env bash\nprintf '%q ' \"$@\" >> {tmp_path}/calls\necho >> {tmp_path}/calls\n")
    note.chmod(0o755)
    words = [str(tmp_path / w) if w in ("corpus", "held_out.txt") else w for w in RECIPES[name].split()]
    done = subprocess.run(["bash", ROOT / "recipes" / f"{name}.sh", *words], capture_output=True, text=True, cwd=tmp_path,
                          timeout=60, env=os.environ | {"PYTHON": str(note), "TORCHRUN": str(note), "OUT": str(tmp_path / "out")})
    assert done.returncode == 0, done.stderr
    scripts = []
    for call in (tmp_path / "calls").read_text().splitlines():
        words = shlex.split(call)
        at = next(i for i, w in enumerate(words) if w.endswith(".py"))
        scripts.append(words[at].removesuffix(".py"))
        values = parse(scripts[-1], f"{shlex.join(words[at + 1:])} ranks={16 if at else 1}")
        assert not isinstance(values, str), values
    assert len(scripts) == {"laptop": 8, "spurious": 6, "one_gpu": 4, "world_gpu": 9, "gsm8k": 3}.get(name, 1)


def test_make_gives_no_idle_flag():
    """What `make gpu` calls is printed in place of Python, and then parsed."""
    done = subprocess.run(["make", "-s", "gpu", "PY=echo"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    calls = [line.removeprefix("bench.py ") for line in done.stdout.splitlines() if line.startswith("bench.py ")]
    assert len(calls) == 5
    for call in calls:
        values = parse("bench", call)
        assert not isinstance(values, str), values


def test_stages_of_a_cap():
    assert parse_caps(["64", "128@200"]) == [(0, 64), (200, 128)]
    for bad in (["64", "32"], ["64", "9@5", "8@5"], ["64@"], ["6\u00b2"], ["64@-1"], ["0"], ["64@1"], ["1e3"]):
        with pytest.raises(ValueError, match="--max-new-tokens"):
            parse_caps(bad)


def test_whole_names_come_before_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("me@home.txt", "two@2"):
        (tmp_path / name).write_text("some text")
    assert split_spec("me@home.txt") == ("me@home.txt", 1.0) and split_spec("me@home.txt@0.5") == ("me@home.txt", 0.5)
    assert split_spec("two@2") == ("two@2", 1.0) and split_spec("two@3") == ("two", 3.0)
    with pytest.raises(ValueError, match=r"no file or folder has this name, .* the weight 'home.jsonl'"):
        split_spec("me@home.jsonl")
    assert split_spec("hf:org/name@main:en@0.5") == ("hf:org/name@main:en", 0.5)         # the last one is the weight
    with pytest.raises(ValueError, match="behind a revision the weight as well, hf:org/name@main@1"):
        split_spec("hf:org/name@main")


def test_value_heads_need_whole_weights():
    with pytest.raises(ValueError, match="leave --shard out"):
        grpo.check(parse("grpo", f"--init i {A_RUN} --loss ppo --shard ranks=2"))


def test_shards_know_their_tokenizer(tmp_path, tokenizer, capsys):
    """The size of a vocabulary says nothing on what its ids mean."""
    (tmp_path / "a.txt").write_text("The lions number 3.")
    tokenizer.save(tmp_path / "tokenizer")
    prepare([str(tmp_path / "a.txt")], tmp_path / "tokenizer", tmp_path / "shards", 1)
    assert open_shards(tmp_path / "shards", Tokenizer.load(tmp_path / "tokenizer")).count == 1
    turned = tokenizer._spec["model"] | {"merges": tokenizer._spec["model"]["merges"][::-1]}   # the same tokens, merged otherwise
    for change in ({"model": turned}, {"normalizer": {"type": "NFC"}}):
        stranger = Tokenizer(tokenizer._spec | change, tokenizer._config)
        assert len(stranger) == len(tokenizer)
        with pytest.raises(ValueError, match="another tokenizer than this one.*; prepare it again"):
            open_shards(tmp_path / "shards", stranger)
    with pytest.raises(ValueError, match="made with a vocabulary of 512, this tokenizer has"):
        open_shards(tmp_path / "shards", Tokenizer.train(["a b c"], 600))
    index = json.loads((tmp_path / "shards" / "index.json").read_text())
    index.pop("tokenizer")
    (tmp_path / "shards" / "index.json").write_text(json.dumps(index))
    capsys.readouterr()
    assert open_shards(tmp_path / "shards", tokenizer).count == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match="made with a vocabulary"):
        open_shards(tmp_path / "shards", Tokenizer.train(["a b c"], 600))


def test_shards_take_no_weights(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    assert "give the weight to the command that reads them" in refusal(
        data, "prepare", "--data", "a.txt@0.5", "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "shards")


# --eval-data

WORLD, TINY = "world:ops=1,split=test", ["--batch-tokens", 512, "--seq-len", 256, "--steps", 1, "--device", "cpu"]


@pytest.fixture(scope="module")
def start(tmp_path_factory, tokenizer):
    """A checkpoint, and files of questions, text, conversations and pairs."""
    folder = tmp_path_factory.mktemp("start")
    tiny_checkpoint(folder / "init", tokenizer)
    questions = [f"The lions number {i}. How many lions?" for i in range(6)]
    write_rows(folder / "questions.jsonl", [{"question": q, "answer": f"{i} lions.\n#### {i}"} for i, q in enumerate(questions)])
    write_rows(folder / "text.jsonl", [{"text": q} for q in questions])
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": str(i)}] for i, q in enumerate(questions)]
    write_rows(folder / "chats.jsonl", [{"messages": chat} for chat in chats])
    for name, flags in (("think", [" /think"] * 6), ("both", [" /think", " /no_think"] * 3), ("none", [""] * 6),
                        ("no_think", [" /no_think"] * 6)):
        write_rows(folder / f"{name}.jsonl", [{"prompt": q + flag, "chosen": "1", "rejected": "2"}
                                              for q, flag in zip(questions, flags)])
    (folder / "text.txt").write_text("The lions number 3. " * 9)
    return folder


def measured(module, start, out, *flags):
    """A run of one step that measures a world, questions and two texts: ({name: result}, [what the sampler was asked for])."""
    asked, generate = [], asking.Sampler.generate

    class Noted(asking.Sampler):
        def generate(self, prompts, n, limits, temperature, **how):
            asked.append((prompts, n, limits, temperature, how["think_budget"]))
            return generate(self, prompts, n, [2] * len(limits), temperature, seed=how["seed"])
    with mock.patch.object(asking, "Sampler", Noted):
        code, result, err = run_main(module, *flags, "--out", out, "--eval-data", WORLD, start / "questions.jsonl",
                                     start / "text.jsonl", start / "text.txt", "--eval-problems", 4)
    assert code == 0, err[-2000:]
    for name, found in result["eval"].items():
        kind = ("answer" if WORLD in name else "accuracy" if "questions" in name else "bits_per_byte")
        assert kind in (found[0] if isinstance(found, list) else found), name
    assert all(n == 1 and temperature == 0 for _, n, _, temperature, _ in asked)
    return result["eval"], asked


def names_of(start, *more):
    texts = [str(start / "text.jsonl"), str(start / "text.txt")]
    return [spec + name for spec in (WORLD, str(start / "questions.jsonl")) for name in ("", *more)] + texts


def test_pretraining_is_measured_in_plain_text(start, tmp_path, tokenizer):
    found, asked = measured(pretrain, start, tmp_path / "run", "--init", start / "init", "--data", "world:ops=1", *TINY)
    assert list(found) == names_of(start)
    world, file = (prompts for prompts, *_ in asked)
    assert world == [tokenizer.encode(World.from_spec(WORLD).problem(i).question + "\n") for i in range(4)]
    assert {tokenizer.decode(p) for p in file} <= {f"The lions number {i}. How many lions?\n" for i in range(6)}
    assert len(file) == 4


@pytest.mark.parametrize("flags, wanted", [
    ("", {"": (0.0, 0.0)}), ("--no-think 0.4 --unflagged 0.2", {"": (1e-9, 0.0), " /no_think": (1.0, 0.0)}),
    ("--no-think 1", {"": (1.0, 0.0)}), ("--no-think 0.4 --unflagged 1", {"": (1e-9, 1.0), " /no_think": (1.0, 0.0)})])
def test_fine_tuning_is_measured_in_each_of_its_modes(start, tmp_path, tokenizer, flags, wanted):
    """The prompt is how a conversation trained on begins: tell's, with these shares of --no-think and --unflagged."""
    found, asked = measured(sft, start, tmp_path / "run", "--init", start / "init", "--data", "world:ops=1", *TINY,
                            *flags.split())
    assert list(found) == names_of(start, *list(wanted)[1:])
    for (prompts, *_), shares in zip(asked, wanted.values()):                 # the world comes first
        for i, prompt in enumerate(prompts):
            problem = World.from_spec(WORLD).problem(i)
            trained, mask = tokenizer.encode_chat(problem_turns(problem, i + 1, *shares))
            assert trained[:len(prompt)] == prompt and mask[len(prompt)] == 1 and not any(mask[:len(prompt)])


@pytest.mark.parametrize("name, wanted", [("none", [""]), ("think", [" /think"]), ("both", [" /think", " /no_think"]),
                                          ("no_think", [" /no_think"])])
def test_preference_training_is_measured_as_its_pairs_are_asked(start, tmp_path, tokenizer, name, wanted):
    found, asked = measured(dpo, start, tmp_path / "run", "--init", start / "init", "--data", start / f"{name}.jsonl", *TINY)
    assert list(found) == names_of(start, *wanted[1:])
    question = World.from_spec(WORLD).problem(0).question
    for (prompts, *_), flag in zip(asked, wanted):
        assert prompts[0] == tokenizer.chat_prompt([{"role": "user", "content": question + flag}])


@pytest.mark.parametrize("flags, budget", [("--mode plain", None), ("--mode chat", None), ("--mode no_think", None),
                                           ("--mode think --think-budget 7", 7)])
def test_a_policy_is_measured_as_it_is_asked(start, tmp_path, tokenizer, flags, budget):
    mode, cap = flags.split()[1], 40
    found, asked = measured(grpo, start, tmp_path / "run", "--init", start / "init", "--data", "world:ops=1", "--prompts", 1,
                            "--group", 2, "--max-new-tokens", cap, "--reward", "random", "--steps", 1, "--device", "cpu",
                            *flags.split())
    assert list(found) == names_of(start)
    [world, *_], [_, _, limits, *_] = asked
    assert world == [prompt_ids(tokenizer, World.from_spec(WORLD).problem(i), mode) for i in range(4)]
    assert limits == [cap] * 4 and [how[-1] for how in asked] == [budget] * 2


def test_what_cannot_be_measured_is_refused_before_training(start, tmp_path):
    write_rows(start / "bad.jsonl", [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?"}])
    for spec, message in ((start / "chats.jsonl", "no answer to a conversation"), (start / "bad.jsonl", "line 2"),
                          (start / "nowhere.txt", "nowhere.txt: no such file"), ("world:ops=0", "ops=0")):
        line = refusal(pretrain, "--init", start / "init", "--data", "world:ops=1", *TINY, "--out", tmp_path / "run",
                       "--eval-data", spec)
        assert message in line and not (tmp_path / "run").exists()
    kinds = {name: kind_of(str(start / name)) for name in ("questions.jsonl", "chats.jsonl", "text.jsonl", "text.txt")}
    assert list(kinds.values()) == ["questions", "conversations", "text", "text"] and kind_of(WORLD) == "world"


def test_a_goal_counts_answers_with_thinking(start):
    def table(rate):
        return [{"ops": 1, "process": {"pass@1": [rate, 0, 1]}}]
    until = Until(0.0, 0.5)
    for _ in range(2):
        reached = until.accurate({WORLD: table(0.6), f"{WORLD} /no_think": table(0.0), "text.txt": {"bits_per_byte": 2.0}})
    assert reached == "--until-accuracy" and until.measured == [0.6, 0.6]


def test_a_goal_counts_questions(start):
    """A file or a task counts as much as each number of operations of a world; a loss counts nothing."""
    file, world = {"accuracy": {"pass@1": [0.8, 0, 1]}}, [{"ops": ops, "process": {"pass@1": [0.2, 0, 1]}} for ops in (1, 2)]
    until = Until(0.0, 0.4)
    for _ in range(2):
        reached = until.accurate({WORLD: world, "file": file, "file /no_think": {"accuracy": {"pass@1": [0, 0, 0]}},
                                  "loss:world:ops=1": 0.01})
    assert reached == "--until-accuracy" and until.measured == pytest.approx([0.4, 0.4])


def test_the_page_shows_both_modes(start, tmp_path):
    measured(sft, start, tmp_path / "run", "--init", start / "init", "--data", "world:ops=1", *TINY, "--no-think", 0.4)
    code, result, err = run_main(report, "--runs", tmp_path / "run", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert code == 0 and f"{WORLD} /no_think" in page and "questions.jsonl: pass@1" in page and "bits per byte" in page, err
