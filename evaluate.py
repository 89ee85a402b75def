"""Measures a checkpoint: accuracy on the world by depth and context, on GSM8K/MATH-style files, and bits per byte.

    python evaluate.py --init runs/base runs/mid --data world:ops=1-6,split=test --k 1 8
    python evaluate.py --init runs/base runs/mid --data world:ops=1-6,split=test --band 4-6 --solved 1-3 --out gain.json
    python evaluate.py --init runs/mid --data world:ops=1-6,split=test --chat --user-suffix " /no_think"
    python evaluate.py --init runs/text --text held_out.txt
    python evaluate.py --init smollm2/ --data gsm8k/test.jsonl --limit 40 --chat --max-new-tokens 400

pass@1 of k=1 alone is greedy. With a larger k, n >= k samples are drawn for each problem, and pass@k is the unbiased
estimate 1 - C(n-c, k) / C(n, k) from the c right ones (arXiv 2107.03374, equation 1). A world answer counts twice: by
the answer alone, and only if every step is right. Intervals are 95% bootstrap intervals over problems; the gain from
one checkpoint to the next is a mean over the problems that both of them answered, and its interval pairs them.
"""

import contextlib
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data import Mixture, Packer, batch_from, print_table
from engine.thinking import parse_think
from formats.chat import split_thinking
from formats.files import write_atomically
from model import load
from sampler import Sampler
from sources.kinds import kind_of
from sources.open import open_source
from sources.texts import read_texts
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
from tasks.problems import add_task_flag, is_generated, open_task, problems_of
from tasks.questions import Questions, format_question
from tasks.task import Reply
from tasks.verify import mark_lines
from tasks.world import Problem, World
from training import cli


def replies_to(model, tokenizer, prompts: list[str | list[dict]], limits: list[int], think=None, think_budget=None,
               user_suffix="", ks=(1,), samples=0, temperature=1.0, rows=64, seed=0, dtype=None,
               progress="") -> list[list[Reply]]:
    """The model's replies to each prompt.

    prompts        as a task gives them: plain text, or the messages of a chat (tasks/task.py)
    limits         the most tokens of a reply, for each prompt
    think          in a chat: True, False, or None, which lets a flag in the question decide (Tokenizer.chat_prompt)
    think_budget   the most tokens of a think block
    user_suffix    in a chat: put behind the user's last turn
    ks, samples    ks of (1,) decodes greedily; else there are `samples` draws for a prompt, or as many as the largest k
    temperature    of the draws
    rows           how many replies are decoded at once
    """
    def ids(prompt):
        if isinstance(prompt, str):
            return tokenizer.encode_document(prompt)
        *before, last = prompt
        return tokenizer.chat_prompt([*before, last | {"content": last["content"] + user_suffix}], think)
    sampled = tuple(ks) != (1,)
    done = Sampler(model, tokenizer, rows, dtype).generate(
        list(map(ids, prompts)), max(samples, *ks) if sampled else 1, limits, temperature if sampled else 0.0, seed=seed,
        progress=progress, think_budget=think_budget)
    return [[Reply.of(c, tokenizer, limit) for c in completions] for completions, limit in zip(done, limits)]


def reply_style(groups: list[list[Reply]]) -> dict:
    """What replies look like, right or wrong: their mean length in tokens, and the shares that have reasoning in a think block,
    that say nothing outside of one, and that were cut off at their limit."""
    replies = [reply for group in groups for reply in group]
    split = [split_thinking(reply.text) for reply in replies]

    def mean(values, digits=4):
        return round(float(np.mean(values)), digits)
    return {"tokens": mean([r.tokens for r in replies], 1),
            "thinking": mean([bool((reasoning or "").strip()) for reasoning, _ in split]),
            "empty": mean([not said.strip() for _, said in split]),
            "cut_off": mean([r.finish == "length" for r in replies])}


@dataclass
class Graded:
    """A problem of the world, the replies to it, and what verify says about each of them."""
    problem: Problem
    replies: list
    verdicts: list


def grade_world(model, tokenizer, spec: str, count=100, chat=False, progress=False, **how) -> list[Graded]:
    """Puts the first `count` problems of each number of operations in the spec to the model, and grades its replies.
    how: the other options of `replies_to`."""
    found = []
    for ops in World.from_spec(spec).ops:
        world = World.from_spec(spec)
        world.ops = [ops]
        todo = [world.problem(i) for i in range(count)]
        prompts = [world.prompt(p, "chat" if chat else "plain") for p in todo]
        # twice the gold solution; in a chat there are thinking marks as well, and maybe a hand-over to the answer
        limits = [2 * len(tokenizer.encode(world.longest(p))) + (40 if chat else 8) for p in todo]
        drawn = replies_to(model, tokenizer, prompts, limits, progress=f"{ops} operations" if progress else "", **how)
        found += [Graded(p, replies, [world.grade(p, r) for r in replies]) for p, replies in zip(todo, drawn)]
    return found


