"""What every training script shares: flags, devices and ranks, the run folder with its log, checkpoints and exact resume.

A run folder is a Hugging Face folder (config.json, model.safetensors, tokenizer) with two files more: log.jsonl, one
record per line, and train_state.pt, which holds everything needed to go on as if the run had never stopped: the weights
again, the optimisers, the data position, the random states and the guard's memory. It alone decides where a resume
starts and is written in one rename, so a kill at any moment leaves a state that fits together. It also holds the flags of
the run and a fingerprint of all that was read: a resume with others is refused. So a script fills in what follows from its
flags before it makes its Run, and nobody changes `args` afterwards.

Simpler than big trainers: full weights are gathered on every rank to be saved; only the newest checkpoint is kept.
"""

import contextlib
import copy
import ctypes
import importlib.util
import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor
from tqdm import tqdm

from data import split_spec
from formats.huggingface import write_atomically
from sources.fingerprint import fingerprint
from tasks.problems import kind_of
from training import cli, optim


def training_flags(text, needs=(), data_required=True):
    """The parser with the flags that all training scripts share; a script adds its own, and says when they have an effect."""
    p = cli.Parser(text, NEEDS + needs)
    p.add_argument("--init", metavar="FOLDER", default="", help="checkpoint to start from, ours or Hugging Face's")
    p.add_argument("--out", type=cli.out_folder, metavar="FOLDER", required=True, help="run folder to write")
    p.add_argument("--data", metavar="SPEC", nargs="+", required=data_required, default=[],
                   help="sources, SOURCE[@WEIGHT] (see data.py)")
    p.add_argument("--steps", type=cli.count, default=1000, help="optimiser steps")
    p.add_argument("--batch-tokens", type=cli.whole, default=4096, help="tokens in a global batch")
    p.add_argument("--micro-tokens", type=cli.whole, default=0,
                   help="tokens in a micro-batch of one rank; 0: its whole share (grpo: 4096, or 16384 on a GPU)")
    p.add_argument("--lr", type=cli.not_negative, default=0.02, help="peak learning rate (of Muon, or of AdamW without it)")
    p.add_argument("--adam-lr", type=cli.not_negative, default=0.003, help="peak learning rate of what Muon leaves to AdamW")
    p.add_argument("--optimizer", default="muon", choices=["muon", "adamw"], help="for the matrices inside the layers")
    p.add_argument("--schedule", default="wsd", choices=["constant", "cosine", "wsd"],
                   help="shape of the learning rate")
    p.add_argument("--warmup", type=cli.share, default=0.01, help="share of the steps")
    p.add_argument("--decay", type=cli.share, default=0.2, help="share of the steps, for wsd")
    p.add_argument("--floor", type=cli.share, default=0.0, help="final learning rate, share of the peak")
    p.add_argument("--weight-decay", type=cli.not_negative, default=0.0, help="on the matrices inside the layers")
    p.add_argument("--clip", type=cli.above_zero, default=1.0, help="largest gradient norm")
    p.add_argument("--seed", type=cli.seed, default=0, help="of weights and data order")
    p.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: a GPU where one is visible")
    p.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float64"],
                   help="of the matrix products; auto: bfloat16 on a GPU (weights stay float32), else float32")
    p.add_argument("--compile", action="store_true", help="torch.compile each layer (GPU)")
    p.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    p.add_argument("--shard", action="store_true", help="FSDP2 instead of DDP under torchrun")
    p.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    p.add_argument("--log-every", type=cli.count, default=10, help="steps")
    p.add_argument("--eval-every", type=cli.whole, default=0, help="steps; 0: only at the end")
    p.add_argument("--eval-data", metavar="SPEC", nargs="*", default=[],
                   help="held out, asked as the run puts its own questions and answered greedily: world:... (verified "
                   "accuracy), a file of questions (accuracy of the answers), text (bits per byte)")
    p.add_argument("--eval-problems", type=cli.count, default=100,
                   help="problems for each number of operations of a world, and of a file")
    p.add_argument("--save-every", type=cli.whole, default=0, help="steps; 0: only at the end")
    p.add_argument("--wandb", metavar="PROJECT", default="", help="log to Weights & Biases as well (pip install wandb)")
    return p


