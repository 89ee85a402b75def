"""Measures a checkpoint: accuracy on the world by depth and context, on GSM8K/MATH-style files, and bits per byte.

    python evaluate.py --init runs/base runs/mid --data world:ops=1-6,split=test --k 1 8
    python evaluate.py --init runs/base runs/mid --data world:ops=1-6,split=test --band 4-6 --solved 1-3 --out gain.json
    python evaluate.py --init runs/mid --data world:ops=1-6,split=test --chat --user-suffix " /no_think"
    python evaluate.py --init runs/mid --needle 256-2k 256-2k,kind=chain --problems 10 --attention 4
    python evaluate.py --init runs/text --text held_out.txt
    python evaluate.py --init smollm2/ --data gsm8k/test.jsonl --limit 40 --chat --max-new-tokens 400
    python evaluate.py --init runs/mid runs/grpo --compared-with runs/base
    python evaluate.py --init smollm2/ --benchmark gsm8k,math500 --benchmark-data data --limit 40
    python evaluate.py --init runs/mid --data world:ops=4,split=test --contamination 0.4,0.6,0.8

With --k 1 alone, decoding is greedy. With a larger k, n >= k samples are taken for each problem. Then pass@k is the unbiased
estimate 1 - C(n-c, k) / C(n, k), where c samples are right (arXiv 2107.03374, equation 1). On the world there are two accuracies:
of the answer alone, and with every step right. Intervals are 95% bootstrap intervals over problems. The gain from one checkpoint
to the next is a mean over the same problems, with a paired interval. --compared-with says how many weights a stage has moved,
and how far (training/weight_change.py).

--needle asks for a fact that stands far back (tasks/needle.py): accuracy by length and depth, and with --attention what share of
the attention falls on the first tokens, on the needle, on the rest and on the question (engine/attention_mass.py). Lengths beyond
the rows that the checkpoint was trained on are marked.

--benchmark measures thirteen benchmarks of mathematics (tasks/benchmarks/) in two templates: with worked examples, as a base
model is asked, and as reinforcement learning asks. --contamination shows a model the first part of each question, also of those
of --data (tasks/contamination.py).
"""

import contextlib
import functools
import math
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data import Mixture, Packer, print_table
from engine.attention_mass import attention_mass, by_kind, by_layer
from engine.draws import sampling_flags
from engine.thinking import parse_think
from formats.files import write_text
from formats.texts import read_texts
from model import Transformer, load, load_both
from sampler import Sampler
from sources.kinds import kind_of
from sources.open import open_source
from tasks import contamination
from tasks.accuracy import (
    file_line,
    gains,
    parse_band,
    print_comparison,
    print_evaluation,
    print_world,
    rates,
    without_problems,
)
from tasks.benchmarks import flags as benchmark_flags
from tasks.benchmarks.read import BenchmarkTask, open_benchmark
from tasks.benchmarks.score import score_all
from tasks.needle_tables import PARTS, check_grid, needle_table, print_needles, prompt_parts, sweep, without_details
from tasks.options import is_generated
from tasks.problems import add_task_flag, open_task, problems_of
from tasks.questions import Questions, format_question
from tasks.tables import Graded, reply_style, world_samples, world_table
from tasks.task import Problem, Reply, Task, prompt_ids
from tasks.tools import TOOL_NEEDS, Toolbox, add_tool_flags, open_tools
from tasks.world import World
from tokenizer import Tokenizer
from training import cli
from training.batch import batch_from
from training.lineage import longest_rows
from training.weight_change import lines as change_lines
from training.weight_change import weight_change


