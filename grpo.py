r"""Reinforcement learning from verifiable rewards: sample groups of completions, score them, make good ones more likely.

On a laptop:
    python grpo.py --init runs/sft --data world:ops=4-6,split=rl --out runs/grpo --mode think --reward strict --steps 60
    python grpo.py --init runs/sft --data world:ops=4-6,split=rl --out runs/dapo --mode think --loss dapo --replace 3 \
        --overlong-buffer 16
In exact mode, where sampler and trainer agree to the last bit (logprob_diff_max in the log is 0):
    python grpo.py --init runs/sft --data world:ops=4-6,split=rl --out runs/exact --mode think --reward strict --exact
With a calculator, after SFT on solutions that call it (tasks/tools.py; --tool my_tools.py:NAME gives a function of your own):
    python sft.py --init runs/mid --data world:ops=1-3,modulus=0,given=99,max_value=999,split=sft,calls=4 --out runs/calls
    python grpo.py --init runs/calls --data world:ops=1-3,modulus=0,given=99,max_value=999,split=rl,calls=4 --out runs/tools \
        --reward strict+thrift:-0.1
A real model on real questions:
    python grpo.py --init smollm2/ --data gsm8k/train.jsonl --out runs/gsm8k --steps 2 --prompts 4 --group 4 \
        --max-new-tokens 200 --lr 1e-6
One GPU, and eight:
    python grpo.py --init smollm2/ --data gsm8k/train.jsonl --out runs/gpu --prompts 64 --group 16 --rows 1024 \
        --max-new-tokens 1024 --micro-tokens 32768 --lr 1e-6
    torchrun --nproc_per_node=8 grpo.py --init smollm2/ --data gsm8k/train.jsonl --out runs/node --prompts 128 \
        --group 16 --rows 256 --max-new-tokens 2048 --micro-tokens 16384 --lr 1e-6 --shard

A step samples --prompts x --group completions. Then it makes --updates passes over them, each in --minibatches parts. The losses
(--loss), where R is the reward of a completion and r = pi / pi_old:

    loss                  ratio r of                advantage A                    mean over              clip          arXiv
    grpo                  each token                (R - group mean) / group std   a completion's tokens  0.2, 0.2      2402.03300
    dr_grpo               each token                R - group mean                 sum / longest cap      0.2, 0.2      2503.20783
    dapo                  each token                as grpo                        all tokens             0.2, 0.28     2503.14476
    gspo                  a completion, geom. mean  as grpo                        a completion's tokens  3e-4, 4e-4    2507.18071
    cispo                 each token, as a weight   as grpo                        all tokens             none, 4       2506.13585
    dppo_tv               each token                as dr_grpo                     sum / longest cap      TV 0.15       2602.04879
    dppo_kl               each token                as dr_grpo                     sum / longest cap      KL 0.05       2602.04879
    sapo                  each token                as grpo                        a completion's tokens  gate 1, 1.05  2511.20347
    maxrl                 each token                (R - group mean) / group mean  all tokens             0.2, 0.2      2602.02710
    rloo                  a completion, product     R - mean of the others         a completion's tokens  none          2402.14740
    rlp                   each token                R - mean of the others         a completion's tokens  0.2, 0.2      2510.01265
    reinforce++           each token                return, whitened over batch    all tokens             0.2, 0.2      2501.03262
    reinforce++-baseline  each token                the same of R - group mean     all tokens             0.2, 0.2      2501.03262
    ppo                   each token                GAE (value head), whitened     all tokens             0.2, 0.2      1707.06347

A loss has the settings of its paper (the table LOSSES in rl/losses.py; a new loss is one more entry), and flags change them.
Other methods of the papers have flags too: DAPO's dynamic sampling is --replace, and its length penalty --overlong-buffer. GRPO's
KL term is --kl 0.04 --kl-kind k3. DPPO's pi_old is the policy that sampled (--old sampler); that of the others is computed by the
trainer. Where sampler and trainer differ, --correction weighs what was sampled (rl/correction.py), DeepSeek-V3.2's mask is
--sequence-mask, and --mismatch makes them differ by a known amount (rl/mismatch.py):
    python grpo.py --init runs/sft --data world:ops=4-6,split=rl --out runs/noisy --mode think --reward strict --exact \
        --mismatch noise=0.2 --correction icepop

Fine-tuning and reinforcement at once (arXiv 2606.04272): each update adds the gradient of a batch of conversations, weighted:
    python grpo.py --init runs/sft --data world:ops=4-6,split=rl --out runs/both --mode think --reward strict \
        --sft-data world:ops=4-6,split=sft --sft-weight 0.3

On text, where the answer key is what the text goes on with: --data text:corpus.txt,kind=rlpt (or rpt, or rlp), tasks/text.py.

Sampling and training take turns. With --async-steps or --rollout-ranks they overlap (rl/asynchronous.py).

Simpler than the papers:
- The sampler always samples from the full vocabulary. (With top-k or top-p the loss would have to do the same, so there are no
  flags for them. To see what happens otherwise, use --mismatch truncated=0.9.)
- The value head of ppo uses the hidden states of the policy. It needs complete weights on each rank (DDP, not --shard).
"""