def until_flags(p):
    """The flags of the stages that may end by what they have reached (`Until`)."""
    p.add_argument("--until-loss", type=cli.not_negative, default=0.0,
                   help="end sooner, when the mean loss of 20 steps is down to this; 0: never")
    p.add_argument("--until-accuracy", type=cli.share, default=0.0,
                   help="end sooner, when the greedy, process-verified accuracy on the worlds of --eval-data, the mean of the "
                        "last two times --eval-every measured it, is up to this; 0: never")


def uses_gpu(args):
    return args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())


# when the flags above have an effect, and --max-epochs, which the scripts add (see cli.Parser)
NEEDS = (
    ("--adam-lr", lambda a: a.optimizer == "muon", "with --optimizer {optimizer}, whose rate is --lr alone"),
    ("--decay", lambda a: a.schedule == "wsd", "with --schedule {schedule}"),
    ("--floor", lambda a: a.schedule == "cosine" or (a.schedule == "wsd" and a.decay),
     "where the rate never falls (--schedule {schedule} --decay {decay})"),
    # a resume may have fewer ranks than the run began with
    ("--shard", lambda a: a.resume or int(os.environ.get("WORLD_SIZE", 1)) - getattr(a, "rollout_ranks", 0) > 1,
     "with one rank that learns (torchrun starts more)"),
    ("--eval-every --eval-problems", lambda a: a.eval_data, "without --eval-data"),
    ("--eval-problems", lambda a: any(kind_of(spec) != "text" for spec in a.eval_data), "on text, which has no problems"),
    ("--until-accuracy", lambda a: a.eval_every and any(spec.startswith("world:") for spec in a.eval_data),
     "without --eval-every and a world in --eval-data"),
    ("--max-epochs", lambda a: not all(spec.startswith("world:") for spec in a.data), "on worlds, which never end"),
)