def replies_to(model: Transformer, tokenizer: Tokenizer, prompts: list[str | list[dict]], limits: list[int],
               think: bool | None = None, think_budget: int | None = None, user_suffix: str = "", ks: Sequence[int] = (1,),
               samples: int = 0, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, rows: int = 64, seed: int = 0,
               dtype: torch.dtype | None = None, progress: str = "", tools: Toolbox | None = None,
               stop_texts: Sequence[str] = ()) -> list[list[Reply]]:
    """The model's replies to each prompt.

    prompts        from a task: plain text, or the messages of a chat (tasks/task.py)
    limits         the most tokens of a reply, for each prompt
    think          in a chat: True, False, or None, which lets a flag in the question decide (Tokenizer.chat_prompt)
    think_budget   the most tokens of a think block
    user_suffix    in a chat: added at the end of the user's last turn
    ks, samples    ks of (1,) decodes greedily; else there are `samples` draws for a prompt, or as many as the largest k
    temperature    of the draws; top_p, top_k: what they are limited to (engine/draws.py)
    rows           how many replies are decoded at once
    tools          what a reply may call in a chat
    stop_texts     texts that end a reply; the one that did is a part of it
    """
    def ids(prompt):
        if isinstance(prompt, str):
            return tokenizer.encode_document(prompt)
        *before, last = prompt
        return tokenizer.chat_prompt([*before, last | {"content": last["content"] + user_suffix}], think)
    sampled, tools = tuple(ks) != (1,), [None if isinstance(prompt, str) else tools for prompt in prompts]
    done = Sampler(model, tokenizer, rows, dtype).generate(
        list(map(ids, prompts)), max(samples, *ks) if sampled else 1, limits, temperature if sampled else 0.0, top_p=top_p,
        top_k=top_k, seed=seed, progress=progress, think_budget=think_budget, tools=tools, stop_texts=[stop_texts] * len(prompts))
    return [[Reply.of(c, tokenizer, limit, tools=box) for c in completions]
            for completions, limit, box in zip(done, limits, tools)]


def grade_world(model: Transformer, tokenizer: Tokenizer, spec: str, count: int = 100, chat: bool = False,
                progress: bool = False, tools: Toolbox | None = None, **how) -> list[Graded]:
    """Asks the model the first `count` problems of each number of operations in the spec, and grades its replies. tools: None:
    those of the world. how: the other options of `replies_to`."""
    found = []
    for ops in World.from_spec(spec).ops:
        world = World.from_spec(spec)
        world.ops = [ops]
        todo = [world.problem(i) for i in range(count)]
        prompts = [world.prompt(p, "chat" if chat else "plain") for p in todo]
        # twice the gold solution; in a chat there are thinking marks as well, and maybe a hand-over to the answer
        longest = [tokenizer.encode_chat(world.messages(replace(p, solution=world.longest(p))))[0] if chat and world.tools
                   else tokenizer.encode(world.longest(p)) for p in todo]
        limits = [2 * len(ids) + (40 if chat else 8) for ids in longest]
        drawn = replies_to(model, tokenizer, prompts, limits, progress=f"{ops} operations" if progress else "",
                           tools=tools or world.tools, **how)
        found += [Graded(p, replies, [world.grade(p, r) for r in replies]) for p, replies in zip(todo, drawn)]
    return found


def world_accuracy(model: Transformer, tokenizer: Tokenizer, spec: str, count: int = 100, ks: Sequence[int] = (1,),
                   **how) -> list[dict]:
    """The table of accuracy on problems of the world; how: the options of `replies_to`."""
    return world_table(grade_world(model, tokenizer, spec, count, ks=ks, **how), ks)


def open_graded(spec: str, tokenizer: Tokenizer, device: torch.device | str = "cpu") -> Task:
    """The task of a SPEC. ValueError if its replies cannot be graded without the model that is trained."""
    task = open_task(spec, tokenizer, device)
    if task.by_gain:
        raise ValueError(f"{spec}: a thought has no answer that could be checked; ask with kind=rpt or kind=rlpt, or give "
                         "the text itself, for bits per byte")
    return task


