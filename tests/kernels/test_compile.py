"""Every Triton kernel, as its wrapper launches it, through the real compiler for GPUs that need not be there.

The interpreter takes programs that the compiler does not, knows no limit to a program's fast memory, and nothing of speed.
benchmarks/launches.py compiles and reads the compiler's report and the machine code. A few launches are looked at here, the
complete list with -m slow. For another version of Triton: pip install --target FOLDER --no-deps triton==3.6.0, and these
tests with PYTHONPATH=FOLDER.
"""

import pytest

pytest.importorskip("triton")
from benchmarks import launches as bench_launches  # noqa: E402

FAST_MEMORY = {90: 227, 89: 99}                  # KB that one program may have (CUDA C++ programming guide)
KERNELS = {"_attend_forward", "_attend_backward_q", "_attend_backward_kv", "_linear", "_norm_forward", "_norm_backward",
           "_rope_forward", "_rope_backward", "_silu_forward", "_silu_backward", "_row_forward", "_row_backward"}


@pytest.fixture(scope="module")
def few():
    """Launches for Hopper: heads of 64 and 128, large products, and of everything else one or two."""
    return bench_launches.rows_of(90, short=True)


def check(rows, capability):
    assert {r["kernel"] for r in rows} == KERNELS
    assert not [r for r in rows if "error" in r]
    assert not [r for r in rows if r["shared_kb"] > FAST_MEMORY[capability]]
    # Exact attention has one tile for training, prefill and decode: a row's sum is then to be one tree as well, with keys
    # side by side or in pages, with a window or without.
    trees = {}
    for r in rows:
        if r["what"].startswith("exact attention"):
            trees.setdefault((r["head_size"], r["group"], r["dtype"]), []).append(r["sums"])
    for of, layouts in trees.items():
        assert len(layouts) >= 2 and layouts[0] and all(other == layouts[0] for other in layouts), (of, layouts)
    return trees


def check_speed(rows):
    """What slows a Hopper GPU down: tensor cores that wait for each product, values that move between registers and memory
    in every turn of a loop."""
    assert not [r for r in rows if r["notes"]]
    # Of the exact tile, which sets the bits, one value may spill: at heads above 128, and in float32 on Triton 3.6.0.
    spared = [r for r in rows if r["what"].startswith("exact") and (r["head_size"] > 128 or r["dtype"] == "fp32")]
    assert not [r for r in rows if r["loop_spills"] > (r in spared)]


def test_launches_compile(few):
    assert len(check(few, 90)) == 2


def test_tensor_cores_run_ahead_and_loops_do_not_spill(few):
    check_speed(few)
    large = [r for r in few if r["kernel"] == "_linear" and r["what"] == "product"]
    assert {(r["out"], r["tile"].count("256")) for r in large} >= {("bf16", 1), ("fp32", 1)}
    assert all(r["wgmma"] for r in few if r["kernel"].startswith("_attend") and r["what"] != "attention, decoding")


def test_loads_of_keys_run_ahead_in_decoding(few):
    """Two blocks of keys and of values at least are under way, though their pages must be looked up."""
    found = [r for r in few if r["what"] in ("attention, decoding", "attention, pieces", "exact attention, decoding")]
    assert len(found) == 6
    for r in found:
        blocks = [b for b in r["buffers"] if b.count("x") == 3]               # blocks in flight x keys x head size
        assert len(blocks) == 2 and all(int(b.split("x")[0]) >= 2 for b in blocks), r


def test_element_by_element_loads_are_wide(few):
    """Where the number of elements is a multiple of 16, as a model's widths are, a thread loads 16 bytes at a time."""
    found = [r for r in few if r["what"] == "swiglu"]
    assert {r["kernel"] for r in found} == {"_silu_forward", "_silu_backward"}
    assert all(set(r["loads"]) == {"128"} for r in found), found


def test_attention_fits_where_fast_memory_is_small():
    rows = bench_launches.rows_of(89, ["attention"], short=True)
    assert not [r for r in rows if "error" in r or r["shared_kb"] > FAST_MEMORY[89]]


@pytest.mark.slow
def test_all_launches_on_hopper():
    rows = bench_launches.rows_of(90)
    assert len(check(rows, 90)) == 9
    check_speed(rows)


@pytest.mark.slow
def test_all_launches_where_fast_memory_is_small():
    assert len(check(bench_launches.rows_of(89), 89)) == 9
