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
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from engine.draws import sampling_flags
from engine.thinking import parse_think
from formats.files import write_text
from formats.texts import read_texts
from measuring.needles import needle_accuracy
from measuring.questions import file_accuracy, grade_world, open_graded, replies_to
from measuring.text import bits_per_byte, check_text
from model import Transformer, check_folder, load, load_both, read_config
from tasks import contamination
from tasks.accuracy import (
    file_line,
    gains,
    parse_band,
    print_comparison,
    print_world,
    without_problems,
)
from tasks.benchmarks import flags as benchmark_flags
from tasks.benchmarks.read import BenchmarkTask, open_benchmark
from tasks.benchmarks.score import score_all
from tasks.needle_tables import check_grid, print_needles, sweep, without_details
from tasks.options import is_generated
from tasks.problems import add_task_flag, numbers_of
from tasks.questions import Questions
from tasks.tables import world_samples, world_table
from tasks.tools import TOOL_NEEDS, Toolbox, add_tool_flags, open_tools
from tasks.world import World
from tokenizer import Tokenizer
from training import cli
from training.lineage import longest_rows
from training.weight_change import lines as change_lines
from training.weight_change import weight_change


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
    ("--think --user-suffix", lambda a: a.chat or (a.benchmark and a.template != "few-shot"),
     "without a chat: --chat, or --benchmark in the template rl"),
    *benchmark_flags.NEEDS,
    ("--seq-len", lambda a: a.text, "without --text"),
    ("--exact", lambda a: a.data or a.task or a.needle or a.benchmark or a.text,
     "without --data, --task, --needle, --benchmark or --text"),
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
        check_inputs(args, benchmarks)
        measured, trouble = {}, ""
        with kept_if_cut_off(args, measured):
            for folder in dict.fromkeys(args.init):
                measured[folder] = measure(folder, args, tools, benchmarks)
        found = gains(measured, bands, max(args.k))
        try:
            write(args.out, {"flags": vars(args), "results": measured, "gain": found})
        except OSError as e:                              # a full disk: what was measured is printed all the same
            trouble = f"--out {args.out}: {e.strerror}; the last line has the results"
    if len(args.init) > 1:
        print_comparison(measured, args.k, found)
    cli.finish({"k": args.k, "gain": found} | {
        f"./{folder}" if folder in ("k", "gain") else folder: {name: last_line(value) for name, value in results.items()}
        for folder, results in measured.items()})
    if trouble:
        cli.fail(trouble)


def write(file: str, found: dict) -> None:
    if file:
        write_text(file, cli.to_json(found) + "\n")


@contextlib.contextmanager
def kept_if_cut_off(args: Namespace, measured: dict) -> Iterator[None]:
    """If an error or Ctrl-C ends the program, the checkpoints that are measured are kept, in FILE.unfinished."""
    try:
        yield
    except BaseException:
        if args.out and measured:
            write(f"{args.out}.unfinished", {"flags": vars(args), "results": measured})
            print(f"the results of {len(measured)} checkpoint{'s' * (len(measured) > 1)} are in {args.out}.unfinished",
                  file=sys.stderr)
        raise


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
    bands = {flag: parse_band(f"--{flag}", getattr(args, flag)) for flag in ("band", "solved") if getattr(args, flag)}
    for flag, ops in bands.items():
        if not any(set(ops) & set(world.ops) for world in worlds):
            raise ValueError(f"--{flag} {getattr(args, flag)}: no --data world:... has such problems")
    return bands


def check_inputs(args: Namespace, benchmarks: Sequence[BenchmarkTask]) -> None:
    """ValueError or FileNotFoundError for a checkpoint, a task or a text that cannot be read or asked, before anything is
    measured: a result of many hours must not be lost to the last of them."""
    for spec in args.data:
        task, kind = open_graded(spec, None), spec.partition(":")[0]
        if kind == "needle":
            check_grid(task)
        if is_generated(spec) and task.tools and args.tool:
            raise ValueError(f"{spec} has a tool of its own; leave --tool or calls=N out")
        if kind in ("world", "needle"):
            continue
        if args.shots and not isinstance(task, Questions):
            raise ValueError(f"--shots {args.shots}: only a file has solved questions to show, and {spec} is none; measure it "
                             "without --shots")
        if kind != "text":                                # which needs the tokenizer to know its problems
            numbers_of(task, args.limit or None)
            contamination.check(spec, task, args)
    for task in benchmarks:
        contamination.check(task.name, task, args)
    for folder in args.init:
        check_folder(folder)
        needles = [spec for spec in args.data if spec.startswith("needle:")]
        tokenizer = Tokenizer.load(folder) if args.text or needles else None
        for spec in needles:
            open_graded(spec, tokenizer)                  # there must be room for the needles, in its tokens
        for path in args.text:
            check_text(path, tokenizer)
    if args.compared_with:
        read_config(args.compared_with)


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
        name = f"text:{path}" if path in found else path   # a file that is asked as well
        found[name] = bits_per_byte(model, tokenizer, read_texts(path), args.seq_len)
        if not math.isfinite(found[name]["loss"]):
            raise ValueError(f"--init {folder}: its log-probabilities of {path} are not numbers (NaN or infinite); its weights "
                             "are damaged, or too large for --dtype")
        print(file_line(path, found[name]))
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