def file_accuracy(model: Transformer, tokenizer: Tokenizer, spec: str, limit: int = 0, shots: int | None = 0, chat: bool = False,
                  ks: Sequence[int] = (1,), max_new_tokens: int = 400, seed: int = 0, progress: bool = False,
                  on_answer: Callable | None = None, by_problem: bool = False, tools: Toolbox | None = None, **how) -> dict:
    """Accuracy of the answers to a file of questions, or to another task: {"problems", "accuracy": rates, and the fields of
    `reply_style`}. If the task's problems are of several kinds, "kinds" has the rates of each.

    limit      how many questions to sample from the file; 0: all. An endless task gives its first ones
    shots      for a file, without chat: the number of solved questions of the file before each question. They are not asked
               themselves. None: only the question, on its own line, as in pre-training
    on_answer  called with (problem, text of the first reply, whether it is right)
    by_problem also {"right": [right samples, samples] of each question, in order}
    how        the other options of `replies_to`
    """
    task = open_graded(str(spec), tokenizer, model.head.device)
    everything = problems_of(task, (limit or None) if task.count is None else None)
    shown, todo = everything[:shots or 0], everything[shots or 0:]
    if not todo:
        raise ValueError(f"{spec}: has {len(everything)} questions, and --shots {shots} shows them all, so none is left to ask; "
                         "lower --shots")
    if limit:
        order = np.random.default_rng(seed).permutation(len(todo))[:limit]
        todo = [todo[i] for i in sorted(order)]
    if chat or shots is None or not isinstance(task, Questions):
        prompts = [task.prompt(p, "chat" if chat else "plain") for p in todo]
    else:
        prompts = [format_question(p, shown) for p in todo]
    drawn = replies_to(model, tokenizer, prompts, [max_new_tokens] * len(todo), ks=ks, seed=seed,
                       progress=str(spec) if progress else "", tools=tools or task.tools, **how)
    right = []
    for problem, replies in zip(todo, drawn):
        # a base model goes on with a question of its own; what comes before that is its answer
        said = [replace(reply, text=reply.text.split("\nQuestion:")[0]) for reply in replies]
        right.append([task.grade(problem, reply).right for reply in said])
        if on_answer:
            on_answer(problem, said[0].text, right[-1][0])
    kinds = {}
    for problem, each in zip(todo, right):
        kinds.setdefault(getattr(problem, "kind", ""), []).append(each)
    by_kind = {"kinds": {kind: rates(kinds[kind], ks) for kind in sorted(kinds)}} if set(kinds) != {""} else {}
    return {"data": str(spec), "problems": len(todo), "accuracy": rates(right, ks), **by_kind, **reply_style(drawn),
            **({"right": [[sum(each), len(each)] for each in right]} if by_problem else {})}


def needle_accuracy(model: Transformer, tokenizer: Tokenizer, spec: str, count: int = 100, chat: bool = False,
                    ks: Sequence[int] = (1,), attention: int = 0, window: int = 0, progress: bool = False,
                    tools: Toolbox | None = None, **how) -> dict:
    """Accuracy on needles by length and depth: {"lengths", "cells", "window"} of `needle_table`, and what `file_accuracy` finds.

    count      problems for each length and depth
    attention  problems of each length whose attention is measured: {"attention": [{"length", "beyond", "problems", "layers",
               "kinds"}]}, the last two being lists of `by_layer` and `by_kind` (engine/attention_mass.py)
    window     the longest rows that the model was trained on; 0: what its config says
    how        the other options of `replies_to`
    """
    task, mode = open_graded(spec, tokenizer, model.head.device), "chat" if chat else "plain"
    check_grid(task)
    todo, graded, masses = [task.problem(i) for i in range(count * task.cells)], [], []
    window = window or model.config.context
    for length in dict.fromkeys(p.length for p in todo):
        part = [p for p in todo if p.length == length]
        limits = [2 * len(tokenizer.encode(p.solution)) + (40 if chat else 8) for p in part]
        drawn = replies_to(model, tokenizer, [task.prompt(p, mode) for p in part], limits, ks=ks,
                           progress=f"{length:,} tokens" if progress else "", tools=tools, **how)
        graded += [Graded(p, replies, [task.grade(p, r) for r in replies]) for p, replies in zip(part, drawn)]
        if measured := part[:attention]:
            layers = by_layer([needle_attention(model, tokenizer, p, mode) for p in measured], PARTS)
            masses.append({"length": length, "beyond": length > window, "problems": len(measured), "layers": layers,
                           "kinds": by_kind(layers)})
    right = [[verdict.right for verdict in a.verdicts] for a in graded]
    return {"data": spec, "problems": len(graded), "accuracy": rates(right, ks), **needle_table(graded, ks, window),
            **({"attention": masses} if masses else {}), **reply_style([a.replies for a in graded]),
            "right": [[sum(each), len(each)] for each in right]}


