r"""Supervised fine-tuning: conversations in ChatML, loss only on the assistant's tokens, with a choice of losses.

On a laptop, a model that can think or not (Qwen3's dual mode):
    python sft.py --init runs/mid --data world:ops=1-6,split=sft --out runs/sft --no-think 0.3 --unflagged 0.1
Other losses on the same data:
    python sft.py --init runs/mid --data world:ops=4-6,split=sft --out runs/dft --steps 200 --loss dft
    python sft.py --init runs/mid --data world:ops=4-6,split=sft --out runs/iw --steps 200 --loss iw --iw-form token
    python sft.py --init runs/mid --data world:ops=4-6,split=sft --out runs/psft --steps 200 --loss psft --refresh 8
A real model on real conversations:
    python sft.py --init smollm2/ --data conversations.jsonl gsm8k/train.jsonl@0.5 --out runs/chat --seq-len 1024 \
        --batch-tokens 16384 --optimizer adamw --lr 2e-5 --steps 500
One GPU, and eight:
    python sft.py --init smollm2/ --data conversations.jsonl --out runs/gpu --seq-len 4096 --batch-tokens 524288 \
        --micro-tokens 32768 --optimizer adamw --lr 2e-5 --compile
    torchrun --nproc_per_node=8 sft.py --init smollm2/ --data conversations.jsonl --out runs/node --seq-len 8192 \
        --batch-tokens 1048576 --micro-tokens 32768 --optimizer adamw --lr 2e-5 --compile --shard

All four losses have the gradient of a sum over tokens of -w log pi(token). They differ in the weight w:

    sft    1                                                    maximum likelihood
    dft    pi(token)                                            arXiv 2508.05629
    iw     pi / pi_reference, of the whole answer or a token    arXiv 2507.12856; the reference is --init
    psft   pi / pi_old while below 1 + clip-high, then 0        arXiv 2508.17784; pi_old is some steps old

The log has the plain negative log-likelihood too, because it may move in another direction than the trained loss. With dft it may
rise while the loss falls: likely tokens become more likely, and unlikely ones hardly move or become less likely.

Simpler than the papers:
- psft has no warm-up;
- psft computes pi_old with a copy of the weights, which is refreshed every few steps (its authors train on 8 small parts of a
  large batch);
- with --shard, iw and psft still have a complete frozen copy of the weights on every rank.
"""

import copy
import functools
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data import Stream, fingerprints, split_spec
from measuring.in_training import EVAL_NEEDS, check_specs, evaluate_all, modes_of, print_results
from model import load_both
from sources.conversations import open_conversations
from sources.kinds import kind_of
from training import cli
from training.batch import Batch, document_sums
from training.flags import check_common, loss_needs, row_flags, training_flags, until_flags
from training.run import Run
from training.weights import full_weights, restore_weights


def flags() -> cli.Parser:
    p = training_flags(__doc__, loss_needs(LOSSES) + NEEDS + EVAL_NEEDS)
    until_flags(p)
    p.set_defaults(steps=200, lr=0.005, adam_lr=0.001, schedule="cosine", warmup=0.05)
    p.add_argument("--loss", default="sft", choices=list(LOSSES), help="the table at the top of sft.py")
    p.add_argument("--iw-form", default="sequence", choices=["sequence", "token"], help="what iw weighs")
    p.add_argument("--refresh", type=cli.positive_int, default=8, help="steps between psft's snapshots of the weights")
    p.add_argument("--clip-high", type=cli.not_negative, default=0.28,
                   help="psft clips the ratio at 1 + this; above it there is no gradient")
    p.add_argument("--no-think", type=cli.fraction, default=0.0, metavar="SHARE",
                   help="share of questions answered without thinking; 0: one mode, no flags in the questions")
    p.add_argument("--unflagged", type=cli.fraction, default=0.0, metavar="SHARE",
                   help="share of the questions with thinking that do not say /think")
    row_flags(p, 512, "the longest conversation")
    return p


# when a flag has an effect (see cli.Parser), in addition to what LOSSES says
NEEDS = (
    ("--no-think", lambda a: any(kind_of(split_spec(spec)[0]) in ("world", "questions") for spec in a.data),
     "on conversations, which are used as they are"),
    ("--unflagged", lambda a: 0 < a.no_think < 1, "without --no-think between 0 and 1: else no question has a flag /think"),
)


# The losses: sums over tokens, (B, T) -> scalar. run.backward divides them by the global number of assistant tokens.
# sg[x] is x without gradient (detach).

def sft_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood: -sum log pi(y)."""
    return -(logprobs * mask).sum()


def dft_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Dynamic fine-tuning, arXiv 2508.05629: -sum sg[pi(y)] log pi(y), whose gradient is that of -sum pi(y)."""
    return -(logprobs.detach().exp() * logprobs * mask).sum()


def iw_loss(logprobs: Tensor, reference: Tensor, mask: Tensor, documents: Tensor, form: str = "sequence") -> Tensor:
    """Importance-weighted, arXiv 2507.12856: -sum sg[w] log pi(y), with the bounds on w of the authors' code.

    token      w = pi / pi_reference, within [0.2, 1.8]
    sequence   w = the exponential of the conversation's mean log-ratio, at most 16, the same for all its tokens
    """
    log_ratios = (logprobs.detach() - reference) * mask
    if form == "token":
        weights = log_ratios.exp().clamp(0.2, 1.8)
    else:
        means = document_sums(log_ratios, documents) / document_sums(mask, documents).clamp(min=1)          # (B, M)
        weights = means.exp().clamp(max=16).gather(1, documents.clamp(min=0))                               # (B, T)
    return -(weights * logprobs * mask).sum()


