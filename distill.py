r"""Distillation: a student learns from what a teacher thinks of each of its tokens, on-policy, off-policy or in between.

On a laptop, a student that samples, and a teacher that judges its tokens (the reverse KL divergence as advantages):
    python distill.py --init runs/sft --teacher runs/grpo --data world:ops=4-6,split=rl --out runs/taught --mode think --steps 40
A divergence over the whole vocabulary as the loss; on given documents; half of the steps each (lambda of GKD):
    python distill.py --init runs/sft --teacher runs/grpo --data world:ops=4-6,split=rl --out runs/reverse --mode think \
        --loss reverse --steps 40
    python distill.py --init runs/sft --teacher runs/grpo --data world:ops=4-6,split=sft --out runs/given --mode think \
        --loss forward --on-policy 0 --steps 40
    python distill.py --init runs/sft --teacher runs/grpo --data world:ops=4-6,split=rl conversations.jsonl --out runs/gkd \
        --mode think --loss jsd --on-policy 0.5 --steps 40
A model that teaches itself, with the answer before its eyes:
    python distill.py --init runs/sft --hint "{question} (The answer is {answer}.)" --data world:ops=4-6,split=rl \
        --out runs/self --mode think --steps 40
A real model, and a larger one that may have another tokenizer:
    python distill.py --init smollm2/ --teacher qwen3/ --data gsm8k/train.jsonl --out runs/gsm8k --steps 2 --prompts 4 --group 4 \
        --max-new-tokens 200 --lr 1e-5
One GPU, and eight:
    python distill.py --init smollm2/ --teacher qwen3/ --data gsm8k/train.jsonl --out runs/gpu --prompts 64 --rows 256 \
        --max-new-tokens 1024 --micro-tokens 32768 --lr 1e-5
    torchrun --nproc_per_node=8 distill.py --init smollm2/ --teacher qwen3/ --data gsm8k/train.jsonl --out runs/node \
        --prompts 128 --rows 256 --max-new-tokens 2048 --micro-tokens 16384 --lr 1e-5 --shard

The losses (--loss), with p of the student and q of the teacher. All are means over tokens:

    loss      what falls                                                needs                        source
    opd       KL(p || q), by the policy gradient:                       the tokens' log-probs        Thinking Machines, 2025
              A = log q - log p
    forward   KL(q || p)                                                both distributions           arXiv 1503.02531
    reverse   KL(p || q)                                                both distributions           MiniLLM, arXiv 2306.08543
    jsd       the generalised Jensen-Shannon divergence                 both distributions           GKD, arXiv 2306.13649

Where a student has gone wrong, a teacher that has never been there may be sure of something else, and a few tokens have most of
the divergence. --clip-divergence bounds what one token counts. (OPSD, arXiv 2601.18734, bounds what each word of the vocabulary
adds.)

In an on-policy step (a share --on-policy of the steps) the student answers --prompts x --group times, and the teacher reads the
answers. In the other steps both read given documents: the sources of --data that are conversations or text, or with --on-policy 0
all of them, --batch-tokens in rows of --seq-len (512 if it is not given). (Fine-tuning on a teacher's answers is sft.py, and
augment.py distill makes them.) The strong-to-weak recipe of Qwen3 (arXiv 2505.09388) is that fine-tuning first, then on-policy
steps, in both modes.

Simpler than the papers:
- No gradient goes through what is sampled: a token answers for its own divergence, and not for those of later tokens (MiniLLM
  adds these; for GKD and Thinking Machines it is as here).
- A batch is used once, in one update.
- The teacher is in memory as a whole on each rank that trains, in float32. With --hint alone it stays --init.
- Prompts are problems with an answer. Whether a completion is right stands in the log, and teaches nothing.
"""

import argparse
import copy
import functools
import os

from data import fingerprints, split_spec
from measuring.in_training import CHAT, EVAL_NEEDS, PLAIN, check_specs, evaluate_all, print_results
from model import load_both
from rl import asynchronous
from rl.batches import MICRO_TOKENS
from rl.distillation import LOSSES, Lessons
from rl.flags import ROLLOUT_NEEDS, rollout_flags
from rl.given import ROW, Sources, is_text, open_given
from rl.lengths import longest_cap, parse_caps
from rl.record import Records
from rl.rollouts import CHECKED
from rl.teacher import Teacher, with_hint
from sources.fingerprint import fingerprint
from sources.kinds import kind_of
from sources.shares import in_share
from tasks.options import is_generated
from tasks.problems import join_tasks
from tasks.rewards import parse_rewards
from tasks.task import SWITCHES
from training import cli, machine
from training.flags import check_common, loss_needs, training_flags
from training.guard import Guard
from training.run import Run
from training.weights import full_weights, restore_weights

