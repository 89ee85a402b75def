"""Measures a checkpoint: accuracy on the world by depth and context, on GSM8K/MATH-style files, and bits per byte.

    python evaluate.py --init runs/base runs/mid --data world:ops=1-6,split=test --k 1 8
    python evaluate.py --init runs/base runs/mid --data world:ops=1-6,split=test --band 4-6 --solved 1-3 --out gain.json
    python evaluate.py --init runs/mid --data world:ops=1-6,split=test --chat --user-suffix " /no_think"
    python evaluate.py --init runs/text --text held_out.txt
    python evaluate.py --init smollm2/ --data gsm8k/test.jsonl --limit 40 --chat --max-new-tokens 400

pass@1 of k=1 alone is greedy. With a larger k, n >= k samples are drawn for each problem, and pass@k is the unbiased
estimate 1 - C(n-c, k) / C(n, k) from the c right ones (arXiv 2107.03374, equation 1). A world answer counts twice: by
the answer alone, and only if every step is right. Intervals are 95% bootstrap intervals over problems; the gain from
one checkpoint to the next is a mean over the problems that both were asked, and its interval pairs them.
"""

import contextlib
import itertools
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data import batch_from
from model import load
from sampler import Sampler, parse_think
from sources.texts import read_texts
from tasks import problems as questions
from tasks.problems import Reply
from tasks.verify import mark_lines
from tasks.world import Problem, World
from tokenizer import split_thinking
from training import cli


