r"""Reinforcement learning from verifiable rewards: sample groups of completions, score them, push up what scored well.

On a laptop:
    python grpo.py --init runs/sft --data world:ops=4-6,split=rl --out runs/grpo --mode think --reward strict --steps 60
    python grpo.py --init runs/sft --data world:ops=4-6,split=rl --out runs/dapo --mode think --loss dapo --replace 3 \
        --overlong-buffer 16
The same, sampler and trainer equal to the last bit (logprob_diff_max in the log is 0):
    python grpo.py --init runs/sft --data world:ops=4-6,split=rl --out runs/exact --mode think --reward strict --exact
A real model on real questions:
    python grpo.py --init smollm2/ --data gsm8k/train.jsonl --out runs/gsm8k --steps 2 --prompts 4 --group 4 \
        --max-new-tokens 200 --lr 1e-6
One GPU, and eight:
    python grpo.py --init smollm2/ --data gsm8k/train.jsonl --out runs/gpu --prompts 64 --group 16 --rows 1024 \
        --max-new-tokens 1024 --micro-tokens 32768 --lr 1e-6
    torchrun --nproc_per_node=8 grpo.py --init smollm2/ --data gsm8k/train.jsonl --out runs/node --prompts 128 \
        --group 16 --rows 256 --max-new-tokens 2048 --micro-tokens 16384 --lr 1e-6 --shard

A step samples --prompts x --group completions, then makes --updates passes over them in --minibatches parts. Losses
(--loss), with advantages A, ratio r = pi / pi_old, and where the mean over tokens is taken:

    grpo         clip(r) A, each completion's mean, A over the group's standard deviation      arXiv 2402.03300
    dr_grpo      the same without the deviation, divided by a constant length                  arXiv 2503.20783
    dapo         mean over all tokens, clip higher above than below                            arXiv 2503.14476
    gspo         r of the whole completion, its geometric mean, in a very narrow clip          arXiv 2507.18071
    cispo        -sg(clip(r)) A log pi: no token loses its gradient; clipped above only        arXiv 2506.13585
    rloo         r of the whole completion, A against the mean of the others, no clip          arXiv 2402.14740
    reinforce++  token returns, whitened over the whole batch                                  arXiv 2501.03262
    ppo          a value head and GAE                                                          arXiv 1707.06347

A loss chosen by name has its paper's settings (the table LOSSES below); flags change them. What a paper has beside its loss
is a flag: DAPO's dynamic sampling is --replace, its length penalty --overlong-buffer; GRPO's KL term --kl 0.04 --kl-kind k3.

Sampling and training take turns, or with --async-steps and --rollout-ranks overlap (rl/asynchronous.py).

Simpler than the papers: the sampler draws from the full vocabulary (a truncated draw, top-k or top-p, would have to be
repeated in the loss, so there is no flag for it); ppo's value head stands on the policy's own hidden states and needs whole
weights (DDP, not --shard).
"""

import copy
import os
import sys
import time
from dataclasses import dataclass

import torch

from data import document_sums, split_spec
from engine.thinking import ThinkBudget
from evaluate import CHAT, PLAIN, check_specs, evaluate_all, print_evaluation
from model import load
from rl import asynchronous
from rl.critic import ActorCritic, gae, moments, value_loss, whiten
from rl.rollouts import FLAGS, Prompts, Rollouts, deal, fill, hide, nothing_to_learn, pack, stages, summary
from tasks.problems import parse_rewards
from training import cli, common, optim


@dataclass(frozen=True)
class Loss:
    """What tells one loss from another. The first three are the loss itself, flags of the same name change the others."""
    # r of each "token"; or one for the whole completion, the geometric "mean" of its tokens' or their "product"
    ratio: str = "token"
    # over the tokens of each "completion", then over completions; over every "token"; or by a "constant" length
    mean: str = "completion"
    returns: bool = False            # A is a token's return (or GAE), whitened; else a reward compared in its group
    clip_low: float = 0.2            # r is clipped at 1 - this; 1: it is not
    clip_high: float = 0.2           # and at 1 + this; NO_CLIP: it is not
    scale: str | None = "group"      # what A is divided by; None with returns


