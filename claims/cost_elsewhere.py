"""Claim 20a: reinforcement on one task raises it and leaves alone what was learned by heart.

One base learns three things: problems about the zoo, problems about a school, and facts about people (tasks/knowledge.py). Only
the zoo is reinforced. The school shows what happens to a task of the same kind, the facts what happens to knowledge. Beside it
stand reinforcement with a KL term, and as many steps of documents about the zoo.
"""

from claims import tiny
from claims.runner.claim import Claim, Setting, about_zero, both, positive
from claims.runner.commands import Command, make
from claims.runner.measures import Result

GAIN, KEPT = "zoo, RL - before", "facts, RL - before"
SCHOOL = {"contexts": "school"}


def facts(s: Setting, split: str = "pretrain", **options) -> str:
    """People of one split; those of another split have other names and other facts."""
    more = "".join(f",{name}={value}" for name, value in options.items())
    return f"knowledge:tiny,split={split},seed={s.seed}{more}"


def base(s: Setting) -> Command:
    words = make("tokenizer.py", "train", "--data", "world:tiny,ops=1-6,contexts=zoo+school", facts(s), facts(s, "midtrain"),
                 "--vocab-size", 1024)
    return tiny.steady(s, words, tiny.world(s, tiny.SKILLS, "pretrain", 0.4), tiny.world(s, "1-2", "pretrain", 0.3, **SCHOOL),
                       f"{facts(s)}@0.3", steps=360)


def knows(s: Setting, checkpoint: Command, seed: int | None = None) -> Command:
    """Probes of the facts that were told most often."""
    return make("evaluate.py", "--init", checkpoint, "--data", facts(s, among=8), "--limit", s.count(200), "--k", 1, 8,
                "--temperature", 1, "--rows", 256, "--max-new-tokens", 8, "--seed", s.seed if seed is None else seed, "--device",
                s.device)


def arms(s: Setting) -> dict[str, Command]:
    start, zoo = base(s), tiny.world(s, tiny.SKILLS, "midtrain")
    made = {"before": start, "RL": tiny.grpo(s, start), "RL with KL": tiny.grpo(s, start, kl=0.05),
            "documents": tiny.branch(s, start, zoo, steps=60)}
    found = {}
    for name, checkpoint in made.items():
        found |= {f"{name}, zoo": tiny.evaluate(s, checkpoint), f"{name}, facts": knows(s, checkpoint),
                  f"{name}, school": tiny.evaluate(s, checkpoint, "1-2", **SCHOOL)}
    others = tiny.branch(s, start, facts(s, "midtrain"), steps=60)
    return found | {"before, facts again": knows(s, start, s.seed + 1000), "other facts, facts": knows(s, others)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    found = {GAIN: rate["RL, zoo"] - rate["before, zoo"], KEPT: rate["RL, facts"] - rate["before, facts"]}
    for name in ("RL", "RL with KL", "documents"):
        for what in ("zoo", "school", "facts"):
            found[f"{what}, {name} - before"] = rate[f"{name}, {what}"] - rate[f"before, {what}"]
    return found | {"facts, measured again": rate["before, facts again"] - rate["before, facts"],
                    "facts that other facts replace": rate["before, facts"] - rate["other facts, facts"]}


CLAIM = Claim(
    number="20a", says="Reinforcement on one task raises it and leaves knowledge as it was.",
    source="Scaling behaviours of RL post-training, arXiv 2509.25300 (transfer)",
    theirs="RL on mathematics: mathematics rises, code and science about 0, logic puzzles fall for large models (in words)",
    would_show="The reinforced task above 0, and facts that were told often within 0.05 of 0",
    arms=arms, statistic=statistic, headline=GAIN, also=(KEPT,), verdict=lambda n: both(positive(n[GAIN]), about_zero(n[KEPT])),
    null="facts, measured again", oracle="facts that other facts replace")