def psft_loss(logprobs: Tensor, old: Tensor, mask: Tensor, high: float = 0.28) -> Tensor:
    """Proximal, arXiv 2508.17784: -sum min(r, 1 + high), r = pi / pi_old. This is PPO's loss with advantage 1, for which the
    lower bound of PPO's clip has no effect.

    A token that is more than 1 + high times as likely as under pi_old has no gradient. Right after a refresh r = 1, and the
    gradient is that of sft.
    """
    ratios = (logprobs - old).exp()
    return -(ratios.clamp(max=1 + high) * mask).sum()


@dataclass
class Scores:
    """What a loss is computed from: all (B, T)."""
    logprobs: Tensor                     # of the targets
    old: Tensor | None                   # the same under the frozen weights; None where the loss has none
    mask: Tensor                         # 1 on the assistant's tokens, 0 elsewhere
    documents: Tensor                    # numbers of the conversations in a row


def clipped_share(x: Scores, args: Namespace) -> dict[str, Tensor]:
    """The tokens that psft clips."""
    return {"clipped": (x.logprobs - x.old).exp() > 1 + args.clip_high}


@dataclass(frozen=True)
class Loss:
    """One loss: an entry of LOSSES.

    - compute: a function (Scores, args) -> the loss, summed over the tokens of a batch
    - frozen: which frozen weights it compares with: "init": those of --init; "snapshot": a copy that is renewed every --refresh
      steps; "": none
    - reads: the flags that it uses and some other losses do not
    - metrics: a function (Scores, args) -> {name: value of each token (B, T)}; the log has their means
    """
    compute: Callable
    frozen: str = ""
    reads: tuple[str, ...] = ()
    metrics: Callable = lambda x, args: {}


# To add a loss, write its function above and an entry here; everything else follows from the entry.
LOSSES = {
    "sft": Loss(lambda x, args: sft_loss(x.logprobs, x.mask)),
    "dft": Loss(lambda x, args: dft_loss(x.logprobs, x.mask)),
    "iw": Loss(lambda x, args: iw_loss(x.logprobs, x.old, x.mask, x.documents, args.iw_form), "init", reads=("iw_form",)),
    "psft": Loss(lambda x, args: psft_loss(x.logprobs, x.old, x.mask, args.clip_high), "snapshot",
                 reads=("refresh", "clip_high"), metrics=clipped_share),
}


def batch_loss(args: Namespace, wrapped: nn.Module, batch: Batch, frozen: nn.Module | None = None) -> tuple[Tensor, dict]:
    """The chosen loss summed over the tokens of a batch, and the metrics: negative log-likelihood, entropy, and what the loss
    adds."""
    loss = LOSSES[args.loss]
    logprobs, entropies = wrapped(batch.tokens, batch.documents, batch.targets, entropy=True)               # (B, T)
    mask, n = batch.loss_mask.to(logprobs.dtype), batch.loss_mask.double().sum()
    old = None
    if loss.frozen:
        with torch.no_grad():
            old = frozen(batch.tokens, batch.documents, batch.targets)                                      # (B, T)
    scores = Scores(logprobs, old, mask, batch.documents)
    metrics = {"nll": (sft_loss(logprobs, mask), n), "entropy": ((entropies * mask).sum(), n)}
    metrics |= {name: ((values * mask).sum(), n) for name, values in loss.metrics(scores, args).items()}
    return loss.compute(scores, args), metrics


def modes_of_questions(args: Namespace) -> dict:
    """How --eval-data is asked: as the questions trained on are put."""
    think = " /think" if args.no_think and args.unflagged < 1 else ""
    if args.no_think == 1:                                # no question in training asks for thinking
        think = None
    return modes_of(think, " /no_think" if args.no_think else None)


def main() -> None:
    args = flags().parse_args()
    method = LOSSES[args.loss]
    with cli.bad_input():
        check_common(args)
        run = Run(args, fingerprints(args))
        model, tokenizer = load_both(args.init, dtype=run.weight_dtype)
        check_specs(args.eval_data, tokenizer)
        opener = functools.partial(open_conversations, T=args.seq_len, no_think=args.no_think, unflagged=args.unflagged)
        stream = Stream(args.data, tokenizer, args.seq_len, args.batch_tokens, args.seed, args.max_epochs, opener)
        run.plan_micro_batches(stream)

    frozen, snapshot = None, method.frozen == "snapshot"
    if method.frozen:
        frozen = copy.deepcopy(model).requires_grad_(False).to(run.device)
    if snapshot:
        if "snapshot" in run.extra_state:
            restore_weights(frozen, run.extra_state["snapshot"])
        run.extra_state["snapshot"] = frozen.state_dict()   # not a copy, so a checkpoint always saves the current ones

    wrapped = run.distribute(model)

    def loss_of(batch):
        return batch_loss(args, wrapped, batch, frozen)

    modes = modes_of_questions(args)
    evaluate = functools.partial(evaluate_all, model, tokenizer, args.eval_data, modes, args.eval_problems, args.seq_len)
    run.begin(model, tokenizer, stream, evaluate, parameters=sum(w.numel() for w in model.parameters()),
              config=vars(model.config))
    while run.going():
        batches = run.next_batches()
        if batches is None:
            break
        if snapshot and run.step % args.refresh == 0:
            restore_weights(frozen, full_weights(model))
        if frozen is not None:
            run.count("scoring", batches)
        loss = run.backward(wrapped, batches, loss_of)
        run.update(loss)
        run.end_of_step()
    run.finish(stream.report(), show=print_results)
    run.close()


if __name__ == "__main__":
    main()
