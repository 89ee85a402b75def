"""Claim 7e: one percent of instruction data in mid-training unlocks reinforcement in a chat."""

from claims import midtraining, tiny
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

AFTER, SHARES = "after RL, 1% - none", (0.0, 0.01, 0.1)


def branch(s: Setting, share: float) -> Command:
    """Documents on the edge, and a share of chat turns about easy problems."""
    chats = [tiny.world(s, "1-2", "sft", share, format="chat")] if share else []
    return tiny.branch(s, midtraining.pretrained(s), *midtraining.edge(s, 1 - share), *chats)


def measured(s: Setting, start: Command) -> Command:
    return tiny.evaluate(s, start, chat=True)


def arms(s: Setting) -> dict[str, Command]:
    """Reinforcement and tests are in ChatML, which the documents do not have."""
    found, starts = {}, {f"{share:.0%}": branch(s, share) for share in SHARES}
    for name, start in starts.items():
        found |= {name: measured(s, start), f"{name}, RL": measured(s, tiny.grpo(s, start, mode="chat", max_new_tokens=64))}
    again = tiny.grpo(s, starts["10%"], mode="chat", max_new_tokens=64, seed=s.seed + 100)
    return found | {"10%, RL again": measured(s, again)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    return {AFTER: r["1%, RL"].rate() - r["0%, RL"].rate(), "after RL, 10% - 1%": r["10%, RL"].rate() - r["1%, RL"].rate(),
            "before RL, 1% - none": r["1%"].rate() - r["0%"].rate(),
            "RL with other draws": r["10%, RL again"].rate() - r["10%, RL"].rate(),
            "10%, RL - none": r["10%, RL"].rate() - r["0%"].rate()}


CLAIM = Claim(
    number="7e", says="One percent of instruction data in mid-training unlocks reinforcement in a chat format.",
    source="OctoThinker, arXiv 2506.20512 (instruction data, 1:89:10)",
    theirs="1% instruction data unlocks RL from short-CoT bases and does not save long-CoT ones (a finding in words)",
    would_show="Above 0: with 1% of chat turns the same RL reaches more than with none",
    arms=arms, statistic=statistic, headline=AFTER, verdict=lambda n: positive(n[AFTER]),
    null="RL with other draws", oracle="10%, RL - none")