import argparse
import copy
import functools
import os
import re
import sys
from collections.abc import Callable

from data import fingerprints, split_spec
from measuring.in_training import CHAT, EVAL_NEEDS, PLAIN, check_specs, evaluate_all, print_results
from model import Transformer, load_both
from rl import asynchronous, supervised
from rl.advantages import SCALES
from rl.correction import CORRECTIONS
from rl.critic import ActorCritic
from rl.divergence import KL_KINDS, USUAL_KINDS
from rl.flags import ROLLOUT_NEEDS, rollout_flags, runs_ahead
from rl.given import Sources
from rl.lengths import longest_cap, parse_caps, shortest_cap
from rl.losses import LOSSES, NO_CLIP
from rl.mismatch import KINDS, Older, agree, parse_mismatch
from rl.prompts import Prompts
from rl.record import Records
from rl.rollouts import Rollouts
from rl.scoring import InformationGain
from rl.update import PolicyUpdate
from tasks.problems import join_tasks
from tasks.rewards import REWARDS, parse_rewards
from tasks.task import SWITCHES
from training import cli, machine
from training.flags import check_common, loss_needs, training_flags
from training.guard import Guard
from training.run import Run
from training.weights import full_weights, restore_weights

DUAL = cli.number("0, or a number above 1", float, lambda x: x == 0 or x > 1)
CAP = cli.number("a number of at least 1", float, lambda x: x >= 1)
VETO = cli.number("a number from 0 to less than 1", float, lambda x: 0 <= x < 1)


def losses_where(condition: Callable) -> str:
    """For --help: the names of the losses for which the condition is true."""
    return ", ".join(name for name, loss in LOSSES.items() if condition(loss))


def by_loss(name: str) -> str:
    """For --help: a setting of all losses, the most common value last: "gspo 0.0003, cispo none, others 0.2"."""
    found = {loss: getattr(LOSSES[loss], name) for loss in LOSSES if getattr(LOSSES[loss], name) is not None}
    usual = getattr(LOSSES["grpo"], name)
    none = {"clip_low": 1.0, "clip_high": NO_CLIP}.get(name)
    return ", ".join(f"{loss} {'none' if v == none else v}" for loss, v in found.items() if v != usual) + f", others {usual}"


def by_correction(name: str) -> str:
    """For --help: a setting of the corrections that have one of their own: "icepop 5"."""
    usual = getattr(CORRECTIONS["tis"], name)
    return ", ".join(f"{kind} {getattr(c, name):g}" for kind, c in CORRECTIONS.items() if getattr(c, name) != usual)


