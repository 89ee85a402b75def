"""The proxies: small runs of pretrain.py, one for each mixture and size, shared out among any number of processes.

    FOLDER/plan.json            what is trained: written once; whoever comes later must want the same
    FOLDER/proxies.jsonl        one line for each proxy that is done
    FOLDER/proxies/1x32-007/    its run folder
    FOLDER/proxies/1x32-007.lock, .out, .err

Whoever is free takes the next proxy that is not done and that nobody holds the lock of. The lock is the kernel's: it goes with
the process that holds it, and a proxy's process holds it too. So after a kill nothing is locked that nobody works on, and nobody
begins a proxy that still runs. A proxy that was cut off goes on from what it saved, else from its start: it has its own seed, so
its line is the same. The processes must share a file system whose locks hold (on one machine any does).
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from formats.files import read_json, write_json
from formats.locks import append_line, held, take

# what torchrun tells its processes; a proxy is a run of its own
OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR",
            "MASTER_PORT", "TORCHELASTIC_RUN_ID")


@dataclass
class Plan:
    """What is trained. Two plans are the same when all of this is.

    sources: SPECs without weights. mixtures: a list of shares for each; the first are the token shares.
    sizes: {name: flags of pretrain.py that make it}. targets: {SPEC of --eval-data: weight}.
    flags: of pretrain.py, for every proxy. seed: of the first proxy; each mixture has another.
    inputs: fingerprints of the files behind the sources, the targets, the tokenizer and the checkpoints.
    """
    sources: list[str]
    mixtures: list[list[float]]
    sizes: dict[str, list[str]]
    targets: dict[str, float]
    flags: list[str]
    seed: int
    inputs: dict[str, str]

    def jobs(self) -> list[tuple[str, int]]:
        """(size, number of the mixture) of every proxy, the small ones first."""
        return [(size, i) for size in self.sizes for i in range(len(self.mixtures))]


def open_plan(folder: Path, plan: Plan, join: bool, otherwise: str = "start another with another --out",
              more: bool = False) -> None:
    """Writes the plan, or sees that the folder has the same. ValueError where it has another, or has one and `join` is False.
    otherwise: what to do about another one, other than to give the same flags. more: of two plans whose mixtures begin alike the
    longer one stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / "plan.lock"):
        path = folder / "plan.json"
        if not path.exists():
            if left := [p.name for p in folder.iterdir() if p.name != "plan.lock" and p.name != "tokenizer"]:
                raise ValueError(f"--out {folder}: holds {left[0]}, and no plan of mix.py; choose another folder")
            (folder / "proxies").mkdir()
            write_json(path, asdict(plan))
            return
        if not join:
            raise ValueError(f"--out {folder}: holds a plan already; add --resume to go on with it, or choose another")
        then, now = read_json(path), json.loads(json.dumps(asdict(plan)))
        other = [key for key in now if then.get(key) != now[key]]
        if more and other == ["mixtures"] and all(a == b for a, b in zip(then["mixtures"], now["mixtures"])):
            if len(now["mixtures"]) > len(then["mixtures"]):
                write_json(path, now)
        elif other:
            raise ValueError(f"--resume: the plan in {folder} has other {', '.join(other)}; give the same flags and the same "
                             f"files, or {otherwise}")