class Run:
    """One run on one or many ranks: where it computes, what it writes, how it stops."""

    # flags that a resumed run may change, for they do not change what is learned
    MAY_DIFFER = {"resume", "out", "device", "compile", "checkpointing", "shard", "micro_tokens", "log_every", "eval_every",
                  "eval_data", "eval_problems", "save_every", "show_every", "peak_tflops", "wandb", "rollout_ranks"}

    FILLED_IN = {"scale", "kl_kind"}                      # older versions saved them as given, or though they had no effect

    def __init__(self, args):
        self.args, self.folder = args, Path(args.out)
        self.flags = copy.deepcopy(vars(args))                                # as they are compared and saved
        self.rank, self.ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.rollout_ranks = getattr(args, "rollout_ranks", 0)                # the last ranks, which sample (rl/asynchronous.py)
        self.ranks -= self.rollout_ranks                                      # those that learn
        self.group = self.sync_group = None                                   # of the learners; of rank 0 and those that sample
        cuda = uses_gpu(args)
        if cuda and not torch.cuda.is_available():
            raise ValueError(f"--device {args.device}: no GPU is visible; use --device cpu")
        if args.wandb and importlib.util.find_spec("wandb") is None:
            raise ValueError(f"--wandb {args.wandb}: needs the wandb library; run pip install wandb")
        if args.compile and not cuda:
            raise ValueError("--compile: layers are compiled for a GPU only; leave it out on a CPU")
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")
        self.dtype = getattr(torch, args.dtype) if args.dtype != "auto" else (torch.bfloat16 if cuda else torch.float32)
        self.weight_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        if self.ranks + self.rollout_ranks > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo", device_id=self.device if cuda else None)
        if self.rollout_ranks:
            self.group = dist.new_group(list(range(self.ranks)))
            self.sync_group = dist.new_group([0, *range(self.ranks, self.ranks + self.rollout_ranks)])
            self.store = dist.PrefixStore("rollouts", dist.distributed_c10d._get_default_store())
        self.inputs = fingerprints(args)
        self.state = self._open_folder()
        if dist.is_initialized():
            dist.barrier()                                # no rank writes to the folder before all have looked into it
        seed_everything(args.seed)
        self.step, self.stopping, self.log_file, self.wandb = 0, False, None, None

    @property
    def main(self):
        return self.rank == 0

    @property
    def learns(self):
        """False for a rank that only samples."""
        return self.rank < self.ranks

    def _open_folder(self):
        """The saved state to resume from, or None. Refuses to write over another run."""
        state, log = self.folder / "train_state.pt", self.folder / "log.jsonl"
        if not self.args.resume:
            if state.exists() or log.exists() or (self.folder / "config.json").exists():
                raise ValueError(f"--out {self.folder}: holds another run; add --resume to go on with it, or choose another")
            return None
        if not state.is_file():
            return None
        try:
            found = torch.load(state, map_location="cpu", weights_only=True)
        except Exception as e:
            raise ValueError(f"{state}: cannot be read ({type(e).__name__}); remove it to start again") from None
        self._compare(found)
        return found

    def _compare(self, found):
        """ValueError where a state that was found belongs to a run with other flags or other data."""
        then, now = found["args"], {k: v for k, v in self.flags.items() if k not in self.MAY_DIFFER}
        if "inputs" not in found:                                             # of an older version, before fingerprints
            now = {k: v for k, v in now.items() if (k in then or v) and not (k in self.FILLED_IN and not (v and then.get(k)))}
        if "steps" in now and then.get("steps") != now["steps"] and self._same_rates(found["step"], then):
            now.pop("steps")
        others = [spoken(k, then.get(k)) for k in now if then.get(k) != now[k]]
        if others:
            why, made = "", found["step"]
            if then.get("steps") != now.get("steps", then.get("steps")):
                why = (f"; {made} steps are made already" if now["steps"] < made else f"; under --schedule {now['schedule']} and "
                       f"--warmup {now['warmup']} the learning rates of the {made} steps made so far depend on it")
            raise ValueError(f"--resume: the run in {self.folder} was started with {' '.join(others)}; give the same flags{why}")
        for what, then in found.get("inputs", {}).items():
            if self.inputs.get(what, then) != then:
                raise ValueError(f"--resume: {what} has changed since the run in {self.folder} began, so it cannot go on as if "
                                 "never stopped; put the old one back, or start another run with another --out")

    def _same_rates(self, step, then):
        """Would the learning rates of the steps made so far have been the same with the number of steps asked for now? With a
        constant rate, or on the stable part of wsd, without a warm-up that is a share of them."""
        def rates(flags):
            how = [flags.get(k) for k in ("steps", "schedule", "warmup", "decay", "floor")]
            return [optim.schedule(i, *how) for i in range(step)]
        return self.flags["steps"] >= step and rates(then) == rates(self.flags)

    def open_log(self, about):
        """Starts or continues log.jsonl; `about` joins flags and versions in the first record."""
        if not self.main:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "log.jsonl"
        if self.state is not None and path.exists():                          # forget what came after the checkpoint
            whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in whole if json.loads(line).get("step", 0) <= self.step]
            write_atomically(path, lambda p: p.write_text("\n".join(kept) + "\n"))
            self.log_file = open(path, "a")
            self.log({"resumed_at": self.step, "steps": self.args.steps})
        else:
            self.log_file = open(path, "w")
            self.log({"flags": self.flags, "script": Path(sys.argv[0]).name, "versions": versions(),
                      "commit": commit(), "ranks": self.ranks, "device": device_name(self.device)} | about)
        if self.args.wandb:
            import wandb
            self.wandb = wandb.init(project=self.args.wandb, name=self.folder.name, config=self.flags)

    def log(self, record):
        if self.log_file:
            self.log_file.write(cli.to_json(record) + "\n")
            self.log_file.flush()
        if self.wandb and "step" in record:
            self.wandb.log(record, step=record["step"])

    # many ranks

    def distribute(self, model):
        """Moves the model to the device and wraps it for the ranks: the module whose forward training must call."""
        model.to(self.device)
        model.checkpointing = self.args.checkpointing
        if self.args.compile:
            model.compile_layers()
        if self.ranks == 1:
            return model
        if not self.args.shard:
            device_ids = [self.device.index] if self.device.type == "cuda" else None
            return torch.nn.parallel.DistributedDataParallel(model, device_ids=device_ids, process_group=self.group)
        from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = (DeviceMesh.from_group(self.group, self.device.type) if self.group
                else init_device_mesh(self.device.type, (self.ranks,)))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    def autocast(self):
        half = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext()

    def sum(self, *numbers):
        """Sums of numbers over all ranks, in float64."""
        if self.ranks == 1:
            return [float(n) for n in numbers]
        t = torch.tensor([float(n) for n in numbers], dtype=torch.float64, device=self.device)
        dist.all_reduce(t, group=self.group)
        return t.tolist()

    def most(self, number):
        """The largest of a number over all ranks, in its own type."""
        if self.ranks == 1:
            return number
        t = torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None, device=self.device)
        dist.all_reduce(t, dist.ReduceOp.MAX, group=self.group)
        return t.item()

    def backward(self, wrapped, batches, loss_of, weight=None):
        """Gradient of the global mean loss over all micro-batches and ranks.

        loss_of(batch) -> sum of weighted losses; weight: what this rank's batches weigh together, by default the sum of
        their loss masks. The weights are summed over everything first, so neither the split into micro-batches nor the
        number of ranks changes the gradient. Returns (mean loss, global weight).
        """
        if weight is None:
            weight = sum(float(b.loss_mask.double().sum()) for b in batches)
        weight, wants_stop = self.sum(weight, self.stopping)
        self.stopping = wants_stop > 0                                        # all ranks stop at the same step
        total = 0.0
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            if hasattr(wrapped, "set_requires_gradient_sync"):                # FSDP2
                wrapped.set_requires_gradient_sync(last)
            quiet = wrapped.no_sync() if not last and hasattr(wrapped, "no_sync") else contextlib.nullcontext()
            with quiet:
                with self.autocast():
                    loss = loss_of(batch.to(self.device))
                (loss * (self.ranks / max(weight, 1e-9))).backward()          # DDP and FSDP average over ranks: undo it
            total += float(loss.detach())
        return self.sum(total)[0] / max(weight, 1e-9), weight

    # stopping and saving

    def catch_interrupts(self):
        """Ctrl-C or SIGTERM ends the run after the current step, saved; a second one ends it at once."""
        def note(signum, frame):
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            if self.main:
                print("stopping after this step ...", file=sys.stderr, flush=True)
        signal.signal(signal.SIGINT, note)
        signal.signal(signal.SIGTERM, note)

    def save(self, model, tokenizer, optimizers, stream, guard, more=None):
        """Writes a checkpoint of the state after self.step steps. A full disk keeps the old one and ends the run."""
        weights = full_weights(model)
        state = {"step": self.step, "args": self.flags, "inputs": self.inputs, "weights": weights,
                 "optimizers": [pack_optimizer(o, model) for o in optimizers],
                 "stream": stream.state(), "guard": guard.state(), "random": random_state(), "more": more or {}}
        trouble = ""
        if self.main:
            try:
                model.save(self.folder, tokenizer, weights)
                write_atomically(self.folder / "train_state.pt", lambda path: torch.save(state, path))
            # torch and safetensors report a full disk as RuntimeError
            except (OSError, RuntimeError) as e:
                trouble = f"{self.folder}: cannot write the checkpoint of step {self.step} ({e}); the one before it is unharmed"
            except Exception as e:
                if type(e).__name__ != "SafetensorError":
                    raise
                trouble = f"{self.folder}: cannot write the checkpoint of step {self.step} ({e}); the one before it is unharmed"
        if self.sum(bool(trouble))[0]:
            cli.fail(trouble or "rank 0 could not write the checkpoint")

    def resume(self, model, optimizers, stream, guard):
        """Takes up the saved state, if there is one; returns what the script stored as `more`."""
        if self.state is None:
            return {}
        s, self.step = self.state, self.state["step"]
        restore_weights(model, s["weights"])
        for optimizer, packed in zip(optimizers, s["optimizers"]):
            unpack_optimizer(optimizer, model, packed)
        stream.restore(s["stream"])
        guard.restore(s["guard"])
        set_random_state(s["random"])
        return s["more"]

    def finish(self, result, ended=""):
        """Ends the run: the JSON line, and exit code 130 if it was interrupted. ended: what ended it before --steps, if it
        was meant to (report.py tells such a stage from one that was interrupted)."""
        if ended:
            result |= {"ended_by": ended}
        if self.main:
            self.log({"result": result, "step": self.step})
            cli.finish(result)
        self.close(130 if self.stopping and self.step < self.args.steps else 0)

    def close(self, code=0):
        """Ends the program with this exit code; of many ranks all together, for one that leaves early would break the
        others' last messages. Of one rank only a code other than 0 does end it."""
        if dist.is_initialized():
            try:                                          # a rank that died does not come
                dist.barrier(async_op=True).wait(timedelta(seconds=20 if code else 600))
            except RuntimeError as e:
                print(f"not all ranks have come to the end: {str(e).splitlines()[0]}", file=sys.stderr)
                code = code or 1
            if self.wandb:
                self.wandb.finish()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)                                # now and then a thread of gloo's, still there when Python ends,
        if code:                                          # aborts a run that is done and saved; so it ends here
            raise SystemExit(code)