def needle_attention(model: Transformer, tokenizer: Tokenizer, problem: Problem, mode: str) -> list:
    """What the question of a needle looks at, layer by layer: the LayerMass of its tokens, up to that which predicts the first
    token of the reply."""
    ids = prompt_ids(tokenizer, problem, mode)
    parts = torch.tensor([prompt_parts(tokenizer, ids, problem)], device=model.head.device)
    return attention_mass(model, torch.tensor([ids], device=model.head.device), parts, parts == PARTS.index("question"),
                          len(PARTS))


@torch.no_grad()
def bits_per_byte(model: Transformer, tokenizer: Tokenizer, texts: Iterable[str], T: int = 256, rows: int = 16,
                  max_tokens: int = 0, autocast: AbstractContextManager | None = None) -> dict:
    """Cross entropy of texts in bits per byte of UTF-8: {"bits_per_byte", "loss" (nats per token), "tokens", "bytes"}.

    A text is cut into pieces of T slots, and every token is predicted from the tokens before it in its piece. The first token of
    a text cannot be predicted, so its bytes do not count (unless the tokenizer puts a token before it). The end-of-document token
    has no bytes and does not count.
    """
    pieces, size = [], 0
    for text in texts:
        ids = np.array(tokenizer.encode_document(text))
        counts = np.ones(len(ids), np.float32)
        counts[:len(tokenizer.prefix)] = 0
        pieces += [(ids[i:i + T + 1], counts[i:i + T + 1]) for i in range(0, len(ids) - 1, T)]
        size += len(ids)
        if max_tokens and size >= max_tokens:
            break
    if not pieces:
        raise ValueError("bits per byte needs a text of at least two tokens, and there is none")
    length_of = np.array([len(tokenizer.token_bytes(i)) for i in range(len(tokenizer))])
    nats = count = size = 0
    device = model.head.device
    for i in range(0, len(pieces), rows):
        batch = batch_from([[piece] for piece in pieces[i:i + rows]], T)
        with autocast or contextlib.nullcontext(), model.uncompiled():
            logprobs = model(batch.tokens.to(device), batch.documents.to(device), batch.targets.to(device)).cpu()
        nats -= float((logprobs.double() * batch.loss_mask).sum())
        count += int(batch.loss_mask.sum())
        size += int(length_of[batch.targets[batch.loss_mask > 0].numpy()].sum())
    return {"bits_per_byte": round(nats / math.log(2) / size, 4), "loss": round(nats / count, 4), "tokens": count,
            "bytes": size}


@torch.no_grad()
def heldout_loss(model: Transformer, tokenizer: Tokenizer, spec: str, T: int = 256, rows: int = 16, max_tokens: int = 100_000,
                 autocast: AbstractContextManager | None = None) -> dict:
    """The loss that pre-training would have on a SPEC of documents: {"loss" (nats per token), "tokens"}.

    Over the first documents in the order of a training run, until max_tokens are drawn or a file was read once; packed and
    weighed as there, so that of a world the solutions count and its random questions little (q_weight)."""
    mixture = Mixture([spec], tokenizer, max_epochs=1)

    def draw():
        if mixture.given.sum() >= max_tokens:
            raise StopIteration
        return mixture.next()
    packer, packed, nats, weight = Packer(T, draw), [], 0.0, 0.0
    with contextlib.suppress(StopIteration):
        while True:
            packed.append(packer.row())
    for i in range(0, len(packed), rows):
        batch = batch_from(packed[i:i + rows], T).to(model.head.device)
        with autocast or contextlib.nullcontext(), model.uncompiled():
            logprobs = model(batch.tokens, batch.documents, batch.targets)
        nats -= float((logprobs.double() * batch.loss_mask).sum())
        weight += float(batch.loss_mask.double().sum())
    return {"loss": round(nats / weight, 5), "tokens": int(mixture.given.sum())}


