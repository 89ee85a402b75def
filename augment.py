r"""Data made by models: preference pairs, rejection sampling, and a teacher's answers.

Pairs without a judge (delta learning, arXiv 2507.06187): to each question one answer of a stronger checkpoint, chosen,
and one of a weaker, rejected. What teaches is the difference between the two, so both may be worse than the student:
    python augment.py pairs --strong runs/sft --weak runs/base --weak-plain --data world:ops=4-6,split=sft \
        --count 400 --out pairs.jsonl
    python augment.py pairs --strong smollm2/ --weak runs/sft --data gsm8k/train.jsonl --count 1000 --out pairs.jsonl
Rejection sampling (RFT, arXiv 2308.01825): several answers to each question, of which the verified ones are kept:
    python augment.py reject --init runs/sft --data world:ops=4-6,split=sft --count 400 --samples 8 --out kept.jsonl
A teacher's answers as they come, without a filter:
    python augment.py distill --init smollm2/ --data gsm8k/train.jsonl --count 1000 --out taught.jsonl

On a GPU add --device cuda --dtype bfloat16 --rows 512. On eight, run eight processes, each with another --seed and
--out, and for a world with another seed= in its SPEC.

Questions come from world:..., GSM8K- or MATH-style files, or any file of questions and answers. `pairs` writes rows for
dpo.py, {"prompt", "chosen", "rejected"}; the others write conversations for sft.py, {"messages": [...]}. Answers that
were cut off at --max-new-tokens, are empty or have a thinking mark out of place are dropped and counted, so are pairs of
equal answers, and repeated ones.

A checkpoint that never learned the chat format is asked in plain text (--plain; --weak-plain, --strong-plain). Its last
line then is the answer and what stands before it the reasoning, so that the two sides of a pair differ in what they say
and not in how it is laid out.

Simpler than the papers: one process, nothing is written before everything is sampled; RFT tells answers apart by their
equations, here only equal texts are the same.
"""

import random
import sys
from pathlib import Path

import torch

from formats.chat import END_THINK, THINK, split_thinking
from formats.huggingface import write_atomically
from model import load_both
from sampler import Sampler
from tasks.accuracy import interval
from tasks.problems import add_task_flag, join_tasks, open_task, problems_of
from tasks.task import SWITCHES, Problem, Reply
from training import cli


def flags():
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.Parser)
    for name, text in (("pairs", "Preference pairs from a stronger and a weaker checkpoint."),
                       ("reject", "Sample several answers to each question and keep the verified ones."),
                       ("distill", "A teacher's answers, unfiltered.")):
        p = commands.add_parser(name, text=text, needs=NEEDS)
        for side in ("strong", "weak") if name == "pairs" else ("init",):
            plain = "--plain" if side == "init" else f"--{side}-plain"
            p.add_argument(f"--{side}", metavar="FOLDER", required=True, help="checkpoint, ours or Hugging Face's")
            p.add_argument(plain, action="store_true", help="put the questions in plain text: it never learned the chat format")
        p.add_argument("--data", metavar="SPEC", nargs="+", default=[], help="questions: world:... or files")
        add_task_flag(p)
        p.add_argument("--count", type=cli.non_negative_int, default=0, help="questions from each source; 0: all of a file")
        p.add_argument("--out", type=cli.out_file, metavar="FILE", required=True, help=".jsonl to write; must not exist")
        if name != "pairs":
            p.add_argument("--samples", type=cli.positive_int, default=8 if name == "reject" else 1,
                           help="answers to each question")
        if name == "reject":
            p.add_argument("--keep", type=cli.non_negative_int, default=0, help="most answers kept to one question; 0: all")
        p.add_argument("--mode", default="", choices=["" if mode == "chat" else mode for mode in SWITCHES],
                       help="flag behind the questions (dual-mode models)")
        p.add_argument("--max-new-tokens", type=cli.positive_int, default=400, help="tokens of an answer")
        p.add_argument("--temperature", type=cli.not_negative, default=0.7, help="0: always the most likely token")
        p.add_argument("--top-p", type=cli.positive_fraction, default=1.0, help="probability mass to draw from")
        p.add_argument("--top-k", type=cli.non_negative_int, default=0, help="tokens to draw from; 0: all")
        p.add_argument("--rows", type=cli.positive_int, default=64, help="completions that decode at once")
        p.add_argument("--seed", type=cli.seed, default=0, help="of the draws")
        p.add_argument("--device", type=cli.device, default="cpu", help="cpu or cuda")
        p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and cache")
    return parser


