"""Lists what the compiler makes of every Triton launch in training, exact mode and decoding; bench.py launches runs this.

No GPU is needed: Triton comes with the compiler (ptxas) and the disassembler for NVIDIA's GPUs. The wrappers of kernels/ run on
empty CPU tensors. In place of each kernel there is a recorder, which keeps the arguments of the launch. Each new launch is then
compiled, specialised as Triton does it. The compiler's report and the machine code show:

    registers, spilled bytes, and how many instructions inside loops move spilled values
    shared KB: fast memory of one program, and the buffers in it (3x64x128xbf16: three blocks are loaded at a time)
    wgmma: shapes of the asynchronous products of Hopper's tensor cores; mma: the older, synchronous ones
    notes: remarks of ptxas on performance, e.g. C7515: it runs one wgmma after the other
    instructions, those in the longest loop, and the bits of each load from memory

`python -m benchmarks.launches 90 all attention` prints a line of JSON for each launch of a part (90: Hopper, 89: Ada), as in
tests/kernels/test_compile.py. For another version of Triton: `pip install --target FOLDER --no-deps triton==3.6.0`, then
PYTHONPATH=FOLDER.
"""

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent.parent
TARGETS = {90: "data centre", 89: "other"}                # compute capability: the kind by which kernels/ chooses tiles
WORDS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64"}
FACTS = 1                                                 # raise it when facts_of returns other facts
MODULES = ("activation", "attention", "linear", "logprob", "norm")

# width, feed-forward width, that of keys, vocabulary: bench_large's 1.2B and Qwen2.5-0.5B
MODELS = ((2048, 5632, 1024, 32_768), (896, 4864, 128, 151_936))


# recording

class Recorder:
    """Replaces a kernel: records the arguments of each launch and computes nothing."""

    def __init__(self, kernel: Any, launches: list):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **options: self.launches.append((self.kernel, args, options))


def attention_launches(launches: list, short: bool = False) -> Iterator[dict]:
    """Yields what the last launches were for. short: one group of heads and no window, for a quick test."""
    from kernels.gpu.attention import Spans, attention
    bf16, fp32 = torch.bfloat16, torch.float32
    sizes = [(hd, G, bf16) for hd in (64, 128) for G in ((4,) if short else (4, 1, 7))]      # 7: rows of a tile are left over
    sizes += [] if short else [(96, 4, bf16), (256, 4, bf16), (64, 4, fp32)]
    for hd, G, dtype in sizes:
        q, k, v = (torch.empty(256, heads, hd, dtype=dtype, requires_grad=True) for heads in (2 * G, 2, 2))
        pages = torch.empty(8, 2, 64, hd, dtype=dtype)
        lengths, table = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 16, dtype=torch.int64)
        for exact in (False, True):
            for window in (0, 100) if G == 4 and hd in (64, 128) and not short else (0,):
                about = dict(head_size=hd, group=G, dtype=WORDS[dtype], window=window)
                out = attention(q, k, v, Spans.of_rows(2, 128, "cpu"), window, exact)
                yield about | {"what": "exact attention, whole" if exact else "attention, whole"}
                out.sum().backward()
                yield about | {"what": "attention, backward"}
                if not exact and not window:              # the log-sum-exp has a gradient too
                    out, lse = attention(q, k, v, Spans.of_rows(2, 128, "cpu"), window, exact, lse=True)
                    launches.clear()                      # its forward pass is that of all others
                    (out.sum() + lse.sum()).backward()
                    yield about | {"what": "attention with sinks, backward"}
                with torch.no_grad():
                    attention(q[:4], pages, pages, Spans.of_cache(lengths), window, exact, table)
                    yield about | {"what": "exact attention, decoding" if exact else "attention, decoding"}
                    attention(q, pages, pages, Spans.of_cache(lengths, 64), window, exact, table)
                    yield about | {"what": "exact attention, pieces" if exact else "attention, pieces"}