def check_specs(specs: list[str], tokenizer: Tokenizer) -> None:
    """ValueError for an --eval-data that cannot be measured; called before training, which may take days."""
    for spec in specs:
        kind = kind_of(spec)
        if kind == "conversations":
            raise ValueError(f"--eval-data {spec}: no answer to a conversation can be checked; give world:..., a file of "
                             "questions with answers, or text")
        if kind == "world":
            World.from_spec(spec)
        elif kind == "loss":
            open_source(spec.removeprefix("loss:"), tokenizer)
        elif kind == "questions":
            open_graded(spec, tokenizer)
        elif kind == "text":
            check_text(spec, tokenizer)


def check_text(path: str, tokenizer: Tokenizer) -> None:
    """ValueError for a file of text without measurable bits per byte. It reads the complete file: the last line may be broken."""
    if not [text for text in read_texts(path) if len(tokenizer.encode_document(text[:1000])) > 1]:
        raise ValueError(f"{path}: bits per byte needs a text of at least two tokens, and there is none")


CHAT = dict(chat=True)
PLAIN = {"": dict(chat=False)}


def evaluate_all(model: Transformer, tokenizer: Tokenizer, specs: list[str], modes: dict, problems: int = 100, T: int = 256,
                 autocast: AbstractContextManager | None = None, max_new_tokens: int = 400) -> dict:
    """The measurements of training scripts on --eval-data: {spec: result}.

    - of a world: its accuracy table, greedy, on `problems` problems for each number of operations;
    - of a file of questions: the accuracy of the answers, greedy, on `problems` questions;
    - of text: bits per byte, in pieces of T tokens;
    - of loss:SPEC: the loss of pre-training on the SPEC.

    modes: how questions are asked, as in training: {name: options of `replies_to`}. The first mode is named "", and its result
    has the key spec; a second one has the key spec + name.
    """
    found, dtype = {}, torch.bfloat16 if model.head.is_cuda else None
    for spec in specs:
        kind = kind_of(spec)
        if kind == "text":
            found[spec] = bits_per_byte(model, tokenizer, read_texts(spec), T, max_tokens=500_000, autocast=autocast)
            continue
        if kind == "loss":
            found[spec] = heldout_loss(model, tokenizer, spec.removeprefix("loss:"), T, autocast=autocast)
            continue
        for name, how in modes.items():
            if kind == "world":
                found[spec + name] = without_problems(world_accuracy(model, tokenizer, spec, problems, dtype=dtype, **how))
            else:
                found[spec + name] = file_accuracy(model, tokenizer, spec, problems, None, max_new_tokens=max_new_tokens,
                                                   dtype=dtype, **how)
    return found


def modes_of(think: str | None, no_think: str | None) -> dict:
    """Modes for evaluate_all: chats whose questions end in `think`, and in `no_think`. "": without a flag; None: not this
    mode."""
    flags = [flag for flag in (think, no_think) if flag is not None]
    return {flag if i else "": CHAT | {"user_suffix": flag} for i, flag in enumerate(flags)}


# when a flag of the training scripts about --eval-data has an effect (see cli.Parser)
EVAL_NEEDS = (
    ("--eval-problems", lambda a: any(kind_of(spec) not in ("text", "loss") for spec in a.eval_data),
     "on text, which has no problems"),
)


def print_results(result: dict) -> None:
    """Prints the tables in the result of a training script: its mixture, and the result of evaluate_all."""
    if "mixture" in result:
        print_table(result["mixture"])
    for row in result.get("prompts", []):
        print(f"{row['source'][:60]:<60} {row['share']:>7.1%} {row['prompts']:>13,} of {row['unique_prompts']:,} prompts, "
              f"{row['epochs']:.2f} epochs")
    print_evaluation(result.get("eval", {}))