def pass_at_k(n, c, k):
    """Unbiased estimate of the chance that at least one of k samples is right, from c right ones among n >= k."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def interval(values, resamples=2000, seed=0):
    """Mean of the values and its 95% bootstrap interval: (mean, low, high)."""
    values = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return round(float(values.mean()), 4), round(float(low), 4), round(float(high), 4)


def rates(right, ks):
    """right: for each problem a list of bool, one per sample -> {"pass@k": (mean, low, high)}."""
    return {f"pass@{k}": interval([pass_at_k(len(r), sum(r), k) for r in right]) for k in ks}


def ask(model, tokenizer, texts, limits, chat=False, think=None, think_budget=None, user_suffix="", ks=(1,), samples=0,
        temperature=1.0, rows=64, seed=0, dtype=None, progress=""):
    """Completions of questions: for each text a list of problems.Reply, of at most limits tokens.

    chat: as the user's turn in ChatML, with user_suffix behind it; think None lets a flag there decide, else on or off
    (Tokenizer.chat_prompt). think_budget: tokens of a think block. ks (1,) decodes greedily; otherwise `samples`
    (default the largest k) draws per question at the temperature.
    """
    if chat:
        prompts = [tokenizer.chat_prompt([{"role": "user", "content": text + user_suffix}], think) for text in texts]
    else:
        prompts = [tokenizer.encode_document(text) for text in texts]
    sampled = tuple(ks) != (1,)
    done = Sampler(model, tokenizer, rows, dtype).generate(
        prompts, max(samples, *ks) if sampled else 1, limits, temperature if sampled else 0.0, seed=seed,
        progress=progress, think_budget=think_budget)
    return [[Reply.of(c, tokenizer, limit) for c in completions] for completions, limit in zip(done, limits)]


def manner(groups):
    """How replies are given, apart from right and wrong: mean tokens, and the shares that have reasoning in a think
    block, that say nothing outside of one, and that were cut off at their limit."""
    replies = [reply for group in groups for reply in group]
    split = [split_thinking(reply.text) for reply in replies]

    def mean(values, digits=4):
        return round(float(np.mean(values)), digits)
    return {"tokens": mean([r.tokens for r in replies], 1),
            "thinking": mean([bool((reasoning or "").strip()) for reasoning, _ in split]),
            "empty": mean([not said.strip() for _, said in split]),
            "cut_off": mean([r.finish == "length" for r in replies])}


@dataclass
class Asked:
    """A problem of the world, its replies, and what verify says on each of them."""
    problem: Problem
    replies: list
    verdicts: list


def ask_world(model, tokenizer, spec, count=100, chat=False, progress=False, **how):
    """The first `count` problems of each number of operations in the spec, asked as `ask` does: list of Asked."""
    found = []
    for ops in World.from_spec(spec).ops:
        world = World.from_spec(spec)
        world.ops = [ops]
        todo = [world.problem(i) for i in range(count)]
        texts = [p.question if chat else p.question + "\n" for p in todo]
        # twice the gold solution; in a chat there are thinking marks as well, and maybe a hand-over to the answer
        limits = [2 * len(tokenizer.encode(p.solution)) + (40 if chat else 8) for p in todo]
        drawn = ask(model, tokenizer, texts, limits, chat, progress=f"{ops} operations" if progress else "", **how)
        found += [Asked(p, replies, [world.verify(p, r.text) for r in replies]) for p, replies in zip(todo, drawn)]
    return found


def world_table(asked, ks=(1,)):
    """A list of rows (dict), one per number of operations, then one per context.

    Each holds "answer" and "process" rates, the share of right "steps", what `manner` tells, and "why", the most common
    first error. Rows by operations also have "right": [process-verified samples, samples] of each problem in order.
    """
    table = []
    for field in ("ops", "context"):
        for value in sorted({getattr(a.problem, field) for a in asked}):
            part = [a for a in asked if getattr(a.problem, field) == value]
            verdicts = [v for a in part for v in a.verdicts]
            reasons = [v.reason.partition(": ")[2] or v.reason for v in verdicts if not v.ok]
            kinds = [" ".join(word for word in reason.split()[:2]) for reason in reasons]
            row = {field: value, "problems": len(part),
                   "answer": rates([[v.answer_ok for v in a.verdicts] for a in part], ks),
                   "process": rates([[v.ok for v in a.verdicts] for a in part], ks),
                   "steps": round(float(np.mean([v.steps_ok for v in verdicts])), 4),
                   **manner([a.replies for a in part]),
                   "why": max(set(kinds), key=kinds.count) if kinds else ""}
            if field == "ops":
                row["right"] = [[sum(v.ok for v in a.verdicts), len(a.verdicts)] for a in part]
            table.append(row)
    return table


def world_samples(asked, keep):
    """The first completion of the first `keep` problems of each number of operations, each line marked right (True),
    wrong (False) or neither (None)."""
    samples, seen = [], Counter()
    for a in asked:
        seen[a.problem.ops] += 1
        if seen[a.problem.ops] <= keep:
            p, text, verdict = a.problem, a.replies[0].text, a.verdicts[0]
            samples.append({"ops": p.ops, "question": p.question, "gold": p.solution, "text": text, "ok": verdict.ok,
                            "reason": verdict.reason, "lines": mark_lines(p, text)})
    return samples


def world_accuracy(model, tokenizer, spec, count=100, ks=(1,), **how):
    """Accuracy on problems of the world: world_table of ask_world; how: chat, think and the other options of `ask`."""
    return world_table(ask_world(model, tokenizer, spec, count, ks=ks, **how), ks)


def gain(before, after, ops):
    """How much pass@1 on these numbers of operations grew from one table of the same problems to another: (mean, low,
    high), the mean difference over problems and its paired bootstrap interval (process-verified)."""
    pairs = [[pair for row in table if row.get("ops") in ops for pair in row["right"]] for table in (before, after)]
    return interval([c / n - b / m for (b, m), (c, n) in zip(*pairs, strict=True)])


def file_accuracy(model, tokenizer, spec, limit=0, shots=0, chat=False, ks=(1,), max_new_tokens=400, seed=0,
                  progress=False, on_answer=None, **how):
    """Accuracy of final answers on a file of questions: {"problems", "accuracy": rates, and what `manner` tells}.

    chat asks in ChatML; else the question stands behind `shots` solved ones of the same file, which are then left out, or
    with shots None alone on its line, as pretrain.py tells it. how: the other options of `ask`.
    """
    everything = questions.load_problems(str(spec))
    shown, todo = everything[:shots or 0], everything[shots or 0:]
    if not todo:
        raise ValueError(f"{spec}: has {len(everything)} questions, and --shots {shots} shows them all, so none is left to ask; "
                         "lower --shots")
    if limit:
        order = np.random.default_rng(seed).permutation(len(todo))[:limit]
        todo = [todo[i] for i in sorted(order)]
    if chat or shots is None:
        texts = [p.question + "\n" * (not chat) for p in todo]
    else:
        texts = [questions.format_question(p, shown) for p in todo]
    drawn = ask(model, tokenizer, texts, [max_new_tokens] * len(todo), chat, ks=ks, seed=seed,
                progress=str(spec) if progress else "", **how)
    right = []
    for problem, replies in zip(todo, drawn):
        said = [reply.text.split("\nQuestion:")[0] for reply in replies]
        right.append([questions.check_answer(text, problem.answer) for text in said])
        if on_answer:
            on_answer(problem, said[0], right[-1][0])
    return {"data": str(spec), "problems": len(todo), "accuracy": rates(right, ks), **manner(drawn)}


@torch.no_grad()
def bits_per_byte(model, tokenizer, texts, T=256, rows=16, max_tokens=0, autocast=None):
    """Cross entropy of texts in bits per byte of UTF-8: {"bits_per_byte", "loss" (nats per token), "tokens", "bytes"}.

    A text is cut into pieces of T slots; every token is predicted from the tokens before it in its piece, but for the
    very first of the text, whose bytes do not count (unless the tokenizer puts a token before it). The end-of-document token is
    not counted: it has no bytes.
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


