"""The file that grows while augment.py runs, and the ledger beside it.

Rows are appended chunk by chunk. After each chunk FILE.ledger.json says how many items are done and how many bytes they take,
so the same command with --resume cuts off what was written behind that, and goes on with the next item: no row is lost and none
comes twice. At the end the same file is the ledger: what the teachers cost, and what was kept and dropped, and why.
"""

import os
from collections import Counter
from pathlib import Path

from formats.locks import take
from training import cli
from training.ledger import Ledger, path_of, read_ledger, write_ledger


class Output:
    """FILE and its ledger (training/ledger.py), which has more keys here.

    settings: the flags that decide what is written, {name: value}; inputs: {name: fingerprint} of what is read. A resume
    compares both. cost: the ledger as it stands before the first item: what the teachers and the data have cost.
    ValueError where FILE is there already, or was not begun by the same command."""

    def __init__(self, path: str, settings: dict, inputs: dict, resume: bool):
        self.path, self.cost = Path(path), Ledger(path, {"settings": settings, "inputs": inputs})
        self.state = {"settings": settings, "inputs": inputs, "finished": False, "items": 0, "rows": 0, "bytes": 0,
                      "dropped": {}, "counts": {}, "teachers": {}}
        if self.path.suffix not in (".jsonl", ""):        # readers go by the ending, and would take the rows for something else
            raise ValueError(f"--out {path}: rows are written as JSON lines, as they are; use a name that ends in .jsonl")
        if self.path.exists() and not resume:
            raise ValueError(f"--out {path}: exists already; remove it or choose another file, or add --resume to go on with it")
        self.begun, self.held = False, None
        if self.path.exists():
            self._hold()
            self._find()

    def _hold(self):
        """Locks the file as long as this object lives."""
        self.held = open(self.path, "ab")
        if not take(self.held):
            raise ValueError(f"--out {self.path}: another process is writing to it; end that one, or choose another file")

    def _begin(self):
        """Called before the first change: a new file, or an old one cut off behind the last row that the ledger knows."""
        if self.begun:
            return
        if self.path.exists():
            os.truncate(self.path, self.state["bytes"])
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write_ledger()                          # first: rows without a ledger could not be gone on with
            self.path.touch()
        if self.held is None:
            self._hold()
        self.begun = True

    def _find(self):
        found = read_ledger(self.path)
        if found is None:
            raise ValueError(f"--resume: {path_of(self.path)} is missing, so nothing says what of {self.path} is done; remove "
                             f"{self.path} to begin again")
        for what, wanted in (("settings", "give the same flags"), ("inputs", "put the old one back, or choose another --out")):
            for name, value in self.state[what].items():
                if found.get(what, {}).get(name) != value:
                    old = f", it was begun with {found.get(what, {}).get(name)!r}" if what == "settings" else ""
                    raise ValueError(f"--resume: {name} is another one than {self.path} was begun with{old}; {wanted}")
        if self.path.stat().st_size < found["bytes"]:
            raise ValueError(f"--resume: {self.path} is shorter than what was written to it; remove it to begin again")
        self.cost.restore(found)
        self.state = {name: found[name] for name in self.state}

    def _write_ledger(self, **more):
        write_ledger(self.path, self.cost.found() | self.state | more)

    @property
    def done(self) -> int:
        """Items that are finished."""
        return self.state["items"]

    @property
    def rows(self) -> int:
        """Rows that they became."""
        return self.state["rows"]

    @property
    def counts(self) -> Counter:
        return Counter(self.state["counts"])

    @property
    def dropped(self) -> Counter:
        return Counter(self.state["dropped"])

    def write(self, items: int, rows: list[dict], dropped: Counter, counts: Counter, costs: dict) -> None:
        """The rows of the next `items` items; first to the file, then to the ledger."""
        self._begin()
        data = "".join(cli.to_json(row) + "\n" for row in rows).encode()
        self.held.write(data)
        self.held.flush()
        os.fsync(self.held.fileno())
        state = self.state
        state["items"], state["rows"] = state["items"] + items, state["rows"] + len(rows)
        state["bytes"] += len(data)
        state["dropped"], state["counts"] = dict(self.dropped + dropped), dict(self.counts + counts)
        for side, cost in costs.items():
            state["teachers"][side] = dict(Counter(state["teachers"].get(side, {})) + cost)
            self.cost.add("teacher", cost["prefill_flops"] + cost["decode_flops"], cost["drawn_tokens"])
        self._write_ledger()

    def finish(self, found: dict) -> None:
        """found: what the last line says."""
        self._begin()
        self.state["finished"] = True
        self._write_ledger(summary=found)
        self.held.close()
