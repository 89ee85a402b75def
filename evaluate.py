"""Measures a checkpoint: accuracy on the world by depth and context, on GSM8K/MATH-style files, and bits per byte on text.

    python evaluate.py --init runs/base runs/mid --data world:ops=1-6,split=test --k 1 8
    python evaluate.py --init runs/text --text held_out.txt
    python evaluate.py --init smollm2/ --data gsm8k/test.jsonl --limit 40 --chat --max-new-tokens 400

pass@1 of k=1 alone is greedy. With a larger k, n >= k samples are drawn for each problem, and pass@k is the unbiased
estimate 1 - C(n-c, k) / C(n, k) from the c right ones (arXiv 2107.03374, equation 1). A world answer counts twice: by the
answer alone, and only if every step is right. Intervals are 95% bootstrap intervals over problems.
"""

import contextlib
import math

import numpy as np
import torch

import cli
import problems as questions
from data import batch_from
from model import load
from sampler import Sampler
from texts import read_texts
from world import World


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


def world_accuracy(model, tokenizer, spec, count=100, ks=(1,), samples=0, temperature=1.0, rows=64, seed=0, dtype=None,
                   progress=False):
    """Accuracy on problems of the world: a list of rows (dict), one per number of operations, then one per context.

    count problems for each number of operations in the spec. ks (1,) decodes greedily; otherwise `samples` (default the
    largest k) draws per problem at the temperature. Each row holds "answer" and "process" rates, and "why", the most
    common first error.
    """
    whole = World.from_spec(spec)
    sampled = tuple(ks) != (1,)
    n = max(samples, *ks) if sampled else 1
    found = []                                                                # (problem, verdicts)
    for ops in whole.ops:
        world = World.from_spec(spec)
        world.ops = [ops]
        todo = [world.problem(i) for i in range(count)]
        prompts = [tokenizer.encode(p.question + "\n") for p in todo]
        limits = [2 * len(tokenizer.encode(p.solution)) + 8 for p in todo]
        drawn = Sampler(model, tokenizer, rows, dtype).generate(
            prompts, n, limits, temperature if sampled else 0.0, seed=seed, progress=f"{ops} operations" if progress else "")
        for problem, completions in zip(todo, drawn):
            texts = [tokenizer.decode(c.tokens, skip_special=True) for c in completions]
            found.append((problem, [world.verify(problem, t) for t in texts],
                          sum(len(c.tokens) for c in completions) / n))
    table = []
    for field in ("ops", "context"):
        for value in sorted({getattr(p, field) for p, _, _ in found}):
            part = [(p, v, t) for p, v, t in found if getattr(p, field) == value]
            reasons = [x.reason.partition(": ")[2] or x.reason for _, v, _ in part for x in v if not x.ok]
            kinds = [" ".join(w for w in r.split()[:2]) for r in reasons]
            table.append({field: value, "problems": len(part),
                          "answer": rates([[x.answer_ok for x in v] for _, v, _ in part], ks),
                          "process": rates([[x.ok for x in v] for _, v, _ in part], ks),
                          "steps": round(float(np.mean([x.steps_ok for _, v, _ in part for x in v])), 4),
                          "tokens": round(float(np.mean([t for *_, t in part])), 1),
                          "why": max(set(kinds), key=kinds.count) if kinds else ""})
    return table


