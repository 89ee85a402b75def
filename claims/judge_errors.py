"""Claim 10: what RLPT gains falls with the errors of its judge, and a prefix reward gains more than a strict one."""

from claims import texts
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

ERRORS = (0, 5, 10, 20)                                    # percent of the verdicts
REWARDS = ("prefix", "strict")
HEAD = "lines predicted, no errors - 20% errors"


def arms(s: Setting) -> dict[str, Command]:
    """RLPT from one cold start, with judges that turn round a share of their verdicts; one is always wrong. And with both
    rewards, from a cold start that now and then says two lines: where all say one line there is no difference."""
    starts = {f"{e}% errors": texts.reinforced(s, texts.text(s, kind="rlpt", judge_errors=e / 100), "rlpt") for e in ERRORS}
    starts["0% errors, again"] = texts.reinforced(s, texts.text(s, kind="rlpt", judge_errors=0 / 100), "rlpt",
                                                  seed=s.seed + 100)
    starts["always wrong"] = texts.reinforced(s, texts.text(s, kind="rlpt", judge_errors=1), "rlpt")
    two = texts.cold(s, taught=2)
    starts |= {reward: texts.reinforced(s, texts.text(s, kind="rlpt", reward=reward), "rlpt", start=two) for reward in REWARDS}
    found = {name: texts.predicts(s, start, "prefix" if name in REWARDS else "strict")
             for name, start in (starts | {"cold start": texts.cold(s)}).items()}
    return found | {f"{name}, solves": texts.solves(s, start) for name, start in starts.items() if name != "always wrong"}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    lines = {name: result.rate() for name, result in r.items()}
    found = {HEAD: lines["0% errors"] - lines["20% errors"]}
    found |= {f"lines predicted, {e}% errors - cold start": lines[f"{e}% errors"] - lines["cold start"] for e in ERRORS}
    found |= {f"problems solved, no errors - {e}% errors": lines["0% errors, solves"] - lines[f"{e}% errors, solves"]
              for e in ERRORS[1:]}
    return found | {"lines predicted, prefix - strict": lines["prefix"] - lines["strict"],
                    "problems solved, prefix - strict": lines["prefix, solves"] - lines["strict, solves"],
                    "another seed of training": lines["0% errors, again"] - lines["0% errors"],
                    "no errors - always wrong": lines["0% errors"] - lines["always wrong"]}


CLAIM = Claim(
    number="10", says="A judge that errs costs RLPT what it gains.",
    source="a question about RLPT, arXiv 2509.19249, whose judge is not disclosed",
    theirs="not measured; a prefix reward gives a better pass@1 than a strict one (a finding in words)",
    would_show="Above 0: a judge that is always right teaches to predict more lines of unseen text than one that is wrong in a "
               "fifth of its verdicts",
    arms=arms, statistic=statistic, headline=HEAD, verdict=lambda n: positive(n[HEAD]),
    null="another seed of training", oracle="no errors - always wrong")