def flags() -> cli.Parser:
    p = training_flags(__doc__, loss_needs(LOSSES) + ROLLOUT_NEEDS + NEEDS + EVAL_NEEDS, data_required=False)
    rollout_flags(p)
    p.set_defaults(batch_tokens=0, lr=2e-4, adam_lr=2e-4, optimizer="adamw", schedule="constant", warmup=0.0, log_every=1,
                   steps=100, eval_problems=50)
    p.add_argument("--loss", default="grpo", choices=LOSSES, help="the table at the top of grpo.py")
    p.add_argument("--reward", default="answer", metavar="NAME[:WEIGHT]+...",
                   help=f"{', '.join(REWARDS)} (see tasks/rewards.py), or a function of your own, my_rewards.py:NAME")
    p.add_argument("--updates", type=cli.positive_int, default=1, help="passes over a batch of rollouts")
    p.add_argument("--minibatches", type=cli.positive_int, default=1, help="parts of a pass, one optimiser step each")
    p.add_argument("--clip-low", type=cli.fraction, default=None,
                   help=f"r is clipped at 1 - this; 1: no clip (default: {by_loss('clip_low')})")
    p.add_argument("--clip-high", type=cli.not_negative, default=None, help=f"and at 1 + this (default: {by_loss('clip_high')})")
    p.add_argument("--dual-clip", type=DUAL, default=0.0, help="bound on r where A < 0 (3 is usual); 0: none")
    p.add_argument("--tau-pos", type=cli.above_zero, default=None, help="temperature of sapo's gate for A > 0: the larger, the "
                   f"sooner it closes as r leaves 1 (default: {LOSSES['sapo'].tau_pos:g})")
    p.add_argument("--tau-neg", type=cli.above_zero, default=None,
                   help=f"and for other A (default: {LOSSES['sapo'].tau_neg:g})")
    p.add_argument("--scale", default=None, choices=SCALES,
                   help="what A is divided by: a standard deviation, of the group's rewards or of the batch's; the group's mean "
                   f"reward; or nothing (default: {by_loss('scale')})")
    p.add_argument("--kl", type=cli.not_negative, default=0.0, help="weight of the KL divergence from --init")
    p.add_argument("--kl-kind", default=None, choices=KL_KINDS, help="its estimator: k1 in the reward and k2 in the "
                   "loss have the gradient of the reverse KL(pi || init); k3 in the loss, as GRPO's paper has it, that of the "
                   "forward KL(init || pi); no other pair is allowed (default: k2 in the loss, k1 in the reward)")
    p.add_argument("--kl-in", default="loss", choices=["loss", "reward"], help="where it counts")
    p.add_argument("--entropy", type=cli.not_negative, default=0.0, help="weight of an entropy bonus")
    p.add_argument("--correction", default="none", choices=CORRECTIONS,
                   help="weight for trainer against sampler: truncated, masked, masked on both sides; per token, sequence, "
                   f"geometric mean ({losses_where(lambda loss: loss.ratio != 'token')}: not per token)")
    p.add_argument("--cap", type=CAP, default=None, help="C of the correction, the largest weight (default: "
                   f"{by_correction('cap')}, others {CORRECTIONS['tis'].cap:g})")
    p.add_argument("--cap-low", type=cli.positive_fraction, default=None, help="and the smallest, below which a token is masked "
                   f"(default: {by_correction('low')})")
    p.add_argument("--veto", type=VETO, default=0.0, help="drop a completion with a token less likely than this times "
                   "what the sampler had (1e-4); 0: none")
    p.add_argument("--sequence-mask", type=cli.not_negative, default=0.0, metavar="DELTA",
                   help="drop the bad tokens of completions that the policy would hardly sample now: where the mean of log "
                   "pi_sampler - log pi is above this (DeepSeek-V3.2, which does not say how much; 0.5 is usual); 0: none")
    p.add_argument("--mismatch", nargs="+", default=[], metavar="SPEC", help="make sampler and trainer differ, for a study: "
                   f"{', '.join(example for _, example in KINDS.values())} (see rl/mismatch.py). It goes on top of what there "
                   "is; with --exact there is nothing else")
    p.add_argument("--old", default=None, choices=["trainer", "sampler"], help="whose log-probabilities are pi_old (default: "
                   f"{by_loss('old')})")
    p.add_argument("--replace", type=cli.non_negative_int, default=0,
                   help="times to replace groups whose rewards by the task are all equal (DAPO); 0: keep them")
    p.add_argument("--mask-truncated", action="store_true", help="no loss on completions cut off at the cap")
    p.add_argument("--overlong-buffer", type=cli.non_negative_int, default=0,
                   help="DAPO's soft penalty over the last tokens before the cap")
    p.add_argument("--keep-rate", type=cli.fraction, nargs=2, default=None, metavar=("LOW", "HIGH"),
                   help="keep prompts whose pass rate under --init is within these")
    p.add_argument("--candidates", type=cli.positive_int, default=256, help="prompts to measure for --keep-rate")
    p.add_argument("--curriculum", action="store_true", help="the kept prompts from easy to hard")
    p.add_argument("--gamma", type=cli.fraction, default=1.0,
                   help=f"discount of {losses_where(lambda loss: loss.advantages.by_token)}")
    p.add_argument("--lam", type=cli.fraction, default=1.0, help="lambda of GAE")
    p.add_argument("--value-weight", type=cli.not_negative, default=0.5, help="weight of the value loss of "
                   f"{losses_where(lambda loss: loss.advantages.value_head)}")
    p.add_argument("--sft-data", metavar="SPEC", nargs="+", default=[], help="conversations to learn from in each update too, "
                   "SOURCE[@WEIGHT]; questions take the form of --mode (rl/supervised.py)")
    p.add_argument("--sft-weight", type=cli.above_zero, default=None, help="W of their mean loss (default: 1)")
    p.add_argument("--sft-tokens", type=cli.positive_int, default=None, help="tokens of them in an update, over all ranks, in "
                   "rows of --seq-len tokens, or 512 (default: 8 rows)")
    p.add_argument("--tau", type=cli.fraction, default=None, help="text:...,kind=rlp: how much of the slow copy of the policy, "
                   "with which thoughts are compared, stays at an update (default: 0.999)")
    return p


