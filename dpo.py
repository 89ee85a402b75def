r"""Preference training: pairs of a chosen and a rejected answer, with a choice of losses.

On a laptop, with pairs that augment.py made from a stronger and a weaker checkpoint (delta learning, arXiv 2507.06187):
    python augment.py pairs --strong runs/sft --weak runs/base --weak-plain --data world:ops=4-6,split=sft \
        --count 400 --out pairs.jsonl
    python dpo.py --init runs/sft --data pairs.jsonl --out runs/dpo --steps 100 --lr 1e-4
Other losses, and a reference that is not --init:
    python dpo.py --init runs/sft --data pairs.jsonl --out runs/norm --loss dpo_norm --steps 100 --lr 1e-4
    python dpo.py --init runs/sft --data pairs.jsonl --out runs/simpo --loss simpo --gamma 0.5 --steps 100 --lr 1e-4
    python dpo.py --init runs/sft --data pairs.jsonl --out runs/kto --loss kto --reference runs/mid --lr 1e-4
A real model:
    python dpo.py --init smollm2/ --data pairs.jsonl --out runs/real --seq-len 2048 --batch-tokens 65536 --steps 500
One GPU, and eight:
    python dpo.py --init smollm2/ --data pairs.jsonl --out runs/gpu --seq-len 8192 --batch-tokens 524288 \
        --micro-tokens 32768 --compile
    torchrun --nproc_per_node=8 dpo.py --init smollm2/ --data pairs.jsonl --out runs/node --loss dpo_norm --lr 8e-8 \
        --seq-len 16384 --batch-tokens 1048576 --micro-tokens 32768 --compile --shard

The losses. h = (log pi - log pi_reference of the chosen answer) - (the same of the rejected one), summed over tokens:

    dpo        -log sigmoid(beta h)                                       arXiv 2305.18290, equation 7
    dpo_norm   the same with means over tokens instead of sums            arXiv 2512.13961, appendix A.6.2 (OLMo 3)
    ipo        (h - 1 / (2 beta))^2                                       arXiv 2310.12036, equation 17
    simpo      -log sigmoid(beta h - gamma), means, no reference          arXiv 2405.14734, equation 6
    orpo       SFT on chosen - beta log sigmoid(log odds ratio), means    arXiv 2403.07691, equations 6 and 7
    kto        1 - sigmoid(beta (c - z)) and 1 - sigmoid(beta (z - r))    arXiv 2402.01306, equation 8

In the row of kto, c and r are the log-ratios of chosen and rejected, and z is the mean log-ratio of mismatched answers, at least
0.

Each loss can fall while both answers become less likely, if the rejected one does so faster. To show this the log has

- chosen, rejected: their log-probabilities, summed over the tokens of an answer (a mean over pairs);
- mass: the mean probability of the two answers of a pair together; what it loses has gone to answers outside of the data;
- chosen_change, rejected_change, mass_change: the change of these against the reference;
- margin: the mean of h; accuracy: the share of pairs with h > 0.

A line on standard error warns when chosen answers first become less likely than under the reference.

Simpler than the papers:
- The log-probabilities under the reference are computed once, before training, and kept in the checkpoint. The complete model
  must fit on one device for this, also with --shard.
- kto takes only paired data. Its mismatched answers are in both forward passes of a step.
"""

import functools
import itertools
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data import Stream, fingerprints
from formats.chat import IM_END, IM_START
from measuring.in_training import EVAL_NEEDS, check_specs, evaluate_all, modes_of, print_results
from model import Transformer, load, load_both
from sources.conversations import Pairs
from tokenizer import Tokenizer
from training import cli
from training.batch import Batch, document_sums, pair_batch, rounded_up
from training.flags import check_common, loss_needs, row_flags, training_flags
from training.ledger import Costs
from training.run import Run

HALF = cli.number("a number from 0 to 0.5", float, lambda x: 0 <= x <= 0.5)


