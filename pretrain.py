r"""Next-token training: pre-training from random weights, and mid-training from a checkpoint with another mixture.

On a laptop:
    python pretrain.py --data world:ops=1-3,split=pretrain@0.9 world:ops=4-6,split=pretrain@0.1 --out runs/base --steps 600
    python pretrain.py --init runs/base --data world:ops=3-5,split=midtrain --out runs/mid --steps 200 --schedule cosine
Real text (without --tokenizer a new tokenizer is trained on the data):
    python pretrain.py --data corpus.txt --eval-data held_out.txt --out runs/text --vocab-size 4096 --steps 200
One GPU, and eight:
    python pretrain.py --data shards/ --out runs/gpu --tokenizer tokenizer/ --layers 12 --width 768 \
        --heads 12 --kv-heads 4 --seq-len 2048 --batch-tokens 524288 --micro-tokens 32768 --compile
    torchrun --nproc_per_node=8 pretrain.py --data shards/ --out runs/node --tokenizer tokenizer/ \
        --layers 24 --width 2048 --heads 16 --kv-heads 8 --seq-len 4096 --batch-tokens 2097152 --micro-tokens 16384 \
        --compile --shard
A longer context: a larger base of the rotary embedding (--rope-theta) or YaRN (arXiv 2309.00071), and training at the new length:
    python pretrain.py --init runs/text --data corpus.txt --out runs/long --seq-len 8192 --batch-tokens 65536 --yarn-factor 4

Simpler than the papers: a run has one sequence length. Mid-training first with a constant and then with a falling learning rate
(OctoThinker, arXiv 2506.20512) takes two commands: one with --schedule constant, and one from its end with --schedule cosine.
"""

import dataclasses
import functools
import itertools
import math
from argparse import Namespace

from torch import Tensor

from data import Stream, fingerprints, split_spec
from measuring.in_training import EVAL_NEEDS, PLAIN, check_specs, evaluate_all, print_results
from model import LAYER_KINDS, Config, LayerKind, Transformer, load_both
from sources.texts import sample_texts
from tokenizer import Tokenizer
from training import cli
from training.batch import Batch
from training.flags import option_flags, option_names, options_from, row_flags, training_flags, until_flags, uses_gpu
from training.lineage import longest_rows
from training.run import Run


def flags() -> cli.Parser:
    p = training_flags(__doc__, NEEDS + EVAL_NEEDS)
    until_flags(p)
    p.add_argument("--tokenizer", metavar="FOLDER", default="",
                   help="folder with tokenizer.json; none: train one on the data, as tokenizer.py does")
    p.add_argument("--vocab-size", type=cli.positive_int, default=4096, help="of a tokenizer trained here")
    row_flags(p, 256)
    option_flags(p, Config)
    p.set_defaults(rope_theta=None)                       # with --init: as the checkpoint has it
    p.add_argument("--yarn-factor", type=cli.not_negative, default=0.0,
                   help="makes the context of --init so many times as long, by YaRN; if YaRN has made it longer before, the "
                   "first context counts; 0: no")
    p.add_argument("--yarn-context", type=cli.non_negative_int, default=0,
                   help="tokens in the context before YaRN; 0: the longest rows that --init was trained on; if its folder "
                   "does not say this, max_position_embeddings in its config.json")
    p.add_argument("--yarn-beta-fast", type=cli.above_zero, default=32.0,
                   help="pairs of a head that turn at least so many times in this context keep their speed; if --init has YaRN "
                   "already, its own number is the default, here and below")
    p.add_argument("--yarn-beta-slow", type=cli.above_zero, default=1.0,
                   help="pairs that turn at most so many times become slower by the factor; those between by less")
    p.add_argument("--yarn-full-only", action="store_true", help="YaRN not in layers with a window, as in OLMo 3")
    p.add_argument("--peak-tflops", type=cli.above_zero, default=989.0,
                   help="of one GPU, for utilisation (H100, H200: 989 in bf16)")
    return p