def file_accuracy(model, tokenizer, spec, limit=0, shots=0, chat=False, ks=(1,), samples=0, temperature=1.0,
                  max_new_tokens=400, rows=64, seed=0, dtype=None, progress=False, on_answer=None):
    """Accuracy of final answers on a file of questions: {"problems", "accuracy": rates, "cut_off": share}.

    chat asks in ChatML; else the question stands behind `shots` solved ones of the same file, which are then left out.
    """
    everything = questions.load_problems(str(spec))
    shown, todo = everything[:shots], everything[shots:]
    if limit:
        order = np.random.default_rng(seed).permutation(len(todo))[:limit]
        todo = [todo[i] for i in sorted(order)]
    if chat:
        prompts = [tokenizer.encode_chat([{"role": "user", "content": p.question}], add_generation_prompt=True)[0]
                   for p in todo]
    else:
        prompts = [tokenizer.encode(questions.format_question(p, shown)) for p in todo]
    sampled = tuple(ks) != (1,)
    n = max(samples, *ks) if sampled else 1
    drawn = Sampler(model, tokenizer, rows, dtype).generate(
        prompts, n, max_new_tokens, temperature if sampled else 0.0, seed=seed, progress=str(spec) if progress else "")
    right, cut = [], 0
    for problem, completions in zip(todo, drawn):
        texts = [tokenizer.decode(c.tokens, skip_special=True).split("\nQuestion:")[0] for c in completions]
        right.append([questions.check_answer(t, problem.answer) for t in texts])
        cut += sum(c.finish == "length" for c in completions)
        if on_answer:
            on_answer(problem, texts[0], right[-1][0])
    return {"data": str(spec), "problems": len(todo), "accuracy": rates(right, ks),
            "cut_off": round(cut / max(1, n * len(todo)), 4)}


@torch.no_grad()
def bits_per_byte(model, tokenizer, texts, T=256, rows=16, max_tokens=0, autocast=None):
    """Cross entropy of texts in bits per byte of UTF-8: {"bits_per_byte", "loss" (nats per token), "tokens", "bytes"}.

    A text is cut into pieces of T slots; every token is predicted from the tokens before it in its piece, but for the
    very first of the text, whose bytes do not count. The end-of-document token is not counted: it has no bytes.
    """
    pieces, size = [], 0
    for text in texts:
        ids = np.array(tokenizer.encode(text))
        pieces += [(ids[i:i + T + 1], np.ones(len(ids[i:i + T + 1]), np.float32)) for i in range(0, len(ids) - 1, T)]
        size += len(ids)
        if max_tokens and size >= max_tokens:
            break
    if not pieces:
        raise ValueError("bits per byte needs a text of at least two tokens")
    length_of = np.array([len(tokenizer.token_bytes(i)) for i in range(len(tokenizer))])
    nats = count = size = 0
    device = model.head.device
    for i in range(0, len(pieces), rows):
        batch = batch_from([[piece] for piece in pieces[i:i + rows]], T)
        with autocast or contextlib.nullcontext():
            logprobs = model(batch.tokens.to(device), batch.documents.to(device), batch.targets.to(device)).cpu()
        nats -= float((logprobs.double() * batch.loss_mask).sum())
        count += int(batch.loss_mask.sum())
        size += int(length_of[batch.targets[batch.loss_mask > 0].numpy()].sum())
    return {"bits_per_byte": round(nats / math.log(2) / size, 4), "loss": round(nats / count, 4), "tokens": count,
            "bytes": size}


def evaluate_all(model, tokenizer, specs, problems=100, T=256, autocast=None):
    """What training scripts report: for each world spec its accuracy table (greedy), for each text its bits per byte."""
    found = {}
    for spec in specs:
        if spec.startswith("world:"):
            dtype = torch.bfloat16 if model.head.is_cuda else None
            found[spec] = world_accuracy(model, tokenizer, spec, problems, dtype=dtype)
        else:
            found[spec] = bits_per_byte(model, tokenizer, read_texts(spec), T, max_tokens=500_000, autocast=autocast)
    return found


def print_world(table, ks):
    head = "".join(f" {f'answer pass@{k}':>24} {f'process pass@{k}':>24}" for k in ks)
    for field, title in (("ops", "operations"), ("context", "context")):
        print(f"{title:<12}{'problems':>9}{head} {'steps':>7} {'tokens':>7}  most common error")
        for row in (r for r in table if field in r):
            cells = "".join(f" {_show(row[part][f'pass@{k}']):>24}" for k in ks for part in ("answer", "process"))
            print(f"{row[field]!s:<12}{row['problems']:>9}{cells} {row['steps']:>7.3f} {row['tokens']:>7.1f}  {row['why']}")


def _show(rate):
    return f"{rate[0]:.3f} [{rate[1]:.3f}, {rate[2]:.3f}]"