def flags() -> cli.Parser:
    p = training_flags(__doc__, loss_needs(LOSSES) + NEEDS + EVAL_NEEDS)
    # as in OLMo 3: warm-up over a tenth of the steps, then linear decay
    p.set_defaults(steps=200, lr=1e-6, optimizer="adamw", schedule="wsd", warmup=0.1, decay=0.9)
    p.add_argument("--loss", default="dpo", choices=list(LOSSES), help="the table at the top of dpo.py")
    p.add_argument("--beta", type=cli.above_zero, default=None,
                   help="strength; none: " + ", ".join(f"{name} {loss.beta:g}" for name, loss in LOSSES.items()))
    p.add_argument("--label-smoothing", type=HALF, default=0.0, metavar="SHARE",
                   help="share of pairs assumed to be the wrong way round (dpo, dpo_norm, simpo)")
    p.add_argument("--gamma", type=cli.not_negative, default=None, help="simpo's margin; none: half of beta")
    p.add_argument("--kto-weights", type=cli.not_negative, nargs=2, default=[1.0, 1.0], metavar=("CHOSEN", "REJECTED"),
                   help="weights of kto's two terms")
    p.add_argument("--reference", metavar="FOLDER", default="", help="checkpoint of the reference; none: --init")
    p.add_argument("--exact", action="store_true", help="kernels that give an answer the same bits in any batch: before the "
                   "first step every margin is exactly 0")
    row_flags(p, 1024, "both answers of a pair")
    return p


# when a flag has an effect (see cli.Parser), in addition to what LOSSES says
NEEDS = (
    ("--reference", lambda a: LOSSES[a.loss].reference, "with --loss {loss}, which has no reference"),
)


# The losses: pure functions from one number per pair or per answer to one loss per pair (N,). Training minimises the mean over
# the global batch.

def margins(policy: Tensor, reference: Tensor) -> Tensor:
    """h: how much more the policy prefers the chosen answer than the reference does. (N, 2), (N, 2) -> (N,)."""
    return (policy - reference)[:, 0] - (policy - reference)[:, 1]


def dpo_loss(h: Tensor, beta: float = 0.1, smoothing: float = 0.0) -> Tensor:
    """DPO, with h from sums; or dpo_norm, with h from means. smoothing adds the loss of the swapped pair (cDPO, Mitchell
    2023)."""
    return -(1 - smoothing) * F.logsigmoid(beta * h) - smoothing * F.logsigmoid(-beta * h)


def ipo_loss(h: Tensor, beta: float = 0.1) -> Tensor:
    """IPO: regression of h to 1 / (2 beta); a pair with this margin has no gradient."""
    return (h - 1 / (2 * beta)) ** 2


def simpo_loss(h: Tensor, beta: float = 2.0, gamma: float = 1.0, smoothing: float = 0.0) -> Tensor:
    """SimPO: h comes from means under the policy, without a reference; it should be above gamma / beta."""
    return dpo_loss(h - gamma / beta, beta, smoothing)


def orpo_loss(means: Tensor, beta: float = 0.1) -> Tensor:
    """ORPO: negative log-likelihood of chosen and the log odds ratio, from mean log-probs (N, 2).

    log(1 - p) is computed as log(-expm1(log p)), which is accurate near p = 1; log1p(-exp(log p)) is not. At p = 1 the odds are
    infinite; the clamp sets the gradient to 0 there.
    """
    m = means.clamp(max=-1e-6)
    log_odds = m - torch.log(-torch.expm1(m))                                 # (N, 2)
    return -means[:, 0] - beta * F.logsigmoid(log_odds[:, 0] - log_odds[:, 1])


def kto_loss(ratios: Tensor, z: float, beta: float = 0.1, weights: tuple = (1.0, 1.0)) -> Tensor:
    """KTO on pairs: log-ratios to the reference (N, 2); z is one number for the global batch, without gradient.

    The mean of both answers' losses: a chosen one should have a ratio above z, a rejected one below."""
    good, bad = torch.sigmoid(beta * (ratios[:, 0] - z)), torch.sigmoid(beta * (z - ratios[:, 1]))
    return (weights[0] * (1 - good) + weights[1] * (1 - bad)) / 2


@dataclass
class Scores:
    """What a loss is computed from: log-probabilities of N pairs of answers, sums or means over tokens (see Loss.means)."""
    policy: Tensor                       # (N, 2): of chosen and rejected
    reference: Tensor                    # (N, 2): the same under the reference; 0 where the loss has none
    h: Tensor                            # (N,): the margins
    z: float = 0.0                       # the baseline of kto


def simpo_of(x: Scores, beta: float, args: Namespace) -> Tensor:
    """simpo_loss with the values of the flags."""
    return simpo_loss(x.h, beta, beta / 2 if args.gamma is None else args.gamma, args.label_smoothing)


