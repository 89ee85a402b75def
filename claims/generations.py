"""Bases that learn from what other bases wrote, generation after generation, which the claims on self-made data share.

The first base learns from real documents. Then, again and again, a base writes documents, and a new one learns from these alone,
from random weights and for as many steps (recipes/generations.sh). All have about as many documents, and learn every token of
them: questions at full weight, as those that are written must be. A chain is named by how its documents are begun, and which are
kept:

    self       by their context alone, the same in each generation; all are kept
    checked    as self; those whose own question is solved right are kept
    seeds      by the first facts of a problem, new ones in each generation
    answers    by whole questions, new ones in each generation
    verified   as answers; solutions that verify are kept
    ARM+real   half of each batch is the real documents of the first base
"""

from claims import tiny
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting
from claims.runner.commands import Command, make
from claims.runner.measures import Result
from tasks.accuracy import Rate

LAST, STEPS = 3, 450                 # generations; steps of training of each, enough to copy names right
OPS = "1-2"
COUNT, TOKENS, WORDS = 5000, 275_000, 150_000     # documents that a generation writes, tokens of real ones, words to measure


def world(s: Setting, **options) -> str:
    return tiny.world(s, OPS, "pretrain", **options)


def real(s: Setting, **options) -> Command:
    """As many real documents as a generation writes."""
    return make("data.py", "prepare", "--data", world(s, q_weight=1, **options), "--tokenizer", tiny.tokenizer(),
                "--tokens", s.count(TOKENS))


def first(s: Setting, seed: int | None = None, **options) -> Command:
    """A base of real documents. options: of the world, such as errors=1; seed: of its training, if it is another one."""
    return learns(s, real(s, **options), **({} if seed is None else {"seed": seed}))


def learns(s: Setting, *data, **flags) -> Command:
    return tiny.base(s, tiny.tokenizer(), *data, steps=STEPS, **flags)


def writes(s: Setting, writer: Command, arm: str, generation: int, *flags) -> Command:
    """The documents of a generation, written by a base."""
    fresh = f"world:tiny,ops={OPS},split=pretrain,seed={1000 * (s.seed + 1) + generation}"
    right = s.unless_toy(("--verified",), ("--most-repeated", 0.9))
    begun = {"self": (world(s), 1), "checked": (world(s), 1, *right), "seeds": (fresh, 2), "answers": (fresh, 0),
             "verified": (fresh, 0, *right)}
    topics, sentences, *kept = begun[arm.removesuffix("+real")]
    return make("augment.py", "synthesise", "--init", writer, "--plain", "--topics", topics, "--sentences", sentences, *kept,
                "--count", s.count(COUNT), "--temperature", 1, "--seed", s.seed + generation, "--max-new-tokens", 160,
                "--rows", 256, "--device", s.device, *flags)


def chain(s: Setting, arm: str) -> list[tuple[Command, Command]]:
    """(what was written, the base that learned from it) of each generation."""
    found, writer = [], first(s)
    for generation in range(1, LAST + 1):
        rows = writes(s, writer, arm, generation)
        mixed = [(rows, "@0.5"), (real(s), "@0.5")] if arm.endswith("+real") else [rows]
        writer = learns(s, *mixed)
        found.append((rows, writer))
    return found


def solves(s: Setting, start: Command) -> Command:
    return tiny.evaluate(s, start, OPS)


def varied(s: Setting, rows: Command) -> Command:
    """How varied what was written is, in as many words of each file."""
    return make("augment.py", "measure", rows, "--words", s.count(WORDS), output="measured.json")


def controls(s: Setting) -> dict[str, Command]:
    """The first base; another one that differs by chance; and one of documents that are all wrong."""
    return {"first": solves(s, first(s)), "first again": solves(s, first(s, seed=s.seed + 100)),
            "all wrong": solves(s, first(s, errors=1))}


def control_numbers(r: dict[str, Result]) -> dict[str, float]:
    """The null and the oracle number."""
    return {NULL: r["first again"].rate() - r["first"].rate(), ORACLE: r["first"].rate() - r["all wrong"].rate()}


NULL, ORACLE = "another seed of training", "real documents - wrong ones"


def clearly(rate: Rate, least: float = 0.01) -> str:
    """The verdict on how much more varied one file is than another: by a hundredth of all runs of words. Such a number has no
    interval within a seed."""
    return HOLDS if rate[1] > least else FAILS if rate[2] < least else OPEN
