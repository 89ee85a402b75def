"""Bad input of every kind to every script: exit code 2, one line that names what is wrong, and no file changed.

Each case is a command line, the files it finds, and words of the refusal. What is accepted is tested beside what it does
(test_data.py, test_sft.py, test_dpo.py)."""

import contextlib
import gzip
import importlib.util
import json
import os
import re
import shutil
import signal
import sys

import pytest
import torch
from conftest import script
from helpers import run_main, tiny_checkpoint
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from training import cli

TALK = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
QUESTION = {"question": "2 + 2?", "answer": "4"}
PAIR = {"prompt": "Hi", "chosen": "Hello.", "rejected": "Go away."}
TEXT = {"text": "The lions number 3."}
COMMANDS = {  # a command for each script that would do its work, were its input good
    "pretrain": "pretrain.py --tokenizer INIT --data a.jsonl --out out --layers 1 --width 16 --heads 2 --kv-heads 1",
    "sft": "sft.py --init INIT --data a.jsonl --out out", "dpo": "dpo.py --init INIT --data a.jsonl --out out",
    "grpo": "grpo.py --init INIT --data a.jsonl --out out --reward answer --steps 1",
    "distill": "distill.py --init INIT --teacher INIT --data a.jsonl --out out --steps 1",
    "questions": "evaluate.py --init INIT --data a.jsonl --out out",
    "text": "evaluate.py --init INIT --text a.jsonl --out out",
    "augment": "augment.py reject --init INIT --data a.jsonl --out out",
    "pairs": "augment.py pairs --strong INIT --weak INIT --data a.jsonl --out out",
    "train": "tokenizer.py train --data a.jsonl --out out --vocab-size 300",
    "table": "data.py table --tokenizer INIT --data a.jsonl",
    "prepare": "data.py prepare --tokenizer INIT --data a.jsonl --out out --workers 1"}
GOOD = {"pretrain": TEXT, "sft": TALK, "dpo": PAIR, "text": TEXT, "train": TEXT, "table": TEXT, "prepare": TEXT}
SMALL, MANY = "--seq-len 64 --batch-tokens 64 --steps 2", json.dumps(TEXT) + "\n" + json.dumps({"text": "Two owls. " * 40}) + "\n"
CASES = []                                                # (command line, {file: content}, words of the refusal)


def case(command, files, words):
    name, _, more = command.partition(" ")
    CASES.append((f"{COMMANDS.get(name, name)} {more}".strip(), files, words))


def rows(*found):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in found)


def talk(*messages, **row):
    return row | {"messages": list(messages)}


def user(content="Hi", **more):
    return {"role": "user", "content": content} | more


def said(content="Hello.", **more):
    return {"role": "assistant", "content": content} | more


# what is no JSON, or no row, in the second line of each reader's file

for name in COMMANDS:
    for line, words in (('{"text": ', "line 2: not valid JSON (Expecting value)"),
                        ('{"text": NaN}', "line 2: not valid JSON (NaN is not a number)"),
                        ('{"answer": 1e999}', "line 2: not valid JSON (1e999 is not a number)"),
                        ('{"text": "a", "text": "b"}', 'line 2: not valid JSON (the key "text" appears twice)'),
                        ("[" * 100_000 + "]" * 100_000, "line 2: not valid JSON (brackets nested too deeply)"),
                        ('{"answer": ' + "1" * 5000 + "}", "line 2: not valid JSON (a number with too many digits)"),
                        ("[1, 2]", "line 2: "), ("null", "line 2: "), ('{"body": "b"}', "line 2: ")):
        case(name, {"a.jsonl": rows(GOOD.get(name, QUESTION), line)}, f"a.jsonl, {words}")

# files

packed = gzip.compress(rows(TEXT | {"id": 1}, TEXT).encode())
for name in ("pretrain", "sft", "dpo", "grpo", "distill", "questions", "train"):
    case(name, {}, "a.jsonl: no such file")
    case(name, {"a.jsonl": ""}, "a.jsonl: the file is empty")
    case(name, {"a.jsonl": "\n\n"}, "a.jsonl: no problems, conversations or texts in it")
    case(name, {"a.jsonl": b"\xff\xfe{\x00"}, "a.jsonl, after line 0: cannot be read")
for name in ("pretrain", "text"):
    for content in (packed[:-12], packed[:-8] + b"\0" * 8, packed[:12] + b"\xff" * 9 + packed[21:], b"no gzip at all"):
        case(f"{name} --{'text' if name == 'text' else 'data'} a.jsonl.gz", {"a.jsonl.gz": content}, "cannot be read")
for name in ("pretrain", "questions"):
    case(name + " --data a.parquet", {"a.parquet": b"PAR1 and no more"}, "a.parquet")
    case(name + " --data a.csv", {"a.csv": "a,b\n"}, "a.csv: use a .txt")