NO_CLIP = 1e9                        # more than any ratio here, which is at most exp(20)
LOSSES = {
    "grpo": Loss(),
    "dr_grpo": Loss(mean="constant", scale="none"),
    "dapo": Loss(mean="token", clip_high=0.28),
    "gspo": Loss(ratio="mean", clip_low=3e-4, clip_high=4e-4),
    # the paper has no lower clip and leaves the upper one to be tuned; a weight of at most 5 is that of TRL's recipe for ScaleRL
    "cispo": Loss(mean="token", clip_low=1.0, clip_high=4.0),
    "rloo": Loss(ratio="product", clip_low=1.0, clip_high=NO_CLIP, scale="none"),
    "reinforce++": Loss(mean="token", returns=True, scale=None),
    "ppo": Loss(mean="token", returns=True, scale=None),
}
DUAL = cli.number("0, or a number above 1", float, lambda x: x == 0 or x > 1)
CAP = cli.number("a number of at least 1", float, lambda x: x >= 1)
VETO = cli.number("a number from 0 to less than 1", float, lambda x: 0 <= x < 1)
MICRO_TOKENS = {"cpu": 4096, "cuda": 16384}              # without --micro-tokens; few and whole micro-batches are few shapes
CORRECTIONS = ("none", "tis", "mis", "seq-tis", "seq-mis", "geo-mis")
ADVICE = ("take prompts at the edge of competence (--keep-rate 0.1 0.9), a larger --group, a longer --max-new-tokens, or "
          "another --reward")
KL_KINDS = {"loss": "k2", "reward": "k1"}                 # where the KL counts: the estimator with the right gradient there


def by_loss(name):
    """For --help: the settings of all losses, the usual one last: "gspo 0.0003, cispo none, others 0.2"."""
    found = {loss: getattr(LOSSES[loss], name) for loss in LOSSES if getattr(LOSSES[loss], name) is not None}
    usual = getattr(LOSSES["grpo"], name)
    none = {"clip_low": 1.0, "clip_high": NO_CLIP}.get(name)
    return ", ".join(f"{loss} {'none' if v == none else v}" for loss, v in found.items() if v != usual) + f", others {usual}"


