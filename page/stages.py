"""Reads what the scripts wrote: log.jsonl and ledger.json in each run folder, and the file of evaluate.py --out.

Nothing else in page/ knows the layout of these files.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from tasks.benchmarks.ask import TEMPLATES
from training.ledger import read_ledger

RL = ("grpo.py", "distill.py")      # the stages that sample


@dataclass(eq=False)
class Stage:
    """One run folder, and the measurements of it."""
    folder: Path
    about: dict = field(default_factory=dict)              # the log's first record: flags, script, versions, ...
    records: list = field(default_factory=list)
    result: dict = field(default_factory=dict)             # empty if the run did not finish
    notes: list = field(default_factory=list)
    tables: dict = field(default_factory=dict)             # {world spec: {operations: evaluate.py's row}}
    others: dict = field(default_factory=dict)             # {other measurement: [mean, low, high] or [number]}
    samples: list = field(default_factory=list)            # evaluate.py's completions
    ledger: dict | None = None                             # what it cost (training/ledger.py); None: an older run has none
    colour: str = "one"                                    # a variable of the page's style

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def flags(self) -> dict:
        return self.about.get("flags", {})

    @property
    def script(self) -> str:
        return self.about.get("script", "")

    @property
    def ended_by(self) -> str:
        """The flag that ended the stage before --steps (a goal that was reached); "" if no flag did."""
        return self.result.get("ended_by", "")

    @property
    def steps(self) -> int:
        return max([0, *(r.get("step", 0) for r in self.records), self.result.get("steps", 0)])

    def curve(self, name: str) -> list[tuple[int, float]]:
        """[(step, value)] of a field, for the records in which it is a finite number."""
        return [(r["step"], float(r[name])) for r in self.records
                if "step" in r and isinstance(r.get(name), int | float) and math.isfinite(r[name])]

    def add(self, name: str, found: dict | list) -> None:
        """Stores one measurement, by evaluate.py or by the training script itself."""
        if name.startswith("contamination:"):
            rows = found["rows"] if "rows" in found else found                # as in a file, or as in evaluate.py's last line
            self.others |= {f"{name}, {row['share']:.0%} of a question shown: right answers": row["answer"] for row in rows}
            return
        if "rows" in found:
            self.samples += found["samples"]
            found = found["rows"]
        if isinstance(found, list):
            self.tables[name] = {row["ops"]: row for row in found if "ops" in row}
        elif "accuracy" in found:
            self.others |= {f"{name}: {k}": rate for k, rate in found["accuracy"].items()}
        elif name.startswith("benchmark:"):
            for template in TEMPLATES:
                rates = found.get(template, {}).get("accuracy", {})
                self.others |= {f"{found['benchmark']}, {template}: {k}": rate for k, rate in rates.items()}
        elif "bits_per_byte" in found:
            self.others[f"{name}: bits per byte"] = [found["bits_per_byte"]]
        elif "loss" in found:
            self.others[f"{name}: nats per token"] = [found["loss"]]


def read_stage(folder: str) -> Stage:
    """Reads the log of a run folder. A last line that was cut off is dropped and noted; any other bad line is an error."""
    stage, path = Stage(Path(folder)), Path(folder) / "log.jsonl"
    if not path.is_file():
        raise ValueError(f"--runs {folder}: " + ("has no log.jsonl; give a folder that a training script wrote to"
                                                 if path.parent.is_dir() else "no such folder"))
    stage.ledger = read_ledger(folder)
    lines, wanted = path.read_text(errors="replace").strip().split("\n"), 0
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not all(isinstance(record.get(key, {}), dict) for key in ("flags", "result")):
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not a JSON object; fix it, or leave the run out")
            stage.notes.append("the log's last line is cut off" if line else "the log is empty")
        elif "flags" in record:
            stage.about = record
            wanted = stage.flags.get("steps", 0)
        elif "result" in record:
            stage.result = record["result"]
        elif "resumed_at" in record:
            stage.notes.append(f"resumed at step {record['resumed_at']:,}")
            wanted = record.get("steps", wanted)          # --steps may be raised
        else:
            stage.records.append(record)
    if not stage.result or (stage.steps < wanted and not stage.ended_by):
        stage.notes.append(f"not finished: step {stage.steps:,} of {wanted:,}")
    for name, found in stage.result.get("eval", {}).items():
        stage.add(name, found)
    return stage


def read_evaluation(path: str, stages: list[Stage]) -> dict:
    """Gives each stage the measurements of evaluate.py, in place of its own evaluations; returns the flags of evaluate.py.

    It reads the file of evaluate.py --out. It also reads the last line of its output, which has no rates by problem and no
    completions."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        folders = found.get("results") or {name: value for name, value in found.items() if isinstance(value, dict)}
        if not all(isinstance(measured, dict) for measured in folders.values()):
            raise TypeError
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"--evaluation {path}: is not the JSON object that evaluate.py --out writes") from None
    # runs that were moved since then are found by the last part of their path
    moved = {s.folder.resolve() for s in stages}.isdisjoint(Path(name).resolve() for name in folders)
    key = (lambda path: path.resolve().name) if moved else Path.resolve
    named = {key(Path(name)): measured for name, measured in folders.items()}
    if named.keys().isdisjoint(key(s.folder) for s in stages):
        raise ValueError(f"--evaluation {path}: measures {', '.join(folders) or 'nothing'}, which is not in --runs")
    for stage in stages:                                   # greedy and sampled accuracies must not be mixed
        stage.tables = {}
        stage.others = {name: rate for name, rate in stage.others.items() if ": pass@" not in name}
    try:
        for stage in stages:
            for name, value in named.get(key(stage.folder), {}).items():
                stage.add(name, value)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"--evaluation {path}: {name} is not what evaluate.py writes; measure it again") from None
    return found.get("flags", {"k": found.get("k", [1])})


def before_and_after(stages: list[Stage]) -> tuple[Stage | None, Stage]:
    """(the stage that `after` started from, `after`): the headline is about `after`, the last RL stage, or else the last."""
    i = max([i for i, s in enumerate(stages) if s.script in RL], default=len(stages) - 1)
    start = Path(stages[i].flags.get("init") or ".").resolve()
    return next((s for s in stages[:i] if s.folder.resolve() == start), stages[i - 1] if i else None), stages[i]