case("sft --data shards", {"shards/index.json": "{}"}, "shards: is a folder; give a file")
case("pretrain --data a.txt", {"a.txt": b"caf\xe9"}, "a.txt: not UTF-8 text (byte 3)")
case("pretrain --data a.txt", {"a.txt": b"\xef\xbb\xbf"}, "a.txt: the file is empty")
case("text --text a.txt", {"a.txt": "x"}, "at least two tokens")
for index, words in (("{", "not valid JSON"), ("{}", "is not what data.py prepare writes (KeyError('vocab_size'))"),
                     ("[]", "is not what data.py prepare writes"), (None, "index.json: no such file")):
    case("pretrain --data shards", {"shards/index.json": index, "shards/x": "x"}, words)

# text

case("pretrain", {"a.jsonl": rows({"text": ""}, {"text": ""})}, "a.jsonl: holds no text, all of its 2 documents are empty")
case("table", {"a.jsonl": rows({"text": ""})}, "a.jsonl: holds no text")
case("prepare", {"a.jsonl": rows({"text": ""})}, "a.jsonl: holds no text")
case("pretrain --data a.jsonl world:ops=1", {"a.jsonl": rows({"text": ""})}, "a.jsonl: holds no text")
for row, words in (({"text": 1}, '"text" must be text; it is 1, a value of type int'), ({"text": ["a"]}, '"text" must be text'),
                   (TEXT | TALK, 'both "text" and "messages"'), (TEXT | {"weight": 0}, 'both "text" and "weight"'),
                   (TEXT | {"train": False}, 'both "text" and "train"'),
                   ({"question": ["a"], "answer": "b"}, '"question" must be text'),
                   ({"question": "a", "answer": ["12"]}, '"answer" must be text or a number'),
                   ({"question": "a", "answer": "b", "choices": ["a", "b"]}, 'the key "choices" has no meaning')):
    case("pretrain", {"a.jsonl": rows(TEXT, row)}, f"a.jsonl, line 2: {words}")

# held-out data: read whole before training

for name in ("pretrain", "sft", "dpo", "grpo"):
    files = {"a.jsonl": rows(GOOD.get(name, QUESTION))}
    for held_out, words in ((rows(TEXT, {"text": 3}), 'line 2: "text" must be text'),
                            (rows(QUESTION, '{"a": '), "line 2: not valid JSON"),
                            (rows({"text": ""}), "at least two tokens"), (rows({"text": "x"}), "at least two tokens"),
                            (rows(TALK), "no answer to a conversation can be checked"), (None, "e.jsonl: no such file")):
        case(f"{name} --eval-data e.jsonl", files | {"e.jsonl": held_out}, words)
    case(f"{name} --eval-data world:chat=x", files, "chat=x")

# conversations

for row, words in (
    (talk(user(), said("", tool_calls=[{"id": "1"}])), 'message 1: the key "tool_calls" has no meaning in a message'),
    (talk(user(), said(), tools=[{"name": "x"}]), 'the key "tools" has no meaning'),
    (talk(user(), said(function_call={"name": "x"})), 'message 1: the key "function_call"'),
    (talk(user(), said(audio={"id": "x"})), 'message 1: the key "audio"'),
    (talk(user(), said(refusal="no")), 'message 1: the key "refusal"'),
    (talk(user(name="Tom"), said()), 'message 0: the key "name"'),
    (talk(user(id="x"), said()), 'message 0: the key "id"'), (talk(user(), said(), weight=0), 'the key "weight"'),
    (talk(user(), said(), chat_template_kwargs={"a": 1}), 'the key "chat_template_kwargs"'),
    (talk(user(), said(), prompt="Ho"), '"prompt" is not the first thing'),
    (talk(user(), said(), problem="Ho"), '"problem" is not the first thing'),
    (talk(user(), said(), user(), said("Yes."), solution="Hello."), '"solution" is not the last thing'),
    (talk(user(), said(), answer=["Hello."]), '"answer" must be text'),
    (talk(user(), said(), system=1), '"system" must be text'),
    (talk({"role": "system", "content": "A"}, user(), said(), system="B"), '"system" is given twice'),
    (talk(user(), said(reasoning="a", thinking="b")), "message 1: reasoning and thinking differ"),
    (talk(user(), said(reasoning_content=["a"])), 'message 1: "reasoning_content" must be text'),
    (talk(user(), said("<think>a</think>b", thinking="a")), "message 1: the reasoning is given twice"),
    (talk(user(thinking="a"), said()), "message 0: reasoning belongs to an assistant"),
    (talk(user(weight=1), said()), 'message 0: "weight" or "train" belongs to an assistant'),
    (talk(user(), said(weight=0.5)), 'message 1: "weight" must be 0 or 1; it is 0.5'),
    (talk(user(), said(weight="0")), 'message 1: "weight" must be 0 or 1'),
    (talk(user(), said(weight=True)), 'message 1: "weight" must be 0 or 1'),
    (talk(user(), said(train=0)), 'message 1: "train" must be'),
    (talk(user(), said(weight=1, train=False)), 'message 1: "weight" and "train" contradict'),
    (talk(user(), said(weight=0)), "no turn of an assistant (or none with a weight above 0)"),
    (talk(user()), "no turn of an assistant"),
    (talk(user(), said("<think>\nso")), "message 1: <think> is never closed"),
    (talk(user(), said("Well <think> so")), "message 1: <think> is never closed"),
    (talk(user(), said("Well <think>a</think> so")), "message 1: a think block must be at the start of the content"),
    (talk(user(), said("<think>a</think>b<think>c</think>d")), "message 1: a think block must be at the start"),
    (talk(user(), said("")), "message 1: the assistant says nothing"),
    (talk(user(), said(" \n")), "message 1: the assistant says nothing"),
    (talk(user(), said("<think>\n\n</think>\n\n")), "message 1: the assistant says nothing"),
    (talk(user(), said(None)), 'message 1 must have "role" and "content"'),
    (talk(user(3), said()), 'message 0: "content" must be text'),
    (talk(user(), {"role": "assistant"}), 'message 1 must have "role" and "content"'),
    (talk(user([{"type": "image_url", "image_url": "x"}]), said()), 'message 0: "content" must be text, or parts of'),
    (talk(user([{"type": "text", "text": "a", "bold": True}]), said()), 'message 0: the key "bold"'),
    (talk(user(["a"]), said()), 'message 0: "content" must be text, or parts'),
    (talk(user(), {"content": "x"}), "unknown role None"),
    ({"messages": "Hi"}, "the messages must be a list"), ({"messages": ["Hi"]}, "the messages must be a list"),
    ({"messages": []}, "the messages must be a list"), (QUESTION, "the messages must be a list")):
    case("sft", {"a.jsonl": rows(TALK, row)}, f"a.jsonl, line 2: {words}")