def ratio_moves(args: argparse.Namespace) -> bool:
    """False if pi equals pi_old at every update, so that nothing is ever clipped."""
    differs = runs_ahead(args) if agree(args) else (args.old or LOSSES[args.loss].old) == "sampler"
    return args.updates * args.minibatches > 1 or differs


# when a flag has an effect (see cli.Parser), in addition to what LOSSES says
NEEDS = (
    ("--prompts", lambda a: not a.batch_tokens, "with --batch-tokens, from which the number of prompts follows"),
    ("--clip-low --clip-high --dual-clip --tau-pos --tau-neg", ratio_moves,
     "where pi / pi_old is always 1 (--updates 1 --minibatches 1)"),
    ("--scale", lambda a: not LOSSES[a.loss].advantages.by_token, "with --loss {loss}"),
    ("--gamma", lambda a: LOSSES[a.loss].advantages.by_token, "with --loss {loss}"),
    ("--lam --value-weight", lambda a: LOSSES[a.loss].advantages.value_head, "with --loss {loss}"),
    ("--kl-kind --kl-in", lambda a: a.kl, "without --kl"),
    ("--correction", lambda a: a.correction == "none" or not agree(a), "with --exact, where sampler and trainer agree"),
    ("--veto", lambda a: not agree(a), "with --exact, where sampler and trainer agree"),
    ("--sequence-mask", lambda a: ratio_moves(a) or not agree(a), "with --exact, where every policy is the one that sampled"),
    ("--old", lambda a: a.old == "sampler" or not agree(a), "with --exact, where pi_old is the sampler's"),
    ("--cap", lambda a: a.correction != "none", "without a --correction"),
    ("--cap-low", lambda a: CORRECTIONS[a.correction].low, "with --correction {correction}"),
    ("--tau", lambda a: any(re.search(r"[:,]kind=rlp(?=[,@]|$)", spec) for spec in a.data), "without text:...,kind=rlp"),
    ("--sft-weight --sft-tokens", lambda a: a.sft_data, "without --sft-data"),
    ("--candidates --curriculum", lambda a: a.keep_rate, "without --keep-rate"),
)


