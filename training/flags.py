"""The flags that all training scripts share, and when each of them has an effect."""

import dataclasses
import os
from argparse import Namespace

import torch

from training import cli, optim


def training_flags(text: str, needs: tuple = (), data_required: bool = True) -> cli.Parser:
    """A parser with the flags that all training scripts share. A script adds its own flags; `needs` says when these have an
    effect (see cli.Parser)."""
    p = cli.Parser(text, NEEDS + needs)
    p.add_argument("--init", metavar="FOLDER", default="", help="checkpoint to start from, ours or Hugging Face's")
    p.add_argument("--out", type=cli.out_folder, metavar="FOLDER", required=True, help="run folder to write")
    p.add_argument("--data", metavar="SPEC", nargs="+", required=data_required,
                   default=None if data_required else [],
                   help="sources, SOURCE[@WEIGHT] (see data.py)")
    p.add_argument("--steps", type=cli.positive_int, default=1000, help="optimiser steps")
    p.add_argument("--batch-tokens", type=cli.non_negative_int, default=4096, help="tokens in a global batch")
    p.add_argument("--micro-tokens", type=cli.non_negative_int, default=0,
                   help="tokens in a micro-batch of one rank; 0: all of its tokens (grpo, distill: 4096, or 16384 on a GPU)")
    p.add_argument("--lr", type=cli.not_negative, default=0.02, help="peak learning rate (of Muon, or of AdamW without it)")
    p.add_argument("--adam-lr", type=cli.not_negative, default=0.003, help="peak learning rate of AdamW, used with Muon")
    p.add_argument("--optimizer", default="muon", choices=list(optim.OPTIMIZERS),
                   help="for the matrices inside the layers")
    p.add_argument("--schedule", default="wsd", choices=optim.SCHEDULES,
                   help="shape of the learning rate")
    p.add_argument("--warmup", type=cli.fraction, default=0.01, help="share of the steps")
    p.add_argument("--decay", type=cli.fraction, default=0.2, help="share of the steps, for wsd")
    p.add_argument("--floor", type=cli.fraction, default=0.0, help="final learning rate, share of the peak")
    p.add_argument("--weight-decay", type=cli.not_negative, default=0.0, help="on the matrices inside the layers")
    p.add_argument("--clip", type=cli.above_zero, default=1.0, help="largest gradient norm")
    p.add_argument("--seed", type=cli.seed, default=0, help="of weights and data order")
    p.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: a GPU if one is visible")
    p.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float64"],
                   help="of the matrix products; auto: bfloat16 on a GPU (weights stay float32), else float32")
    p.add_argument("--compile", action="store_true", help="torch.compile each layer (GPU)")
    p.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    p.add_argument("--shard", action="store_true", help="FSDP2 instead of DDP under torchrun")
    p.add_argument("--resume", action="store_true", help="continue the run in --out, if there is one")
    p.add_argument("--log-every", type=cli.positive_int, default=10, help="steps")
    p.add_argument("--eval-every", type=cli.non_negative_int, default=0, help="steps; 0: only at the end")
    p.add_argument("--eval-data", metavar="SPEC", nargs="*", default=[],
                   help="held-out data: world:... (verified accuracy), a file of questions (accuracy of the answers), text (bits "
                   "per byte), loss:SPEC (the loss of pre-training on any SPEC). Questions are asked as in training, and "
                   "answered greedily")
    p.add_argument("--eval-problems", type=cli.positive_int, default=100,
                   help="problems for each number of operations of a world; questions of a file")
    p.add_argument("--save-every", type=cli.non_negative_int, default=0, help="steps; 0: only at the end")
    p.add_argument("--wandb", metavar="PROJECT", default="", help="also log to Weights & Biases (pip install wandb)")
    return p


def until_flags(p: cli.Parser) -> None:
    """The flags of stages that can end when a goal is reached (training/goals.py)."""
    p.add_argument("--until-loss", type=cli.not_negative, default=0.0,
                   help="end early, when the mean loss of 20 steps is at most this; 0: never")
    p.add_argument("--until-accuracy", type=cli.fraction, default=0.0,
                   help="end early, when the greedy accuracy on the worlds (with every step right) and questions of --eval-data, "
                        "the mean of the last two evaluations by --eval-every, is at least this; 0: never")