def product_launches(launches: list, short: bool = False) -> Iterator[dict]:
    from kernels.gpu.linear import linear
    for dtype in (torch.bfloat16,) if short else (torch.bfloat16, torch.float32):
        for D, F, K, V in MODELS[:1] if short else MODELS:
            for n, d, out, bias in ((F, D, dtype, False), (V, D, torch.float32, False)) + (
                    () if short else ((D, F, dtype, False), (K, D, dtype, True))):
                weight = torch.empty(n, d, dtype=dtype)
                for M in (256, 4096) if short else (1, 32, 64, 256, 4096):
                    linear(torch.empty(M, d, dtype=dtype), weight, torch.empty(n, dtype=dtype) if bias else None, out)
                    yield dict(what="product", dtype=WORDS[dtype], out=WORDS[out], bias=bias)
        weight, bias = torch.empty(1024, 511, dtype=dtype), torch.empty(1024, dtype=dtype)   # a width that no step divides
        for M in (1, 4096):
            linear(torch.empty(M, 511, dtype=dtype), weight, bias)
            yield dict(what="product, odd width", dtype=WORDS[dtype], out=WORDS[dtype])


def other_launches(launches: list, short: bool = False) -> Iterator[dict]:
    """All kernels that are not a product and not attention: they work element by element, or row by row."""
    from kernels.gpu.activation import swiglu
    from kernels.gpu.logprob import row_logprobs
    from kernels.gpu.norm import qk_norm_rope, rms_norm
    bf16 = torch.bfloat16
    for dtype in (bf16,):
        for width in (2048,) if short else (384, 2048, 8192):
            x, residual = (torch.empty(4, width, dtype=dtype, requires_grad=True) for _ in range(2))
            sum(y.sum() for y in rms_norm(x, torch.ones(width, requires_grad=True), 1e-6, residual)).backward()
            rms_norm(x, torch.ones(width, requires_grad=True), 1e-6).sum().backward()
            yield dict(what="norm", width=width, dtype=WORDS[dtype])
        for heads, hd in ((14, 64),) if short else ((2, 64), (14, 64), (32, 128)):
            x, cos = torch.empty(4, heads, hd, dtype=dtype, requires_grad=True), torch.empty(4, hd // 2)
            for weight in (None, torch.ones(hd, requires_grad=True)):
                qk_norm_rope(x, weight, cos, cos, 1e-6).sum().backward()
                yield dict(what="rotation" if weight is None else "norm and rotation", head_size=hd, heads=heads,
                           dtype=WORDS[dtype])
        for rows in (4,):
            swiglu(*(torch.empty(rows, 4864, dtype=dtype, requires_grad=True) for _ in range(2))).sum().backward()
            yield dict(what="swiglu", dtype=WORDS[dtype])
        for of in (dtype, torch.float32):                 # logits of the fast form and of the exact one
            row_logprobs(torch.empty(2, 32_768, dtype=of, requires_grad=True),
                         torch.zeros(2, dtype=torch.int64))[0].sum().backward()
            yield dict(what="log-probability", dtype=WORDS[of])


PARTS = {"attention": attention_launches, "product": product_launches, "other": other_launches}


# compiling

def specialised(kernel: Any, args: tuple, options: dict) -> tuple[dict, dict, dict, dict]:
    """What Triton makes of the arguments of a launch: (signature, constants, what is known, options). Numbers equal to 1 and
    missing arguments are constants, and multiples of 16 are known to be that."""
    options, names = dict(options), [p.name for p in kernel.params]
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
    return signature, constants, known, options


def compiled(kernel: Any, signature: dict, constants: dict, known: dict, options: dict, capability: int) -> dict:
    """The facts of the compiled program. Both program and facts are kept in Triton's cache (TRITON_CACHE_DIR)."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    from triton.runtime.cache import get_cache_manager
    file = f"facts-{FACTS}.json"
    for again in (False, True):
        said = io.StringIO()
        with knobs.compilation.scope(), knobs.nvidia.scope(), contextlib.redirect_stdout(said):
            knobs.compilation.always_compile, knobs.nvidia.dump_ptxas_log = again, True
            done = compile(ASTSource(kernel, signature, constants, known), target=GPUTarget("cuda", capability, 32),
                           options=dict(options))
        cache = get_cache_manager(done.hash)
        if kept := cache.get_file(file):
            return json.loads(Path(kept).read_text())
        if said.getvalue():                               # compiled now, not found in the cache
            facts = facts_of(done, said.getvalue())
            cache.put(json.dumps(facts), file, binary=False)
            return facts
    raise RuntimeError("ptxas says nothing")


def disassembled(cubin: bytes) -> list[str]:
    """The machine code, a list of lines: instructions, and labels that end in a colon."""
    from triton import knobs
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        text = subprocess.run([knobs.nvidia.nvdisasm.path, "-c", f.name], capture_output=True, text=True, check=True).stdout
    return [a or b for a, b in re.findall(r"^(\.L_x_\d+:)|^\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", text, re.M)]


def loops_of(code: list[str]) -> list[tuple[int, int]]:
    """(first, last) line of each loop: from a label to a jump back to it. The idle jump after the end of a program is no loop."""
    labels = {line[:-1]: i for i, line in enumerate(code) if line.endswith(":")}
    found = []
    for i, line in enumerate(code):
        if jump := re.search(r"\bBRA\b.*?`\((\.L_x_\d+)\)", line):
            if labels.get(jump[1], i) < i - 1:
                found.append((labels[jump[1]], i))
    return found


def operations(code: list[str]) -> list[str]:
    """The operation of each instruction, without its predicate: LDG.E.128, HGMMA.64x64x16.F32.BF16, ..."""
    return [re.sub(r"^@!?U?P\w+\s+", "", line).split()[0] for line in code if not line.endswith(":")]


def bits_of(operation: str) -> int:
    """How many bits a thread loads with one operation."""
    width = re.search(r"\.(U?S?8|U?S?16|64|128)\b", operation)
    return int(width[1].strip("US")) if width else 32


def facts_of(done: Any, report: str) -> dict:
    """The facts that the top of this file lists, for one program `done` of Triton. report: what ptxas printed."""
    code = disassembled(done.asm["cubin"])
    loops, every = loops_of(code), operations(code)
    inside = sorted({i for first, last in loops for i in range(first, last)})
    longest = max((operations(code[first:last + 1]) for first, last in loops), key=len, default=[])
    spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    loads = {}
    for name in every:
        if name.startswith(("LDG.", "LDGSTS.")):
            key = f"{'async ' * name.startswith('LDGSTS')}{bits_of(name)}"
            loads[key] = loads.get(key, 0) + 1
    return {"registers": int(re.search(r"Used (\d+) registers", report)[1]), "spilled_bytes": max(map(int, spilled)),
            "loop_spills": sum(name.startswith(("LDL", "STL")) for name in operations([code[i] for i in inside])),
            "shared_kb": round(done.metadata.shared / 1024, 2),
            "buffers": sorted(re.findall(r"ttg\.local_alloc\b.*?memdesc<([\w]+),", done.asm["ttgir"])),
            "wgmma": sorted({re.search(r"\d+x\d+x\d+", name)[0] for name in every if name.startswith("HGMMA")}),
            "mma": sorted({name for name in every if name.startswith("HMMA")}),
            "notes": sorted(set(re.findall(r"\((C\d+)\)", report))),
            "instructions": len(every), "loop_instructions": len(longest), "loads": dict(sorted(loads.items())),
            "sums": sums(done)}


def sums(done: Any) -> list[str]:
    """The layouts of the tensors that the program adds up along a row. They decide the order of the additions."""
    text = done.asm["ttgir"]
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", text, re.MULTILINE))
    return sorted({f"{shape} {layouts[name]}" for shape, name in re.findall(r"\}\) : \(tensor<(\w+), (#\w+)>\) ->", text)})


def compile_all(capability: int, parts: Iterable[str] = PARTS, short: bool = False) -> Iterator[dict]:
    """Yields the facts of each launch that is different from those before it, for GPUs of one compute capability.
    Run it in a separate process: afterwards the modules of kernels/ still have recorders in them."""
    from triton.runtime.jit import JITFunction
    launches, seen = [], set()
    modules = [importlib.import_module(f"kernels.gpu.{name}") for name in MODULES]
    for module in modules:
        for name, kernel in list(vars(module).items()):
            if isinstance(kernel, JITFunction):
                setattr(module, name, Recorder(kernel, launches))
        if hasattr(module, "device_kind"):
            module.device_kind = lambda device: TARGETS[capability]
    inner = {"_pair": "norm", "_pair_mean": "norm"}       # called by kernels, not launched
    for name, module in inner.items():
        module = importlib.import_module(f"kernels.gpu.{module}")
        setattr(module, name, getattr(module, name).kernel)
    for part in parts:
        for about in PARTS[part](launches, short):
            for kernel, args, options in launches:
                special = specialised(kernel, args, options)
                key = kernel.__name__, repr(special), about["what"]
                if key in seen:
                    continue
                seen.add(key)
                tile = {k.removeprefix("BLOCK_").lower(): v for k, v in special[1].items() if k.startswith("BLOCK")}
                facts = {"part": part, "kernel": kernel.__name__} | about | {
                    "tile": "x".join(map(str, tile.values())), "warps": special[3].get("num_warps"),
                    "stages": special[3].get("num_stages")}
                try:
                    facts |= compiled(kernel, *special, capability)
                except Exception as e:
                    facts |= {"error": f"{type(e).__name__}: {e}"}
                yield facts
            launches.clear()


def rows_of(capability: int, parts: Iterable[str] = PARTS, short: bool = False) -> list[dict]:
    """The same as a list, from a new process in which the kernels are compiled and not interpreted."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.launches", str(capability), "short" if short else "all", *parts],
                          cwd=HERE, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "0"})
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


