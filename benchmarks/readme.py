"""Writes all generated parts of README.md and results/, from the newest records; python bench.py readme runs this.

A generated part lies between two marks, such as <!-- tree --> and <!-- /tree -->. No number is typed by hand.

- README.md has a line for each kind of measurement, and the list of folders. Its figure is a file in results/.
- FILES.md has a line for each file.
- results/README.md has all tables.
"""

import re
import statistics
from pathlib import Path

from benchmarks import file_tree, tables
from benchmarks.figure import pipeline_figure
from benchmarks.launches import launches_page
from benchmarks.records import HERE, RESULTS, newest, records_of

TABLES = {"pipeline": tables.pipeline_table, "sampler": tables.sampler_table, "speed": tables.speed_table,
          "exact": tables.exact_table, "bits": tables.bits_table, "learn": tables.learn_table, "kernels": tables.kernels_table,
          "probe": tables.probe_table, "async": tables.async_table, "plan": tables.plan_table, "large": tables.large_table,
          "spurious": tables.spurious_table, "real": tables.real_table, "answers": tables.answers_table,
          "harness": tables.harness_table, "groups": tables.groups_table}
OURS, VERDICT = 4, 5                 # columns of the table of claims/README.md


def files() -> dict:
    """{path: text} of each file that is generated or has generated parts."""
    front, results = HERE / "README.md", RESULTS / "README.md"
    made = {front: with_parts(front, {"measured": summary(), "tree": file_tree.tree()}),
            results: with_parts(results, {name: table() or "Not measured yet." for name, table in TABLES.items()})}
    made[HERE / "FILES.md"] = file_tree.page()
    if records := tables.of_each_seed():
        made[RESULTS / "pipeline.svg"] = pipeline_figure(records)
    if records := records_of("launches"):
        made[RESULTS / "launches.md"] = launches_page(records)
    return made


def write() -> list[str]:
    """Writes the files that are out of date; returns their names."""
    stale = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        path.write_text(text)
    return sorted(str(path.relative_to(HERE)) for path in stale)


def with_parts(path: Path, parts: dict[str, str]) -> str:
    """The text of a file with each part put between its marks. ValueError if the marks are not there exactly once."""
    text = path.read_text()
    for name, part in parts.items():
        text, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m, part=part: f"{m[1]}{part}\n{m[2]}", text,
                              flags=re.S)
        if count != 1:
            raise ValueError(f"{path}: needs exactly one part between <!-- {name} --> and <!-- /{name} -->, and has {count}")
    return text


# README.md: a line for each kind of measurement

def summary() -> str:
    """The list in Markdown."""
    found = {"pipeline": pipeline_line(), "rollouts": sampler_line(), "exact-mode": exact_line(), "training-speed": speed_line(),
             "single-blocks": gpu_line()}
    lines = [f"- {line} ([tables](results/README.md#{anchor}))" for anchor, line in found.items() if line]
    return "\n".join([*lines, f"- {claims_line()} ([table](claims/README.md))"])


def claims_line() -> str:
    """How many contested claims hold, as the table of claims/README.md has them (python claims/run.py --table writes it)."""
    rows = [row.split(" | ") for row in re.findall(r"^\| \d.*$", (HERE / "claims" / "README.md").read_text(), re.M)]
    said = {"holds": "hold here", "does not hold here": "do not", "undecided": "are undecided", "": "are not measured yet"}
    verdicts = [re.match(r"[a-z ]*", row[VERDICT])[0].strip() for row in rows]           # without the words behind it
    counts = {words: verdicts.count(verdict) for verdict, words in said.items()}
    decided = [row[OURS] for row, verdict in zip(rows, verdicts) if verdict in ("holds", "does not hold here")]
    firm = sum(int(seeds[1]) >= 3 for ours in decided if (seeds := re.search(r"(\d+) seeds?$", ours)))
    return (f"**Claims.** {len(rows)} contested claims of papers, measured again on a small world: "
            + ", ".join(f"{count} {words}" for words, count in counts.items() if count)
            + f". Of the {len(decided)} that are decided {firm} are so by three seeds or more.")