def check(args: argparse.Namespace) -> None:
    """Checks that argparse cannot make. ValueError: one line that says how to fix it."""
    check_common(args)
    for wrong, fix in (
        (args.minibatches > args.prompts * args.group, f"--minibatches {args.minibatches}: more parts than completions "
         f"({args.prompts} prompts x --group {args.group})"),
        (args.kl and KL_KINDS[args.kl_kind].place != args.kl_in,
         f"--kl-kind {args.kl_kind} {args.kl and KL_KINDS[args.kl_kind].refused}"),
        (args.overlong_buffer > shortest_cap(parse_caps(args.max_new_tokens)), f"--overlong-buffer "
         f"{args.overlong_buffer} is longer than the smallest cap of --max-new-tokens"),
        (args.old == "sampler" and (args.correction != "none" or args.veto), "--old sampler has the mismatch in its ratio "
         "already; leave --correction and --veto out, or give --old trainer"),
        (args.scale == "mean" and (args.overlong_buffer or (args.kl and args.kl_in == "reward")), "--scale mean divides by the "
         "mean reward of a group, and a penalty in it may make it negative; leave the penalty out, or use another --scale"),
        (parse_mismatch(args.mismatch).stale and (args.async_steps is not None or args.rollout_ranks), "--mismatch stale has "
         "weights of one age, and rollouts that run ahead have weights of many; use either"),
        (args.keep_rate and args.keep_rate[0] > args.keep_rate[1], "--keep-rate LOW HIGH: LOW must not be above HIGH"),
    ):
        if wrong:
            raise ValueError(fix)
    for fix in LOSSES[args.loss].refusals(args):
        raise ValueError(fix)