def check_specs(specs, tokenizer):
    """ValueError for an --eval-data that cannot be measured; called before training, which may take days."""
    for spec in specs:
        kind = questions.kind_of(spec)
        if kind == "conversations":
            raise ValueError(f"--eval-data {spec}: no answer to a conversation can be checked; give world:..., a file of "
                             "questions with answers, or text")
        if kind == "world":
            World.from_spec(spec)
        elif kind == "questions":
            questions.load_problems(spec)
        elif kind == "text":
            check_text(spec, tokenizer)


def check_text(path, tokenizer):
    """ValueError for a file of text of which bits per byte cannot be measured. Reads it whole: its last line may be broken."""
    if not [text for text in read_texts(path) if len(tokenizer.encode_document(text[:1000])) > 1]:
        raise ValueError(f"{path}: bits per byte needs a text of at least two tokens, and there is none")


CHAT = dict(chat=True)
PLAIN = {"": dict(chat=False)}


def evaluate_all(model, tokenizer, specs, modes, problems=100, T=256, autocast=None, max_new_tokens=400):
    """What training scripts report on --eval-data: of a world its accuracy table, of a file of questions the accuracy of the
    answers, both greedy and on that many problems; of text its bits per byte, in pieces of T tokens.

    modes: how the run puts its own questions, so that it is measured on what it learns: {name: options of `ask`}. The first
    is called "" and its result stands under the spec; a second one's stands under the spec and its name.
    """
    found, dtype = {}, torch.bfloat16 if model.head.is_cuda else None
    for spec in specs:
        kind = questions.kind_of(spec)
        if kind == "text":
            found[spec] = bits_per_byte(model, tokenizer, read_texts(spec), T, max_tokens=500_000, autocast=autocast)
            continue
        for name, how in modes.items():
            if kind == "world":
                found[spec + name] = brief(world_accuracy(model, tokenizer, spec, problems, dtype=dtype, **how))
            else:
                found[spec + name] = file_accuracy(model, tokenizer, spec, problems, None, max_new_tokens=max_new_tokens,
                                                   dtype=dtype, **how)
    return found


def modes_of(think, no_think):
    """Modes for evaluate_all: chats whose questions end in `think`, in `no_think`, or both ("" is no flag, None not this one)."""
    flags = [flag for flag in (think, no_think) if flag is not None]
    return {flag if i else "": CHAT | {"user_suffix": flag} for i, flag in enumerate(flags)}


def print_evaluation(found):
    """What evaluate_all found, for people."""
    for name, result in found.items():
        if isinstance(result, list):
            print(name)
            print_world(result, [1])
        else:
            print(told(name, result))


def told(name, result):
    """One line on a file: of file_accuracy or bits_per_byte."""
    if "bits_per_byte" in result:
        return f"{name}: {result['bits_per_byte']:.4f} bits per byte over {result['bytes']:,} bytes"
    rates = ", ".join(f"{k} {_show(rate)}" for k, rate in result["accuracy"].items())
    return (f"{name}: {result['problems']} questions, {rates}; {result['tokens']} tokens, thinking {result['thinking']:.3f}, "
            f"empty {result['empty']:.3f}, cut off {result['cut_off']:.3f}")


def brief(table):
    """The table without its rates problem by problem."""
    return [{key: value for key, value in row.items() if key != "right"} for row in table]


def print_world(table, ks):
    head = "".join(f" {f'answer pass@{k}':>24} {f'process pass@{k}':>24}" for k in ks)
    for field, title in (("ops", "operations"), ("context", "context")):
        print(f"{title:<12}{'problems':>9}{head} {'steps':>7} {'tokens':>7} {'thinking':>8} {'empty':>6}  common error")
        for row in (r for r in table if field in r):
            cells = "".join(f" {_show(row[part][f'pass@{k}']):>24}" for k in ks for part in ("answer", "process"))
            print(f"{row[field]!s:<12}{row['problems']:>9}{cells} {row['steps']:>7.3f} {row['tokens']:>7.1f} "
                  f"{row['thinking']:>8.3f} {row['empty']:>6.3f}  {row['why']}")