def print_comparison(result, ks):
    """Verified accuracy by operations, one column for each checkpoint and k, for every world that was measured."""
    folders = [f for f in result if isinstance(result[f], dict)]
    for spec in [s for s in result[folders[0]] if s.startswith("world:")]:
        print(f"\nverified accuracy on {spec}")
        print("operations  " + "".join(f" {f'{f[-18:]} pass@{k}':>26}" for k in ks for f in folders))
        for rows in zip(*(result[f][spec] for f in folders), strict=True):
            if "ops" in rows[0]:
                print(f"{rows[0]['ops']:<12}" + "".join(f" {_show(r['process'][f'pass@{k}']):>26}" for k in ks for r
                                                        in rows))


def main():
    p = cli.Parser(__doc__)
    p.add_argument("--init", metavar="FOLDER", nargs="+", required=True,
                   help="checkpoints to measure, ours or Hugging Face's")
    p.add_argument("--data", metavar="SPEC", nargs="*", default=[], help="questions: world:... or a .jsonl file")
    p.add_argument("--text", metavar="FILE", nargs="*", default=[], help="text, for bits per byte")
    p.add_argument("--problems", type=int, default=100, help="world problems for each number of operations")
    p.add_argument("--limit", type=int, default=0, help="questions to take from a file; 0: all")
    p.add_argument("--k", type=int, nargs="+", default=[1], help="the k of pass@k; 1 alone decodes greedily")
    p.add_argument("--samples", type=int, default=0, help="samples per problem; 0: the largest k")
    p.add_argument("--temperature", type=float, default=0.7, help="of the samples")
    p.add_argument("--shots", type=int, default=0, help="solved questions of the file to show first")
    p.add_argument("--chat", action="store_true", help="ask a file's questions in ChatML")
    p.add_argument("--max-new-tokens", type=int, default=400, help="tokens of an answer to a file's question")
    p.add_argument("--seq-len", type=int, default=256, help="tokens of context for bits per byte")
    p.add_argument("--rows", type=int, default=64, help="completions that decode at once")
    p.add_argument("--show", type=int, default=0, help="answers to print from each file")
    p.add_argument("--seed", type=int, default=0, help="of the samples")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and cache")
    args = p.parse_args()
    with cli.bad_input():
        if not (args.data or args.text):
            raise ValueError("give --data or --text: what to measure on")
        result = {"k": args.k} | {folder: measure(folder, args) for folder in args.init}
    if len(args.init) > 1:
        print_comparison(result, args.k)
    cli.finish(result)


def measure(folder, args):
    """All measurements of one checkpoint: {spec or file: result}, printed as they come."""
    model, tokenizer = load(folder, args.device, getattr(torch, args.dtype))
    if tokenizer is None:
        raise ValueError(f"--init {folder}: the folder has no tokenizer.json")
    print(f"\n{folder}")
    common = dict(ks=args.k, samples=args.samples, temperature=args.temperature, rows=args.rows, seed=args.seed,
                  progress=True)
    found = {}
    for spec in args.data:
        if spec.startswith("world:"):
            found[spec] = world_accuracy(model, tokenizer, spec, args.problems, **common)
            print_world(found[spec], args.k)
            continue
        left = [args.show]

        def show(problem, text, ok, left=left):
            if left[0]:
                print(f"--- {'right' if ok else 'wrong'}, gold {problem.answer}\n{problem.question}\n> {text.strip()}")
                left[0] -= 1
        found[spec] = file_accuracy(model, tokenizer, spec, args.limit, args.shots, args.chat,
                                    max_new_tokens=args.max_new_tokens,
                                    on_answer=show, **common)
        print(f"{spec}: {found[spec]['problems']} questions, "
              + ", ".join(f"{k} {_show(r)}" for k, r in found[spec]["accuracy"].items()))
    for path in args.text:
        found[path] = bits_per_byte(model, tokenizer, read_texts(path), args.seq_len)
        print(f"{path}: {found[path]['bits_per_byte']:.4f} bits per byte over {found[path]['bytes']:,} bytes")
    return found


if __name__ == "__main__":
    main()