def flags():
    p = common.training_flags(__doc__, NEEDS)
    p.set_defaults(batch_tokens=0, lr=2e-4, adam_lr=2e-4, optimizer="adamw", schedule="constant", warmup=0.0, log_every=1,
                   steps=100, eval_problems=50)
    p.add_argument("--loss", default="grpo", choices=LOSSES, help="see above")
    p.add_argument("--prompts", type=cli.count, default=16, help="P, prompts in a step, over all ranks")
    p.add_argument("--group", type=cli.count, default=8, help="G, completions of a prompt")
    p.add_argument("--mode", default="chat", choices=["plain", "chat", "think", "no_think"], help="how a question is put")
    p.add_argument("--reward", default="answer", metavar="NAME[:WEIGHT]+...",
                   help="answer, process, strict, format, length; for study: random, incorrect, majority")
    p.add_argument("--max-new-tokens", nargs="+", default=["128"], metavar="CAP[@STEP]",
                   help="response cap, tokens; several are stages, each from its step on")
    p.add_argument("--think-budget", type=cli.whole, default=None, help="tokens of thinking, then it is closed; none: no limit")
    p.add_argument("--temperature", type=cli.above_zero, default=1.0, help="of sampling, and again in the loss")
    p.add_argument("--rows", type=cli.count, default=128, help="completions that decode at once")
    p.add_argument("--seq-len", type=cli.whole, default=0, help="window and packed row, tokens; 0: as long as needed")
    p.add_argument("--updates", type=cli.count, default=1, help="passes over a batch of rollouts")
    p.add_argument("--minibatches", type=cli.count, default=1, help="parts of a pass, one optimiser step each")
    p.add_argument("--clip-low", type=cli.share, default=None,
                   help=f"r is clipped at 1 - this; 1: it is not (default: {by_loss('clip_low')})")
    p.add_argument("--clip-high", type=cli.not_negative, default=None, help=f"and at 1 + this (default: {by_loss('clip_high')})")
    p.add_argument("--dual-clip", type=DUAL, default=0.0, help="bound on r where A < 0 (3 is usual); 0: none")
    p.add_argument("--scale", default=None, choices=["group", "batch", "none"],
                   help="what A is divided by: a standard deviation, of the group's rewards or of the batch's, or nothing "
                   f"(default: {by_loss('scale')})")
    p.add_argument("--kl", type=cli.not_negative, default=0.0, help="weight of the KL divergence from --init")
    p.add_argument("--kl-kind", default=None, choices=["k1", "k2", "k3"], help="its estimator: k1 in the reward and k2 in the "
                   "loss have the gradient of the reverse KL(pi || init); k3 in the loss, as GRPO's paper has it, that of the "
                   "forward KL(init || pi); no other pair is allowed (default: k2 in the loss, k1 in the reward)")
    p.add_argument("--kl-in", default="loss", choices=["loss", "reward"], help="where it counts")
    p.add_argument("--entropy", type=cli.not_negative, default=0.0, help="weight of an entropy bonus")
    p.add_argument("--correction", default="none", choices=CORRECTIONS,
                   help="weight for trainer against sampler: truncated, masked; per token, sequence, geometric mean "
                   "(gspo, rloo: not per token)")
    p.add_argument("--cap", type=CAP, default=2.0, help="C of the correction")
    p.add_argument("--veto", type=VETO, default=0.0, help="drop a completion with a token less likely than this times "
                   "what the sampler had (1e-4); 0: none")
    p.add_argument("--old", default="trainer", choices=["trainer", "sampler"], help="whose log-probabilities are pi_old")
    p.add_argument("--exact", action="store_true", help="kernels with which sampler and trainer agree to the last bit: pi_old "
                   "is the sampler's, and a step in which they differ is an error")
    p.add_argument("--async-steps", type=cli.whole, default=None, metavar="K",
                   help="rollouts run at most K updates ahead of training, in one engine that is never emptied; none: they "
                   "take turns")
    p.add_argument("--rollout-ranks", type=cli.whole, default=0, metavar="R",
                   help="the last R ranks of torchrun sample, the others learn (K is 1 if --async-steps is not given)")
    p.add_argument("--recompute", action="store_true", help="new weights compute the keys of unfinished completions again")
    p.add_argument("--replace", type=cli.whole, default=0, help="times to replace groups without spread (DAPO); 0: keep them")
    p.add_argument("--mask-truncated", action="store_true", help="no loss on completions cut off at the cap")
    p.add_argument("--overlong-buffer", type=cli.whole, default=0, help="DAPO's soft penalty over the last tokens before the cap")
    p.add_argument("--keep-rate", type=cli.share, nargs=2, default=None, metavar=("LOW", "HIGH"),
                   help="keep prompts whose pass rate under --init is within these")
    p.add_argument("--candidates", type=cli.count, default=256, help="prompts to measure for --keep-rate")
    p.add_argument("--curriculum", action="store_true", help="the kept prompts from easy to hard")
    p.add_argument("--gamma", type=cli.share, default=1.0, help="discount of ppo and reinforce++")
    p.add_argument("--lam", type=cli.share, default=1.0, help="lambda of GAE")
    p.add_argument("--value-weight", type=cli.not_negative, default=0.5, help="weight of ppo's value loss")
    p.add_argument("--show-every", type=cli.whole, default=10, help="steps between completions in the log")
    return p


def ratio_moves(args):
    """False where pi is pi_old at every update, so that no clip ever acts."""
    runs_ahead = args.async_steps or (args.rollout_ranks and args.async_steps is None)
    return args.updates * args.minibatches > 1 or args.old == "sampler" or (args.exact and runs_ahead)


# when a flag has an effect (see cli.Parser)
NEEDS = (
    ("--prompts", lambda a: not a.batch_tokens, "with --batch-tokens, from which the number of prompts follows"),
    ("--think-budget", lambda a: a.mode not in ("plain", "no_think"), "with --mode {mode}"),
    ("--dual-clip", lambda a: a.loss != "cispo", "with --loss {loss}"),
    ("--clip-low --clip-high --dual-clip", ratio_moves, "where pi / pi_old is always 1 (--updates 1 --minibatches 1)"),
    ("--scale", lambda a: not LOSSES[a.loss].returns, "with --loss {loss}"),
    ("--gamma", lambda a: LOSSES[a.loss].returns, "with --loss {loss}"),
    ("--lam --value-weight", lambda a: a.loss == "ppo", "with --loss {loss}"),
    ("--kl-kind --kl-in", lambda a: a.kl, "without --kl"),
    ("--correction", lambda a: a.correction == "none" or not a.exact, "with --exact, where sampler and trainer agree"),
    ("--veto", lambda a: not a.exact, "with --exact, where sampler and trainer agree"),
    ("--old", lambda a: a.old == "sampler" or not a.exact, "with --exact, where pi_old is the sampler's"),
    ("--cap", lambda a: a.correction != "none", "without a --correction"),
    ("--recompute", lambda a: a.async_steps or (a.rollout_ranks and a.async_steps is None), "without --async-steps above 0"),
    ("--candidates --curriculum", lambda a: a.keep_rate, "without --keep-rate"),
)