# questions

for name in ("sft", "grpo", "questions", "augment"):
    for row, words in (({"answer": ["12"]}, '"answer" must be text or a number; it is [\'12\'], a value of type list'),
                       ({"answer": {"value": 12}}, '"answer" must be text or a number'),
                       ({"answer": []}, '"answer" must be text or a number'),
                       ({"answer": True}, '"answer" must be text or a number; it is True'),
                       ({"answer": " "}, "the answer is empty"),
                       ({"question": ["a"]}, '"question" must be text'), ({"question": " "}, "the question is empty"),
                       ({"problem": "3 + 3?"}, '"question" and "problem" differ'),
                       ({"solution": ["a"]}, '"solution" must be text'),
                       ({"choices": ["4", "5"]}, 'the key "choices" has no meaning in a row with a question'),
                       ({"answer": "#### Step 1\nAdd.\n4"}, "after #### there must be only the answer"),
                       ({"answer": "2 + 2\n#### 4", "solution": "add"}, '"solution" and "answer" (before ####) both')):
        case(name, {"a.jsonl": rows(QUESTION, QUESTION | row)}, f"a.jsonl, line 2: {words}")
UNMEASURED = set()                                        # commands of evaluate.py that are refused before anything is measured
for more, files, words in (
    ("--init INIT nowhere", {}, "nowhere/config.json: no such file"),
    ("--init INIT bare", {"bare": "BARE"}, "bare: the folder has no tokenizer.json"),
    ("--compared-with nowhere", {}, "nowhere/config.json: no such file"), ("--data a.jsonl b.jsonl", {}, "b.jsonl: no such file"),
    ("--text a.jsonl b.txt", {}, "b.txt: no such file"), ("--text a.jsonl b.txt", {"b.txt": "x"}, "at least two tokens"),
    ("--data a.jsonl instructions:ops=1", {}, "set a limit"),
    ("--data a.jsonl --needle 128,kind=chain,depth=1", {}, "length=128 is too short"),
    ("--contamination 0.5", {"a.jsonl": rows(QUESTION, QUESTION | {"question": "Hi"})}, "fewer than two words"),
    ("--data a.jsonl knowledge:people=9 --shots 1", {}, "--shots 1: only a file has solved questions to show, and knowledge:"),
    ("--task t.py:T --shots 1", {"t.py": "class T:\n    count = 3\n    def problem(self, i): pass\n"}, "and t.py:T is none")):
    case(f"questions {more}", {"a.jsonl": rows(QUESTION)} | files, words)
    UNMEASURED.add(CASES[-1][0])
case("questions --shots 3", {"a.jsonl": rows(*[QUESTION] * 3)}, "has 3 questions, and --shots 3 shows them all")

# pairs