def kinds_of(args: Namespace) -> list[LayerKind]:
    """The kinds of layers that --attention names; Config refuses the others."""
    return [LAYER_KINDS[name] for name in args.attention.replace("+", ",").split(",") if name in LAYER_KINDS]


# when a flag has an effect (see cli.Parser)
NEEDS = (
    (f"--tokenizer --vocab-size {option_names(Config).replace('--rope-theta', '')}", lambda a: not a.init,
     "with --init, which brings its model and its tokenizer"),
    ("--vocab-size", lambda a: not a.tokenizer, "with --tokenizer, which has a size of its own"),
    ("--window", lambda a: any(kind.window for kind in kinds_of(a)), "without window layers, as in --attention window+rope"),
    ("--qk-scale", lambda a: a.qk_norm, "without --qk-norm, behind which the factor stands"),
    ("--rope-theta", lambda a: a.init or any(kind.rope for kind in kinds_of(a)), "with --attention {attention}"),
    ("--yarn-factor", lambda a: a.init, "without --init: a new model learns the positions that it is trained with"),
    ("--yarn-context --yarn-beta-fast --yarn-beta-slow --yarn-full-only", lambda a: a.yarn_factor, "without --yarn-factor"),
    ("--peak-tflops", uses_gpu, "on a CPU"),
)


def next_token_loss(logprobs: Tensor, loss_mask: Tensor) -> Tensor:
    """Sum over tokens of mask * -log p: (B, T), (B, T) -> scalar. run.backward divides it by the global sum of the mask."""
    return -(logprobs * loss_mask).sum()


def new_tokenizer(args: Namespace) -> Tokenizer:
    """A byte-level BPE trained on the sources of this run. A folder of shards is tokenised already, so it needs --tokenizer."""
    names = [split_spec(s)[0] for s in args.data]
    return Tokenizer.train(itertools.chain.from_iterable(map(sample_texts, names)), args.vocab_size)


def new_model(args: Namespace, vocab_size: int) -> Transformer:
    options = {name: value for name, value in options_from(args, Config).items() if value is not None}
    return Transformer(Config(vocab_size=vocab_size, context=max(2048, args.seq_len), **options))


def with_positions(c: Config, args: Namespace) -> Config:
    """The Config of a checkpoint with the positions of --rope-theta and --yarn-factor. ValueError if they change nothing.

    No weight changes: the model has to be trained at the new length."""
    if args.rope_theta is None and not args.yarn_factor:
        return c
    turning = [LAYER_KINDS[name] for name in c.attention if LAYER_KINDS[name].rope]
    if not turning:
        raise ValueError(f"{args.init}: no layer has RoPE, so --rope-theta and --yarn-factor change nothing; leave them out")
    c = dataclasses.replace(c, rope_theta=args.rope_theta or c.rope_theta, context=max(c.context, args.seq_len))
    if not args.yarn_factor:
        return c
    old = c.rope_scaling or {}
    if args.yarn_factor <= 1:
        raise ValueError(f"--yarn-factor {args.yarn_factor:g}: use a number above 1")
    if old.get("rope_type", "yarn") != "yarn":
        raise ValueError(f"{args.init}: its positions are scaled by {old['rope_type']} already; use --rope-theta")
    betas = {"beta_fast": args.yarn_beta_fast, "beta_slow": args.yarn_beta_slow}
    # of a checkpoint that has YaRN already all stays that no flag says
    betas |= {name: old[name] for name in betas if old.get(name) and f"--yarn-{name.replace('_', '-')}" not in args.given}
    if betas["beta_fast"] <= betas["beta_slow"]:
        raise ValueError("--yarn-beta-fast must be above --yarn-beta-slow")
    if fixed := [f"{key}={old[key]:g}" for key in ("attention_factor", "mscale", "mscale_all_dim") if not usual(old, key)]:
        raise ValueError(f"{args.init}: its YaRN has {fixed[0]}, which is made for its factor {old['factor']:g}; no flag says "
                         "what it should be for another one, so take it out of config.json (rope_scaling) first")
    windows = {kind.window for kind in turning}
    if args.yarn_full_only and windows != {True, False}:
        raise ValueError(f"{args.init}: {'all' if windows == {True} else 'no'} layers with RoPE have a window; leave "
                         "--yarn-full-only out")
    before = args.yarn_context or old.get("original_max_position_embeddings") or longest_rows(args.init) or c.context
    scaling = {key: value for key, value in old.items() if key == "truncate"} | betas | {
        "rope_type": "yarn", "factor": args.yarn_factor, "original_max_position_embeddings": before}
    return dataclasses.replace(c, rope_scaling=scaling, context=max(args.seq_len, round(before * args.yarn_factor)),
                               scale_windows=not args.yarn_full_only and (c.scale_windows or not old))


