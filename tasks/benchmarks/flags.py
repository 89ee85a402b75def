"""The flags of evaluate.py about benchmarks: which ones, where their files lie, in which templates they are asked."""

import argparse

from tasks.benchmarks.ask import TEMPLATES
from tasks.benchmarks.entries import BENCHMARKS

# when a flag has an effect (see cli.Parser)
NEEDS = (("--benchmark-data --template", lambda a: a.benchmark, "without --benchmark"),)


def names(text: str) -> list[str]:
    """The type of --benchmark: "gsm8k,math500", or "all"."""
    found = list(BENCHMARKS) if text == "all" else text.split(",")
    for name in found:
        if name not in BENCHMARKS:
            raise argparse.ArgumentTypeError(f"{name or text}: no such benchmark; use all, or some of {', '.join(BENCHMARKS)}")
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text}: names one twice")
    return found


def add_benchmark_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--benchmark", type=names, metavar="NAMES", default=[],
                        help=f"all, or with commas between: {', '.join(BENCHMARKS)}")
    parser.add_argument("--benchmark-data", metavar="FOLDER", default="",
                        help="where their files are, such as FOLDER/gsm8k/test.jsonl; hub: the Hugging Face hub; "
                             "none: $NANOTHINK_DATA, or ../shared/data")
    parser.add_argument("--template", choices=["both", *TEMPLATES], default="both",
                        help="few-shot: worked examples first, as text; rl: a user's turn that asks for a \\boxed{} answer")