for row, words in (
    (PAIR | {"tools": [1]}, 'the key "tools" has no meaning in a pair'),
    (PAIR | {"messages": TALK["messages"]}, 'the key "messages" has no meaning in a pair'),
    (PAIR | {"chosen": ""}, "chosen: the assistant says nothing"),
    (PAIR | {"rejected": "Hello."}, "chosen equals rejected"), (PAIR | {"chosen": 3}, "chosen: the messages must be a list"),
    (PAIR | {"chosen": "<think> so"}, "chosen: <think> is never closed"), (PAIR | {"prompt": 3}, "the messages must be a list"),
    (PAIR | {"chosen": TALK["messages"], "prompt": "Ho"}, 'chosen: the messages begin in another way than "prompt"'),
    (PAIR | {"system": "A", "prompt": [{"role": "system", "content": "B"}, user()]}, '"system" is given twice'),
    (PAIR | {"chosen": [said(weight=0)]}, "chosen: in a pair the loss falls on the last turn alone"),
    (PAIR | {"prompt": [user(), said(train=True), user()]}, "in a pair the loss falls on the last turn alone"),
    (PAIR | {"chosen": None}, 'a pair needs the fields "chosen" and "rejected"'),
    (PAIR | {"rejected": [said("x", tool_calls=[1])]}, 'rejected: message 0: the key "tool_calls"')):
    case("dpo", {"a.jsonl": rows(PAIR, row)}, words)

# less than one batch

for name, row in (("pretrain", TEXT), ("sft", TALK), ("dpo", PAIR)):
    case(f"{name} --max-epochs 1", {"a.jsonl": rows(row, row)}, "do not fill one batch of 4096; lower --batch-tokens")

# the world

for option, words in (("chat=x", "chat=x: use a number"), ("chat=2", "chat=2: use a number from 0 to 1"),
                      ("q_weight=-1", "q_weight=-1"),
                      ("q_weight=nan", "q_weight=nan: use a number"), ("ops=x", "ops=x"), ("ops=0", "ops=0"),
                      ("ops=4-1", "ops=4-1"),
                      ("ops=1-999999999999", "ops=1-999999999999: use a number"), ("ops=\u00b2", "use a number or a range"),
                      ("contexts=moon", "context 'moon' is not known"), ("contexts=zoo:0+school:0", "is not a share above 0"),
                      ("modulus=1", "modulus=1"), ("modulus=x", "'x' is not a number"), ("split=x", "split=x"),
                      ("seed=" + "9" * 5000, "seed"),
                      ("colour=red", "world option 'colour=red' is not known"), ("ops", "world option 'ops' is not known"),
                      ("ops=1,ops=2", "world option 'ops' is given twice"), ("reverse=nan", "use 0 to 1"),
                      ("places=7", "use 0 or 1"),
                      ("modulus=0,max_value=9,operators=+,ops=40,places=1,branch=0", "world: 100,000 draws")):
    case(f"pretrain --data world:{option} --seq-len 64 --batch-tokens 64 --steps 1" if "max_value" not in option
         else f"tasks.world --data world:{option}", {}, words)
for name in ("sft", "grpo", "questions", "augment --count 1", "train"):
    case(f"{name} --data world:ops=x", {}, "ops=x: use a number or a range")
    case(f"{name} --data world:chat=x", {}, "chat=x")

# checkpoints

for name in ("pretrain", "sft", "dpo", "grpo", "sampler.py --init nan --prompt x", "questions", "augment", "bench.py plan"):
    files = {"a.jsonl": rows(GOOD.get(name, QUESTION))}
    command = name.replace("--init nan", "")
    command = command.replace("pretrain", "pretrain.py --data a.jsonl --out out")
    if name != "bench.py plan":
        case(f"{command} --init nan", files | {"nan": "NAN"}, "layers.1.self_attn.q_proj.weight holds NaN or infinity")
        case(f"{command} --init bare", files | {"bare": "BARE"}, "has no tokenizer.json")
        case(f"{command} --init cut", files | {"cut": "CUT"}, "not a whole safetensors file")
    case(f"{command} --init nowhere", files, "config.json: no such file")