# The algorithm: three pure functions, and two helpers.

def group_advantages(rewards, loss, scale=None, batch_deviation=None):
    """A of each completion from the rewards of its group: (P, G) -> (P, G).

    GRPO divides by the group's standard deviation (n - 1); Dr. GRPO and the centred kind of OlmoRL do not; RLOO compares
    with the mean of the others, which is G / (G - 1) times the centred reward. scale "batch" divides by that of all."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    scale = scale or LOSSES[loss].scale
    if loss == "rloo":
        centred = centred * (rewards.shape[1] / max(1, rewards.shape[1] - 1))
    if scale == "none":
        return centred
    return centred / ((rewards.std(dim=1, keepdim=True) if scale == "group" else batch_deviation) + 1e-6)


def surrogate(loss, logprobs, old_logprobs, advantages, mask, documents, clip_low=0.2, clip_high=0.2, dual_clip=0.0):
    """The loss of each token, and where the clip acts below and above: all (B, T). mask is 1 on the tokens that count."""
    log_ratio = (logprobs - old_logprobs) * mask
    if LOSSES[loss].ratio != "token":                     # one ratio for the whole completion
        total = document_sums(log_ratio, documents)
        if LOSSES[loss].ratio == "mean":
            total = total / document_sums(mask, documents).clamp(min=1)
        log_ratio = total.gather(1, documents.clamp(min=0)) * mask
    ratio = log_ratio.clamp(-20, 20).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    low, high = (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & (advantages > 0)
    if loss == "cispo":
        return -clipped.detach() * advantages * logprobs, low, high
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    if dual_clip:
        gain = torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain)
    return -gain, low, high


def correction(kind, old_logprobs, sampler_logprobs, mask, documents, cap=2.0, veto=0.0):
    """Weight of each token that turns an expectation under the sampler into one under pi_old: (B, T), without gradient.

    rho = pi_old / pi_sampler, both of the weights that sampled. tis: min(rho, C); mis: rho where rho <= C, else 0; seq-:
    the same with the product over the completion, which is unbiased but varies more; geo-mis: its geometric mean, kept
    within [1/C, C]. veto drops a completion with any rho below it. This corrects from the sampler to pi_old only; the
    step from pi_old to pi is the ratio's. To take the recomputed pi_old for the policy that sampled is the common bug."""
    log_rho = (old_logprobs - sampler_logprobs).detach() * mask
    rho, allowed = log_rho.clamp(-20, 20).exp(), torch.ones_like(mask)
    if kind.startswith(("seq", "geo")):
        total = document_sums(log_rho, documents)
        if kind == "geo-mis":
            total = total / document_sums(mask, documents).clamp(min=1)
        rho_of = total.clamp(-20, 20).exp().gather(1, documents.clamp(min=0))
    else:
        rho_of = rho
    if veto:
        vetoed = document_sums((rho < veto).to(mask.dtype) * mask, documents).gather(1, documents.clamp(min=0)) > 0
        allowed = torch.where(vetoed, 0.0, allowed)
    if kind == "none":
        return allowed
    if kind.endswith("tis"):
        return rho_of.clamp(max=cap) * allowed
    inside = rho_of <= cap
    if kind == "geo-mis":
        inside &= rho_of >= 1 / cap
    return torch.where(inside, rho_of, 0.0) * allowed


def kl_estimate(kind, logprobs, ref_logprobs):
    """KL(pi || pi_ref) from sampled tokens (Schulman, "Approximating KL divergence"): k1 unbiased and noisy; k2 half the
    square; k3 = e^d - d - 1 unbiased and never negative. A good value need not have a good gradient: over what pi draws,
    that of k2 is the reverse KL's, that of k3 the forward KL(pi_ref || pi)'s, and that of k1 is zero. In the reward, where
    the value multiplies the gradient of log pi, k1 is the right one.

    Beyond d = 10 (a token 22,000 times likelier under pi_ref) k3 goes on along its tangent, so that it cannot overflow."""
    d = ref_logprobs - logprobs
    if kind == "k3":
        near = d.clamp(max=10.0)
        return torch.expm1(near) + near.exp() * (d - near) - d
    return {"k1": -d, "k2": 0.5 * d ** 2}[kind]


