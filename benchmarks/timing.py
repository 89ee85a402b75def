"""Times several candidates for the same work: they run in turns, again and again, so changes in the machine's speed are fair."""

import statistics
import sys
import time
from collections.abc import Callable

import torch

SMALL = dict(vocab_size=4096, layers=6, width=384, heads=6, kv_heads=2, ff=1024)                # for a CPU
LARGE = dict(vocab_size=32_768, layers=24, width=1024, heads=16, kv_heads=4, ff=2816)           # for a GPU


def clock(device: torch.device, work: Callable) -> float:
    """Seconds that work() takes, including the work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def turns(device: torch.device, work: dict, count: int = 5) -> dict:
    """{name: function} -> {name: median milliseconds}, or a short reason if a candidate cannot do this. On a GPU the function is
    repeated for about 20 ms in each turn, so the time of the first launch hardly counts."""
    found, able, repeats = {}, {}, {}
    for name, f in work.items():
        try:
            f()                                                               # warm-up, compilation
            once = clock(device, f)
            able[name], repeats[name] = f, max(1, min(200, int(0.02 / max(once, 1e-6)))) if device.type == "cuda" else 1
        except Exception as e:                                                # a back end that does not support this shape
            found[name] = f"{type(e).__name__}: {str(e)[:80]}"
    seconds = {name: [] for name in able}
    for i in range(count):
        for name in list(able)[::1 if i % 2 else -1]:
            def many(f=able[name], n=repeats[name]):
                for _ in range(n):
                    f()
            seconds[name].append(clock(device, many) / repeats[name])
    return {name: round(1e3 * statistics.median(s), 4) for name, s in seconds.items()} | found


def best(ms: dict, *names) -> float | None:
    """The smallest of these times, or None if none of them could run."""
    return min((ms[n] for n in names if isinstance(ms.get(n), float)), default=None)


def row(block: str, case: str, ms: dict, ours: str, others: list[str], **more) -> dict:
    """One row of the result: milliseconds of each candidate, and how many times as fast as the fastest other one ours is."""
    other, own = best(ms, *others), best(ms, ours)
    found = {"block": block, "case": case, "ms": ms, "ours": ours, "ratio": round(other / own, 3) if other and own else None}
    print(*block_lines({"rows": [found | more]}), sep="\n", file=sys.stderr, flush=True)
    return found | more


def block_lines(result: dict) -> list[str]:
    """A line of text for each row of bench.py kernels and exact."""
    lines = []
    for r in result["rows"]:
        parts = [f"{name} {t:.3f} ms" if isinstance(t, float) else f"{name}: {t}" for name, t in r["ms"].items()]
        ratio = f"   {r['ratio']:.2f} x the best other" if r["ratio"] else ""
        more = "".join(f"   {k} {v}" for k, v in r.items() if k in ("extra_gb", "logprob_diff_max") and v)
        lines.append(f"{r['block']:<20} {r['case']}: {', '.join(parts)}{ratio}{more}")
    return lines


def in_turns(device: torch.device, count: int, work: dict, tokens: int) -> dict:
    """Tokens/s of each side, and how many times as fast as each other one ours is (median, low, high). If a side cannot run,
    the reason is noted instead. The first run of a side, which may compile, never counts. A slow side is timed once."""
    speeds, ratios, seconds, long = {}, {}, {}, 30 if device.type == "cuda" else 150
    for side, f in work.items():
        try:
            seconds[side] = [clock(device, f)]                                # the warm-up
            if seconds[side][0] >= long:                                      # was it the work, or compilation?
                seconds[side] = [clock(device, f)]
        except Exception as e:
            speeds[side] = f"{type(e).__name__}: {str(e)[:80]}"
    sides = [side for side in seconds if seconds[side][0] < long]
    for i in range(count):
        for side in sides[::1 if i % 2 else -1]:
            seconds[side].append(clock(device, work[side]))
    for side, s in seconds.items():
        seconds[side] = s[1:] or s
        speeds[side] = round(tokens / statistics.median(seconds[side]), 1)
        if side != "ours":
            # strict=False: a side that takes long ran only once
            each = [t / o for o, t in zip(seconds["ours"], seconds[side], strict=False)]
            ratios[side] = [round(f(each), 3) for f in (statistics.median, min, max)]
    return {"tokens_per_second": speeds, "ratios": ratios, "rounds": count}


def rows_of_one_document(tokens: torch.Tensor) -> torch.Tensor:
    """The document numbers of tokens (B, T + 1) with one document in each row. Every trainer passes document numbers; without
    them the model takes another path."""
    return torch.zeros_like(tokens[:, 1:])


def training_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor, documents: torch.Tensor,
                  dtype: torch.dtype, exact: bool) -> None:
    model.exact = exact
    with torch.autocast(tokens.device.type, dtype, enabled=dtype != torch.float32):
        loss = -model(tokens[:, :-1], documents, tokens[:, 1:]).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def copy_rate(device: torch.device, megabytes: int = 256) -> float:
    """Bytes read and written per second by a copy of a large tensor."""
    x = torch.empty(megabytes * 2 ** 20, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    y.copy_(x)
    return 2 * x.numel() / min(clock(device, lambda: y.copy_(x)) for _ in range(5))


def both_sides(result: dict) -> list[str]:
    """Both sides of a comparison as text, ours first."""
    if "seconds_per_step" in result:
        return [f"{s:.2f} s a step" for s in result["seconds_per_step"].values()]
    return [f"{t:,.0f} tokens/s" for t in result["tokens_per_second"].values()]