@dataclass(frozen=True)
class Loss:
    """One loss: an entry of LOSSES.

    - compute: a function (Scores, beta, args) -> the loss of each pair (N,)
    - beta: the value of --beta, unless it is given
    - means: whether the log-probability of an answer is the mean over its tokens; else it is the sum
    - reference: whether it compares with a reference
    - mismatched: whether each pair has a third, mismatched answer, from which the baseline z is computed
    - reads: the flags that it uses and some other losses do not
    """
    compute: Callable
    beta: float = 0.1
    means: bool = False
    reference: bool = True
    mismatched: bool = False
    reads: tuple[str, ...] = ()


# To add a loss, write its function above and an entry here; everything else follows from the entry.
LOSSES = {
    "dpo": Loss(lambda x, beta, args: dpo_loss(x.h, beta, args.label_smoothing), reads=("label_smoothing",)),
    "dpo_norm": Loss(lambda x, beta, args: dpo_loss(x.h, beta, args.label_smoothing), beta=5.0, means=True,
                     reads=("label_smoothing",)),
    "ipo": Loss(lambda x, beta, args: ipo_loss(x.h, beta)),
    "simpo": Loss(simpo_of, beta=2.0, means=True, reference=False, reads=("label_smoothing", "gamma")),
    "orpo": Loss(lambda x, beta, args: orpo_loss(x.policy, beta), means=True, reference=False),
    "kto": Loss(lambda x, beta, args: kto_loss(x.policy - x.reference, x.z, beta, args.kto_weights), mismatched=True,
                reads=("kto_weights",)),
}


def answer_sums(model: nn.Module, batch: Batch, size: int) -> list[Tensor]:
    """Log-probability, length and reference log-probability of each answer: three tensors (N, size); size is 2, for kto 3."""
    logprobs = model(batch.tokens, batch.documents, batch.targets)                                          # (B, T)
    mask = batch.loss_mask.to(logprobs.dtype)
    sums, lengths = document_sums(logprobs * mask, batch.documents), document_sums(mask, batch.documents)   # (B, M)
    there = lengths > 0
    return [x[there].view(-1, size) for x in (sums, lengths, batch.reference.to(sums.dtype))]