def world_table(graded: list[Graded], ks=(1,)) -> list[dict]:
    """One row for each number of operations, then one for each context:

    ops or context   what the row is for
    problems         how many
    answer, process  pass@k where the answer counts alone, and where every step must be right as well
    steps            the share of steps that are right
    why              the most common first error
    right            rows by operations: [samples with every step right, samples] of each problem, in order
    answered         the same of samples with the right answer
    and what `reply_style` finds
    """
    table = []
    for field in ("ops", "context"):
        for value in sorted({getattr(a.problem, field) for a in graded}):
            part = [a for a in graded if getattr(a.problem, field) == value]
            verdicts = [v for a in part for v in a.verdicts]
            reasons = [v.reason.partition(": ")[2] or v.reason for v in verdicts if not v.ok]
            kinds = [" ".join(word for word in reason.split()[:2]) for reason in reasons]
            row = {field: value, "problems": len(part),
                   "answer": rates([[v.answer_ok for v in a.verdicts] for a in part], ks),
                   "process": rates([[v.ok for v in a.verdicts] for a in part], ks),
                   "steps": round(float(np.mean([v.steps_ok for v in verdicts])), 4),
                   **reply_style([a.replies for a in part]),
                   "why": max(set(kinds), key=kinds.count) if kinds else ""}
            if field == "ops":
                row["right"] = [[sum(v.ok for v in a.verdicts), len(a.verdicts)] for a in part]
                row["answered"] = [[sum(v.answer_ok for v in a.verdicts), len(a.verdicts)] for a in part]
            table.append(row)
    return table


def world_samples(graded: list[Graded], keep: int) -> list[dict]:
    """The first completion of the first `keep` problems of each number of operations, each line marked right (True),
    wrong (False) or neither (None)."""
    samples, seen = [], Counter()
    for a in graded:
        seen[a.problem.ops] += 1
        if seen[a.problem.ops] <= keep:
            p, text, verdict = a.problem, a.replies[0].text, a.verdicts[0]
            samples.append({"ops": p.ops, "question": p.question, "gold": p.solution, "text": text, "ok": verdict.ok,
                            "reason": verdict.reason, "lines": mark_lines(p, text)})
    return samples


def world_accuracy(model, tokenizer, spec: str, count=100, ks=(1,), **how) -> list[dict]:
    """The table of accuracy on problems of the world; how: the options of `replies_to`."""
    return world_table(grade_world(model, tokenizer, spec, count, ks=ks, **how), ks)


def file_accuracy(model, tokenizer, spec: str, limit=0, shots=0, chat=False, ks=(1,), max_new_tokens=400, seed=0,
                  progress=False, on_answer=None, **how) -> dict:
    """Accuracy of the answers to a file of questions, or to another task: {"problems", "accuracy": rates, and what `reply_style`
    finds}. Where the task's problems are of several kinds, "kinds" has the rates of each.

    limit      how many questions to draw from the file; 0: all. A task that never ends gives its first ones
    shots      of a file, without chat: so many solved questions of the file stand before each question, and are not asked
               themselves. None: the question stands alone on its line, as in pre-training
    on_answer  called with (problem, text of the first reply, whether it is right)
    how        the other options of `replies_to`
    """
    task = open_task(str(spec))
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
                       progress=str(spec) if progress else "", **how)
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
    return {"data": str(spec), "problems": len(todo), "accuracy": rates(right, ks), **by_kind, **reply_style(drawn)}


@torch.no_grad()
def bits_per_byte(model, tokenizer, texts, T=256, rows=16, max_tokens=0, autocast=None) -> dict:
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


@torch.no_grad()
def heldout_loss(model, tokenizer, spec: str, T=256, rows=16, max_tokens=100_000, autocast=None) -> dict:
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


def check_specs(specs: list[str], tokenizer) -> None:
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
            open_task(spec)
        elif kind == "text":
            check_text(spec, tokenizer)


def check_text(path: str, tokenizer) -> None:
    """ValueError for a file of text of which bits per byte cannot be measured. Reads it whole: its last line may be broken."""
    if not [text for text in read_texts(path) if len(tokenizer.encode_document(text[:1000])) > 1]:
        raise ValueError(f"{path}: bits per byte needs a text of at least two tokens, and there is none")


CHAT = dict(chat=True)
PLAIN = {"": dict(chat=False)}


