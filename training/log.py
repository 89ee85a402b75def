"""Writes log.jsonl in the run folder, one record per line; with --wandb also to Weights & Biases."""

import contextlib
import importlib.util
import json
from pathlib import Path
from typing import ClassVar, TextIO

from formats.files import write_text
from formats.locks import take
from training import cli


def read(line: str) -> dict | None:
    """A record; None for a line that was only half written when the power went."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class Log:
    """The log of a run. Only one rank opens it; on the other ranks it writes nothing."""
    opened: ClassVar[dict[Path, TextIO]] = {}             # by this process

    def __init__(self, folder: Path, project: str = ""):
        if project and importlib.util.find_spec("wandb") is None:
            raise ValueError(f"--wandb {project}: needs the wandb library; run pip install wandb")
        self.folder, self.project, self.file, self.wandb = folder, project, None, None

    def open(self, flags: dict) -> None:
        """Starts the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self._locked()
        self.file.truncate(0)
        self._open_wandb(flags)

    def reopen(self, flags: dict, step: int) -> bool:
        """Continues the file, without the records after a checkpoint of this step. False: there is no file."""
        path = self.folder / "log.jsonl"
        if not path.exists():
            return False
        with self._locked():                              # until the new file is there, which is locked as well
            lines = path.read_text().splitlines()
            before = [line for line in lines if (record := read(line)) is not None and record.get("step", 0) <= step]
            write_text(path, "\n".join(before) + "\n")
            self.file = self._locked()
        self._open_wandb(flags)
        return True

    def _locked(self) -> TextIO:
        """The file, to append to; locked as long as it is open. ValueError if another process writes to it."""
        path = (self.folder / "log.jsonl").resolve()
        if path in self.opened:                           # by an earlier run in this process, as in a notebook
            self.opened.pop(path).close()
        file = open(path, "a")
        if not take(file):
            raise ValueError(f"--out {self.folder}: another process is writing to it; end that one, or choose another folder")
        self.opened[path] = file
        return file

    def result(self) -> dict | None:
        """The last record, if it is the result of a run: {"result": ..., "step": ...}."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        last = read(lines[-1]) if lines else None
        return last if last and "result" in last else None

    def of_step(self, step: int) -> tuple[float, dict]:
        """The loss and the other numbers of a step, from its record; nan and none where it was not logged."""
        path = self.folder / "log.jsonl"
        for record in map(read, path.read_text().splitlines() if path.exists() else []):
            if record and record.get("step") == step and isinstance(record.get("loss"), float):
                return record["loss"], {name: value for name, value in record.items() if type(value) in (int, float)
                                        and name not in ("step", "loss", "lr", "weight", "grad_norm", "tokens_per_second")}
        return float("nan"), {}

    def _open_wandb(self, flags):
        if self.project:
            import wandb
            self.wandb = wandb.init(project=self.project, name=self.folder.name, config=flags)

    def write(self, record: dict) -> None:
        if self.file:
            self.file.write(cli.to_json(record) + "\n")
            self.file.flush()
        if self.wandb and "step" in record:
            self.wandb.log(record, step=record["step"])

    def close(self) -> None:
        if self.file:
            with contextlib.suppress(OSError):            # a full disk; Run.log has said it
                self.file.close()
            self.file = None
        if self.wandb:
            self.wandb.finish()
