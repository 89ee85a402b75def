"""Facts about the machine, for records: versions, the commit, the device. Also returns free memory to the system."""

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
    """The commit of the code, with "-dirty" if files have changed (results/ does not count, since every bench adds to it)."""
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
    """Returns free memory to the system, where the C library is glibc; elsewhere it does nothing.

    glibc keeps free memory if a block above it is still in use. With tensors of many sizes, and with oneDNN's code for each new
    shape, there are soon such blocks everywhere, and the process grows during reinforcement learning."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
