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

Simpler than the papers: a run has one sequence length. Mid-training first with a constant and then with a falling learning rate
(OctoThinker, arXiv 2506.20512) takes two commands: one with --schedule constant, and one from its end with --schedule cosine.
"""

import functools
import itertools
from argparse import Namespace

from torch import Tensor

from data import Stream, fingerprints, split_spec
from evaluate import EVAL_NEEDS, PLAIN, check_specs, evaluate_all, print_results
from model import LAYER_KINDS, Config, LayerKind, Transformer, load_both
from sources.texts import sample_texts
from tokenizer import Tokenizer
from training import cli
from training.batch import Batch
from training.flags import option_flags, option_names, options_from, row_flags, training_flags, until_flags, uses_gpu
from training.run import Run


def flags() -> cli.Parser:
    p = training_flags(__doc__, NEEDS + EVAL_NEEDS)
    until_flags(p)
    p.add_argument("--tokenizer", metavar="FOLDER", default="",
                   help="folder with tokenizer.json; none: train one on the data")
    p.add_argument("--vocab-size", type=cli.positive_int, default=4096, help="of a tokenizer trained here")
    row_flags(p, 256)
    option_flags(p, Config)
    p.add_argument("--peak-tflops", type=cli.above_zero, default=989.0,
                   help="of one GPU, for utilisation (H100, H200: 989 in bf16)")
    return p


def kinds_of(args: Namespace) -> list[LayerKind]:
    """The kinds of layers that --attention names; Config refuses the others."""
    return [LAYER_KINDS[name] for name in args.attention.replace("+", ",").split(",") if name in LAYER_KINDS]


# when a flag has an effect (see cli.Parser)
NEEDS = (
    (f"--tokenizer --vocab-size {option_names(Config)}", lambda a: not a.init,
     "with --init, which brings its model and its tokenizer"),
    ("--vocab-size", lambda a: not a.tokenizer, "with --tokenizer, which has a size of its own"),
    ("--window", lambda a: any(kind.window for kind in kinds_of(a)), "without window layers, as in --attention window+rope"),
    ("--qk-scale", lambda a: a.qk_norm, "without --qk-norm, behind which the factor stands"),
    ("--rope-theta", lambda a: any(kind.rope for kind in kinds_of(a)), "with --attention {attention}"),
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
    return Transformer(Config(vocab_size=vocab_size, context=max(2048, args.seq_len), **options_from(args, Config)))


def speed(run: Run, model: Transformer, batches: list[Batch]) -> dict:
    """Tokens per second, FLOP/s, and utilisation of the GPU. FLOPs are counted twice: by the usual convention (every token
    attends to all T tokens of a row), and truly (only to the tokens before it in its document)."""
    rate = run.progress.rate()
    tokens, flops = sum(int((b.documents >= 0).sum()) for b in batches), 3 * sum(map(run.costs.forward_batch, batches))
    counts = {"": model.flops_per_token(run.args.seq_len), "_true": flops / tokens}
    found = {"tokens_per_second": round(rate, 1)} | {f"flops_per_second{k}": round(rate * n) for k, n in counts.items()}
    if run.device.type == "cuda":
        peak = run.args.peak_tflops * 1e12 * run.ranks
        found |= {f"utilisation{k}": round(rate * n / peak, 4) for k, n in counts.items()}
    return found


def load_or_make(args: Namespace, run: Run) -> tuple[Transformer, Tokenizer]:
    """(model, tokenizer): those of --init, or new ones. A resumed run takes the tokenizer that it has saved."""
    if args.init:
        return load_both(args.init, dtype=run.weight_dtype)
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