def usual(scaling: dict, key: str) -> bool:
    """Whether YaRN would be the same without this key: it is not there, or it is what the formula gives for its factor (arXiv
    2309.00071)."""
    if scaling.get(key) is None:
        return True
    return key == "attention_factor" and abs(scaling[key] - (0.1 * math.log(scaling["factor"]) + 1)) < 1e-3


def speed(run: Run, model: Transformer, batches: list[Batch]) -> dict:
    """Tokens per second, FLOP/s, and utilisation of the GPU. FLOPs are counted twice: by the usual convention (every token
    attends to all T tokens of a row), and truly (only to the tokens before it in its document)."""
    rate = run.progress.rate()
    tokens, flops = sum(b.filled for b in batches), 3 * sum(map(run.costs.forward_batch, batches))
    counts = {"": model.flops_per_token(run.args.seq_len), "_true": flops / tokens}
    found = {"tokens_per_second": round(rate, 1)} | {f"flops_per_second{k}": round(rate * n) for k, n in counts.items()}
    if run.device.type == "cuda":
        peak = run.args.peak_tflops * 1e12 * run.ranks
        found |= {f"utilisation{k}": round(rate * n / peak, 4) for k, n in counts.items()}
    return found


def load_or_make(args: Namespace, run: Run) -> tuple[Transformer, Tokenizer]:
    """(model, tokenizer): those of --init, or new ones. A resumed run takes the tokenizer that it has saved."""
    if args.init:
        model, tokenizer = load_both(args.init, dtype=run.weight_dtype)
        model.config = with_positions(model.config, args)
        return model, tokenizer
    folder = args.tokenizer or (args.out if run.state else "")
    tokenizer = Tokenizer.load(folder) if folder else new_tokenizer(args)
    model = new_model(args, len(tokenizer)).to(run.weight_dtype)
    model.unused_ids = tokenizer.unused_ids(len(tokenizer))
    return model, tokenizer


def main() -> None:
    args = flags().parse_args()
    with cli.bad_input():
        run = Run(args, fingerprints(args))
        model, tokenizer = load_or_make(args, run)
        check_specs(args.eval_data, tokenizer)
        stream = Stream(args.data, tokenizer, args.seq_len, args.batch_tokens, args.seed, args.max_epochs)
        run.plan_micro_batches(stream)

    def loss_of(batch):
        logprobs = wrapped(batch.tokens, batch.documents, batch.targets)      # (B, T)
        return next_token_loss(logprobs, batch.loss_mask), {}

    wrapped = run.distribute(model)
    evaluate = functools.partial(evaluate_all, model, tokenizer, args.eval_data, PLAIN, args.eval_problems, args.seq_len)
    parameters = sum(w.numel() for w in model.parameters())
    run.begin(model, tokenizer, stream, evaluate, parameters=parameters, config=vars(model.config), vocab_size=len(tokenizer))
    while run.going():
        batches = run.next_batches()
        if batches is None:
            break
        loss = run.backward(wrapped, batches, loss_of)
        run.update(loss)
        run.end_of_step(speed(run, model, batches))
    run.finish({"parameters": parameters} | stream.report(), show=print_results)
    run.close()


if __name__ == "__main__":
    main()