# the table

IS = ("kernel", "what", "head_size", "group", "window", "heads", "width", "dtype", "out")       # what a launch is for


def bench_launches(toy: bool = False) -> dict:
    """All launches on Hopper with the Triton that is installed: {"rows", "triton", "target"}."""
    import triton
    rows = [{k: v for k, v in r.items() if k != "sums"} for r in rows_of(90, short=toy)]
    return {"rows": rows, "triton": triton.__version__, "target": "sm_90a"}


def launches_page(records: list[dict]) -> str:
    """A table for each version of Triton, with its first and its newest record, as Markdown."""
    lines = ["# What the compiler makes of each launch", "",
             "Written by `python bench.py launches` from bench_launches.jsonl; no GPU is needed. For each version of Triton it "
             "shows the first and the newest record: a > b if they differ, - if there is no such launch. In brackets after "
             "spilled bytes: the instructions inside loops that move them; after instructions: those of the longest loop."]
    for version in sorted({r["triton"] for r in records}):
        both = [r for r in records if r["triton"] == version][::-1]
        both = [both[-1], both[0]]
        lines += ["", f"## Triton {version}, {both[1]['target']}: commit {both[0]['commit']} and {both[1]['commit']}", "",
                  "| launch | tile, warps, stages | registers | spilled | shared KB | tensor cores | ptxas' notes | "
                  "instructions | bits of a load |", "|---" * 9 + "|"]
        found = [{name_of(r): r for r in record["rows"]} for record in both]
        for name in sorted(found[0] | found[1]):
            cells = [cells_of(rows.get(name)) for rows in found]
            lines.append(f"| {name} | " + " | ".join(a if a == b else f"{a} > {b}" for a, b in zip(*cells)) + " |")
    return "\n".join(lines) + "\n"