def token_weights(loss, mask, documents, longest):
    """The weight of each token's loss (B, T). The weighted sum is then divided by the number of tokens of a minibatch if the loss
    is a mean over tokens, else by that of its completions. longest: the largest cap, tokens."""
    if LOSSES[loss].mean == "completion":
        return mask / document_sums(mask, documents).clamp(min=1).gather(1, documents.clamp(min=0))
    return mask / longest if LOSSES[loss].mean == "constant" else mask


def check(args):
    """What argparse cannot see, each in one line that says how to fix it."""
    for wrong, fix in (
        (not args.init, "--init is needed: the checkpoint to train"),
        (args.exact and args.compile, "--exact computes without --compile, which joins operations and rounds less often"),
        (args.group < 2 and not LOSSES[args.loss].returns, "--group must be at least 2: a completion is compared with the others "
         "of its group"),
        (args.minibatches > args.prompts * args.group, f"--minibatches {args.minibatches}: more parts than completions "
         f"({args.prompts} prompts x --group {args.group})"),
        (args.kl and args.kl_in == "loss" and args.kl_kind == "k1", "--kl-kind k1 in the loss has no gradient but noise; use k2, "
         "whose gradient is the KL divergence's, or --kl-in reward"),
        (args.kl and args.kl_in == "reward" and args.kl_kind in ("k2", "k3"), f"--kl-kind {args.kl_kind} in the reward has a "
         "gradient that is not the KL divergence's; use k1 there, or --kl-in loss"),
        (LOSSES[args.loss].ratio != "token" and args.correction in ("tis", "mis"), f"--correction {args.correction} weighs each "
         f"token, and --loss {args.loss} has one ratio for the whole completion; use seq-tis, seq-mis or geo-mis"),
        (args.overlong_buffer > min(tokens for _, tokens in stages(args.max_new_tokens)), f"--overlong-buffer "
         f"{args.overlong_buffer} is longer than the smallest cap of --max-new-tokens"),
        (args.old == "sampler" and (args.correction != "none" or args.veto), "--old sampler has the mismatch in its ratio "
         "already; leave --correction and --veto out"),
        (args.loss == "ppo" and args.shard, "--loss ppo needs whole weights; leave --shard out"),
        (args.keep_rate and args.keep_rate[0] > args.keep_rate[1], "--keep-rate LOW HIGH: LOW must not be above HIGH"),
    ):
        if wrong:
            raise ValueError(fix)