def pipeline_line() -> str:
    """Accuracy after each stage, the mean over seeds, and what the last stage gains."""
    records = tables.of_each_seed()
    if not records:
        return ""
    low, high = max((g["ops"] for g in records[0]["gain"]), key=lambda ops: ops[1])
    by_stage = [tables.accuracy_of(r, low, high) for r in records]
    mean = {stage: statistics.mean(found[stage] for found in by_stage) for stage in by_stage[0]}
    steps = ", ".join(f"{x:.2f} after {stage}" for stage, x in mean.items())
    text = (f"**Pipeline.** {tables.pipeline_seconds()}. Share of answers with every step right on problems of {low} to {high} "
            f"operations, the mean of {len(records)} seed{'s' * (len(records) > 1)}: {steps}.")
    gains = [f"{', '.join(f'{g[0]:+.2f}' for g in found)} in {kind}"
             for kind, what in (("pass@1", "gain"), ("pass@8", "gain_at_k"))
             if (found := tables.last_gains(records, low, high, what))]
    text += f" {list(mean)[-1].upper()} gains, seed by seed, {' and '.join(gains)}."
    return text


def sampler_line() -> str:
    """How many times as fast as generate, on each device: the smallest and the largest ratio of all loads."""
    parts = []
    for (device, dtype), r in newest("sampler").items():
        rows = [x for x in r["rows"] if "generate" in x["ratios"]]
        ratios = [x["ratios"]["generate"][0] for x in rows]
        parts.append(f"On {device}, {dtype}, it samples {min(ratios):.2f} to {max(ratios):.2f} times as many tokens per second "
                     f"as Hugging Face's `generate`. The lengths of answers are {', '.join(x['load'] for x in rows)}.")
    return parts and "**Sampler.** " + " ".join(parts)


def exact_line() -> str:
    """What exact mode gives, and what it costs."""
    parts = []
    for (device, dtype), r in newest("bits").items():
        exact, fast = ([x for x in r["rows"] if x["mode"] == mode] for mode in ("exact", "fast"))
        drawn, differ = (sum(x[k] for x in exact) for k in ("tokens", "differ"))
        other = f"; in fast mode {sum(x['differ'] for x in fast):,} of {sum(x['tokens'] for x in fast):,}" if fast else ""
        parts.append(f"On {device}, {dtype}: of {drawn:,} sampled tokens, {differ:,} have a different log-probability in the "
                     f"trainer{other}.")
    for (device, dtype), r in newest("exact").items():
        costs = ", ".join(exact_cost(x) for x in r["rows"])
        parts.append(f"Time in fast mode divided by time in exact mode ({device}, {dtype}): {costs}.")
    return parts and "**Exact mode.** " + " ".join(parts)


def exact_cost(row: dict) -> str:
    """Such as "rollout 0.85"; each variant of fast mode in the row has its own ratio."""
    arms = {name: t for name, t in row["ms"].items() if name != "exact" and isinstance(t, float)}
    ratios = {name: row["ratio"] if t == min(arms.values()) else t / row["ms"]["exact"] for name, t in arms.items()}
    return ", ".join(f"{row['block']}{name.removeprefix('fast')} {ratio:.2f}" for name, ratio in ratios.items())


def speed_line() -> str:
    """Training tokens/s compared with Hugging Face's model, and GRPO steps compared with TRL's."""
    parts = [f"{r['ratio']:.2f} times {other} ({device}, {dtype})."
             for name, other in (("train", "as many tokens per second as Hugging Face's model"),
                                 ("rl", "as many GRPO steps as TRL"))
             for (device, dtype), r in newest(name).items()]
    for (device, dtype), r in newest("pretrain").items():
        rows = [x for x in r["rows"] if "hugging face" in x["ratios"]]
        parts += [f"{x['size']}, {x['shape']}: {x['share_of_peak']:.1%} of the peak, {x['ratios']['hugging face'][0]:.2f} times "
                  f"as fast as Hugging Face's model ({device}, {dtype})." for x in rows]
    return parts and "**Training speed.** " + " ".join(parts)


def gpu_line() -> str:
    """The Triton kernels compared with the fastest alternative, for each kind of block on each GPU."""
    parts = []
    for (device, dtype), r in newest("kernels").items():
        kinds = {}
        for x in r["rows"]:
            if x["ratio"] and not device.startswith("CPU"):
                kind = x["block"] if "attention" not in x["block"] else f"{x['case'].split(',')[0]} {x['block']}"
                kinds.setdefault(kind, []).append(x["ratio"])
        if kinds:
            ratios = [f"{kind.replace(',', '')} {min(r):.2f} to {max(r):.2f}" for kind, r in kinds.items()]
            parts.append(f"On {device}, {dtype}: the time of the fastest alternative divided by ours, smallest to largest "
                         f"ratio: {', '.join(ratios)}.")
    return parts and "**Kernels on a GPU.** " + " ".join(parts)