class Until:
    """Ends a stage by what it has reached and not by its steps, so that runs from different seeds end alike: when the mean
    loss of the last 20 steps is down to `loss`, or the mean accuracy of the last two evaluations is up to `accuracy` (one
    alone is lucky now and then). 0: never. recent, measured: what it remembers of losses and accuracies."""

    def __init__(self, loss, accuracy=0.0, recent=(), measured=()):
        self.loss, self.accuracy, self.recent, self.measured = loss, accuracy, list(recent), list(measured)

    def memory(self):
        return {"recent": self.recent, "measured": self.measured}

    def low(self, loss):
        """Takes the loss of a step; the flag's name when its goal is reached, else ""."""
        self.recent = [*self.recent, loss][-20:]
        return "--until-loss" * (bool(self.loss) and len(self.recent) == 20 and sum(self.recent) / 20 <= self.loss)

    def accurate(self, found):
        """found: what evaluate_all returned; the goal is for the mean over numbers of operations, answered with thinking where
        that is one of two modes. Returns as `low` does."""
        tables = [table for name, table in found.items() if isinstance(table, list) and not name.endswith(" /no_think")]
        rows = [row for table in tables for row in table if "ops" in row]
        rates = [row["process"]["pass@1"][0] for row in rows]
        self.measured = [*self.measured, *([sum(rates) / len(rates)] if rates else [])][-2:]
        return "--until-accuracy" * (bool(self.accuracy) and len(self.measured) == 2 and sum(self.measured) / 2 >= self.accuracy)