def count_pairs(batches: list[Batch], size: int) -> int:
    """The number of pairs in micro-batches whose pairs have `size` documents each."""
    return sum(int((b.documents.amax(1) + 1).sum()) // size for b in batches)


def kto_baseline(run: Run, model: nn.Module, batches: list[Batch]) -> float:
    """KTO's z: the mean log-ratio of the mismatched answers, not below 0. The mean is over the global batch, so it does not
    depend on micro-batches or ranks."""
    total = count = 0.0
    run.count("scoring", batches)
    for batch in batches:
        with torch.no_grad(), run.autocast():
            policy, _, reference = answer_sums(model, batch.to(run.device), 3)
        total, count = total + float((policy - reference)[:, 2].sum()), count + len(policy)
    total, count = run.sum(total, count)
    return max(0.0, total / count)


def batch_loss(args: Namespace, wrapped: nn.Module, batch: Batch, z: float = 0.0) -> tuple[Tensor, dict]:
    """The chosen loss summed over the pairs of a batch, and the metrics: log-probs of chosen and rejected, their change against
    the reference, their mass, h, and the share of pairs with h > 0."""
    loss = LOSSES[args.loss]
    policy, lengths, reference = (x[:, :2] for x in answer_sums(wrapped, batch, 3 if loss.mismatched else 2))       # (N, 2)
    scale = lengths if loss.means else 1
    h = margins(policy / scale, reference / scale)                            # the reference is 0 if there is none
    losses = loss.compute(Scores(policy / scale, reference / scale, h, z), loss.beta if args.beta is None else args.beta, args)
    chosen, rejected = policy.sum(0)
    sums = {"chosen": chosen, "rejected": rejected, "mass": policy.exp().sum()}
    if loss.reference:
        sums["chosen_change"], sums["rejected_change"] = (policy - reference).sum(0)
        sums["mass_change"] = (policy.exp() - reference.exp()).sum()
    sums |= {"margin": h.sum(), "accuracy": (h > 0).sum()}
    if loss.mismatched:
        sums["z"] = z * len(h)
    return losses.sum(), {name: (total, len(h)) for name, total in sums.items()}


@torch.no_grad()
def reference_logprobs(run: Run, model: nn.Module, source: Pairs, rows: int) -> Tensor:
    """Log-probability of every answer of a source under a model: (pairs, source.size). Ranks share the work; each takes `rows`
    pairs at a time."""
    model.to(run.device)
    table, costs = torch.zeros(source.count, source.size, dtype=torch.float64), Costs.of(model)
    mine = sorted(range(run.rank, source.count, run.ranks), key=source.slots.__getitem__)     # by length: less padding
    for at in tqdm(range(0, len(mine), rows), desc="reference", unit=" batches", leave=False, disable=not run.main):
        some = mine[at:at + rows]
        batch = pair_batch([source.get(i) for i in some], rounded_up(source.slots[some[-1]], 64)).to(run.device)
        run.ledger.add("scoring", costs.forward_batch(batch), batch.filled)
        with run.autocast():
            table[some] = answer_sums(model, batch, source.size)[0].double().cpu()
    return torch.tensor(run.sum(*table.flatten().tolist()), dtype=torch.float64).view(table.shape)


def load_reference(args: Namespace, run: Run, tokenizer: Tokenizer) -> Transformer:
    """The model of --reference. ValueError if it has other tokens than --init."""
    model, own = load(args.reference, dtype=run.weight_dtype)
    model.exact = args.exact
    if model.config.vocab_size < len(tokenizer) or (own and not own.same_ids(tokenizer)):
        raise ValueError(f"--reference {args.reference}: has another vocabulary than --init {args.init}; their "
                         "log-probabilities cannot be compared, so choose a checkpoint with the same tokenizer")
    return model


def modes_of_prompts(sources: list[Pairs], tokenizer: Tokenizer) -> dict:
    """The modes in which --eval-data is asked: /think or no flag, as in most prompts of the pairs; and /no_think if some prompts
    end in it."""
    flags = Counter()
    for (ids, _), _, start in itertools.chain.from_iterable(source.pairs for source in sources):
        question = tokenizer.decode(ids[:start]).rpartition(IM_START)[0].rstrip().removesuffix(IM_END).rstrip()
        flags[" /no_think" if question.endswith("/no_think") else " /think" if question.endswith("/think") else ""] += 1
    think = " /think" if flags[" /think"] > flags[""] else "" if flags[""] else None
    return modes_of(think, " /no_think" if flags[" /no_think"] else None)


def warning(step: int, change: float) -> str:
    """The warning that the chosen answers have become less likely than under the reference."""
    return (f"step {step}: the chosen answers have become less likely than under the reference, by {-change:.2f} nats; "
            "lower --lr, raise --beta, or stop here")


def main() -> None:
    args = flags().parse_args()
    method = LOSSES[args.loss]
    with cli.bad_input():
        check_common(args)
        run = Run(args, fingerprints(args))
        model, tokenizer = load_both(args.init, dtype=run.weight_dtype)
        model.exact = args.exact
        check_specs(args.eval_data, tokenizer)
        opener = functools.partial(Pairs, T=args.seq_len, mismatched=method.mismatched)
        stream = Stream(args.data, tokenizer, args.seq_len, args.batch_tokens, args.seed, args.max_epochs, opener, pair_batch)
        run.plan_micro_batches(stream)
        sources = stream.mixture.sources
        reference = load_reference(args, run, tokenizer) if args.reference and not run.state else model
        if args.reference and not run.state:
            run.ledger.inherit(args.reference, checkpoint=True)

    if method.reference and not run.state:
        run.extra_state["reference"] = [reference_logprobs(run, reference, source, run.micro_rows) for source in sources]
    for source, known in zip(sources, run.extra_state.get("reference", [])):
        source.reference = known
    del reference
    z = 0.0                                               # the baseline of kto, computed again in each step
    warned = False

    wrapped = run.distribute(model)

    def loss_of(batch):
        return batch_loss(args, wrapped, batch, z)

    modes = modes_of_prompts(sources, tokenizer)
    evaluate = functools.partial(evaluate_all, model, tokenizer, args.eval_data, modes, args.eval_problems, args.seq_len)
    run.begin(model, tokenizer, stream, evaluate, parameters=sum(w.numel() for w in model.parameters()),
              config=vars(model.config), pairs=sum(source.count for source in sources))
    while run.going():
        batches = run.next_batches()
        if batches is None:
            break
        z = kto_baseline(run, wrapped, batches) if method.mismatched else 0.0
        loss = run.backward(wrapped, batches, loss_of, weight=count_pairs(batches, sources[0].size))
        run.update(loss)
        run.end_of_step({"pairs": int(run.weight)})
        if run.means.get("chosen_change", 0) < -0.1 and not warned:
            warned = True
            run.say(warning(run.step, run.means["chosen_change"]))
    run.finish(stream.report(), show=print_results)
    run.close()


if __name__ == "__main__":
    main()