BETA = cli.number("a number between 0 and 1", float, lambda x: 0 < x < 1)


def flags() -> cli.Parser:
    p = training_flags(__doc__, loss_needs(LOSSES) + ROLLOUT_NEEDS + NEEDS + EVAL_NEEDS, data_required=False)
    rollout_flags(p)
    p.set_defaults(group=4, lr=2e-4, adam_lr=2e-4, optimizer="adamw", schedule="constant", warmup=0.0, log_every=1, steps=100,
                   eval_problems=50)
    p.add_argument("--teacher", metavar="FOLDER", default="", help="checkpoint to learn from; none: --init, with a --hint")
    p.add_argument("--loss", default="opd", choices=LOSSES, help="the table at the top of distill.py")
    p.add_argument("--on-policy", type=cli.fraction, default=1.0, metavar="SHARE",
                   help="share of the steps on what the student samples; the others are on given documents (lambda of GKD)")
    p.add_argument("--beta", type=BETA, default=0.5, help="of jsd: near 0 it is like forward, near 1 like reverse")
    p.add_argument("--top-k", type=cli.non_negative_int, default=0, metavar="K",
                   help="compare the teacher's K likeliest words one by one, and all others as one word; 0: all one by one. "
                   "Biased: it is at most the whole divergence, and nothing is learned of how the others differ among themselves")
    p.add_argument("--clip-divergence", type=cli.not_negative, default=0.0, metavar="NATS",
                   help="bound on what one token counts: with opd its advantage is at least minus this; with the other losses a "
                   "token whose divergence is larger has no gradient; 0: no bound")
    p.add_argument("--hint", metavar="TEMPLATE", default="", help="what the teacher is asked, with {question} and {answer} or "
                   "{solution}; or a file with it (as transforms/prompts/hint.txt)")
    return p


# when a flag has an effect (see cli.Parser), in addition to what LOSSES says
NEEDS = (
    ("--batch-tokens", lambda a: a.on_policy < 1, "with --on-policy 1, where --prompts and --group say how much is read"),
    ("--prompts --group --rows --show-every --tool", lambda a: a.on_policy, "with --on-policy 0, where nothing is sampled"),
    ("--think-budget --max-new-tokens", lambda a: a.on_policy or a.eval_data,
     "with --on-policy 0 and no --eval-data, where nothing is sampled"),
    ("--async-steps --rollout-ranks", lambda a: a.on_policy == 1, "with --on-policy {on_policy}, where not every step samples"),
)


def check(args: argparse.Namespace) -> None:
    """Checks that argparse cannot make. ValueError: one line that says how to fix it."""
    check_common(args)
    for wrong, fix in (
        (not args.teacher, "--teacher is needed: the checkpoint to learn from (or a --hint, for a model that teaches itself)"),
        (args.loss == "opd" and args.on_policy < 1, f"--loss opd learns from what the student samples, and --on-policy "
         f"{args.on_policy:g} has other steps; use --loss forward, reverse or jsd"),
        (args.hint and args.on_policy < 1, f"--hint goes into questions, and --on-policy {args.on_policy:g} has steps on given "
         "documents, which have none; use --on-policy 1"),
    ):
        if wrong:
            raise ValueError(fix)


def resolve(args: argparse.Namespace) -> None:
    """Sets flags that were not given, from other flags alone, before they are compared with those of a run to resume."""
    if args.hint and not args.teacher:
        args.teacher = args.init
    if args.rollout_ranks and args.async_steps is None:
        args.async_steps = 1
    if args.on_policy < 1 and not args.seq_len:
        args.seq_len = ROW