class Guard:
    """Skips a step whose loss is not a number, or far above what the last steps made likely; gives up after several.

    A loss is far above when it exceeds the running mean by `sigmas` running standard deviations and by `nats`."""

    def __init__(self, sigmas=8.0, nats=1.0, patience=5, settle=50):
        self.sigmas, self.nats, self.patience, self.settle = sigmas, nats, patience, settle
        self.mean = self.variance = 0.0
        self.seen = self.in_a_row = self.skipped = 0

    def check(self, loss, grad_norm):
        """"" to go ahead, or why the step must be skipped. Raises ValueError when too many in a row were."""
        why = ""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            why = f"loss {loss}, gradient norm {grad_norm}"
        elif self.seen >= self.settle and loss > self.mean + max(self.sigmas * self.variance ** 0.5, self.nats):
            why = f"loss {loss:.3f} jumped from about {self.mean:.3f}"
        if why:
            self.in_a_row, self.skipped = self.in_a_row + 1, self.skipped + 1
            if self.in_a_row >= self.patience:
                raise ValueError(f"{self.in_a_row} steps in a row skipped, the last for: {why}; lower --lr, or look at the data")
            return why
        self.in_a_row, self.seen = 0, self.seen + 1
        rate = max(0.02, 1 / self.seen)
        self.variance = (1 - rate) * (self.variance + rate * (loss - self.mean) ** 2)
        self.mean += rate * (loss - self.mean)
        return ""

    def state(self):
        return dict(vars(self))

    def restore(self, state):
        vars(self).update(state)


# flags and what is read

