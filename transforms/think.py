r"""Writes the thinking behind a document: thinking augmented pre-training (TPT, arXiv 2509.20186).

A teacher reads a document and thinks about it. The row for pretrain.py is the document with this thinking behind it, in think
marks, so that what is hard to predict is spelled out beside it:

    {"text": "The document.\n<think>\nThe thinking.\n</think>"}

    python augment.py think --init smollm2/ --whole --data corpus.txt --count 100 --out thought.jsonl
    python augment.py think --init oracle:style=long --data world:ops=1-3,split=pretrain --count 1000 --out thought.jsonl
    python augment.py think --init runs/base --plain --data world:ops=1-3,split=pretrain --count 100 --out thought.jsonl

The teacher is asked in a chat, where it is made to open a think block and stops at the end of it (TPT never samples the answer
behind it); one that has no such block gives its whole reply (--whole). A base model (--plain) is given a row up to its think
mark and goes on: train it on rows that another teacher has made, an oracle for example. Variants of the paper: the teacher
thinks at a random point of the document (--focus), or sees a question with its answer and not the solution (--back).

Thinking longer than --max-new-tokens is cut there, at the end of a line, and kept (--drop-cut drops it). Dropped is thinking
that is empty, talks about the request, repeats itself, or has no words in common with the document. On the world it is checked
step by step: "verified" is the share whose steps are right, and "rationalised" the share that comes to the right answer by
steps that are not.
"""

import random
from argparse import Namespace
from collections import Counter

from formats.chat import END_THINK, THINK
from tasks.task import Problem, Reply
from tasks.verify import LINE
from training import cli
from transforms import Ask, Item
from transforms.parts import filters, prompts, turns

TAKES = "documents"
MARK = "[READING HERE]"


def flags(parser: cli.Parser) -> None:
    prompts.add_flag(parser, "its places are {document} and, of a problem, {question}, {solution}, {answer}; empty: the one that "
                             "fits, of transforms/prompts")
    parser.add_argument("--focus", action="store_true", help=f"think at a random point of the document, marked {MARK}")
    parser.add_argument("--back", action="store_true", help="the teacher sees question and answer, and not the solution")
    parser.add_argument("--whole", action="store_true", help="the whole reply is the thinking, not a think block in it")
    parser.add_argument("--place", default="after", choices=["after", "before"],
                        help="where the thinking stands: after the document, or before the answer to its question")
    parser.add_argument("--drop-cut", action="store_true", help="drop what is longer than --max-new-tokens, and do not cut it")
    parser.add_argument("--verified", action="store_true", help="keep only thinking whose steps verify (on the world)")
    parser.add_argument("--most-repeated", type=cli.fraction, default=0.4,
                        help="share of 6-grams of words that stand there before")
    parser.add_argument("--least-overlap", type=cli.fraction, default=0.15, help="share of words in common with the document")
    parser.set_defaults(temperature=0.6, top_p=0.9, max_new_tokens=2000)
    parser.needs += (("--whole", lambda a: not a.plain, "with --plain, where the reply is what stands before </think>"),)


def check(args: Namespace) -> None:
    if args.focus and args.back:
        raise ValueError("--focus and --back are two ways to ask; give one of them")
    args.prompt = args.prompt or "think" + "_focus" * args.focus + "_back" * args.back + "_plain" * args.plain
    prompts.read(args.prompt)                             # one that is not there is refused here


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    if item.problem is None and (args.back or args.place == "before" or args.verified):
        raise ValueError(f"{item.source}: --back, --place before and --verified need questions with answers, and this is text")
    places = {"document": marked(item.text, rng) if args.focus else item.text}
    if item.problem is not None:
        places |= {"question": item.problem.question, "solution": item.problem.solution, "answer": item.problem.answer}
    prompt = prompts.fill(args.prompt, **places)
    if args.plain:
        return [Ask(prompt, stop=(END_THINK,), oracle="thinking")]
    return [Ask([{"role": "user", "content": prompt}], stop=(END_THINK,), think=None if args.whole else True, oracle="thinking")]


def marked(text: str, rng: random.Random) -> str:
    """The text with the mark behind one of its words."""
    words = text.split(" ")
    at = rng.randrange(len(words)) + 1
    return " ".join([*words[:at], MARK, *words[at:]])


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    [[reply]] = answers
    thought = thought_of(reply)
    if reason := fault(item, reply, thought, args):
        return [], Counter({reason: 1})
    block = f"{THINK}\n{thought}\n{END_THINK}"
    if args.place == "before":
        rest = item.text.removeprefix(item.problem.question).lstrip("\n")
        text = f"{item.problem.question}\n{block}\n{rest}"
    else:
        text = f"{item.text}\n{block}"
    return [{"text": text, "meta": {"thought": judge(item.problem, thought)}}], Counter()


def thought_of(reply: Reply) -> str:
    """The thinking in a reply: without the mark that opens it, and cut at the end of a line where the reply was cut off."""
    text = reply.text.removeprefix(THINK)
    if reply.finish == "length" and "\n" in text.strip():
        text = text.rpartition("\n")[0]
    return text.strip()


def fault(item: Item, reply: Reply, thought: str, args: Namespace) -> str:
    """Why this thinking is dropped; "" if it is kept."""
    if not thought:
        return "empty"
    if THINK in thought:
        return "mark_out_of_place"
    if args.drop_cut and reply.finish == "length":
        return "cut_off"
    if filters.about_the_request(thought, item.text, prompts.read(args.prompt)):
        return "about_the_request"
    if filters.repeated_share(thought) > args.most_repeated:
        return "repetitive"
    if filters.overlap(thought, item.text) < args.least_overlap:
        return "unrelated"
    return "not_verified" if args.verified and judge(item.problem, thought) != "verified" else ""


def judge(problem: Problem | None, thought: str) -> str | None:
    """"verified": every step is right; "rationalised": the answer is right and a step is not; "wrong"; None where nothing checks
    the steps."""
    if problem is None or not problem.task.has_steps:
        return None
    answered = Reply(f"{thought}\nAnswer: {problem.answer}")
    if problem.task.grade(problem, answered).process_ok:
        return "verified"
    return "rationalised" if conclusion(problem, thought) == problem.answer else "wrong"


def conclusion(problem: Problem, thought: str) -> str | None:
    """The answer to which a thought comes: the one that it marks as such, else the result of its last step. None without one."""
    said = problem.task.answer_in(thought)
    steps = LINE.findall(thought)
    return said if said is not None or not steps else steps[-1][-1]


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    [[reply]] = answers
    judged = judge(item.problem, thought_of(reply))
    return Counter({"thoughts": 1, "cut": reply.finish == "length"} | ({judged: 1, "judged": 1} if judged else {}))


def summary(counts: Counter, args: Namespace) -> dict:
    found = {"cut": counts["cut"]}
    if counts["judged"]:
        found |= {what: turns.rate(counts[what], counts["judged"]) for what in ("verified", "rationalised", "wrong")}
    return found