def has(args: Namespace, kind: str) -> bool:
    """Whether --data names a world, needles ("needle"), or another task ("file")."""
    kinds = {spec.partition(":")[0] for spec in [*args.data, *args.task]} | {"needle" for _ in args.needle}
    return kind in kinds if kind != "file" else bool(kinds - {"world", "needle"})


# when a flag has an effect (see cli.Parser)
NEEDS = (
    ("--problems", lambda a: has(a, "world") or has(a, "needle"), "without a world or needles in --data"),
    ("--band --solved", lambda a: has(a, "world"), "without a world in --data"),
    ("--attention", lambda a: has(a, "needle"), "without --needle"),
    ("--limit --show", lambda a: has(a, "file") or a.benchmark, "without a file in --data, or --benchmark"),
    ("--max-new-tokens", lambda a: has(a, "file") or a.benchmark or a.contamination,
     "without a file in --data, --benchmark or --contamination"),
    ("--shots", lambda a: has(a, "file"), "without a file in --data"),
    ("--chat", lambda a: a.data or a.task or a.needle, "without --data, --task or --needle"),
    ("--k --rows", lambda a: a.data or a.task or a.needle or a.benchmark, "without --data, --task, --needle or --benchmark"),
    ("--samples --temperature --top-p --top-k", lambda a: a.k != [1], "with --k 1 alone, which decodes greedily"),
    ("--top-p --top-k", lambda a: a.temperature, "without --temperature above 0"),
    ("--seed", lambda a: a.k != [1] or (a.limit and (has(a, "file") or a.benchmark)),
     "without draws: --k above 1, or --limit on a file"),
    ("--shots", lambda a: not a.chat or a.plain, "with --chat, where a question stands alone"),
    ("--plain", lambda a: a.chat, "without --chat"),
    ("--think --user-suffix", lambda a: a.chat or a.benchmark, "without --chat or --benchmark"),
    *benchmark_flags.NEEDS,
    ("--seq-len", lambda a: a.text, "without --text"),
    ("--tool", lambda a: a.chat, "without --chat: a call of a tool is a turn"),
    *TOOL_NEEDS,
    ("--keep", lambda a: a.out and has(a, "world"), "without --out and a world in --data"),
    ("--contamination", lambda a: a.data or a.task or a.benchmark, "without --data, --task or --benchmark"),
    ("--band --solved", lambda a: a.out or len(set(a.init)) > 1, "with one checkpoint and no --out"),
)