def spoken(name, value):
    """A flag as one would type it."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else f"no {flag}"
    if value is None or value == "" or value == []:
        return f"no {flag}"
    return f"{flag} {' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"


def fingerprints(args):
    """{name: fingerprint} of the files that decide what a run learns: the sources of --data, the checkpoints and the tokenizer
    that it starts from, and a user's file with a reward."""
    folders = [getattr(args, name, "") for name in ("init", "reference", "tokenizer")]
    found = {f"--data {name}": fingerprint(name) for name, _ in map(split_spec, getattr(args, "data", []))}
    rewards = (part.partition(".py:")[0] + ".py" for part in getattr(args, "reward", "").split("+") if ".py:" in part)
    found |= {f"--reward {file}": fingerprint(file) for file in rewards}
    return found | {folder: fingerprint(folder) for folder in folders if folder and folder != args.out}


# weights and optimiser states, whole on every rank

def full(tensor):
    """A sharded tensor gathered (all ranks must call this together), on the CPU; any other as it is, on the CPU."""
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().cpu().clone()


@contextlib.contextmanager
def gathered(model):
    """Around evaluation: under FSDP2 the parameters outside the layers are whole meanwhile (the layers see to theirs)."""
    sharded = hasattr(model, "unshard")
    if sharded:
        model.unshard()
    try:
        yield
    finally:
        if sharded:
            model.reshard()


def full_weights(model):
    return {name: full(w) for name, w in model.state_dict().items()}


def like(tensor, parameter):
    """A whole tensor, sharded and placed as the parameter is."""
    tensor = tensor.to(parameter.device)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements) if isinstance(parameter,
            DTensor) else tensor


@torch.no_grad()
def restore_weights(model, weights):
    own = model.state_dict()
    if own.keys() != weights.keys():
        raise ValueError(f"train_state.pt holds other weights: {sorted(own.keys() ^ weights.keys())[:5]}")
    for name, w in own.items():
        w.copy_(like(weights[name].to(w.dtype), w))


def pack_optimizer(optimizer, model):
    """{parameter name: {state name: whole tensor or number}}: independent of ranks and of the order of parameters."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: {k: full(v) if isinstance(v, torch.Tensor) else v for k, v in state.items()} for p,
            state in optimizer.state.items()}


def unpack_optimizer(optimizer, model, packed):
    parameters = dict(model.named_parameters())
    for name, state in packed.items():
        p = parameters[name]
        optimizer.state[p] = {k: (like(v, p) if v.ndim else v) if isinstance(v, torch.Tensor) else v for k,
                              v in state.items()}


def clip_gradients(model, largest):
    """Scales the gradient down to norm `largest`; returns the norm it had."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def give_back_memory():
    """Hands free memory back to the system. glibc keeps what lies below a block still in use; where tensors of many sizes come
    and go such blocks soon lie everywhere, as oneDNN's code for each new shape does: a rank of recipes/laptop.sh grew by a third
    in 150 steps of reinforcement learning. Elsewhere it does nothing."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


# seeds, versions

def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)


def random_state():
    version, numbers, gauss = random.getstate()
    state = {"python": [version, list(numbers), gauss], "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state):
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def versions():
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def commit():
    """The commit of the code; with "-dirty" where it differs, results/ aside, to which every bench adds."""
    def git(*words):
        return subprocess.run(["git", "-C", Path(__file__).parent.parent, *words], capture_output=True, text=True,
                              timeout=10).stdout.strip()
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return git("describe", "--always") + "-dirty" * bool(changed)
    except (OSError, subprocess.SubprocessError):
        return ""


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


class Progress:
    """The bar on standard error: loss, tokens per second, time left."""

    def __init__(self, run, name):
        self.bar = tqdm(total=run.args.steps, initial=run.step, desc=name, unit="step", disable=not run.main,
                        mininterval=0.5)
        self.tokens, self.since = 0, time.perf_counter()

    def update(self, tokens, **shown):
        self.tokens += tokens
        self.bar.set_postfix_str(" ".join(f"{k} {v}" for k, v in shown.items()) + f" {self.rate():,.0f} tok/s",
                                 refresh=False)
        self.bar.update()

    def rate(self):
        return self.tokens / max(1e-9, time.perf_counter() - self.since)

    def say(self, text):
        self.bar.write(text, file=sys.stderr)