# when a flag has an effect (see cli.Parser)
NEEDS = (
    ("--top-p --top-k", lambda a: a.temperature, "with --temperature 0"),
    ("--samples", lambda a: a.temperature or a.samples == 1, "with --temperature 0, where all answers are the same"),
)


def turns_before(problem: Problem, mode: str) -> list[dict]:
    """The messages that put a problem in a chat."""
    return problem.task.prompt(problem, mode or "chat")


def turn_of(text: str, plain: bool) -> tuple[str | None, str]:
    """(reasoning or None, answer) of a completion's text; of plain text the last line is the answer."""
    if plain:
        reasoning, _, answer = text.strip().rpartition("\n")
        return reasoning.strip(), answer.strip()
    reasoning, answer = split_thinking(text)
    return reasoning, answer.strip()


def text_of(reasoning: str | None, answer: str) -> str:
    """The inverse of split_thinking: an assistant's text with its think block, if there is one."""
    return answer if reasoning is None else f"{THINK}\n{reasoning}\n{END_THINK}\n\n{answer}"


def open_checkpoint(side, args):
    """(model, tokenizer, whether questions are put in plain text, name) of --init, --strong or --weak."""
    folder, plain = getattr(args, side), getattr(args, "plain" if side == "init" else f"{side}_plain")
    model, tokenizer = load_both(folder, args.device, getattr(torch, args.dtype))
    if not plain:
        tokenizer.encode_chat([])                         # refused here where the tokenizer lacks ChatML's tokens
    return model, tokenizer, plain, folder


def sample(checkpoint, problems, args, n=1):
    """n answers to each problem: a list, for each problem, of n (reasoning, answer, right), None for one that was cut
    off, is empty or has a thinking mark out of place. `right` is the verdict on the answer and, in the world, on every step."""
    model, tokenizer, plain, name = checkpoint
    if plain:
        prompts = [tokenizer.encode_document(p.task.prompt(p, "plain")) for p in problems]
    else:
        prompts = [tokenizer.chat_prompt(turns_before(p, args.mode)) for p in problems]
    with cli.bad_input():
        drawn = Sampler(model, tokenizer, args.rows).generate(
            prompts, n, args.max_new_tokens, args.temperature, args.top_p, args.top_k, args.seed, progress=name)

    def read(problem, completion):
        reply = Reply.of(completion, tokenizer, args.max_new_tokens)
        reasoning, answer = turn_of(reply.text, plain)
        # a thinking mark elsewhere than in one block at the head: sft.py and dpo.py could not see what was thought
        stray = any(mark in part for mark in (THINK, END_THINK) for part in (reasoning or "", answer))
        if completion.finish == "length" or not answer or stray:
            return None
        if args.mode == "no_think" and not plain:
            reasoning = ""
        return reasoning, answer, bool(problem.task.grade(problem, reply).right)

    with cli.bad_input():                                 # a user's task may fail at grading
        return [[read(p, c) for c in completions] for p, completions in zip(problems, drawn)]


def rate(right):
    """Share of right answers with its 95% bootstrap interval, or None where there are none."""
    return interval(right) if right else None