def _show(rate):
    return f"{rate[0]:.3f} [{rate[1]:.3f}, {rate[2]:.3f}]"


def gains(measured, bands):
    """From each checkpoint to the next, the gain in each band of each world: list of dict.

    measured: {folder: {spec: {"rows"}}}; bands: {name: numbers of operations}."""
    found = []
    for before, after in itertools.pairwise(measured):
        for spec in (s for s in measured[before] if s.startswith("world:")):
            tables = [measured[folder][spec]["rows"] for folder in (before, after)]
            for name, ops in bands.items():
                if any(row.get("ops") in ops for row in tables[0]):
                    found.append({"data": spec, "band": name, "ops": [min(ops), max(ops)], "before": before,
                                  "after": after, "gain": gain(*tables, ops)})
    return found


def print_comparison(measured, ks, found_gains=()):
    """Verified accuracy by operations, a column for each checkpoint and k, for every world; and the gains in bands."""
    folders = list(measured)
    for spec in [s for s in measured[folders[0]] if s.startswith("world:")]:
        print(f"\nverified accuracy on {spec}")
        print("operations  " + "".join(f" {f'{f[-18:]} pass@{k}':>26}" for k in ks for f in folders))
        for rows in zip(*(measured[f][spec]["rows"] for f in folders), strict=True):
            if "ops" in rows[0]:
                cells = [f" {_show(row['process'][f'pass@{k}']):>26}" for k in ks for row in rows]
                print(f"{rows[0]['ops']:<12}{''.join(cells)}")
        for g in (g for g in found_gains if g["data"] == spec):
            mean, low, high = g["gain"]
            print(f"gain in pass@1 on {g['ops'][0]}-{g['ops'][1]} operations ({g['band']}), {g['before'][-18:]} to "
                  f"{g['after'][-18:]}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]")


def parse_band(flag, text):
    """"4-6" -> range(4, 7)."""
    low, dash, high = text.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()) or not 1 <= int(low) <= int(high or low):
        raise ValueError(f"{flag} {text}: use a number of operations, or a range such as 4-6")
    return range(int(low), int(high or low) + 1)