for more, files, words in (
    ("--teacher nan", {"nan": "NAN"}, "holds NaN or infinity"), ("--teacher nowhere", {}, "nowhere/config.json: no such file"),
    ("--teacher bare", {"bare": "BARE"}, "has no tokenizer.json"), ("--teacher=", {}, "--teacher is needed"),
    ("--on-policy 0", {}, "--loss opd learns from what the student samples"),
    ("--hint {question}", {}, "must have the place {question} once"), ("--hint no.txt", {}, "no.txt"),
    ("--hint a.jsonl", {}, "it has none"), ("--hint {question}{solution}", {}, "a problem of a.jsonl has no solution: 2 + 2?"),
    ("--hint {question}{x}", {}, "it has {question}, {x}"),
    ("--hint {question}{answer} --loss jsd --on-policy 0.5", {}, "--hint goes into questions"),
    ("--loss jsd --on-policy 0.5", {}, "--data has no conversations or text to read; add a source, or use --on-policy 1"),
    ("--loss jsd --on-policy 0.5 --data world:ops=1 t.jsonl --seq-len 8", {"t.jsonl": rows(TALK)}, "raise --seq-len"),
    ("--loss jsd --on-policy 0.5 --data t.jsonl", {"t.jsonl": rows(TALK)}, "--data has no questions to answer"),
    ("--loss forward --on-policy 0 --batch-tokens 100", {}, "must be a multiple of --seq-len 512"),
    ("--data t.jsonl", {"t.jsonl": rows(TALK)}, "t.jsonl"), ("--data t.jsonl", {"t.jsonl": rows(TEXT)}, "t.jsonl"),
    ("--data text:t.jsonl,kind=rlp", {"t.jsonl": rows({"text": "The lions number 3. " * 9})}, "which is for grpo.py"),
    ("--exact --compile", {}, "--exact computes without --compile"), ("--max-new-tokens 0", {}, "--max-new-tokens 0")):
    case(f"distill {more}", {"a.jsonl": rows(QUESTION)} | files, words)
case("dpo --reference nan", {"a.jsonl": rows(PAIR), "nan": "NAN"}, "holds NaN or infinity")
case("sampler.py --init huge --prompt x", {"huge": "HUGE"}, "logits are not numbers (NaN)")
case("questions --init huge", {"huge": "HUGE", "a.jsonl": rows(QUESTION)}, "logits are not numbers (NaN)")
case("text --init huge", {"huge": "HUGE", "a.jsonl": rows(TEXT)}, "are not numbers (NaN or infinite)")
case("augment --init huge", {"huge": "HUGE", "a.jsonl": rows(QUESTION)}, "logits are not numbers (NaN)")

# what is there already stays as it is

for name in ("pretrain", "sft", "dpo", "grpo", "distill"):
    for there in ("train_state.pt", "log.jsonl", "config.json"):
        case(name, {"a.jsonl": rows(GOOD.get(name, QUESTION)), f"out/{there}": "mine"}, "--out out: holds another run")
    case(f"{name} --resume", {"a.jsonl": rows(GOOD.get(name, QUESTION)), "out/train_state.pt": "mine"}, "cannot be read")
    case(f"{name} --resume --steps 1", {"a.jsonl": rows(GOOD.get(name, QUESTION)), "out/config.json": "{}", "out/log.jsonl": ""},
         "no train_state.pt to go on from")
for name in ("pretrain", "sft", "dpo", "grpo", "train", "prepare"):
    case(name, {"a.jsonl": rows(GOOD.get(name, QUESTION)), "out": "mine"}, "argument --out: out: is a file")
    CASES.append((f"{COMMANDS[name]} --out=", {"a.jsonl": rows(GOOD.get(name, QUESTION))}, "argument --out"))
for name in ("questions", "augment", "pairs", "report.py --runs run"):
    case(f"{name} --out out", {"a.jsonl": rows(QUESTION), "run/log.jsonl": "{}", "out/x": "mine"},
         "argument --out: out: is a folder")
for name in ("pretrain", "sft", "dpo", "grpo", "train", "prepare", "questions", "augment", "report.py --runs run",
             "bench.py plan --check"):
    case(f"{name} --out x/out", {"a.jsonl": rows(GOOD.get(name, QUESTION)), "run/log.jsonl": "{}", "x": "mine"},
         "x is no folder that can be written to")
for name in ("questions", "augment", "pairs"):
    case(name, {"a.jsonl": rows(QUESTION), "out": "mine"}, "--out out: exists already")
case("prepare", {"a.jsonl": rows(TEXT), "out/x": "mine"}, "--out out: exists already")
case("train", {"a.jsonl": rows(TEXT), "out/tokenizer.json": "{}"}, "out already has a tokenizer.json")
case("report.py --runs run --out out", {"run/log.jsonl": rows({"flags": {}}), "out": "mine"}, "--out out: exists already")

# a run to go on with, and what does not fit it

for more, files, words in (
    ("--lr 0.5", {}, "--lr"), ("--layers 2", {}, "--layers"), ("--data world:ops=1", {}, "--data"),
    ("", {"a.jsonl": rows(TEXT)}, "has changed since"), ("", {"a.jsonl": ""}, "a.jsonl"), ("", {"a.jsonl": None}, "a.jsonl"),
    ("", {"out/train_state.pt": "PK"}, "train_state.pt: cannot be read")):
    case(f"pretrain --resume {SMALL} {more}", {"out": "RUN", "a.jsonl": MANY} | files, words)
case(f"pretrain {SMALL}", {"out": "RUN", "a.jsonl": MANY}, "--out out: holds another run")

# flags

for name in ("pretrain", "sft", "dpo", "grpo", "sampler.py --init INIT --prompt x --temperature 1", "augment", "table",
             "bench.py bits", "questions --k 2"):
    files = {"a.jsonl": rows(GOOD.get(name, QUESTION))}
    for value in ("-1", "nan", "1e3", "x", "9" * 5000):
        case(f"{name} --seed {value}", files, "--seed: ")