def evaluate_all(model, tokenizer, specs: list[str], modes: dict, problems=100, T=256, autocast=None, max_new_tokens=400) -> dict:
    """What training scripts report on --eval-data: of a world its accuracy table, of a file of questions the accuracy of the
    answers, both greedy and on that many problems; of text its bits per byte, in pieces of T tokens; of loss:SPEC the loss.

    modes: how the run puts its own questions, so that it is measured on what it learns: {name: options of `replies_to`}. The
    first is called "" and its result stands under the spec; a second one's stands under the spec and its name.
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
    """Modes for evaluate_all: chats whose questions end in `think`, in `no_think`, or both ("" is no flag, None not this one)."""
    flags = [flag for flag in (think, no_think) if flag is not None]
    return {flag if i else "": CHAT | {"user_suffix": flag} for i, flag in enumerate(flags)}


# when a flag of the training scripts about --eval-data has an effect (see cli.Parser)
EVAL_NEEDS = (
    ("--eval-problems", lambda a: any(kind_of(spec) not in ("text", "loss") for spec in a.eval_data),
     "on text, which has no problems"),
)


def print_results(result: dict) -> None:
    """The tables in a training script's result, for people: its mixture, and what evaluate_all found."""
    if "mixture" in result:
        print_table(result["mixture"])
    print_evaluation(result.get("eval", {}))


def write_json(path, value) -> None:
    """The file appears whole or not at all; its folder is made where it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_text(cli.to_json(value) + "\n", encoding="utf-8"))


def has(args, world):
    """Whether --data names a world, or another task."""
    return any(spec.startswith("world:") == world for spec in [*args.data, *args.task])


# when a flag has an effect (see cli.Parser)
NEEDS = (
    ("--problems --band --solved", lambda a: has(a, world=True), "without a world in --data"),
    ("--limit --shots --max-new-tokens --show", lambda a: has(a, world=False), "without a file in --data"),
    ("--k --chat --rows", lambda a: a.data or a.task, "without --data or --task"),
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
    add_task_flag(p)
    p.add_argument("--text", metavar="FILE", nargs="*", default=[], help="text, for bits per byte")
    p.add_argument("--problems", type=cli.count, default=100, help="world problems for each number of operations")
    p.add_argument("--limit", type=cli.whole, default=0, help="questions to take from a file or a task; 0: all")
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
        args.data = [*args.data, *args.task]
        bands = check(args)
        measured = {folder: measure(folder, args) for folder in dict.fromkeys(args.init)}
        found = gains(measured, bands)
        if args.out:
            write_json(args.out, {"flags": vars(args), "results": measured, "gain": found})
    if len(args.init) > 1:
        print_comparison(measured, args.k, found)
    cli.finish({"k": args.k, "gain": found} | {
        folder: {name: without_problems(value["rows"]) if name.startswith("world:") else value
                 for name, value in results.items()} for folder, results in measured.items()})


def check(args):
    """Refuses flags that do not go together before anything is measured; returns {name: numbers of operations}."""
    if not (args.data or args.text):
        raise ValueError("give --data, --task or --text: what to measure on")
    if unknown := [f for f in args.plain if f not in args.init]:
        raise ValueError(f"--plain {unknown[0]}: not among the checkpoints of --init")
    if 0 < args.samples < max(args.k):
        raise ValueError(f"--samples {args.samples}: pass@{max(args.k)} needs at least {max(args.k)}")
    parse_think(args.think)
    if args.out and Path(args.out).exists():
        raise ValueError(f"--out {args.out}: exists already; remove it or choose another file")
    worlds = [World.from_spec(spec) for spec in args.data if spec.startswith("world:")]
    for spec in args.data:
        if is_generated(spec):
            open_task(spec)
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
            graded = grade_world(model, tokenizer, spec, args.problems, **how)
            found[spec] = {"rows": world_table(graded, args.k), "samples": world_samples(graded, args.keep)}
            print_world(found[spec]["rows"], args.k)
            continue
        left = [args.show]

        def show(problem, text, ok, left=left):
            if left[0]:
                print(f"--- {'right' if ok else 'wrong'}, gold {problem.answer}\n{problem.question}\n> {text.strip()}")
                left[0] -= 1
        found[spec] = file_accuracy(model, tokenizer, spec, args.limit, args.shots, max_new_tokens=args.max_new_tokens,
                                    on_answer=show, **how)
        print(file_line(spec, found[spec]))
    for path in args.text:
        check_text(path, tokenizer)
        found[path] = bits_per_byte(model, tokenizer, read_texts(path), args.seq_len)
        if not math.isfinite(found[path]["loss"]):
            raise ValueError(f"--init {folder}: its log-probabilities of {path} are not numbers (NaN or infinite); its weights "
                             "are damaged, or too large for --dtype")
        print(file_line(path, found[path]))
    return found


if __name__ == "__main__":
    main()
