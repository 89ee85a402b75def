"""What the laws of scaling are fitted to: the scores that a run of grpo.py measured on its way, and what it had spent by then.

A run with --eval-data and --eval-every writes them into its log.jsonl:

    python grpo.py --init runs/sft --data world:ops=4-6,split=rl --out runs/grpo --mode think --reward strict --steps 60 \
        --eval-data world:ops=4-6,split=test --eval-every 5

    curve_of(records, "samples")                          the Curve of the records of such a log
    read_curve("runs/grpo", "flops")                      the same of a run folder, or of a log.jsonl
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from formats.rows import read_rows

Rate = tuple[float, float, float]                         # value, low, high: with its 95% interval
UNITS = ("samples", "flops")                              # what X may count: completions, or FLOPs of rollouts and training


@dataclass(frozen=True)
class Curve:
    """One run, on its way.

    name       its folder
    N          weights of the model
    X          (n,) what had been spent at each measurement, in one of UNITS
    loss       (n,) 1 - pass@1 at each of them, above 0: it is the mean of wrong answers, with half a problem added to the wrong
               and half to the right ones, for a loss of 0 has no logarithm
    prompts, group, steps    P and G of a step, and how many there were up to the last measurement
    response   tokens of a completion, mean over the steps
    config     the model's Config as a dict; {} where it is not known
    """
    name: str
    N: float
    X: np.ndarray
    loss: np.ndarray
    prompts: int = 1
    group: int = 1
    steps: int = 1
    response: float = 0.0
    config: dict = field(default_factory=dict)

    @property
    def score(self) -> np.ndarray:
        return 1 - self.loss

    @property
    def setting(self) -> tuple[int, int]:
        """(P, G): how a step spends its completions."""
        return self.prompts, self.group

    def per_step(self) -> float:
        """What a step has cost, in the unit of X."""
        return float(self.X[-1]) / self.steps

    def part(self, first: int = 0, last: int | None = None) -> "Curve":
        """The same run with these of its measurements alone."""
        return self.taken(np.arange(len(self.X))[first:last])

    def taken(self, which: Sequence[int]) -> "Curve":
        """The same run with measurements of these numbers (m,), which may repeat."""
        return Curve(self.name, self.N, self.X[which], self.loss[which], self.prompts, self.group, self.steps, self.response,
                     self.config)


def curve_of(records: list[dict], by: str = "flops", name: str = "") -> Curve:
    """The Curve of a log's records; X by one of UNITS. ValueError where it measured nothing, or is no log of grpo.py."""
    about = next((r for r in records if "flags" in r), {})
    flags, steps = about.get("flags", {}), [r for r in records if "reward" in r]
    if "group" not in flags or "parameters" not in about:
        raise ValueError(f"{name or 'the records'}: is no log of grpo.py")
    X, loss, measured = [], [], evaluations(records)
    for record in measured:
        count, score = accuracy_of(record["eval"], name)
        X.append(record["flops"] if by == "flops" else record["step"] * flags["prompts"] * flags["group"])
        loss.append((count * (1 - score) + 0.5) / (count + 1))
    if not X:
        raise ValueError(f"{name or 'the run'}: has measured nothing on its way; give grpo.py --eval-data and --eval-every")
    return Curve(name, about["parameters"], np.array(X, float), np.array(loss), flags["prompts"], flags["group"],
                 measured[-1]["step"], float(np.mean([r["length_mean"] for r in steps])) if steps else 0.0,
                 about.get("config", {}))


def evaluations(records: list[dict]) -> list[dict]:
    """[{"step", "eval", "flops"}] of the measurements on the way, and of the one at the end; in the order of their steps, also
    where a run that had ended went on. Where it was measured on other problems later, those that it was measured on most often
    count; and of several at one step the last."""
    found = [r for r in records if "eval" in r and "flops" in r]
    for record in records:
        if "eval" in record.get("result", {}):
            flops = record["result"]["flops"]
            found.append({"step": record["step"], "eval": record["result"]["eval"],
                          "flops": flops["total"] - flops["inherited"]})
    sets = [tuple(sorted(record["eval"])) for record in found]
    usual = max(sets, key=sets.count, default=None)
    last = {record["step"]: record for record, names in zip(found, sets) if names == usual}
    return [last[step] for step in sorted(last)]


def accuracy_of(found: dict, name: str = "") -> tuple[int, float]:
    """(problems, pass@1) of what --eval-data was measured as: of a world with every step right, of questions by their answers;
    where there are several, the mean over problems."""
    rates = []
    for result in found.values():
        if isinstance(result, list):
            rates += [(row["problems"], row["process"]["pass@1"][0]) for row in result if "ops" in row]
        elif "accuracy" in result:
            rates.append((result["problems"], result["accuracy"]["pass@1"][0]))
    count = sum(problems for problems, _ in rates)
    if not count:
        raise ValueError(f"{name or 'the run'}: --eval-data has no problems, so there is no score; give a world or questions")
    return count, sum(problems * rate for problems, rate in rates) / count


def read_curve(path: str | Path, by: str = "flops") -> Curve:
    """The Curve of a run folder, or of its log.jsonl. ValueError, in one line, where it cannot be read."""
    file = Path(path) / "log.jsonl" if Path(path).is_dir() else Path(path)
    records = [row for _, row in read_rows(file)]
    try:
        return curve_of(records, by, str(path))
    except (AttributeError, KeyError, TypeError):         # its records are not as training scripts write them
        raise ValueError(f"{file}: is no log of grpo.py; give a run folder of it") from None
