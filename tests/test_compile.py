"""Every Triton kernel, as its wrapper launches it, through the real compiler for GPUs that need not be there.

The interpreter takes programs that the compiler does not, and knows no limit to a program's fast memory. This file is also
the process that compiles: `python -m tests.test_compile 90` prints a line of JSON for each launch (90: Hopper, 89: Ada).
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
FAST_MEMORY = {90: 227, 89: 99}                  # KB that one program may have (CUDA C++ programming guide)
WORDS = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64"}


class Recorder:
    """In a kernel's place: keeps what it is launched with, and leaves the results as they are."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **options: self.launches.append((self.kernel, args, options))


def compiled(kernel, args, options, capability):
    """One launch, specialised as Triton does it: numbers equal to 1 and missing arguments are constants, and multiples of
    16 are known to be that."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    names = [p.name for p in kernel.params]
    given = dict(zip(names, args)) | {name: options.pop(name) for name in names if name in options}
    signature, constants, known = {}, {}, {}
    for i, p in enumerate(kernel.params):
        value, special = given[p.name], not p.do_not_specialize
        if p.is_constexpr or value is None or (special and isinstance(value, int) and value == 1):
            signature[p.name], constants[p.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[p.name], known[i,] = "*" + WORDS[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[p.name] = "fp32" if isinstance(value, float) else "i32"
            if special and isinstance(value, int) and value % 16 == 0:
                known[i,] = [["tt.divisibility", 16]]
    return compile(ASTSource(kernel, signature, constants, known), target=GPUTarget("cuda", capability, 32), options=options)


def sums(done):
    """The layouts of what the program adds up along a row: with them the order of the additions."""
    text = done.asm["ttgir"]
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", text, re.MULTILINE))
    return sorted({f"{shape} {layouts[name]}" for shape, name in re.findall(r"\}\) : \(tensor<(\w+), (#\w+)>\) ->", text)})


def attention_launches(launches):
    from kernels.attention import Spans, attention
    for hd, dtype in ((64, torch.bfloat16), (128, torch.bfloat16), (256, torch.bfloat16), (64, torch.float32)):
        q, k, v = (torch.empty(256, heads, hd, dtype=dtype, requires_grad=True) for heads in (8, 2, 2))
        pages = torch.empty(8, 2, 64, hd, dtype=dtype)
        lengths, table = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 16, dtype=torch.int64)
        for exact in (False, True):
            for window in (0, 100):
                attention(q, k, v, Spans.of_rows(2, 128, "cpu"), window, exact).sum().backward()
                with torch.no_grad():
                    attention(q[:4], pages, pages, Spans.of_cache(lengths), window, exact, table)
            yield from ((f"{'exact ' * exact}{hd} {WORDS[dtype]}", launch) for launch in launches)
            launches.clear()


def other_launches(launches):
    from kernels.activation import swiglu
    from kernels.linear import linear
    from kernels.logprob import row_logprobs
    from kernels.norm import qk_norm_rope, rms_norm
    bf16 = torch.bfloat16
    for dtype in (bf16, torch.float32):
        weight = torch.empty(1024, 512, dtype=dtype)
        for rows in (1, 32, 64, 256, 4096):
            linear(torch.empty(rows, 512, dtype=dtype), weight)
        linear(torch.empty(1, 512, dtype=dtype), weight, out_dtype=torch.float32)
        linear(torch.empty(1, 511, dtype=dtype), weight[:, :511].contiguous(), torch.empty(1024, dtype=dtype))
    for width in (384, 8192):
        x, residual = (torch.empty(4, width, dtype=bf16, requires_grad=True) for _ in range(2))
        sum(y.sum() for y in rms_norm(x, torch.ones(width, requires_grad=True), 1e-6, residual)).backward()
        rms_norm(x, torch.ones(width), 1e-6)
    for heads, hd in ((14, 64), (32, 128)):
        x, cos = torch.empty(4, heads, hd, dtype=bf16, requires_grad=True), torch.empty(4, hd // 2)
        for weight in (None, torch.ones(hd, requires_grad=True)):
            qk_norm_rope(x, weight, cos, cos, 1e-6).sum().backward()
    swiglu(*(torch.empty(4, 4096, dtype=bf16, requires_grad=True) for _ in range(2))).sum().backward()
    for V, dtype in ((4096, bf16), (151_936, torch.float32)):
        row_logprobs(torch.empty(2, V, dtype=dtype, requires_grad=True), torch.zeros(2, dtype=torch.int64))[0].sum().backward()
    yield from (("other", launch) for launch in launches)


def compile_all(capability):
    """Yields the facts of each launch."""
    from triton.runtime.jit import JITFunction

    from kernels import activation, attention, linear, logprob, norm
    launches = []
    for module in (activation, attention, linear, logprob, norm):
        for name, kernel in list(vars(module).items()):
            if isinstance(kernel, JITFunction) and name not in ("_pair", "_pair_mean"):       # not launched by themselves
                setattr(module, name, Recorder(kernel, launches))
    kind = "data centre" if capability == 90 else "other"
    attention.device_kind = linear.device_kind = lambda device: kind
    for source in (attention_launches, other_launches):
        for group, (kernel, args, options) in source(launches):
            facts = dict(group=group, kernel=kernel.__name__)
            try:
                done = compiled(kernel, args, dict(options), capability)
            except Exception as e:
                yield facts | dict(error=f"{type(e).__name__}: {e}")
            else:
                yield facts | dict(kilobytes=done.metadata.shared / 1024, sums=sums(done))


@pytest.mark.parametrize("capability", FAST_MEMORY)
def test_every_launch_compiles(capability):
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "-m", "tests.test_compile", str(capability)], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"TRITON_INTERPRET": "0"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {f["kernel"] for f in found} == {"_attend_forward", "_attend_backward_q", "_attend_backward_kv", "_linear",
                                            "_norm_forward", "_norm_backward", "_rope_forward", "_rope_backward",
                                            "_silu_forward", "_silu_backward", "_row_forward", "_row_backward"}
    assert not [f for f in found if "error" in f]
    assert not [f for f in found if f["kilobytes"] > FAST_MEMORY[capability]]
    # Exact attention has one tile for training, prefill and decode: a row's sum is then to be one tree as well, with keys
    # side by side or in pages, with a window or without.
    trees = {}
    for f in found:
        if "exact" in f["group"] and f["kernel"] == "_attend_forward":
            trees.setdefault(f["group"], []).append(f["sums"])
    assert len(trees) == 4
    for group, layouts in trees.items():
        assert len(layouts) == 4 and layouts[0] and all(other == layouts[0] for other in layouts), (group, layouts)


if __name__ == "__main__":
    for facts in compile_all(int(sys.argv[1])):
        print(json.dumps(facts), flush=True)
