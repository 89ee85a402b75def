"""The results in results/claims.jsonl: a line for each claim and seed that was measured, and what they say together."""

import hashlib
import json
import statistics
from pathlib import Path

import torch

from claims.runner.claim import Claim, Setting, judge_measured
from claims.runner.commands import Command, in_order
from claims.runner.measures import Result, numbers_of, over_seeds, read_result
from claims.runner.schedule import Schedule, makespan
from formats.files import read_json_lines
from formats.locks import append_line
from training import cli, machine
from training.ledger import KINDS, read_ledger

RESULTS = Path(__file__).parent.parent.parent / "results"
COSTS = {"tokens": "tokens trained", "unique": "unique tokens", "sampled": "tokens sampled"} | {      # as the page names them
    kind: f"FLOPs: {kind}" for kind in KINDS} | {"flops": "all FLOPs"}


def record_of(claim: Claim, name: str, setting: Setting, arms: dict[str, Command], schedule: Schedule) -> dict:
    """What stands in results/claims.jsonl of one claim and seed:

    claim, number, seed, budget, device;  design: what its arms are (`design_of`)
    numbers     {name: [value, low, high]}, the statistic with its interval over problems
    verdict     of these numbers, and why where control arms failed
    arms        {arm: {"pass@1": [mean, low, high], ...}} of those that were measured on worlds
    costs       {arm: tokens and FLOPs until there}, from the ledgers
    minutes     what all commands take on as many idle cores as there were, were nothing shared with other claims
    commands    how many;  resumed: how many were interrupted, whose time before a kill is not known
    commit      of the runner;  commits: of the code that made the commands' folders
    """
    whole = {c: json.loads((c.folder(schedule.runs) / "whole.json").read_text()) for c in in_order(arms.values())}
    results = {arm: read_result(c.out(schedule.runs), whole[c]["line"]) for arm, c in arms.items()}
    numbers = numbers_of(claim.statistic, results)
    for named in (claim.headline, claim.null, claim.oracle, *claim.also):
        if named not in numbers:
            raise ValueError(f"the claim names {named!r}, which is no number of its statistic ({', '.join(numbers)})")
    verdict, why = judge_measured(claim, numbers)
    took = {c: w["seconds"] if setting.device == "cuda" or w["resumed"] else w.get("cpu_seconds", w["seconds"])
            for c, w in whole.items()}
    minutes = makespan(list(whole), took, len(schedule.slots)) / 60
    return {"claim": name, "number": claim.number, "seed": setting.seed, "budget": setting.budget, "device": setting.device,
            "design": design_of(claim, setting.budget), "numbers": numbers, "verdict": verdict, "why": why,
            "arms": {arm: rates_of(r) for arm, r in results.items() if r.right},
            "costs": {arm: costs(c, schedule.runs) for arm, c in arms.items()},
            "minutes": round(minutes, 2), "jobs": len(schedule.slots), "commands": len(whole),
            "resumed": sum(w["resumed"] for w in whole.values()), "commit": machine.commit(),
            "commits": sorted({w["commit"] for w in whole.values()}), "versions": machine.versions(),
            "machine": machine.device_name(torch.device(setting.device)), "date": max(w["date"] for w in whole.values())}


def rates_of(result: Result) -> dict:
    """{"pass@k": [mean, low, high]} over all problems, for k = 1 and for the most samples that every problem has."""
    most = min(n for counts in result.right.values() for _, n in counts)
    found = numbers_of(lambda r: {f"pass@{k}": r["it"].rate(k) for k in dict.fromkeys((1, most))}, {"it": result}, draws=300)
    return {k: list(v) for k, v in found.items()}


def costs(command: Command, runs: Path) -> dict:
    """What an arm's checkpoints and data took until it was measured, each of its commands once:

    tokens, sampled, unique   tokens trained on; drawn by rollouts and teachers; of the sources, each counted once in a stage
    training, rollouts, scoring, teacher, judge, flops       FLOPs by kind, and of all
    """
    found = dict.fromkeys(COSTS, 0)
    for c in in_order([command]):
        ledger, whole = read_ledger(c.out(runs)), json.loads((c.folder(runs) / "whole.json").read_text())
        found["unique"] += sum(row.get("unique_tokens", 0) for row in whole["line"].get("mixture", []))
        if ledger is not None:
            for kind in KINDS:
                found[kind] += ledger["own"].get(kind, 0)
            found["flops"] += sum(ledger["own"].values())
            found["tokens"] += ledger["tokens"].get("training", 0)
            found["sampled"] += ledger["tokens"].get("rollouts", 0) + ledger["tokens"].get("teacher", 0)
    return found


def add(record: dict, folder: str | Path) -> None:
    """Appends a record to claims.jsonl in the folder."""
    append_line(Path(folder) / "claims.jsonl", cli.to_json(record))


def records_of(name: str, claim: Claim, folder: str | Path) -> list[dict]:
    """The records of a claim that count: of its largest budget that was measured (never toy), the newest of each seed. What was
    measured before the claim got other arms or other numbers does not count."""
    path = Path(folder) / "claims.jsonl"
    every = read_json_lines(path)
    for budget in ("full", "small"):
        found = {r["seed"]: r for r in every if r["claim"] == name and r["budget"] == budget and is_of(claim, r)}
        if found:
            return [found[seed] for seed in sorted(found)]
    return []


def design_of(claim: Claim, budget: str) -> str:
    """A hash of the claim's arms: their names and their commands, for seed 0."""
    arms = claim.arms(Setting(0, budget))
    return hashlib.sha256(repr(sorted((arm, command.name) for arm, command in arms.items())).encode()).hexdigest()[:12]


def is_of(claim: Claim, record: dict) -> bool:
    """Whether a record was measured with the arms that the claim has now; older records do not say with which. It must have the
    numbers that the verdict is made of, too."""
    needed = {claim.headline, claim.null, claim.oracle, *claim.also}
    return needed <= record["numbers"].keys() and record.get("design", "") in ("", design_of(claim, record["budget"]))


def together(claim: Claim, records: list[dict]) -> dict:
    """The numbers of several seeds as one, and the verdict on them: {"numbers", "verdict", "why", "arms"}."""
    def pooled(part, name):
        return over_seeds([r[part][name] for r in records])
    numbers = {name: pooled("numbers", name) for name in records[-1]["numbers"] if all(name in r["numbers"] for r in records)}
    verdict, why = judge_measured(claim, numbers)
    arms = {arm: {k: as_share(over_seeds([r["arms"][arm][k] for r in records])) for k in rates}
            for arm, rates in records[-1]["arms"].items() if all(rates.keys() <= r["arms"].get(arm, {}).keys() for r in records)}
    return {"numbers": numbers, "verdict": verdict, "why": why, "arms": arms}


def usual_minutes(records: list[dict]) -> float:
    """The median over seeds: one that ran beside other work does not count for more."""
    return statistics.median(r["minutes"] for r in records)


def as_share(rate: tuple) -> tuple:
    """Student's t knows no bounds, but a share lies from 0 to 1."""
    return tuple(min(1.0, max(0.0, value)) for value in rate)