def write_json(path, value):
    """The file appears whole or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(f"{path}.{os.getpid()}")
    temporary.write_text(cli.to_json(value) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def has(args, world):
    """Whether --data names a world, or a file."""
    return any(spec.startswith("world:") == world for spec in args.data)


# when a flag has an effect (see cli.Parser)
NEEDS = (
    ("--problems --band --solved", lambda a: has(a, world=True), "without a world in --data"),
    ("--limit --shots --max-new-tokens --show", lambda a: has(a, world=False), "without a file in --data"),
    ("--k --chat --rows", lambda a: a.data, "without --data"),
    ("--samples --temperature", lambda a: a.k != [1], "with --k 1 alone, which decodes greedily"),
    ("--seed", lambda a: a.k != [1] or (a.limit and has(a, world=False)), "without draws: --k above 1, or --limit on a file"),
    ("--shots", lambda a: not a.chat or a.plain, "with --chat, where a question stands alone"),
    ("--plain --think --user-suffix", lambda a: a.chat, "without --chat"),
    ("--seq-len", lambda a: a.text, "without --text"),
    ("--keep", lambda a: a.out and has(a, world=True), "without --out and a world in --data"),
    ("--band --solved", lambda a: a.out or len(set(a.init)) > 1, "with one checkpoint and no --out"),
)


def main():
    p = cli.Parser(__doc__, NEEDS)
    p.add_argument("--init", metavar="FOLDER", nargs="+", required=True,
                   help="checkpoints to measure, ours or Hugging Face's")
    p.add_argument("--data", metavar="SPEC", nargs="*", default=[], help="questions: world:... or a .jsonl file")
    p.add_argument("--text", metavar="FILE", nargs="*", default=[], help="text, for bits per byte")
    p.add_argument("--problems", type=cli.count, default=100, help="world problems for each number of operations")
    p.add_argument("--limit", type=cli.whole, default=0, help="questions to take from a file; 0: all")
    p.add_argument("--k", type=cli.count, nargs="+", default=[1], help="the k of pass@k; 1 alone decodes greedily")
    p.add_argument("--samples", type=cli.whole, default=0, help="samples per problem; 0: the largest k")
    p.add_argument("--temperature", type=cli.not_negative, default=0.7, help="of the samples")
    p.add_argument("--shots", type=cli.whole, default=0, help="solved questions of the file to show first")
    p.add_argument("--chat", action="store_true", help="ask in ChatML")
    p.add_argument("--plain", metavar="FOLDER", nargs="*", default=[],
                   help="checkpoints that --chat leaves out: they have not learned ChatML")
    p.add_argument("--think", metavar="on|off|auto|N", default="auto",
                   help="thinking in a chat; N: on, for at most N tokens; auto: by /think or /no_think in the question")
    p.add_argument("--user-suffix", metavar="TEXT", default="", help="put behind every question, such as ' /no_think'")
    p.add_argument("--band", metavar="OPS", default="", help="operations, such as 4-6, in which the gain is measured")
    p.add_argument("--solved", metavar="OPS", default="", help="operations solved before, to see what was forgotten")
    p.add_argument("--max-new-tokens", type=cli.count, default=400, help="tokens of an answer to a file's question")
    p.add_argument("--seq-len", type=cli.count, default=256, help="tokens of context for bits per byte")
    p.add_argument("--rows", type=cli.count, default=64, help="completions that decode at once")
    p.add_argument("--exact", action="store_true", help="kernels that give an answer the same bits whatever --rows is")
    p.add_argument("--show", type=cli.whole, default=0, help="answers to print from each file")
    p.add_argument("--out", type=cli.out_file, metavar="FILE", default="", help="JSON file to write, with some completions")
    p.add_argument("--keep", type=cli.whole, default=2, help="completions in --out for each number of operations")
    p.add_argument("--seed", type=cli.seed, default=0, help="of the samples")
    p.add_argument("--device", type=cli.device, default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and cache")
    args = p.parse_args()
    with cli.bad_input():
        bands = check(args)
        measured = {folder: measure(folder, args) for folder in dict.fromkeys(args.init)}
        found = gains(measured, bands)
        if args.out:
            write_json(args.out, {"flags": vars(args), "results": measured, "gain": found})
    if len(args.init) > 1:
        print_comparison(measured, args.k, found)
    cli.finish({"k": args.k, "gain": found} | {
        folder: {name: brief(value["rows"]) if name.startswith("world:") else value for name, value in results.items()}
        for folder, results in measured.items()})


def check(args):
    """Refuses flags that do not go together before anything is measured; returns {name: numbers of operations}."""
    if not (args.data or args.text):
        raise ValueError("give --data or --text: what to measure on")
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


def measure(folder, args):
    """All measurements of one checkpoint: {spec or file: result}, printed as they come."""
    model, tokenizer = load(folder, args.device, getattr(torch, args.dtype))
    model.exact = args.exact
    if tokenizer is None:
        raise ValueError(f"--init {folder}: the folder has no tokenizer.json")
    print(f"\n{folder}")
    think, budget = parse_think(args.think)
    how = dict(ks=args.k, samples=args.samples, temperature=args.temperature, rows=args.rows, seed=args.seed,
               chat=args.chat and folder not in args.plain, think=think, think_budget=budget,
               user_suffix=args.user_suffix, progress=True)
    if not how["chat"]:
        how |= dict(think=None, think_budget=None)
    found = {}
    for spec in args.data:
        if spec.startswith("world:"):
            asked = ask_world(model, tokenizer, spec, args.problems, **how)
            found[spec] = {"rows": world_table(asked, args.k), "samples": world_samples(asked, args.keep)}
            print_world(found[spec]["rows"], args.k)
            continue
        left = [args.show]

        def show(problem, text, ok, left=left):
            if left[0]:
                print(f"--- {'right' if ok else 'wrong'}, gold {problem.answer}\n{problem.question}\n> {text.strip()}")
                left[0] -= 1
        found[spec] = file_accuracy(model, tokenizer, spec, args.limit, args.shots, max_new_tokens=args.max_new_tokens,
                                    on_answer=show, **how)
        print(told(spec, found[spec]))
    for path in args.text:
        check_text(path, tokenizer)
        found[path] = bits_per_byte(model, tokenizer, read_texts(path), args.seq_len)
        if not math.isfinite(found[path]["loss"]):
            raise ValueError(f"--init {folder}: its log-probabilities of {path} are not numbers (NaN or infinite); its weights "
                             "are damaged, or too large for --dtype")
        print(told(path, found[path]))
    return found


if __name__ == "__main__":
    main()
