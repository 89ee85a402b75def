"""What arms found, and statistics of it with their intervals.

A statistic is a plain function of all arms' results. Its interval within a seed comes from a bootstrap over test problems: each
draw takes the same problems in every arm, so differences are paired, whatever the statistic is (a difference, a ratio, a rank
correlation). Where an arm is a command of mix.py, a draw takes its mixtures instead, the same ones at every size of the proxies;
where it is a run that measured itself on its way, these measurements.
Over seeds it is Student's t interval (`over_seeds`).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import t

from claims.runner.commands import FILES
from mixing.proxies import results as proxies_of
from scaling.points import evaluations
from tasks.accuracy import Rate, parse_band, pass_at_k

# What one list is drawn from. Of problems: world, number of operations, number of problems. Of mixtures, and of measurements on
# the way: which, 0, how many.
Stratum = tuple[str, int, int]
COUNTED = ("formed", "lengths", "needless")      # what evaluate.py counts for each problem, beside right answers


@dataclass
class Result:
    """What the last command of an arm found.

    line      the JSON of its last line; for training scripts as well as for evaluate.py
    right     {stratum: [(samples with every step right, samples) of each problem]}, of evaluate.py; tasks other than the world
              have 0 in the place of the number of operations, needles their length in tokens
    answered  the same of samples with the right answer
    formed    the same of samples that ended by themselves, in the right form
    lengths   {stratum: [(tokens of all samples, samples) of each problem]}, of worlds
    needless  {stratum: [(needless calls of tools, samples) of each problem]}, where replies may call tools
    thoughts  {stratum: [what the thinking of each document was judged as, "" where it was dropped]}, of augment.py think
    others    {file: what evaluate.py found}, of question files and texts
    records   the records of a training script's log
    sources   of mix.py: what is mixed
    mixtures  of mix.py: (n, S) shares of the sources for each proxy
    measured  of mix.py: {size: (n, M) what was found for each target, lower is better}, from small to large
    """
    line: dict
    right: dict[Stratum, list] = field(default_factory=dict)
    answered: dict[Stratum, list] = field(default_factory=dict)
    lengths: dict[Stratum, list] = field(default_factory=dict)
    needless: dict[Stratum, list] = field(default_factory=dict)
    thoughts: dict[Stratum, list] = field(default_factory=dict)
    formed: dict[Stratum, list] = field(default_factory=dict)
    others: dict[str, dict] = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    mixtures: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    measured: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[Stratum, np.ndarray] = field(default_factory=dict)          # how often a draw has each problem; {}: once
    values: dict = field(default_factory=dict)                                # pass@k of each problem, ..., computed once

    def strata(self) -> list[Stratum]:
        """What is drawn from in this arm."""
        return [*self.right, *self.thoughts, *([self.of_mixtures()] if len(self.mixtures) else []),
                *([self.of_evaluations()] if self.of_evaluations()[2] > 1 else [])]

    def of_mixtures(self) -> Stratum:
        """Two arms with the same mixtures are paired."""
        return f"mixtures {self.mixtures.tolist()}", 0, len(self.mixtures)

    def drawn_mixtures(self) -> np.ndarray:
        """The numbers of the mixtures of this draw (n,), with repetition; outside of a draw each once."""
        return self._drawn(self.of_mixtures())

    def of_evaluations(self) -> Stratum:
        """What a run has measured on its way (--eval-every) is drawn by itself: no other arm has the same measurements."""
        return f"evaluations of {self.line.get('out')}", 0, len(evaluations(self.records))

    def drawn_evaluations(self) -> np.ndarray:
        """The numbers of the measurements of this draw (n,), in order, with repetition; outside of a draw each once."""
        return self._drawn(self.of_evaluations())

    def _drawn(self, stratum):
        return np.repeat(np.arange(stratum[2]), self.weights.get(stratum, np.ones(stratum[2], int)))

    def mean(self, of: str) -> float:
        """The mean over problems of a count for each sample, such as tokens or needless calls. of: the field with (count,
        samples)."""
        total = weight = 0.0
        for stratum, counts in getattr(self, of).items():
            w = self.weights.get(stratum, np.ones(len(counts)))
            total, weight = total + float(w @ [count / n for count, n in counts]), weight + float(w.sum())
        return total / weight

    def differs(self, other: "Result", of: str) -> float:
        """The share of problems with another count than they have in an arm on the same problems. of: as in `mean`."""
        total = weight = 0.0
        for stratum, counts in getattr(self, of).items():
            w = self.weights.get(stratum, np.ones(len(counts)))
            changed = np.array([a != b for a, b in zip(counts, getattr(other, of)[stratum], strict=True)], float)
            total, weight = total + float(w @ changed), weight + float(w.sum())
        return total / weight

    def rate(self, k: int = 1, ops: str | int = "", data: str = "", of: str = "right") -> float:
        """Mean pass@k over problems: of these operations ("2-3"; all where it is ""; of needles the length), of worlds whose SPEC
        has `data` in it.
        of: right, every step counts; answered, the answer alone; formed, the form alone."""
        band, total, weight = parse_band("ops", str(ops)) if ops else None, 0.0, 0.0
        for stratum, counts in getattr(self, of).items():
            if (band and stratum[1] not in band) or data not in stratum[0]:
                continue
            if (key := (stratum, k, of)) not in self.values:
                self.values[key] = np.array([pass_at_k(n, c, k) for c, n in counts])
            w = self.weights.get(stratum, np.ones(len(counts)))
            total, weight = total + float(w @ self.values[key]), weight + float(w.sum())
        if not weight:
            raise ValueError(f"no problem of ops={ops or 'any'} in worlds with {data or 'any name'} was measured")
        return total / weight

    def thought(self, what: str, of: Sequence[str] = ("verified", "rationalised", "wrong")) -> float:
        """The share of thinking that was judged as `what`, of all that was judged as one of `of`; 0 where there is none."""
        count = total = 0.0
        for stratum, judged in self.thoughts.items():
            if (key := (stratum, what, tuple(of))) not in self.values:
                self.values[key] = np.isin(judged, [what]), np.isin(judged, list(of))
            w = self.weights.get(stratum, np.ones(len(judged)))
            count, total = count + float(w @ self.values[key][0]), total + float(w @ self.values[key][1])
        return count / total if total else 0.0

    def loss_behind(self) -> float:
        """The loss, in nats a token, on what the texts of the first file that was measured have behind those of the second, which
        are their beginnings."""
        whole, part = self.others.values()
        tokens = whole["tokens"] - part["tokens"]
        return (whole["loss"] * whole["tokens"] - part["loss"] * part["tokens"]) / tokens

    def distinct(self, n: int = 4) -> float:
        """The share of runs of n words that differ from all others, of the file that augment.py measure was given."""
        (measured,) = self.line.values()
        return measured["diversity"]["distinct"][str(n)]

    def own_flops(self) -> int:
        """What a run has taken, without what came before it."""
        return self.line["flops"]["total"] - self.line["flops"]["inherited"]

    def bits(self, data: str = "") -> float:
        """Bits per byte of the text whose name has `data` in it."""
        return next(found["bits_per_byte"] for name, found in self.others.items() if "bits_per_byte" in found and data in name)

    def unverified(self, ops: str | int = "") -> float:
        """The share of samples with the right answer that do not come to it by right steps."""
        return self.rate(ops=ops, of="answered") - self.rate(ops=ops)

    def moved(self, threshold: str, kind: str = "all") -> float:
        """The share of weights that are not where they were in the checkpoint that evaluate.py --compared-with names, by a
        threshold of training/weight_change.py. kind: such as q_proj."""
        return self.weights_against()[kind]["moved"][threshold]

    def weights_against(self) -> dict:
        """What training/weight_change.py found."""
        return next(found for name, found in self.others.items() if name.startswith("weights against "))

    def late(self, metric: str) -> float:
        """The mean of a metric of a training script's log over the last third of its steps."""
        values = [record[metric] for record in self.records if metric in record]
        return float(np.mean(values[-max(1, len(values) // 3):]))

    def attention(self, length: int, part: str) -> float:
        """The share of attention on a part of needles of this length, or "entropy": the mean over layers."""
        (found,) = [at["layers"] for other in self.others.values() for at in other.get("attention", []) if at["length"] == length]
        return float(np.mean([layer[part] for layer in found]))

    def probed(self, share: float, what: str = "exact") -> float:
        """What a probe for contamination found behind this share of the questions' words: "exact", "rouge_l" or "answer"
        (tasks/contamination.py). It has no interval within a seed."""
        rows = [row for name, found in self.others.items() if name.startswith("contamination:") for row in found["rows"]]
        return next(row[what][0] for row in rows if row["share"] == share)

    def heldout_loss(self) -> float:
        """The loss on the --eval-data loss:SPEC of a training command (of one, if there are several)."""
        return next(found["loss"] for name, found in self.line["eval"].items() if name.startswith("loss:"))


def read_result(out: Path, line: dict) -> Result:
    """The result of a command, from its last line and from what it wrote: a file of evaluate.py, a run folder, or mix.py's."""
    result = Result(line)
    if out.name == FILES["evaluate.py"]:
        (measured,) = json.loads(out.read_text())["results"].values()
        for name, found in measured.items():
            for row in found.get("rows", []):
                if "right" in row:
                    stratum = (name, row["ops"], len(row["right"]))
                    result.right[stratum], result.answered[stratum] = row["right"], row["answered"]
                    for counted in COUNTED:
                        if counted in row:
                            getattr(result, counted)[stratum] = row[counted]
            if "rows" not in found or name.startswith("contamination:"):
                result.others[name] = found
            for row in found.get("lengths", []):          # needles
                stratum = (name, row["length"], len(row["right"]))
                result.right[stratum] = result.answered[stratum] = row["right"]
            if "right" in found and "lengths" not in found:                   # questions of another task, or of a benchmark
                asked = found["right"] if isinstance(found["right"], dict) else {"": found["right"]}
                for template, right in asked.items():
                    stratum = (f"{name} {template}".strip(), 0, len(right))
                    result.right[stratum] = result.answered[stratum] = right
    elif out.suffix == ".jsonl" and "documents" in line:
        result.thoughts = thoughts_in(out, line["documents"])
    elif (out / "plan.json").exists():
        plan, found = json.loads((out / "plan.json").read_text()), proxies_of(out)
        result.sources, result.mixtures = plan["sources"], np.array(plan["mixtures"])
        for size in plan["sizes"]:
            rows = [found[size, i]["values"] for i in range(len(plan["mixtures"]))]
            result.measured[size] = np.array([[values[target] for target in plan["targets"]] for values in rows])
    elif (out / "log.jsonl").exists():
        result.records = [json.loads(text) for text in (out / "log.jsonl").read_text().splitlines()]
    return result


def thoughts_in(out: Path, documents: int) -> dict[Stratum, list]:
    """What augment.py has judged the thinking of each document as, in its order: so arms on the same documents are paired."""
    found = {}
    for row in map(json.loads, out.read_text().splitlines()):
        judged, source = row["meta"].get("thought"), row["meta"].get("source", "")
        if judged:
            found.setdefault((source, 0, documents), [""] * documents)[row["meta"]["item"]] = judged
    return found


def numbers_of(statistic: Callable[[dict], dict[str, float]], results: dict[str, Result], draws: int = 1000,
               seed: int = 0) -> dict[str, Rate]:
    """{name: (value, low, high)}: the statistic of the results with its 95% bootstrap interval over problems (or mixtures),
    paired."""
    rng = np.random.default_rng(seed)
    strata = sorted({stratum for result in results.values() for stratum in result.strata()})
    values, found = statistic(results), {}
    drawn = {name: [] for name in values}
    for _ in range(draws if strata else 0):
        weights = {s: np.bincount(rng.integers(0, s[2], s[2]), minlength=s[2]) for s in strata}
        for result in results.values():
            result.weights = weights
        for name, value in statistic(results).items():
            drawn[name].append(value)
    for result in results.values():
        result.weights = {}
    for name, value in values.items():
        sample = [v for v in drawn[name] if np.isfinite(v)] or [value]
        low, high = np.percentile(sample, [2.5, 97.5])
        found[name] = tuple(round(float(v), 4) for v in (value, low, high))
    return found


def over_seeds(rates: list[Rate]) -> Rate:
    """The mean of one number over several seeds, whose test problems are different, with its 95% interval. Of one seed: its own.

    Student's t interval of the values of the seeds: they hold the chance of training and that of the problems. With three seeds
    it is 4.3 standard errors wide to each side, so a small effect needs more seeds. By chance a few values may lie too close
    together; so it is never narrower than the intervals of the seeds themselves allow, as if training had no chance in it.
    """
    if len(rates) == 1:
        return tuple(rates[0])
    values, S = np.array(rates, float), len(rates)                                            # (S, 3)
    mean = values[:, 0].mean()
    trained = t.ppf(0.975, S - 1) * values[:, 0].std(ddof=1) / S ** 0.5
    measured = ((((values[:, 2] - values[:, 1]) / 2) ** 2).mean() / S) ** 0.5
    half = max(trained, measured)
    low, high = mean - half, mean + half
    return tuple(round(float(v), 4) for v in (mean, low, high))
