"""Writes and reads the records in results/: a line of JSON for each bench, with the machine, the versions and the commit."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from formats.files import read_json_lines
from formats.locks import append_line
from training import cli, machine

HERE = Path(__file__).parent.parent
RESULTS = HERE / "results"


def keep(name: str, result: dict, device: torch.device, dtype: str, folder: str | Path) -> dict:
    """Appends a result to bench_<name>.jsonl in the folder; returns the record."""
    record = result | {"bench": name, "device": machine.device_name(device), "dtype": dtype, "versions": machine.versions(),
                       "commit": machine.commit(), "date": time.strftime("%Y-%m-%d")}
    append_line(Path(folder) / f"bench_{name}.jsonl", cli.to_json(record))
    return record


def records_of(name: str, folder: str | Path = RESULTS) -> list[dict]:
    """All records of bench_<name>.jsonl, the oldest first."""
    return read_json_lines(Path(folder) / f"bench_{name}.jsonl")


def newest(name: str) -> dict:
    """The last record of a bench for each device and dtype: {(device, dtype): record}."""
    return {(r["device"], r.get("dtype")): r for r in records_of(name)}


class Rows(list):
    """The rows that a long bench has measured so far. Each row is also written to a temporary file at once, so an interrupted
    bench loses nothing. When the complete record is kept, `done` removes that file."""

    def __init__(self, name: str, folder: str | Path):
        super().__init__()
        self.path = Path(folder) / f"bench_{name}.unfinished-{os.getpid()}.jsonl"

    def append(self, row: dict) -> None:
        super().append(row)
        append_line(self.path, cli.to_json(row))

    def extend(self, rows: Iterable[dict]) -> None:
        for row in rows:
            self.append(row)

    def done(self) -> None:
        self.path.unlink(missing_ok=True)
