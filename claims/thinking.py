"""Documents with and without thinking, and bases trained on them, which the claims on thinking augmented pre-training share.

A raw document is a question with its bare answer: what leads from one to the other is left out, as in much of what people
write. A teacher adds it behind the document (augment.py think). All bases see as many tokens, at full weight, which takes more
of them than where questions count little. All then get the same fine-tuning, half as long, which shows the form of a chat with a
think block. It is long enough for all that they know to be seen: after half of these steps, and at half of this rate, what a
base solves depends more on the seed of its training than on its data (results/tried.jsonl).
"""

from dataclasses import replace

from claims import tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command, make

OPS = "1-2"
RAW = {"solution": 0, "q_weight": 1}
SAMPLED = ("--max-new-tokens", 60, "--rows", 256, "--temperature", 1, "--top-p", 1)           # of trained teachers: they err
HELD_OUT = f"loss:world:tiny,ops={OPS},split=test,solution=0,q_weight=1"     # what text perplexity is measured on


def words() -> Command:
    """It knows the wordings of paraphrases, and the steps."""
    return make("tokenizer.py", "train", "--data", f"world:tiny,ops={OPS}", f"world:tiny,ops={OPS},paraphrase=4",
                "--vocab-size", 512)


def raw(s: Setting, **options) -> str:
    return tiny.world(s, OPS, "pretrain", **RAW | options)


def few_raw(s: Setting, tokens: int) -> Command:
    """The first raw documents, up to so many tokens: what is there once, and must be repeated."""
    return make("data.py", "prepare", "--data", raw(s), "--tokenizer", words(), "--tokens", tokens)


def thoughts(s: Setting, teacher: str | Command, *flags) -> Command:
    """The first 6,000 documents with a teacher's thinking behind them. teacher: "oracle:..." or a checkpoint."""
    return make("augment.py", "think", "--init", teacher, "--data", tiny.world(s, OPS, "pretrain", solution=0),
                "--count", s.count(6000), "--seed", s.seed, "--device", s.device, *flags)


def with_thoughts(s: Setting, rows: Command) -> list:
    """Documents with thinking, and a tenth without, so that a document may end there."""
    return [(rows, "@0.9"), f"{raw(s)}@0.1"]


def unseen(s: Setting, count: int) -> tuple:
    """Flags for thinking about documents of the test, which no base has seen."""
    return "--data", tiny.world(s, OPS, "test", solution=0), "--count", s.count(count)


def first(s: Setting, teacher: Command, *flags) -> Command:
    """Thinking by a model that sees the question alone; it stands in front of the answer."""
    return thoughts(s, teacher, "--plain", "--prompt", "think_first_plain", "--place", "before", *SAMPLED, *flags)


def back(s: Setting, teacher: Command, *flags) -> Command:
    """Back-thinking by a model that sees question and answer; it stands behind the document, or where the flags say."""
    return thoughts(s, teacher, "--plain", "--back", *SAMPLED, *flags)


def both_ways(s: Setting) -> Command:
    """A teacher that thinks from questions and from questions with answers: it has learned from an oracle and other documents.
    It has had fewer steps than the bases, so it errs."""
    other = replace(s, seed=s.seed + 50)
    rows = [thoughts(other, oracle(), "--place", "before"), thoughts(other, oracle())]
    return base(other, *[(row, "@0.5") for row in rows], steps=360)


def spoiled(s: Setting, rows: Command, how: str, *flags) -> Command:
    """The rows with their thinking swapped, blanked or shuffled; a blank has one token for each word."""
    own = {"blank": ("--filler", "the"), "keep": ()}.get(how, ("--seed", s.seed))
    return make("augment.py", "corrupt", "--how", how, "--data", rows, *own, *flags)


def oracle(errors: float = 0.0) -> str:
    """A teacher that knows the steps, each of which is wrong with that chance."""
    return "oracle:solution=1" + (f",errors={errors}" if errors else "")


def base(s: Setting, *data, **flags) -> Command:
    """A base of any documents; its loss on raw ones that it has not seen is measured at the end."""
    return tiny.base(s, words(), *data, **{"eval_data": HELD_OUT, "steps": 600} | flags)


def tuned(s: Setting, start: Command) -> Command:
    """A quarter of the conversations are answered without thinking."""
    return tiny.sft(s, start, tiny.world(s, OPS, "sft"), steps=300, lr=0.02, adam_lr=0.004, no_think=0.25)


def reads(s: Setting, start: Command, *files: Command) -> Command:
    """How well a base predicts the texts of files."""
    return make("evaluate.py", "--init", start, "--text", *files, "--device", s.device)


def solves(s: Setting, start: Command) -> Command:
    """After fine-tuning, with thinking."""
    return tiny.evaluate(s, tuned(s, start), OPS, chat=True, suffix=" /think")


def measured(s: Setting, starts: dict[str, Command]) -> dict[str, Command]:
    """{name: solves after fine-tuning, "name, no thinking": answers at once, "name, loss": of the base on raw documents}."""
    found = {}
    for name, start in starts.items():
        bare = tiny.evaluate(s, tuned(s, start), OPS, chat=True, suffix=" /no_think")
        found |= {name: solves(s, start), f"{name}, no thinking": bare, f"{name}, loss": start}
    return found
