r"""Data made by models: preference pairs, verified answers, a teacher's answers, and whatever else transforms/ holds.

    augment.py TRANSFORM ...                a file of transforms/: --help lists them, TRANSFORM --help shows its flags
    augment.py my_transform.py:Shout ...    one of your own (transforms/__init__.py says what it is)

Pairs without a judge (delta learning, arXiv 2507.06187): to each question one answer of a stronger checkpoint, chosen,
and one of a weaker, rejected. What teaches is the difference between the two, so both may be worse than the student:
    python augment.py pairs --strong runs/sft --weak runs/base --weak-plain --data world:ops=4-6,split=sft \
        --count 400 --out pairs.jsonl
    python augment.py pairs --strong smollm2/ --weak runs/sft --data gsm8k/train.jsonl --count 1000 --out pairs.jsonl
Rejection sampling (RFT, arXiv 2308.01825): several answers to each question, of which the verified ones are kept:
    python augment.py reject --init runs/sft --data world:ops=4-6,split=sft --count 400 --samples 8 --out kept.jsonl
A teacher's answers as they come, without a filter:
    python augment.py distill --init smollm2/ --data gsm8k/train.jsonl --count 1000 --out taught.jsonl
What files are like, in numbers: diversity, complexity, accuracy, share with reasoning:
    python augment.py measure gsm8k/train.jsonl world:ops=1-3,split=sft

On a GPU add --device cuda --dtype bfloat16 --rows 512 --chunk 4096. On eight, run eight processes, each with another --seed and
--out, and for a world with another seed= in its SPEC.

A teacher is any checkpoint folder, ours or Hugging Face's, asked in a chat or, with --plain, in plain text (for one that never
learned the chat format); or on the world an oracle, which costs nothing and is as good as you say: --init oracle:errors=0.2
(transforms/parts/oracle.py).

The way of an item: its source yields it (transforms/parts/items.py), the transform says what to ask, the teachers answer in
bulk (transforms/parts/teachers.py), the transform says which rows to keep, and these are appended to --out
(transforms/parts/output.py).
That happens chunk by chunk: a run that was killed goes on with the same command and --resume, and the file is the same as if it
had not been. Each row says under "meta" where it comes from. FILE.ledger.json beside it has what the teachers cost, in tokens
and FLOPs, and what was kept and dropped, and why.

Simpler than it could be: one process; a chunk is sampled to its end before the next one begins, so rows of the decode are empty
while its longest answers are drawn.
"""

import itertools
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator

from engine.draws import sampling_flags
from formats import plugins
from sources.fingerprint import fingerprint, parts_of
from tasks.problems import add_task_flag, join_tasks
from training import cli
from training.ledger import summary
from transforms import Item, Transform, find, names
from transforms.parts import corpus, prompts
from transforms.parts.items import open_items, pieces_of
from transforms.parts.output import Output
from transforms.parts.teachers import ask_all, open_teacher, rng_of

ROUNDS = 10_000                                           # of ask_again; more have no end
MAY_DIFFER = {"resume", "out", "command"}                 # flags of a resumed run that do not change what is written


def flags() -> cli.Parser:
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.Parser)
    own = [word for word in sys.argv[1:2] if plugins.is_plugin(word)]
    for name in [*names(), *own]:
        with cli.bad_input():
            transform = find(name)
        p = commands.add_parser(name, text=transform.about, help=transform.about.split(". ")[0],
                                needs=NEEDS if transform.teachers else ())
        common_flags(p, transform)
        with cli.bad_input():
            transform.flags(p)
    corpus.flags(commands.add_parser("measure", text=corpus.__doc__, help=corpus.__doc__.split("\n\n")[0].partition(": ")[2],
                                     needs=corpus.NEEDS))
    return parser