for name, flags in (("pretrain", "--lr nan --steps 0 --steps -3 --batch-tokens -1 --batch-tokens 100 --clip inf --warmup 2 "
                     "--layers 0 --decay nan --max-epochs -1 --vocab-size 9 --dtype int8 --init INIT --window 3"),
                    ("sft", "--no-think 2 --unflagged 0.5 --refresh 3 --seq-len 0 --micro-tokens 3 --adam-lr -1 --until-loss nan "
                     "--loss x"),
                    ("dpo", "--beta 0 --beta nan --label-smoothing 0.7 --gamma 1 --kto-weights 1 --until-loss 1"),
                    ("grpo", "--temperature nan --group 0 --kl nan --lam 0.5 --cap 2 --max-new-tokens 0 "
                     "--max-new-tokens 8@x --veto 1 --curriculum --think-budget -1 --gamma 2"),
                    ("questions", "--temperature nan --think 5 --user-suffix x --shots -1 --samples 3 --keep 3 --limit -1 "
                     "--band 1 --k 0"),
                    ("sampler.py --init INIT --prompt x", "--temperature nan --top-p 2 --top-k -1 --think x --system x "
                     "--max-new-tokens 0"),
                    ("chat.py --init INIT --prompt x", "--temperature nan --top-p 2 --think x --max-new-tokens 0 --chat"),
                    ("augment", "--temperature inf --samples 0 --keep -1 --count -1 --rows 0 --mode x --top-p 0"),
                    ("prepare", "--workers 0 --shard-tokens 0 --tokens -1 --shard-dtype int8"),
                    ("table", "--seq-len 0 --tokens -1"),
                    ("bench.py plan", "--gpus 0 --params nan --rows 0 --response -1 --link nan"),
                    ("tasks.world", "--show -1 --time nan")):
    for flag in re.findall(r"--\S+(?: [^-\s]\S*| -\d+)?", flags):
        case(f"{name} {flag}", {"a.jsonl": rows(GOOD.get(name, QUESTION))}, flag.split()[0])
for command, words in (("pretrain --heads 3", "head size 5"), ("pretrain --width 7", "head size 3"),
                       ("pretrain --width 1", "head size 0"),
                       ("pretrain --attention moon", "moon"),
                       ("pretrain --kv-heads 3", "kv_heads"), ("dpo --reference nowhere", "nowhere/config.json"),
                       ("grpo --reward x", "reward 'x' is not known"),
                       ("grpo --reward answer:nan", "'answer:nan': use a finite weight")):
    case(command, {"a.jsonl": rows(GOOD.get(command.split()[0], QUESTION))}, words)
for command in ("pretrain --lr 1e300", "pretrain --clip 1e-300", "dpo --beta 1e300", "grpo --temperature 1e-300",
                "sampler.py --init INIT --prompt x --temperature 1e-300", "augment --temperature 1e-45"):
    case(command, {"a.jsonl": rows(GOOD.get(command.split()[0], QUESTION))}, command.split()[-2])
case("grpo --mode think --think-budget 2 --max-new-tokens 64 4@9", {"a.jsonl": rows(QUESTION)}, "needs max_new_tokens above")
LONG = {"a.jsonl": rows(*[QUESTION] * 3, {"question": "2 + " * 99 + "2?", "answer": "200"})}       # one of them, to be asked late
case("grpo --prompts 1 --seq-len 96 --max-new-tokens 8 --mode plain", LONG, "and with 8 new ones is longer than the window of 96")
case("distill --hint {question}{solution} --prompts 1",
     {"a.jsonl": rows(*[QUESTION | {"solution": "So 4."}] * 3, QUESTION)}, "a problem of a.jsonl has no solution: 2 + 2?")
case("grpo --keep-rate 0.1 0.9 --group 2 --max-new-tokens 2", {"a.jsonl": rows(QUESTION)}, "none of 1 prompts has such a")
for weight in ("nan", "inf", "0", "-1", "x", "", "1e308"):
    for name in ("pretrain", "sft", "dpo", "grpo", "table"):
        case(f"{name} --data a.jsonl@{weight}", {"a.jsonl": rows(GOOD.get(name, QUESTION))}, f"--data a.jsonl@{weight}: no file")

# folders of checkpoints

for changes, words in (("[]", "config.json"), ("{", "config.json: not valid JSON"), ({"vocab_size": "300"}, "vocab_size"),
                       ({"num_hidden_layers": None}, "num_hidden_layers"), ({"num_attention_heads": "2"}, "num_attention_heads"),
                       ({"hidden_size": -3}, "hidden_size"),  ({"num_hidden_layers": 3}, "is missing"),
                       ({"hidden_size": 2 ** 70}, "hidden_size"),
                       ({"vocab_size": 300}, "has shape"),
                       ({"model_type": "moon"}, "moon"), ({"hidden_act": "moon"}, "hidden_act")):
    for name in ("sft", "questions", "sampler.py --prompt x"):
        case(f"{name} --init changed", {"a.jsonl": rows(GOOD.get(name, QUESTION)), "changed": ("config.json", changes)}, words)