def resolve(args: argparse.Namespace) -> None:
    """Sets flags that were not given, from other flags, so that the log shows the values that were used. It runs before the flags
    are compared with those of a run to resume, and it depends only on flags: the same command always means the same."""
    for name in ("clip_low", "clip_high", "tau_pos", "tau_neg", "scale", "old"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(LOSSES[args.loss], name))
    if args.cap is None:
        args.cap = CORRECTIONS[args.correction].cap
    if args.cap_low is None:
        args.cap_low = CORRECTIONS[args.correction].low
    if args.kl and args.kl_kind is None:
        args.kl_kind = USUAL_KINDS[args.kl_in]
    if args.rollout_ranks and args.async_steps is None:
        args.async_steps = 1
    supervised.resolve(args)
    if args.batch_tokens:                                 # as many prompts as their longest completions allow
        args.prompts = max(1, args.batch_tokens // (args.group * longest_cap(parse_caps(args.max_new_tokens))))
    if agree(args):
        args.old = "sampler"


def check_tasks(run: Run, args: argparse.Namespace, prompts: Prompts) -> None:
    """ValueError for tasks that do not go with the flags. What a proxy has computed to choose positions goes into the ledger."""
    for task in prompts.sources:
        if task.own_reward and "score" not in [part.partition(":")[0] for part in args.reward.split("+")]:
            raise ValueError(f"{task.source}: {task.own_reward} is paid by --reward score; with --reward {args.reward} it has no "
                             "effect")
        if task.by_gain and args.async_steps is not None:
            raise ValueError(f"{task.source}: a thought is scored by the weights that thought it; leave --async-steps and "
                             "--rollout-ranks out")
        for bill in task.take_bills():
            if run.main and run.state is None:
                run.ledger.add(*bill)


def keep_prompts(run: Run, args: argparse.Namespace, rollouts: Rollouts, model: Transformer) -> None:
    """--keep-rate: measures the pass rates of prompts and keeps some prompts. A resumed run has done this already."""
    if not args.keep_rate or run.state is not None:
        return
    rates = rollouts.pass_rates(model, args.candidates, args.group)
    rollouts.prompts.keep(rates, *args.keep_rate, args.curriculum)
    if len(rates) < args.candidates and run.main:
        print(f"--candidates {args.candidates}: there are {len(rates)} different questions; all of them were measured",
              file=sys.stderr)


def main() -> None:
    args = flags().parse_args()
    with cli.bad_input():
        join_tasks(args)
        asynchronous.check(args, int(os.environ.get("WORLD_SIZE", 1)))
        resolve(args)
        check(args)
        run = Run(args, fingerprints(args))
        model, tokenizer = load_both(args.init, dtype=run.weight_dtype)
        check_specs(args.eval_data, tokenizer)
        rewards = parse_rewards(args.reward, *(split_spec(d)[0] for d in args.data))
        rollouts = asynchronous.make_rollouts(run, args, args.data, tokenizer, rewards, overlong_buffer=args.overlong_buffer,
                                              replace=args.replace, mismatch=parse_mismatch(args.mismatch))
        check_tasks(run, args, rollouts.prompts)
    model.exact = args.exact
    if not run.learns:
        return asynchronous.only_sample(run, rollouts, model)
    model.to(run.device)
    if any(task.by_gain for task in rollouts.prompts.sources):
        rollouts.gain = InformationGain(model, tokenizer, 0.999 if args.tau is None else args.tau, run.autocast)
        if "average" in run.extra_state:
            rollouts.gain.restore(run.extra_state["average"])
        run.extra_state["average"] = rollouts.gain.state()
    with cli.bad_input():
        lessons = supervised.open_lessons(run, args, tokenizer)
        keep_prompts(run, args, rollouts, model)

    loss = LOSSES[args.loss]
    reference = copy.deepcopy(model).requires_grad_(False) if args.kl else None
    # The model that samples has complete weights. With --shard it is a copy, unless other ranks sample; and if it is stale.
    stale = rollouts.mismatch.stale
    sampling = copy.deepcopy(model).requires_grad_(False) if stale or (args.shard and not run.rollout_ranks) else model
    policy = ActorCritic(model) if loss.advantages.value_head else model
    wrapped = run.distribute(policy)
    model.checkpointing = args.checkpointing
    # --eval-data is asked like the prompts of training, and answered greedily
    chat = CHAT | {"user_suffix": SWITCHES.get(args.mode, ""), "think_budget": args.think_budget, "tools": rollouts.tools}
    measure = functools.partial(evaluate_all, model, tokenizer, args.eval_data, PLAIN if args.mode == "plain" else {"": chat},
                                args.eval_problems, max_new_tokens=longest_cap(rollouts.caps))
    # the loss of a policy may jump, so the guard only skips steps whose loss is not a number
    data = Sources(rollouts.prompts, lessons) if lessons else rollouts.prompts
    run.begin(policy, tokenizer, data, measure, Guard(sigmas=float("inf")), pool=len(rollouts.prompts.pool),
              parameters=sum(w.numel() for w in model.parameters()), config=vars(model.config))
    older = Older(stale, run.extra_state)
    if sampling is not model:
        restore_weights(sampling, older.start(full_weights(model)))
    rollouts.begin(sampling, run.step)
    update, records = PolicyUpdate(run, args, wrapped, reference), Records(run, rollouts, not loss.advantages.in_group)
    beside = supervised.Supervised(run, args, wrapped, lessons)

    while run.going():
        found = rollouts.collect(sampling, run.step)                          # P x G completions, scored
        if found is None:
            run.say("the run must stop while it waits for rollouts (Ctrl-C, or another rank died)")
            break
        places = rollouts.places(len(found.groups))
        minibatches = update.prepare(found.groups, places, run.step)          # packed (B, T); pi_old, reference, values, A
        for minibatch, policy_loss in update.passes(minibatches):
            mean = beside.backward()                                          # of --sft-data, if there is any
            mean += run.backward(wrapped, minibatch.micro, policy_loss, minibatch.divisor)
            run.update(mean)                                                  # clip, guard, step
            if rollouts.gain:
                rollouts.gain.follow(model)                                   # the slow copy that thoughts are compared with
        if sampling is not model:
            restore_weights(sampling, older.after(full_weights(model)))
        rollouts.publish(sampling, run.step + 1)
        run.end_of_step(records.of_step(found, minibatches, args.updates, beside.take_slots()), show=("reward", "process"))
        if run.step % 10 == 0:
            machine.give_back_memory()
    run.finish(records.result() | (lessons.report() if lessons else {}), show=print_results)
    rollouts.finish()
    run.close()


if __name__ == "__main__":
    main()