def results(folder: Path) -> dict[tuple[str, int], dict]:
    """{(size, number): line} of the proxies that are done. A last line that was cut off is none."""
    found, path = {}, folder / "proxies.jsonl"
    for line in path.read_text().split("\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            found[row["size"], row["mixture"]] = row
    return found


def add_result(folder: Path, row: dict) -> None:
    append_line(folder / "proxies.jsonl", json.dumps(row))


def name_of(job: tuple[str, int]) -> str:
    return f"{job[0]}-{job[1]:03}"


def command(folder: Path, plan: Plan, job: tuple[str, int]) -> list[str]:
    """The command line of a proxy. A source without a share is left out."""
    size, i = job
    data = [f"{source}@{share:g}" for source, share in zip(plan.sources, plan.mixtures[i]) if share > 0]
    return [sys.executable, str(Path(__file__).resolve().parent.parent / "pretrain.py"), "--data", *data, *plan.sizes[size],
            *plan.flags, "--seed", str(plan.seed + i), "--eval-data", *plan.targets, "--out",
            str(folder / "proxies" / name_of(job)), "--resume"]


def value_of(found: Any) -> float:
    """One number, lower is better, of what evaluate_all found for a target: the loss in nats per token, bits per byte,
    or the share of problems that are wrong (of a world the mean over the numbers of operations, every step counting)."""
    if isinstance(found, list):
        rates = [row["process"]["pass@1"][0] for row in found if "ops" in row]
        return 1 - sum(rates) / len(rates)
    if "accuracy" in found:
        return 1 - found["accuracy"]["pass@1"][0]
    return found["bits_per_byte"] if "bits_per_byte" in found else found["loss"]


class Worker:
    """One of the processes that train the proxies of a plan, `jobs` of them side by side, with one thread each."""

    def __init__(self, folder: Path, plan: Plan, jobs: int, device: str = ""):
        self.folder, self.plan, self.most, self.running = folder, plan, jobs, {}
        self.env = {k: v for k, v in os.environ.items() if k not in OF_RANKS} | {"OMP_NUM_THREADS": "1"}
        if device:
            self.env["CUDA_VISIBLE_DEVICES"] = device

    def run(self, shown: bool = True) -> dict[tuple[str, int], dict]:
        """Returns the results of all proxies once all are done, here or elsewhere. ValueError where one failed."""
        todo, before = self.plan.jobs(), signal.signal(signal.SIGTERM, _interrupt)
        try:
            with tqdm(total=len(todo), desc="proxies", unit="proxy", disable=not shown) as bar:
                while len(done := results(self.folder)) < len(todo):
                    bar.n = len(done)
                    bar.refresh()
                    for job in todo:
                        if len(self.running) < self.most and job not in done and job not in self.running:
                            self.begin(job)
                    if not self.collect():
                        time.sleep(0.1)
                bar.n = len(todo)
                bar.refresh()
        finally:
            self.stop()
            signal.signal(signal.SIGTERM, before)
        return results(self.folder)

    def begin(self, job: tuple[str, int]) -> None:
        """Starts a proxy, unless somebody else has it."""
        base = self.folder / "proxies" / name_of(job)
        lock = open(f"{base}.lock", "a")
        if not take(lock):
            lock.close()
            return
        if job in results(self.folder):                   # it was done between our look and our lock
            lock.close()
            return
        with open(f"{base}.out", "w") as out, open(f"{base}.err", "w") as err:
            # in a session of its own: Ctrl-C in a terminal reaches all processes of one, and with `stop` a proxy would hear of
            # it twice, which ends it before it has saved
            process = subprocess.Popen(command(self.folder, self.plan, job), stdout=out, stderr=err, env=self.env,
                                       pass_fds=[lock.fileno()], start_new_session=True)
        self.running[job] = process, lock, time.monotonic()

    def collect(self) -> bool:
        """Writes down what proxies that have ended found. Returns whether there was one."""
        ended = [job for job, (process, *_) in self.running.items() if process.poll() is not None]
        for job in ended:
            process, lock, began = self.running.pop(job)
            base = self.folder / "proxies" / name_of(job)
            if process.returncode:
                lines = [line for line in Path(f"{base}.err").read_text().replace("\r", "\n").split("\n") if line.strip()]
                raise ValueError(f"proxy {name_of(job)} ended with {process.returncode}: {lines[-1] if lines else ''} "
                                 f"(python {shlex.join(command(self.folder, self.plan, job)[1:])}; its output is in {base}.err)")
            last = json.loads(Path(f"{base}.out").read_text().strip().split("\n")[-1])
            add_result(self.folder, {
                "size": job[0], "mixture": job[1], "shares": self.plan.mixtures[job[1]],
                "values": {target: round(value_of(last["eval"][target]), 6) for target in self.plan.targets},
                "parameters": last["parameters"], "flops": last["flops"], "data": last["mixture"],
                "seconds": round(time.monotonic() - began, 1)})
            lock.close()
        return bool(ended)

    def stop(self) -> None:
        """Ends the proxies that still run; they save what they have."""
        for process, *_ in self.running.values():
            process.terminate()
        for process, lock, _ in self.running.values():
            process.wait()
            lock.close()
        self.running = {}


def _interrupt(*_):
    raise KeyboardInterrupt