def make_pairs(problems, strong, weak, args):
    """Rows for dpo.py, and what to report."""
    strong, weak = sample(strong, problems, args), sample(weak, problems, args)
    rows, unusable, equal = [], 0, 0
    for problem, [chosen], [rejected] in zip(problems, strong, weak):
        if chosen is None or rejected is None:
            unusable += 1
        elif chosen[:2] == rejected[:2]:
            equal += 1
        else:
            before = turns_before(problem, args.mode)
            prompt = before[0]["content"] if len(before) == 1 else before         # dpo.py reads both forms
            rows.append({"prompt": prompt, "chosen": text_of(*chosen[:2]),
                         "rejected": text_of(*rejected[:2]), "chosen_right": chosen[2], "rejected_right": rejected[2]})
    # the premise of delta learning: on average the chosen side is better
    found = {"cut_off_or_empty": unusable, "equal": equal,
             "strong_verified": rate([bool(c and c[2]) for [c] in strong]),
             "weak_verified": rate([bool(c and c[2]) for [c] in weak]),
             "chosen_verified": rate([r["chosen_right"] for r in rows]),
             "rejected_verified": rate([r["rejected_right"] for r in rows])}
    return rows, found


def make_conversations(problems, checkpoint, args):
    """Rows for sft.py, and what to report: of each problem all different answers, or the right ones (reject)."""
    rows, unusable, repeated, solved, right = [], 0, 0, 0, []
    for problem, answers in zip(problems, sample(checkpoint, problems, args, args.samples)):
        usable = [a for a in answers if a is not None]
        unusable += len(answers) - len(usable)
        right += [bool(a and a[2]) for a in answers]
        solved += any(a[2] for a in usable)
        wanted = [a for a in usable if a[2]] if args.command == "reject" else usable
        different = list(dict.fromkeys(wanted))
        repeated += len(wanted) - len(different)
        for reasoning, answer, _ in different[:getattr(args, "keep", 0) or None]:
            turn = {"role": "assistant", "content": answer} | ({} if reasoning is None else {"reasoning": reasoning})
            rows.append({"messages": [*turns_before(problem, args.mode), turn]})
    return rows, {"cut_off_or_empty": unusable, "repeated": repeated, "verified": rate(right),
                  "problems_solved": round(solved / len(problems), 4)}


def main():
    args = flags().parse_args()
    with cli.bad_input():
        if Path(args.out).exists():
            raise ValueError(f"--out {args.out}: exists already; remove it or choose another file")
        join_tasks(args)
        tasks = [open_task(spec) for spec in args.data]
        if not args.count and any(task.count is None for task in tasks):
            raise ValueError("--count is needed with a world, or another task that never ends")
        problems = [p for task in tasks for p in problems_of(task, args.count or None)]
        checkpoints = [open_checkpoint(side, args) for side in ("strong", "weak", "init") if hasattr(args, side)]
        plain = [plain for _, _, plain, _ in checkpoints]
        if args.mode and (all(plain) or (any(plain) and args.mode == "no_think")):
            raise ValueError(f"--mode {args.mode}: plain text has no modes; leave it out")
    rows, found = (make_pairs if args.command == "pairs" else make_conversations)(problems, *checkpoints, args)
    if not rows:
        print(f"augment.py: nothing was kept, {args.out} is empty; raise --max-new-tokens or --samples, or take easier "
              "questions or a better checkpoint", file=sys.stderr)
    elif args.command == "pairs" and found["chosen_verified"][0] <= found["rejected_verified"][0]:
        print("augment.py: the chosen answers are right no more often than the rejected ones, and delta learning lives "
              "on that difference; take a stronger --strong or a weaker --weak", file=sys.stderr)
    random.Random(args.seed).shuffle(rows)
    with cli.bad_input():
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.out, lambda path: path.write_text("".join(cli.to_json(row) + "\n" for row in rows)))
    cli.finish({"out": args.out, "problems": len(problems), "written": len(rows)} | found)


if __name__ == "__main__":
    main()