def name_of(r: dict) -> str:
    """What a launch is for. A product is named with its tile, which is chosen by its shape."""
    named = [f"{k.replace('_', ' ')} {r[k]}" if isinstance(r[k], int) else str(r[k]) for k in IS[2:] if r.get(k)]
    kernel = r["kernel"].removeprefix("_").replace("_", " ")
    return ", ".join([r["what"], *([kernel] if kernel not in r["what"] else []), *named]) + (
        f", {r['tile']}" if r["kernel"] == "_linear" else "") + (", bias" if r.get("bias") else "")


def cells_of(r: dict | None) -> list[str]:
    if r is None or "error" in r:
        return ["-" if r is None else r["error"][:60]] * 8
    cores = [f"wgmma {x}" for x in r["wgmma"]] + ["mma" for _ in r["mma"][:1]]
    return [f"{r['tile']}, {r['warps']}" + f", {r['stages']}" * bool(r["stages"]), str(r["registers"]),
            f"{r['spilled_bytes']} ({r['loop_spills']})", f"{r['shared_kb']:g}", ", ".join(cores) or "none",
            ", ".join(r["notes"]) or "none", f"{r['instructions']} ({r['loop_instructions']})",
            ", ".join(f"{n} x {width}" for width, n in r["loads"].items())]


if __name__ == "__main__":
    for facts in compile_all(int(sys.argv[1]), sys.argv[3:] or PARTS, sys.argv[2] == "short"):
        print(json.dumps(facts), flush=True)