for changes, words in (("[]", "tokenizer.json"), ("{", "not valid JSON"), ({"model": None}, "tokenizer.json"),
                       ("[" * 100_000, "tokenizer.json"),
                       ({"model": {"type": "Unigram"}}, "Unigram"), ({"added_tokens": []}, "no token ends a document")):
    for name in ("sft", "questions", "table --tokenizer changed", "tokenizer.py show --text x"):
        case(name if "table" in name else f"{name} --init changed",
             {"a.jsonl": rows(GOOD.get(name.split()[0], QUESTION)), "changed": ("tokenizer.json", changes)}, words)

# what is missing

for name in ("sft", "dpo", "grpo"):
    case(f"{name}.py --data a.jsonl --out out", {"a.jsonl": rows(GOOD.get(name, QUESTION))}, "--init is needed")
    case(f"{name} --data hf:a/b", {}, "hf:a/b: only a file can be read here")
for name in ("pretrain", "sft", "dpo", "grpo"):
    files = {"a.jsonl": rows(GOOD.get(name, QUESTION))}
    case(f"{name} --compile", files, "layers are compiled for a GPU only")
    case(f"{name} --device cuda", files, "no GPU is visible")
    case(f"{name} --wandb x", files, "run pip install wandb")
for name in ("pretrain.py --data a.jsonl", "pretrain.py --out out", "evaluate.py --init INIT", "sampler.py --init INIT",
             "augment.py pairs --out out", "report.py --out out", "tokenizer.py", "data.py", "data.py prepare", "bench.py"):
    case(name, {"a.jsonl": rows(TEXT)}, "")

# reports, tokenizers, benches, plans

for log, words in ((None, "has no log.jsonl"), ("{\n{}\n", "line 1 is not a JSON object"),
                   ("[" * 100_000 + "\n{}\n", "line 1 is not a JSON"),
                   ("3\n{}\n", "line 1 is not a JSON object"), ('{"flags": 3}\n{}\n', "line 1 is not a JSON object")):
    case("report.py --runs run --out out", {"run/log.jsonl": log}, words)
for found in ("{", "[]", "3", "[" * 100_000, '{"results": {"run": 3}}', '{"results": [1]}'):
    case("report.py --runs run --out out --evaluation e.json", {"run/log.jsonl": rows({"flags": {}}), "e.json": found},
         "is not the JSON object that evaluate.py")
MEASURED = {"step": 2, "eval": {"world:x": [{"ops": 1, "problems": 9, "process": {"pass@1": [0.5, 0, 1]}}]}, "flops": 1e9}
for log, more, words in (
    ("{", "--budget 1", "log.jsonl, line 1: not valid JSON"), ("[1]\n", "--budget 1", "is no log of grpo.py"),
    (rows({"flags": {"group": 2, "prompts": 2}, "parameters": 9}), "--budget 1", "--eval-data and --eval-every"),
    (rows({"flags": {"group": 2, "prompts": 2}, "parameters": 9}, MEASURED), "", "--budget FLOPS or --hours H"),
    (rows({"flags": {"group": 2, "prompts": 2}, "parameters": 9}, MEASURED), "--budget 1 --hours 1", "one of them"),
    (rows({"flags": {"group": 2, "prompts": 2}, "parameters": 9}, MEASURED), "--budget 1", "after the same X"),
    (rows({"flags": {"group": 2, "prompts": 2}, "parameters": 9}, MEASURED, MEASURED | {"step": 4, "flops": 2e9}), "--budget 1",
     "found the same score"),
    (rows({"flags": {"group": 2, "prompts": 2}, "parameters": 9}, MEASURED), "--budget 1 --law sigmoid", "at least five")):
    case(f"bench.py plan --fit run {more}", {"run/log.jsonl": log}, words)
case("bench.py plan --fit nowhere --budget 1", {}, "nowhere: no such file")
case("train --vocab-size 3", {"a.jsonl": rows(TEXT)}, "a vocabulary of 3 is too small")
case("train --data hf:a/b", {}, "needs --tokenizer")
case("tokenizer.py show --init nowhere --text x", {}, "nowhere has no tokenizer.json")
case("bench.py nothing --out out", {}, "nothing")
for more, words in (("", "at least two"), ("b.jsonl --sizes 2by4", "--sizes 2by4: use LAYERSxWIDTH"),
                    ("nowhere.jsonl", "nowhere.jsonl"), ("b.jsonl --measure nowhere.txt", "nowhere.txt"),
                    ("b.jsonl --bound a.jsonl@2-3", "--bound a.jsonl@2-3: use SOURCE@LOW-HIGH"),
                    ("b.jsonl --pretrain=--seed=3", "mix.py says that to pretrain.py itself"),
                    ("b.jsonl --max-epochs 0.001", "no mixture fits the bounds")):
    case(f"mix.py --target a.jsonl --out out --tokenizer INIT --sources a.jsonl {more}",
         {"a.jsonl": rows(TEXT), "b.jsonl": rows(TEXT)}, words)
