"""Finds the saved state for --resume, and checks that flags and data are the same as before.

train_state.pt has the flags of the run and a fingerprint of all that it read. The same command with --resume continues the run.
With other flags or other data it is refused, and the message names them: the run could not continue as if it had never stopped.
So a script must set flags that depend on other flags before it makes its Run, and must not change `args` afterwards.
"""

from pathlib import Path

import torch

from formats.huggingface import holds_weights
from training import optim

# flags that a resumed run may change, because they do not change what is learned
MAY_DIFFER = {"resume", "out", "device", "compile", "checkpointing", "shard", "micro_tokens", "log_every", "eval_every",
              "eval_data", "eval_problems", "save_every", "show_every", "peak_tflops", "wandb", "rollout_ranks"}
OTHERWISE = "choose another --out, with this folder as --init to train its weights further, or move it away to begin again"
FILLED_IN = {"scale", "kl_kind"}                          # older versions saved them as given, even without effect


def find_state(folder: Path, flags: dict, inputs: dict, defaults: dict) -> dict | None:
    """The saved state to resume from, or None. ValueError if the folder holds another run, or this run with other flags (vars of
    args; defaults: their values where they are not given) or inputs ({name: fingerprint})."""
    state, log = folder / "train_state.pt", folder / "log.jsonl"
    if not flags["resume"]:
        if state.exists() or log.exists() or (folder / "config.json").exists():
            raise ValueError(f"--out {folder}: holds another run; add --resume to continue it, or choose another folder")
        if there := holds_weights(folder):                # saving would remove them
            raise ValueError(f"--out {folder}: holds {there}, of another model; choose another folder")
        return None
    if not state.is_file():
        if (folder / "config.json").exists():             # it would be overwritten by a run that begins again
            raise ValueError(f"--resume: {folder} has a checkpoint, but no train_state.pt to go on from; {OTHERWISE}")
        return None
    try:
        found = torch.load(state, map_location="cpu", weights_only=True)
    except Exception as e:
        raise ValueError(f"{state}: cannot be read ({type(e).__name__}); {OTHERWISE}") from None
    compare_flags(folder, found, flags, defaults)
    compare_inputs(folder, found, inputs)
    found["weights"] = without_copies(found["weights"])
    return found


def without_copies(weights: dict) -> dict:
    """An older version of ppo saved every layer twice, as model.layers.0... and as layers.0...; the second one is left out."""
    return {name: w for name, w in weights.items() if f"model.{name}" not in weights}


def compare_flags(folder: Path, found: dict, flags: dict, defaults: dict) -> None:
    """ValueError if the saved state belongs to a run with other flags."""
    then = found["args"]
    # a flag that an older version did not have makes no difference if it is not set, or set to its default
    now = {k: v for k, v in flags.items() if k not in MAY_DIFFER and (k in then or (v and v != defaults.get(k)))}
    if "inputs" not in found:                             # saved by an older version, without fingerprints
        now = {k: v for k, v in now.items() if k not in FILLED_IN or (v and then.get(k))}
    if "steps" in now and then.get("steps") != now["steps"] and same_rates(found["step"], then, flags):
        now.pop("steps")
    others = [as_typed(k, then.get(k)) for k in now if then.get(k) != now[k]]
    if not others:
        return
    why, made = "", found["step"]
    if then.get("steps") != now.get("steps", then.get("steps")):
        why = (f"; {made} steps are made already" if now["steps"] < made else f"; under --schedule {now['schedule']} and "
               f"--warmup {now['warmup']} the learning rates of the {made} steps made so far depend on it")
    raise ValueError(f"--resume: the run in {folder} was started with {' '.join(others)}; give the same flags{why}")


def compare_inputs(folder: Path, found: dict, inputs: dict) -> None:
    """ValueError if a file that decides what is learned has changed."""
    for what, then in found.get("inputs", {}).items():
        if inputs.get(what, then) != then:
            raise ValueError(f"--resume: {what} has changed since the run in {folder} began, so it cannot go on as if "
                             "never stopped; put the old one back, or start another run with another --out")


def same_rates(step: int, then: dict, now: dict) -> bool:
    """Whether the first `step` learning rates would be the same with the new number of steps. This is so with a constant rate, or
    in the flat part of wsd, if there is no warm-up."""
    def rates(flags):
        options = [flags.get(k) for k in ("steps", "schedule", "warmup", "decay", "floor")]
        return [optim.schedule(i, *options) for i in range(step)]
    return now["steps"] >= step and rates(then) == rates(now)


def as_typed(name: str, value: object) -> str:
    """A flag as text on the command line."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else f"no {flag}"
    if value is None or value == "" or value == []:
        return f"no {flag}"
    return f"{flag} {' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