def resolve(args, caps):
    """Puts in what follows from other flags, where a flag was not given, so that the log says what applied. It follows from
    flags alone, and before they are compared with those of a run to resume: the same command always means the same."""
    for name in ("clip_low", "clip_high", "scale"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(LOSSES[args.loss], name))
    if args.kl and args.kl_kind is None:
        args.kl_kind = KL_KINDS[args.kl_in]
    if args.rollout_ranks and args.async_steps is None:
        args.async_steps = 1
    if args.batch_tokens:                                 # as many prompts as can fill so many tokens of responses
        args.prompts = max(1, args.batch_tokens // (args.group * max(c for _, c in caps)))
    if args.exact:
        args.old = "sampler"


def main():
    args = flags().parse_args()
    with cli.bad_input():
        asynchronous.check(args, int(os.environ.get("WORLD_SIZE", 1)))
        caps, rewards = stages(args.max_new_tokens), parse_rewards(args.reward, *(split_spec(d)[0] for d in args.data))
        resolve(args, caps)
        check(args)
        run = common.Run(args)
        model, tokenizer = load(args.init, dtype=run.weight_dtype)
        if tokenizer is None:
            raise ValueError(f"--init {args.init}: the folder has no tokenizer.json; copy the model's tokenizer there")
        check_specs(args.eval_data, tokenizer)
        if args.think_budget is not None:                 # refused here, before there is a folder, where it does not fit
            ThinkBudget(tokenizer, [], args.think_budget, min(cap for _, cap in caps), answer_tokens=0)
        if args.prompts % run.ranks:
            raise ValueError(f"--prompts {args.prompts} must be a multiple of the number of ranks (= {run.ranks}); with "
                             "--batch-tokens it follows from that, --group and --max-new-tokens")
        prompts = Prompts(args.data, args.seed)
        half = run.dtype if run.dtype == torch.bfloat16 else None
        options = dict(P=args.prompts, G=args.group, mode=args.mode, caps=caps, temperature=args.temperature, seed=args.seed,
                       rows=args.rows, dtype=half, window=args.seq_len, think_budget=args.think_budget,
                       overlong_buffer=args.overlong_buffer, replace=args.replace)
        if args.async_steps is None:
            rollouts = Rollouts(prompts, tokenizer, rewards, **options, rank=run.rank, ranks=run.ranks, group=run.group)
        else:
            rollouts = asynchronous.AsyncRollouts(run, prompts, tokenizer, rewards, **options, ahead=args.async_steps,
                                                  recompute=args.recompute)
    model.exact = args.exact
    if not run.learns:
        if run.state is not None:
            common.restore_weights(model, {k.removeprefix("model."): v for k, v in run.state["weights"].items()
                                           if not k.startswith("value")})
        run.catch_interrupts()
        asynchronous.serve(run, rollouts, model.to(run.device))
        return run.close()
    model.to(run.device)
    with cli.bad_input():
        if args.keep_rate and run.state is None:
            rates = rollouts.pass_rates(model, args.candidates, args.group)
            prompts.keep(rates, *args.keep_rate, args.curriculum)
            if len(rates) < args.candidates and run.main:
                print(f"--candidates {args.candidates}: there are {len(rates)} different questions; all of them were measured",
                      file=sys.stderr)
    reference = copy.deepcopy(model).requires_grad_(False) if args.kl else None
    # what samples: whole weights; none is needed where other ranks do that
    sampling = copy.deepcopy(model).requires_grad_(False) if args.shard and not run.rollout_ranks else model
    policy = ActorCritic(model) if args.loss == "ppo" else model
    wrapped = run.distribute(policy)
    model.checkpointing = args.checkpointing
    optimizers = optim.build(policy, args.optimizer, args.lr, args.adam_lr, args.weight_decay)
    guard = common.Guard(sigmas=float("inf"))             # a policy's loss may jump; only what is not a number is skipped
    with cli.bad_input():
        if run.state is not None:                         # of an older version of ppo, which kept every layer twice
            run.state["weights"] = {n: w for n, w in run.state["weights"].items() if policy is model or n[:7] != "layers."}
        run.resume(policy, optimizers, prompts, guard)
        if sampling is not model and run.state is not None:
            common.restore_weights(sampling, common.full_weights(model))
    run.open_log({"parameters": sum(w.numel() for w in model.parameters()), "config": vars(model.config),
                  "pool": len(prompts.pool)})
    run.catch_interrupts()
    rollouts.begin(sampling, run.step)

    updates = args.updates * args.minibatches
    by_return = LOSSES[args.loss].returns                 # an advantage for each token
    # a pass without gradient before the updates
    looks_first = by_return or args.kl > 0 or (updates > 1 and not args.exact)
    kl_reward = args.kl if args.kl_in == "reward" else 0.0
    seen = {}

    def forward(b):
        """Log-probabilities, entropies and values of the targets, each (B, T)."""
        with run.autocast():
            found = wrapped(b.tokens, b.documents, b.targets, args.temperature, True)
        return found if args.loss == "ppo" else (*found, b.values)

    def compare(logprobs, b):
        """Notes how far the trainer's log-probabilities lie from the sampler's, both of the weights that sampled."""
        apart = (logprobs - b.sampler_logprobs).abs() * b.loss_mask
        seen["diff"] += float(apart.sum())
        seen["diff_max"] = max(seen["diff_max"], float(apart.max()))
        seen["compared"] += float(b.loss_mask.sum())
        if args.exact and seen["diff_max"] and not args.async_steps:
            cli.fail(f"step {run.step}: in exact mode sampler and trainer differ by {seen['diff_max']}; the last checkpoint is "
                     "unharmed. tests/engine/test_exact.py tells which block is not invariant; without --exact the run goes on")

    def packed(chosen):
        """Micro-batches of completions, as many on each rank; with what the weights as they sampled have to say."""
        micro = pack(chosen, args.seq_len, args.micro_tokens or MICRO_TOKENS[run.device.type], run.weight_dtype)
        micro += pack([], dtype=run.weight_dtype) * (run.most(len(micro)) - len(micro))
        if looks_first:
            with torch.no_grad():
                for b in micro:
                    look(b, b.to(run.device))
        return micro

    def look(b, on):
        logprobs, _, values = forward(on)
        b.old_logprobs, b.values = logprobs.to(b.values).cpu(), values.to(b.values).cpu()
        if reference is not None:
            with run.autocast():
                b.ref_logprobs = reference(on.tokens, on.documents, on.targets, args.temperature).to(b.values).cpu()

    def teaches(r):
        return not (args.mask_truncated and r.cut_off)

    def pay(part, micro):
        """Subtracts the KL divergence from the reward of each token, and their sum from the completion's."""
        for r in part:
            b, here = r.slots(micro)
            penalty = kl_reward * kl_estimate(args.kl_kind, b.old_logprobs[here], b.ref_logprobs[here]) * b.loss_mask[here]
            b.rewards[here] -= penalty
            r.kl_penalty = -float(penalty.sum())

    def set_advantages(groups):
        """The advantage of each completion, from the rewards of its group."""
        table = torch.tensor([[r.reward for r in g] for g in groups], dtype=torch.float64).view(-1, args.group)
        deviation = moments(run, [table], [torch.ones_like(table)])[1] if args.scale == "batch" else None
        for g, advantages in zip(groups, group_advantages(table, args.loss, args.scale, deviation).tolist(), strict=True):
            for r, advantage in zip(g, advantages, strict=True):
                r.advantage = advantage

    def whiten_returns(batches):
        """The advantage of each token: its return, or with ppo GAE; whitened over the whole batch, the minibatches of all
        ranks together."""
        lam, use = (args.lam, 1.0) if args.loss == "ppo" else (1.0, 0.0)
        raw = [gae(b.rewards, b.values * use, b.loss_mask, b.documents, args.gamma, lam) for b in batches]
        for b, a, white in zip(batches, raw, whiten(run, raw, [b.loss_mask for b in batches]), strict=True):
            b.returns, b.advantages = a + b.values, white

    def loss_of(b):
        logprobs, entropies, values = forward(b)
        mask = b.loss_mask.to(logprobs.dtype)
        old = b.sampler_logprobs if args.old == "sampler" else b.old_logprobs if looks_first else logprobs.detach()
        if not seen["updates"]:
            compare(b.old_logprobs if looks_first else logprobs.detach(), b)
        loss, low, high = surrogate(args.loss, logprobs, old, b.advantages, mask, b.documents, args.clip_low, args.clip_high,
                                    args.dual_clip)
        loss = loss * correction(args.correction, old, b.sampler_logprobs, mask, b.documents, args.cap, args.veto)
        kl = kl_estimate(args.kl_kind, logprobs, b.ref_logprobs) if args.kl else torch.zeros_like(loss)
        loss = loss + (args.kl - kl_reward) * kl - args.entropy * entropies
        if args.loss == "ppo":
            loss = loss + args.value_weight * value_loss(values, b.values, b.returns)
        with torch.no_grad():
            for name, x in (("tokens", mask), ("entropy", entropies), ("clip_low", low), ("clip_high", high), ("kl", kl)):
                seen[name] += float((x * mask).sum())
            seen["packed"] += int((b.documents >= 0).sum())
        return (loss * token_weights(args.loss, mask, b.documents, max(c for _, c in caps))).sum()

    # --eval-data is asked as the prompts are, and answered greedily
    modes = PLAIN if args.mode == "plain" else {"": CHAT | {"user_suffix": FLAGS[args.mode], "think_budget": args.think_budget}}

    def evaluate():
        with common.gathered(model):
            return evaluate_all(model, tokenizer, args.eval_data, modes, args.eval_problems, autocast=run.autocast(),
                                max_new_tokens=max(c for _, c in caps))

    progress, start = common.Progress(run, "grpo"), time.perf_counter()
    record, sampling_seconds, in_vain, learned, warned = {}, 0.0, 0, False, ""
    while run.step < args.steps and not run.stopping:
        began = time.perf_counter()
        seen = dict.fromkeys(("tokens", "entropy", "clip_low", "clip_high", "kl", "diff", "diff_max", "compared", "packed",
                              "updates"), 0.0)
        with cli.bad_input():
            groups, sampled, busy, slots = rollouts.collect(sampling, run.step)
        if groups is None:
            progress.say("told to stop while waiting for rollouts (Ctrl-C, or another rank died)")
            break
        rolled = time.perf_counter() - began

        parts = deal(groups, rollouts.places(len(groups)), args.prompts, args.minibatches, args.seed * 7919 + run.step)
        if kl_reward:                                     # before any rewards are compared, and where there is no loss, too
            micros = [packed(part) for part in parts]
            for part, micro in zip(parts, micros, strict=True):
                pay(part, micro)
                hide([r for r in part if not teaches(r)], micro)
        if not by_return:
            set_advantages(groups)
        parts = [[r for r in part if teaches(r)] for part in parts]
        if not kl_reward:                                 # completions with A = 0 change nothing, unless a term beside A does
            all_count = by_return or args.kl or args.entropy
            micros = [packed([r for r in part if all_count or abs(r.advantage) > 1e-9]) for part in parts]
        if by_return:
            whiten_returns([b for micro in micros for b in micro])
        else:
            for part, micro in zip(parts, micros, strict=True):
                fill(part, micro)

        lr = optim.set_lr(optimizers, optim.schedule(run.step, args.steps, args.schedule, args.warmup, args.decay, args.floor))
        for update in range(updates):
            part, micro = parts[update % args.minibatches], micros[update % args.minibatches]
            weight = sum(r.drawn for r in part) if LOSSES[args.loss].mean == "token" else len(part)
            loss, _ = run.backward(wrapped, micro, loss_of, weight)
            seen["updates"] += update + 1 >= args.minibatches or not looks_first      # from here on the weights are others
            grad_norm = common.clip_gradients(policy, args.clip)
            try:
                why = guard.check(loss, grad_norm)
            except ValueError as e:                       # it gave up: keep what was learned before
                run.save(policy, tokenizer, optimizers, prompts, guard)
                cli.fail(e)
            if why:
                progress.say(f"step {run.step}: an update skipped: {why}")
            else:
                for optimizer in optimizers:
                    optimizer.step()
            policy.zero_grad(set_to_none=True)
        if sampling is not model:
            common.restore_weights(sampling, common.full_weights(model))
        run.step += 1
        rollouts.updated(sampling, run.step)
        if run.step % 10 == 0:
            common.give_back_memory()

        seconds = time.perf_counter() - began
        sampling_seconds += rolled
        record = {"step": run.step, "loss": loss, "grad_norm": grad_norm, "lr": lr, "seconds": round(seconds, 3)}
        record |= summary(run, sampled, seen, busy, slots, rolled, seconds - rolled) | rollouts.notes()
        why = nothing_to_learn(run, sampled, by_return, args.mask_truncated)
        in_vain, learned = in_vain + 1 if why else 0, learned or not why
        if why:
            record["note"] = why
        elif abs(loss) < 1e-6 and updates == 1:
            record["note"] = "the loss is zero because it must be: r = 1 and the advantages cancel; see grad_norm"
        if in_vain in (5, 50) or (why and not learned and run.step == args.steps and in_vain < 5):
            warned = f"nothing can be learned from the rewards of the last {in_vain} steps: {why}; {ADVICE}"
            if run.main:
                progress.say(warned)
        for name, text, error in rollouts.failures:
            progress.say(f"step {run.step}: reward {name} failed on a completion, counted as 0: {error}: {text[:200]!r}")
            record.setdefault("failed_rewards", []).append([name, str(error), text[:2000]])
        rollouts.failures.clear()
        if args.show_every and (run.step % args.show_every == 0 or run.step == 1):
            record["samples"] = [{"question": r.problem.question, "text": r.reply.text, "reward": round(r.score.reward, 4),
                                  "reason": r.score.reason} for g in sampled[:3] for r in g[:1]]
        progress.update(int(seen["packed"]), reward=f"{record['reward']:.3f}", process=f"{record['process']:.3f}")
        if run.step % args.log_every == 0:
            run.log(record)
        if args.eval_every and run.step % args.eval_every == 0 and run.step < args.steps:
            run.log({"step": run.step, "eval": evaluate()})
        if args.save_every and run.step % args.save_every == 0 and run.step < args.steps:
            run.save(policy, tokenizer, optimizers, prompts, guard)
    seconds = time.perf_counter() - start
    progress.bar.close()
    run.save(policy, tokenizer, optimizers, prompts, guard)
    kept = ("reward", "answer", "process", "length_mean", "entropy", "zero_spread", "logprob_diff_mean", "logprob_diff_max")
    result = {"out": args.out, "steps": run.step, "seconds": round(seconds, 1),
              "rollout_share": round(sampling_seconds / max(seconds, 1e-9), 3)} | {k: record[k] for k in kept if k in record}
    if warned:
        result["warning"] = warned
    if run.step == args.steps and args.eval_data:
        result["eval"] = evaluate()
        if run.main:
            print_evaluation(result["eval"])
    rollouts.finish()
    run.finish(result)


if __name__ == "__main__":
    main()
