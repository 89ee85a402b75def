"""The file that grows while augment.py runs, and the ledger beside it.

Rows are appended chunk by chunk. After each chunk FILE.ledger.json says how many items are done and how many bytes they take,
so the same command with --resume cuts off what was written behind that, and goes on with the next item: no row is lost and none
comes twice. At the end the same file is the ledger: what the teachers cost, and what was kept and dropped, and why.
"""

import os
from collections import Counter
from pathlib import Path

from formats.files import read_json, write_json
from training import cli


class Output:
    """FILE and FILE.ledger.json.

    settings: the flags that decide what is written, {name: value}; inputs: {name: fingerprint} of what is read. A resume
    compares both. ValueError where FILE is there already, or was not begun by the same command."""

    def __init__(self, path: str, settings: dict, inputs: dict, resume: bool):
        self.path, self.ledger_path = Path(path), Path(f"{path}.ledger.json")
        self.ledger = {"settings": settings, "inputs": inputs, "finished": False, "items": 0, "rows": 0, "bytes": 0,
                       "dropped": {}, "counts": {}, "teachers": {}}
        if self.path.exists() and not resume:
            raise ValueError(f"--out {path}: exists already; remove it or choose another file, or add --resume to go on with it")
        self.begun = False
        if self.path.exists():
            self._find()

    def _begin(self):
        """Called before the first change: a new file, or an old one cut off behind the last row that the ledger knows."""
        if self.begun:
            return
        if self.path.exists():
            os.truncate(self.path, self.ledger["bytes"])
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.ledger_path, self.ledger)     # first: rows without a ledger could not be gone on with
            self.path.touch()
        self.begun = True

    def _find(self):
        if not self.ledger_path.exists():
            raise ValueError(f"--resume: {self.ledger_path} is missing, so nothing says what of {self.path} is done; remove "
                             f"{self.path} to begin again")
        found = read_json(self.ledger_path)
        for what, wanted in (("settings", "give the same flags"), ("inputs", "put the old one back, or choose another --out")):
            for name, value in self.ledger[what].items():
                if found.get(what, {}).get(name) != value:
                    old = f", it was begun with {found.get(what, {}).get(name)!r}" if what == "settings" else ""
                    raise ValueError(f"--resume: {name} is another one than {self.path} was begun with{old}; {wanted}")
        if self.path.stat().st_size < found["bytes"]:
            raise ValueError(f"--resume: {self.path} is shorter than what was written to it; remove it to begin again")
        self.ledger = found

    @property
    def done(self) -> int:
        """Items that are finished."""
        return self.ledger["items"]

    @property
    def counts(self) -> Counter:
        return Counter(self.ledger["counts"])

    @property
    def dropped(self) -> Counter:
        return Counter(self.ledger["dropped"])

    def write(self, items: int, rows: list[dict], dropped: Counter, counts: Counter, costs: dict) -> None:
        """The rows of the next `items` items; first to the file, then to the ledger."""
        self._begin()
        data = "".join(cli.to_json(row) + "\n" for row in rows).encode()
        with open(self.path, "ab") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        ledger = self.ledger
        ledger["items"], ledger["rows"], ledger["bytes"] = (ledger["items"] + items, ledger["rows"] + len(rows),
                                                            ledger["bytes"] + len(data))
        ledger["dropped"], ledger["counts"] = dict(self.dropped + dropped), dict(self.counts + counts)
        for side, cost in costs.items():
            ledger["teachers"][side] = dict(Counter(ledger["teachers"].get(side, {})) + cost)
        write_json(self.ledger_path, ledger)

    def finish(self, found: dict) -> None:
        self._begin()
        self.ledger |= {"finished": True, "summary": found}
        write_json(self.ledger_path, self.ledger)
