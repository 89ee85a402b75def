"""What a number was measured with: versions, the commit, the device. And memory that goes back to the system."""

import contextlib
import ctypes
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch


def versions() -> dict:
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def commit() -> str:
    """The commit of the code; with "-dirty" where it differs, results/ aside, to which every bench adds."""
    def git(*words):
        return subprocess.run(["git", "-C", Path(__file__).parent.parent, *words], capture_output=True, text=True,
                              timeout=10).stdout.strip()
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return git("describe", "--always") + "-dirty" * bool(changed)
    except (OSError, subprocess.SubprocessError):
        return ""


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def give_back_memory() -> None:
    """Hands free memory back to the system. glibc keeps what lies below a block still in use; where tensors of many sizes come
    and go such blocks soon lie everywhere, as oneDNN's code for each new shape does: a rank of recipes/laptop.sh grew by a third
    in 150 steps of reinforcement learning. Elsewhere it does nothing."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