def main() -> None:
    p = cli.Parser(__doc__, NEEDS)
    p.add_argument("--init", metavar="FOLDER", nargs="+", required=True,
                   help="checkpoints to measure, ours or Hugging Face's")
    p.add_argument("--data", metavar="SPEC", nargs="*", default=[], help="questions: world:... or a .jsonl file")
    add_task_flag(p)
    add_tool_flags(p)
    p.add_argument("--needle", metavar="LENGTHS[,OPTION=VALUE...]", nargs="*", default=[],
                   help="needles in texts of so many tokens (1k-16k: 1k, 2k, ... 16k), with options of tasks/needle.py")
    benchmark_flags.add_benchmark_flags(p)
    p.add_argument("--contamination", type=contamination.shares, metavar="SHARES", default=[],
                   help="such as 0.4,0.6,0.8: show so much of each question, and compare what the model says with the rest")
    p.add_argument("--text", metavar="FILE", nargs="*", default=[], help="text, for bits per byte")
    p.add_argument("--problems", type=cli.positive_int, default=100,
                   help="problems for each number of operations of a world, and for each length and depth of needles")
    p.add_argument("--attention", type=cli.non_negative_int, default=0, metavar="N",
                   help="needles of each length whose attention is measured")
    p.add_argument("--compared-with", metavar="FOLDER", default="", help="checkpoint of the same shape: how many weights have "
                   "moved since, and how far")
    p.add_argument("--limit", type=cli.non_negative_int, default=0, help="questions to take from a file or a task; 0: all")
    p.add_argument("--k", type=cli.positive_int, nargs="+", default=[1], help="the k of pass@k; 1 alone decodes greedily")
    p.add_argument("--samples", type=cli.non_negative_int, default=0, help="samples per problem; 0: the largest k")
    sampling_flags(p, temperature=0.7, text="of the samples")
    p.add_argument("--shots", type=cli.non_negative_int, default=0, help="solved questions of the file to show first")
    p.add_argument("--chat", action="store_true", help="ask in ChatML")
    p.add_argument("--plain", metavar="FOLDER", nargs="*", default=[],
                   help="checkpoints that --chat leaves out: they have not learned ChatML")
    p.add_argument("--think", metavar="on|off|auto|N", default="auto",
                   help="thinking in a chat; N: on, for at most N tokens; auto: by /think or /no_think in the question")
    p.add_argument("--user-suffix", metavar="TEXT", default="", help="added at the end of every question, such as ' /no_think'")
    p.add_argument("--band", metavar="OPS", default="", help="operations, such as 4-6, in which the gain is measured")
    p.add_argument("--solved", metavar="OPS", default="", help="operations solved before, to see what was forgotten")
    p.add_argument("--max-new-tokens", type=cli.positive_int, default=400, help="tokens of an answer to a file's question")
    p.add_argument("--seq-len", type=cli.positive_int, default=256, help="tokens of context for bits per byte")
    p.add_argument("--rows", type=cli.positive_int, default=64, help="completions that decode at once")
    p.add_argument("--exact", action="store_true", help="kernels that give an answer the same bits whatever --rows is")
    p.add_argument("--show", type=cli.non_negative_int, default=0, help="answers to print from each file")
    p.add_argument("--out", type=cli.out_file, metavar="FILE", default="", help="JSON file to write, with some completions")
    p.add_argument("--keep", type=cli.non_negative_int, default=2, help="completions in --out for each number of operations")
    p.add_argument("--device", type=cli.device, default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and cache")
    args = p.parse_args()
    with cli.bad_input():
        args.data = [*args.data, *args.task, *map(sweep, args.needle)]
        bands, tools = check(args), open_tools(args.tool, args.max_calls, args.tool_seconds)
        benchmarks = [open_benchmark(name, args.benchmark_data) for name in args.benchmark]
        measured = {folder: measure(folder, args, tools, benchmarks) for folder in dict.fromkeys(args.init)}
        found = gains(measured, bands, max(args.k))
        if args.out:
            write_text(args.out, cli.to_json({"flags": vars(args), "results": measured, "gain": found}) + "\n")
    if len(args.init) > 1:
        print_comparison(measured, args.k, found)
    cli.finish({"k": args.k, "gain": found} | {
        folder: {name: last_line(value) for name, value in results.items()} for folder, results in measured.items()})


def last_line(found: dict) -> dict | list[dict]:
    """A result without the replies to single problems."""
    if "cells" in found:
        return without_details(found)
    return without_problems(found["rows"]) if "rows" in found else without_problems([found])[0]


def check(args: Namespace) -> dict[str, range]:
    """ValueError for flags that do not go together, before anything is measured; returns {name: numbers of operations}."""
    if not (args.data or args.text or args.benchmark or args.compared_with):
        raise ValueError("give --data, --task, --needle, --benchmark or --text: what to measure on; or --compared-with")
    if unknown := [f for f in args.plain if f not in args.init]:
        raise ValueError(f"--plain {unknown[0]}: not among the checkpoints of --init")
    if 0 < args.samples < max(args.k):
        raise ValueError(f"--samples {args.samples}: pass@{max(args.k)} needs at least {max(args.k)}")
    parse_think(args.think)
    if args.out and Path(args.out).exists():
        raise ValueError(f"--out {args.out}: exists already; remove it or choose another file")
    worlds = [World.from_spec(spec) for spec in args.data if spec.startswith("world:")]
    for spec in args.data:
        if spec.startswith("needle:"):
            check_grid(open_task(spec))
        if is_generated(spec) and open_task(spec).tools and args.tool:
            raise ValueError(f"{spec} has a tool of its own; leave --tool or calls=N out")
    bands = {flag: parse_band(f"--{flag}", getattr(args, flag)) for flag in ("band", "solved") if getattr(args, flag)}
    for flag, ops in bands.items():
        if not any(set(ops) & set(world.ops) for world in worlds):
            raise ValueError(f"--{flag} {getattr(args, flag)}: no --data world:... has such problems")
    return bands


def measure(folder: str, args: Namespace, tools: Toolbox | None = None, benchmarks: Sequence[BenchmarkTask] = ()) -> dict:
    """All measurements of one checkpoint: {spec or file: result}. Each is printed at once."""
    model, tokenizer = load_both(folder, args.device, getattr(torch, args.dtype))
    model.exact = args.exact
    print(f"\n{folder}")
    think, budget = parse_think(args.think)
    how = dict(ks=args.k, samples=args.samples, temperature=args.temperature, top_p=args.top_p,
               top_k=args.top_k, rows=args.rows, seed=args.seed,
               chat=args.chat and folder not in args.plain, think=think, think_budget=budget,
               user_suffix=args.user_suffix, progress=True, tools=tools)
    reply = functools.partial(replies_to, model, tokenizer)
    found = score_all(benchmarks, reply, how, not tokenizer.chat.refusal, args, printer) if benchmarks else {}
    if not how["chat"]:
        how |= dict(think=None, think_budget=None)
    if args.compared_with:
        found[f"weights against {args.compared_with}"] = change = changed(model, folder, args)
        print("\n".join(change_lines(change)))
    for spec in args.data:
        if spec.startswith("world:"):
            graded = grade_world(model, tokenizer, spec, args.problems, **how)
            found[spec] = {"rows": world_table(graded, args.k), "samples": world_samples(graded, args.keep)}
            print_world(found[spec]["rows"], args.k)
            continue
        if spec.startswith("needle:"):
            found[spec] = needle_accuracy(model, tokenizer, spec, args.problems, attention=args.attention,
                                          window=longest_rows(folder), **how)
            print(file_line(spec, found[spec]))
            print_needles(found[spec])
            continue
        found[spec] = file_accuracy(model, tokenizer, spec, args.limit, args.shots, max_new_tokens=args.max_new_tokens,
                                    on_answer=printer(args.show), by_problem=True, **how)
        print(file_line(spec, found[spec]))
    if args.contamination:
        tasks = {spec: open_graded(spec, tokenizer, args.device) for spec in args.data} | {b.name: b for b in benchmarks}
        found |= contamination.probe_all(tasks, reply, args)
    for path in args.text:
        check_text(path, tokenizer)
        found[path] = bits_per_byte(model, tokenizer, read_texts(path), args.seq_len)
        if not math.isfinite(found[path]["loss"]):
            raise ValueError(f"--init {folder}: its log-probabilities of {path} are not numbers (NaN or infinite); its weights "
                             "are damaged, or too large for --dtype")
        print(file_line(path, found[path]))
    return found


def changed(model: Transformer, folder: str, args: Namespace) -> dict[str, dict]:
    """How far the weights of a checkpoint are from those of --compared-with; tied weights count once."""
    before, _ = load(args.compared_with, args.device, getattr(torch, args.dtype))
    try:
        return weight_change(dict(before.named_parameters()), dict(model.named_parameters()))
    except ValueError as e:
        raise ValueError(f"--compared-with {args.compared_with}: compared with {folder}, {e}") from None


def printer(count: int) -> Callable:
    """A function for on_answer that prints the first `count` answers."""
    left = [count]

    def show(problem, text, ok):
        if left[0]:
            print(f"--- {'right' if ok else 'wrong'}, gold {problem.answer}\n{problem.question}\n> {text.strip()}")
            left[0] -= 1
    return show


if __name__ == "__main__":
    main()