def split_sources(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The SPECs of --data that are questions to answer, and those that are documents to read."""
    if args.on_policy in (0, 1):
        return (args.data, []) if args.on_policy else ([], args.data)
    names = {spec: split_spec(spec)[0] for spec in args.data}
    documents = [spec for spec, name in names.items() if is_text(name) or kind_of(name) == "conversations"]
    questions = [spec for spec in args.data if spec not in documents]
    if not documents or not questions:
        missing = "conversations or text to read" if questions else "questions to answer"
        raise ValueError(f"--on-policy {args.on_policy:g}: --data has no {missing}; add a source, or use --on-policy "
                         f"{1 if questions else 0}")
    return questions, documents


def main() -> None:
    args = flags().parse_args()
    with cli.bad_input():
        join_tasks(args)
        asynchronous.check(args, int(os.environ.get("WORLD_SIZE", 1)))
        resolve(args)
        check(args)
        hints = {f"--hint {args.hint}": fingerprint(args.hint)} if args.hint and "{" not in args.hint else {}
        run = Run(args, fingerprints(args) | hints)
        model, tokenizer = load_both(args.init, dtype=run.weight_dtype)
        model.exact = args.exact
        check_specs(args.eval_data, tokenizer)
        questions, documents = split_sources(args)
        rollouts = given = None
        if questions:
            rewards = parse_rewards("answer", *(split_spec(d)[0] for d in questions))
            rollouts = asynchronous.make_rollouts(run, args, questions, tokenizer, rewards)
            for task in rollouts.prompts.sources:
                if task.own_reward and is_generated(task.source):
                    raise ValueError(f"{task.source}: is learned from {task.own_reward}, which is for grpo.py; give questions")
        if documents:
            given = open_given(documents, tokenizer, args.mode, args.seq_len, args.batch_tokens, args.seed)
            run.plan_micro_batches(given)
            if not args.micro_tokens:                     # as many as of rollouts
                run.micro_rows = min(run.micro_rows, max(1, MICRO_TOKENS[run.device.type] // args.seq_len))
    if not run.learns:
        return asynchronous.only_sample(run, rollouts, model)
    with cli.bad_input():
        teacher = Teacher(run, args, *load_both(args.teacher, dtype=run.weight_dtype), tokenizer)
        for task in rollouts.prompts.sources if args.hint and run.state is None else ():
            for i in range(min(task.count or 1, CHECKED)):                    # refuses problems without what the hint needs
                with_hint(task.problem(i), teacher.hint)
        if run.state is None:
            run.ledger.inherit(args.teacher, checkpoint=True)

    # The model that samples has complete weights. With --shard it is a copy, unless other ranks sample.
    sampling = copy.deepcopy(model.to(run.device)).requires_grad_(False) if args.shard and not run.rollout_ranks else model
    wrapped = run.distribute(model)
    # --eval-data is asked like the prompts of training, and answered greedily
    chat = CHAT | {"user_suffix": SWITCHES.get(args.mode, ""), "think_budget": args.think_budget,
                   "tools": rollouts and rollouts.tools}
    measure = functools.partial(evaluate_all, model, tokenizer, args.eval_data, PLAIN if args.mode == "plain" else {"": chat},
                                args.eval_problems, max_new_tokens=longest_cap(parse_caps(args.max_new_tokens)))
    sources = Sources(rollouts and rollouts.prompts, given)
    run.begin(model, tokenizer, sources, measure, Guard(sigmas=float("inf")),
              parameters=sum(w.numel() for w in model.parameters()), config=vars(model.config))
    if sampling is not model and run.state is not None:
        restore_weights(sampling, full_weights(model))
    lessons, records = Lessons(run, args, wrapped, model, teacher), None
    if rollouts:
        rollouts.begin(sampling, run.step)
        records = Records(run, rollouts, over_batch=None)

    while run.going():
        on_policy, record = in_share(run.step, args.on_policy), {}
        if on_policy:
            found = rollouts.collect(sampling, run.step)                      # P x G completions
            if found is None:
                run.say("the run must stop while it waits for rollouts (Ctrl-C, or another rank died)")
                break
            minibatch = lessons.of_rollouts(found.groups)                     # packed (B, T), and what the teacher reads
        else:
            minibatch = lessons.of_given(run.next_batches())
        loss = run.backward(wrapped, minibatch.micro, lessons.loss, minibatch.divisor)
        run.update(loss)                                                      # clip, guard, step
        if sampling is not model:
            restore_weights(sampling, full_weights(model))
        if rollouts:
            rollouts.publish(sampling, run.step + 1)
        if on_policy:
            record = records.of_step(found, [minibatch])
        run.end_of_step(record | {"on_policy": on_policy}, show=("divergence",))
        if run.step % 10 == 0:
            machine.give_back_memory()
    run.finish((records.result() if records else {}) | sources.report(), show=print_results)
    if rollouts:
        rollouts.finish()
    run.close()


if __name__ == "__main__":
    main()