case("bench.py largest --out out", {}, "needs a GPU")


@pytest.fixture(scope="module")
def init(tmp_path_factory, tokenizer):
    """A checkpoint, and run/, a run of two steps on a.jsonl."""
    here = tmp_path_factory.mktemp("bad")
    tiny_checkpoint(here / "init", tokenizer)
    (here / "a.jsonl").write_text(MANY)
    with contextlib.chdir(here):
        done = run_main(importlib.import_module("pretrain"),
                        *f"{COMMANDS['pretrain']} {SMALL}".replace("INIT", str(here / "init")).split()[1:])
    assert done[0] == 0, done
    return here / "init"


def make(path, content, init):
    """A file of a case, or one of the damaged checkpoints."""
    path.parent.mkdir(exist_ok=True)
    if content == "RUN":
        shutil.copytree(init.parent / "out", path)
    elif isinstance(content, tuple):                      # a checkpoint with another text, or other keys, in a file
        shutil.copytree(init, path)
        file, changes = path / content[0], content[1]
        file.write_text(changes if isinstance(changes, str) else json.dumps(json.loads(file.read_text()) | changes))
    elif content in ("NAN", "HUGE", "BARE", "CUT"):
        shutil.copytree(init, path)
        weights = load_file(path / "model.safetensors")
        if content == "NAN":
            weights["model.layers.1.self_attn.q_proj.weight"][3, 5] = float("nan")
        if content == "HUGE":
            weights["model.norm.weight"][:] = 3e38
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        if content == "BARE":
            (path / "tokenizer.json").unlink()
        if content == "CUT":
            (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-10])
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def everything(folder):
    """{path: content, None for a folder} of all that lies in it."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def the_one_line(name, err):
    """The refusal on standard error, where nothing else may stand but progress bars."""
    lines = [line for line in re.split(r"[\r\n]+", err) if line.strip() and not re.search(r"\[\d\d:\d\d[,<]", line)]
    assert len(lines) == 1 and lines[0].startswith(f"{name.removesuffix('.py').split('.')[-1]}.py: "), err[-3000:]
    return lines[0]


def measured(*_):
    raise AssertionError("it has measured something")


def too_long(*_):
    raise AssertionError("it does not come to an end")


@pytest.mark.parametrize("command, files, words", CASES, ids=[f"{i}: {c[:40]} {w[:50]}" for i, (c, _, w) in enumerate(CASES)])
def test_refused(command, files, words, tmp_path, init, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, content in files.items():
        make(tmp_path / name, content, init)
    before = everything(tmp_path)
    name, *flags = command.replace("INIT", str(init)).split()
    if command in UNMEASURED:
        monkeypatch.setattr("evaluate.measure", measured)
    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(120)                                     # where a case hangs, that is what the test says
    try:
        code, _, err = run_main(importlib.import_module(name.removesuffix(".py")), *flags)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert code == 2, err[-3000:]
    line = the_one_line(name, err)
    assert words in line, line
    assert everything(tmp_path) == before


def test_a_refusal_stands_on_a_line_of_its_own(capsys):
    with pytest.raises(SystemExit), tqdm(total=3, desc="work", file=sys.stderr):
        cli.fail("this is\nwrong")
    assert [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if "wrong" in line] == [
        f"{os.path.basename(sys.argv[0])}: this is wrong"]


@pytest.mark.parametrize("name", ["sft", "prepare", "report.py --runs nowhere --out out"])
def test_refused_by_the_program_itself(name, tmp_path, init):
    (tmp_path / "a.jsonl").write_text(rows({"text": "", "answer": ["12"], "question": "x"}))
    command = COMMANDS.get(name, name).replace("INIT", str(init)).split()
    before = everything(tmp_path)
    done = script(*command, ok=False, cwd=tmp_path, OMP_NUM_THREADS="1")      # an environment: in a process of its own
    assert done.returncode == 2 and done.stdout == "", done.stdout
    the_one_line(command[0], done.stderr)
    assert everything(tmp_path) == before


def test_there_are_enough_cases_and_they_reach_every_script():
    assert len(CASES) > 300
    from conftest import ROOT
    scripts = {p.name for p in ROOT.glob("*.py") if "cli.bad_input()" in p.read_text()}
    reached = {command.split()[0] for command, _, _ in CASES}
    assert scripts <= reached, scripts - reached