def row_flags(p: cli.Parser, length: int, fits: str = "") -> None:
    """The flags of stages that pack documents into rows. length: the default of --seq-len; fits: what must fit into a row."""
    p.add_argument("--seq-len", type=cli.positive_int, default=length,
                   help="tokens in a row" + (f"; {fits} must fit" if fits else ""))
    p.add_argument("--max-epochs", type=cli.not_negative, default=0.0,
                   help="most passes through each source; a part of one ends with a document or row; 0: no limit")


def loss_needs(losses: dict) -> tuple:
    """The rows of `needs` (see cli.Parser) for the flags that only some losses use. losses: the table of a script, {name of the
    loss: an object whose `reads` names these flags, with underscores}."""
    together = {}                                         # {losses: the flags that these losses use, and no other}
    for flag in dict.fromkeys(flag for loss in losses.values() for flag in loss.reads):
        users = tuple(name for name, loss in losses.items() if flag in loss.reads)
        together.setdefault(users, []).append(f"--{flag.replace('_', '-')}")
    return tuple((" ".join(flags), lambda a, users=users: a.loss in users, "with --loss {loss}")
                 for users, flags in together.items())


def option_flags(p: cli.Parser, kind: type) -> None:
    """Adds a flag for each field of a dataclass with a help text in its metadata, as in model.Config. For a field that is True by
    default the flag turns it off."""
    for f in options_in(kind):
        name, more = f"--{flag_of(f).replace('_', '-')}", {"help": f.metadata["help"]}
        if f.type is bool:
            p.add_argument(name, action="store_true", **more)
            continue
        if f.type is int:
            more["type"] = cli.positive_int if f.default else cli.non_negative_int
        if f.type is float:
            more["type"] = cli.above_zero if f.default else cli.not_negative
        if "choices" in f.metadata:
            more["choices"] = f.metadata["choices"]
        p.add_argument(name, default="+".join(f.default) if f.type is tuple else f.default, **more)


def options_from(args: Namespace, kind: type) -> dict:
    """{name of the field: its value} from the flags that option_flags made."""
    values = {f.name: getattr(args, flag_of(f)) for f in options_in(kind)}
    return values | {f.name: not values[f.name] for f in options_in(kind) if f.default is True}


def option_names(kind: type) -> str:
    """The names of the flags of option_flags, in one string, for a row of `needs`."""
    return " ".join(f"--{flag_of(f).replace('_', '-')}" for f in options_in(kind))


def options_in(kind: type) -> list:
    return [f for f in dataclasses.fields(kind) if "help" in f.metadata]


def flag_of(f: dataclasses.Field) -> str:
    return f.metadata.get("flag", f.name)


def check_common(args: Namespace) -> None:
    """Checks of all stages that train a checkpoint further. ValueError: one line that says how to fix it."""
    if not args.init:
        raise ValueError("--init is needed: the checkpoint to train")
    if getattr(args, "exact", False) and args.compile:
        raise ValueError("--exact computes without --compile, which joins operations and rounds less often")


def uses_gpu(args: Namespace) -> bool:
    return args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())


ENDLESS = ("world:", "instructions:", "needle:")           # sources that never end

# when the flags above have an effect; also --max-epochs of row_flags (see cli.Parser)
NEEDS = (
    ("--adam-lr", lambda a: a.optimizer != "adamw", "with --optimizer {optimizer}, whose rate is --lr alone"),
    ("--decay", lambda a: a.schedule == "wsd", "with --schedule {schedule}"),
    ("--floor", lambda a: a.schedule == "cosine" or (a.schedule == "wsd" and a.decay),
     "where the rate never falls (--schedule {schedule} --decay {decay})"),
    # a resume may have fewer ranks than the run began with
    ("--shard", lambda a: a.resume or int(os.environ.get("WORLD_SIZE", 1)) - getattr(a, "rollout_ranks", 0) > 1,
     "with one rank that learns (torchrun starts more)"),
    ("--eval-every --eval-problems", lambda a: a.eval_data, "without --eval-data"),
    ("--max-epochs", lambda a: not all(spec.startswith(ENDLESS) for spec in a.data),
     "on worlds, which never end"),
)
