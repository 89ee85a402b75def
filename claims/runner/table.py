"""The table of claims/README.md, made from results/claims.jsonl: python claims/run.py --table writes it."""

import re
from pathlib import Path

from benchmarks.readme import with_parts
from claims.runner.claim import Claim
from claims.runner.results import records_of, together, usual_minutes
from claims.runner.undecided import to_decide
from tasks.accuracy import Rate


def place(item: tuple[str, Claim]) -> tuple:
    """Sorts claims by their numbers: 2 before 10, 7a before 7b."""
    number = item[1].number
    return int(re.match(r"\d*", number)[0] or 0), number, item[0]


def signed(rate: Rate) -> str:
    """+0.120 [+0.050, +0.190]"""
    return f"{rate[0]:+.3f} [{rate[1]:+.3f}, {rate[2]:+.3f}]"


def one_line(claim: Claim, record: dict) -> str:
    """A result as it comes, for the terminal."""
    verdict = record["verdict"] + (f" ({record['why']})" if record["why"] else "")
    return (f"claim {claim.number}, {record['claim']}, seed {record['seed']}: {verdict}; {claim.headline} "
            f"{signed(record['numbers'][claim.headline])}; {record['minutes']:.1f} minutes")


def command(name: str, records: list[dict]) -> str:
    """How the result is had again."""
    seeds = " ".join(str(r["seed"]) for r in records) or "0"
    budget = f" --budget {records[0]['budget']}" if records and records[0]["budget"] != "small" else ""
    return f"python claims/run.py {name} --seed {seeds}{budget}"


def row(name: str, claim: Claim, records: list[dict]) -> list[str]:
    """number, claim, source, their figure, ours, verdict, command, minutes: the cells of a claim."""
    cells = [claim.number, claim.says, claim.source, claim.theirs]
    if not records:
        return [*cells, "not measured yet", "", f"`{command(name, records)}`", ""]
    found = together(claim, records)
    seeds = f"{len(records)} seed{'s' * (len(records) > 1)}"
    verdict, missing = found["verdict"] + (f" ({found['why']})" if found["why"] else ""), to_decide(claim, records)
    verdict += f"; to decide it: {missing}" if missing else ""
    ours = "; ".join(f"{name}: {signed(rate)}" for name, rate in claim.shown(found["numbers"]).items())
    return [*cells, f"{ours}, {seeds}", verdict, f"`{command(name, records)}`", f"{usual_minutes(records):.1f}"]


def table(claims: dict[str, Claim], folder: str | Path) -> str:
    """The table in Markdown. Minutes are of one seed, on the cores that it was measured on."""
    head = ["", "claim", "source", "their figure", "ours, with its 95% interval", "verdict", "command", "minutes for a seed"]
    rows = [row(name, claim, records_of(name, claim, folder)) for name, claim in sorted(claims.items(), key=place)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in [head, ["---"] * 8, *rows])


def write_table(path: Path, claims: dict[str, Claim], folder: str | Path) -> str:
    """Puts the table between its marks in a file; returns the file's name."""
    path.write_text(with_parts(path, {"table": table(claims, folder)}))
    return str(path)
