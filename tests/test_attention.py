"""Flash attention against one query at a time in float64, and the bits of decode against those of training.

Without a GPU the kernels run in Triton's interpreter, in float32 and with tiles so small that short documents cross
several of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest.importorskip("triton")
from kernels import attention as package_member  # noqa: E402
from kernels.attention import TILES, Spans, attention  # noqa: E402
from kernels.fast import Packing, attend  # noqa: E402
