"""Claim 14b: with a calculator reinforcement raises accuracy on large numbers, and needless calls fall."""

from claims import tiny
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

OPS = "1-2"
LARGE = {"given": 99, "max_value": 999}                    # facts of two digits, results of three
CALLS = {"calls": 4}                                       # in a reply, at most
GAIN, FALL = "gain by RL, with a calculator", "needless calls that RL takes away"


def start(s: Setting, **options) -> Command:
    """A base of plain documents, fine-tuned on chats. With calls, three in ten of them are made twice: a habit without use."""
    words = tiny.tokenizer(**LARGE, **CALLS)
    base = tiny.base(s, words, tiny.world(s, "1-2", "pretrain", 0.9, **LARGE), tiny.world(s, "3", "pretrain", 0.1, **LARGE))
    return tiny.sft(s, base, tiny.world(s, OPS, "sft", **LARGE, **options), steps=300, lr=0.02, adam_lr=0.004)


def reinforced(s: Setting, init: Command, options: dict, **flags) -> Command:
    """As many steps with a calculator as without; in a right solution a needless call costs a tenth of what it earns."""
    usual = {"data": tiny.world(s, OPS, "rl", **LARGE, **options), "mode": "chat", "reward": "strict+thrift:-0.1",
             "prompts": 16, "max_new_tokens": 160}
    return tiny.grpo(s, init, **usual | flags)


def arms(s: Setting) -> dict[str, Command]:
    """Before and after the same reinforcement, with a calculator and without one; where needless calls of wrong solutions cost as
    much, too; and where none does. The null arm: with other draws."""
    found, starts = {}, {"calculator": (start(s, **CALLS, needless=0.3), CALLS), "none": (start(s), {})}
    for name, (init, options) in starts.items():
        found[name] = measured(s, init, options)
        found[f"{name}, RL"] = measured(s, reinforced(s, init, options), options)
    init, options = starts["calculator"]
    for name, flags in {"RL again": {"seed": s.seed + 100}, "RL, wrong ones pay too": {"reward": "strict+needless:-0.1"},
                        "RL, none pays": {"reward": "strict"}}.items():
        found[f"calculator, {name}"] = measured(s, reinforced(s, init, options, **flags), options)
    return found


def measured(s: Setting, init: Command, options: dict) -> Command:
    return tiny.evaluate(s, init, OPS, chat=True, **LARGE, **options)


def statistic(r: dict[str, Result]) -> dict[str, float]:
    return {GAIN: r["calculator, RL"].rate() - r["calculator"].rate(),
            FALL: r["calculator"].mean("needless") - r["calculator, RL"].mean("needless"),
            "gain by RL, wrong ones pay too": r["calculator, RL, wrong ones pay too"].rate() - r["calculator"].rate(),
            "gain by RL, none pays": r["calculator, RL, none pays"].rate() - r["calculator"].rate(),
            "needless calls that RL takes away, none pays": (r["calculator"].mean("needless")
                                                             - r["calculator, RL, none pays"].mean("needless")),
            "gain by RL, without": r["none, RL"].rate() - r["none"].rate(),
            "RL with other draws": r["calculator, RL again"].rate() - r["calculator, RL"].rate(),
            "after RL, with - without": r["calculator, RL"].rate() - r["none, RL"].rate()}


CLAIM = Claim(
    number="14b", says="With a calculator RL raises accuracy on large numbers and makes fewer needless calls.",
    source="ToRL, arXiv 2503.23383; OTC, arXiv 2504.14870",
    theirs="ToRL, 7B: AIME24 43.3 after RL with code, 14 points above RL without; OTC: up to 73.1% fewer calls at equal accuracy",
    would_show="Both above 0: after RL more solutions are right than before, with fewer needless calls in a reply",
    arms=arms, statistic=statistic, headline=GAIN, also=(FALL,), verdict=lambda n: both(positive(n[GAIN]), positive(n[FALL])),
    null="RL with other draws", oracle="after RL, with - without")