def common_flags(p: cli.Parser, transform: Transform) -> None:
    """The flags that all transforms have, in the order of --help."""
    for side in transform.teachers:
        p.add_argument(f"--{side}", metavar="TEACHER", required=side not in transform.optional, default="",
                       help="checkpoint, ours or Hugging Face's, or oracle:... (an oracle samples nothing, so it does not read "
                       "the flags of sampling)")
        p.add_argument("--plain" if side == "init" else f"--{side}-plain", action="store_true",
                       help="ask it in plain text: it never learned the chat format")
    if transform.takes != "nothing":
        p.add_argument("--data", metavar="SPEC", nargs="+", default=[], help="questions: world:... or files"
                       if transform.takes == "problems" else "documents: files of text or of questions, or world:...")
        add_task_flag(p)
        p.add_argument("--count", type=cli.non_negative_int, default=0,
                       help=f"{transform.takes} from each source (of a long document its pieces count); 0: all of a file"
                       if transform.takes == "documents" else "problems from each source; 0: all of a file")
    else:
        p.add_argument("--count", type=cli.positive_int, required=True, help="how many to write")
    if transform.takes == "documents" and transform.teachers:
        p.add_argument("--document-tokens", type=cli.positive_int, default=2000,
                       help="a document longer than this is cut into pieces, at the ends of lines where that is possible")
    p.add_argument("--out", type=cli.out_file, metavar="FILE", required=True, help=".jsonl to write; must not exist")
    p.add_argument("--resume", action="store_true", help="go on with --out, if it is there")
    p.add_argument("--chunk", type=cli.positive_int, default=256, help="items that are sampled together, then written")
    if not transform.teachers:                            # nothing is sampled
        p.add_argument("--seed", type=cli.seed, default=0, help="of what is drawn at random")
        return
    p.add_argument("--max-new-tokens", type=cli.positive_int, default=400, help="tokens of an answer")
    sampling_flags(p, 0.7)
    p.add_argument("--rows", type=cli.positive_int, default=64, help="completions that decode at once")
    p.add_argument("--device", type=cli.device, default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and cache")


# when a flag has an effect (see cli.Parser)
NEEDS = (("--top-p --top-k", lambda a: a.temperature, "with --temperature 0"),)


def make(transform: Transform, items: list[Item], teachers: dict, args: Namespace) -> tuple[list[dict], Counter, Counter, dict]:
    """What a chunk of items becomes: (rows, reasons why answers were dropped, what was counted, what each teacher cost)."""
    rngs = [rng_of(args.seed, item, transform.name) for item in items]
    with cli.bad_input():
        asks = [transform.ask(item, args, rng) for item, rng in zip(items, rngs)]
    answers, costs = ask_all(teachers, list(zip(items, asks)))
    for round in itertools.count(1):
        with cli.bad_input():
            again = [transform.ask_again(item, found, args, rng) for item, found, rng in zip(items, answers, rngs)]
            if round > ROUNDS:
                raise ValueError(f"{transform.name}: ask_again still asks after {ROUNDS:,} rounds; see that it comes to give []")
        if not any(again):
            break
        more, more_costs = ask_all(teachers, list(zip(items, again)), round)
        answers = [before + new for before, new in zip(answers, more)]
        costs = {side: costs[side] + more_costs[side] for side in costs}
    rows, dropped, counts = [], Counter(), Counter()
    with cli.bad_input():                                 # a user's task or transform may fail here
        for item, found in zip(items, answers):
            kept, reasons = transform.keep(item, found, args)
            rows += [with_meta(row, transform, item, found, args) for row in kept]
            dropped += reasons
            counts += transform.tally(item, found, args)
    return rows, dropped, counts, costs


def with_meta(row: dict, transform: Transform, item: Item, answers: list, args: Namespace) -> dict:
    """The row, with where it comes from under "meta"."""
    sides = transform.given(args)
    teacher = {"teacher": sides if len(sides) > 1 else sides[transform.teachers[0]]} if sides else {}
    meta = {"transform": transform.name, **teacher, "seed": args.seed, "item": item.number}
    if item.source:
        meta |= {"source": item.source, "index": item.index}
    if hasattr(args, "prompt"):
        meta["prompt"] = prompts.fingerprint(args.prompt)
    meta["tokens"] = sum(reply.tokens for replies in answers for reply in replies)
    return row | {"meta": meta | row.get("meta", {})}


def open_output(transform: Transform, args: Namespace) -> Output:
    """The output, in which nothing is written yet."""
    settings = {name: value for name, value in vars(args).items() if name not in MAY_DIFFER}
    files = (getattr(args, flag) for flag in transform.files)
    files = [name for value in files for name in ([value] if isinstance(value, str) else value)]
    named = [*transform.given(args).values(), *files, *getattr(args, "data", []), *[transform.name] * transform.is_plugin]
    inputs = {name: fingerprint(name) for spec in named if spec and not spec.startswith("oracle:") for name in parts_of(spec)}
    if hasattr(args, "prompt"):
        inputs[f"--prompt {args.prompt}"] = prompts.fingerprint(args.prompt)
    output = Output(args.out, settings, inputs, args.resume)
    if not output.done:                                   # what teachers and data have cost before
        for teacher in transform.given(args).values():
            if not teacher.startswith("oracle:"):
                output.cost.inherit(teacher, checkpoint=True)
        for name in itertools.chain.from_iterable(map(parts_of, getattr(args, "data", []))):
            output.cost.inherit(name)
    return output


def report(transform: Transform, output: Output, args: Namespace) -> None:
    """What the run found: on standard error what to beware of, then the last line, and the ledger."""
    what = "items" if transform.takes == "nothing" else transform.takes
    with cli.bad_input():
        found = transform.summary(output.counts + output.dropped, args)
        found = {"out": args.out, what: output.done, "written": output.rows} | found | {"dropped": dict(output.dropped)}
        found["flops"] = summary(output.cost.found())
        warning = transform.warning(found)
        output.finish(found)
    if not output.rows and transform.teachers:
        warning = (f"nothing was kept, {args.out} is empty; raise --max-new-tokens or --samples, or take easier questions or a "
                   "better checkpoint")
    if warning:
        print(f"augment.py: {warning}", file=sys.stderr)
    cli.finish(found)


def main() -> None:
    args = flags().parse_args()
    if args.command == "measure":
        corpus.main(args)
        return
    with cli.bad_input():
        transform, teachers = find(args.command), {}
        if transform.takes != "nothing":
            join_tasks(args)
        transform.check(args)
        output = open_output(transform, args)

        def cut(text):
            if not teachers:
                return [text]
            return pieces_of(text, teachers[transform.teachers[0]].length, args.document_tokens)
        items = open_items(transform.takes, args, cut)
        teachers |= {side: open_teacher(side, args) for side in transform.given(args)}
        items = itertools.islice(items, output.done, None)
    try:
        while chunk := next_chunk(items, args.chunk):
            output.write(len(chunk), *make(transform, chunk, teachers, args))
    except KeyboardInterrupt:
        print(f"augment.py: stopped after {output.done} items; the same command with --resume goes on", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as e:
        cli.fail(f"{args.out}: {e.strerror or e}; {output.done} items are done, and the same command with --resume goes on")
    report(transform, output, args)


def next_chunk(items: Iterator[Item], size: int) -> list[Item]:
    with cli.bad_input():                                 # a row of a file may be wrong
        return list(itertools.islice(items, size))


if __name__ == "__main__":
    main()
