"""A teacher's answers, unfiltered.

Rows are conversations for sft.py, {"messages": [...]}. Dropped are answers that were cut off at --max-new-tokens, are empty or
have a thinking mark out of place, and of equal answers to one question all but the first.
"""

from training import cli
from transforms.parts import turns


def flags(parser):
    turns.mode_flag(parser)
    parser.add_argument("--samples", type=cli.positive_int, default=1, help="answers to each question")
    parser.needs += (turns.SAMPLES,)


def check(args):
    turns.check_mode(args, [args.plain])


def ask(item, args, rng):
    return [turns.ask_problem(item, args, plain=args.plain, n=args.samples)]


def keep(item, answers, args):
    return turns.different(item, answers[0], args)


def tally(item, answers, args):
    return turns.tally_right(item, answers[0], args)


def summary(counts, args):
    return turns.summary_right(counts)
