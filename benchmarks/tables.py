"""The tables of README.md, made from the newest records in results/; no number in them is typed by hand."""

import itertools
import json
import os
import re
import statistics
import time
from pathlib import Path

from training import cli, common

HERE = Path(__file__).parent.parent
SPEEDS = ("train", "rl")


def keep(name, result, device, dtype, folder):
    """Appends a result with the machine, the versions and the commit to bench_<name>.jsonl; returns the record."""
    record = result | {"bench": name, "device": common.device_name(device), "dtype": dtype, "versions": common.versions(),
                       "commit": common.commit(), "date": time.strftime("%Y-%m-%d")}
    os.makedirs(folder, exist_ok=True)
    with open(Path(folder) / f"bench_{name}.jsonl", "a") as f:
        f.write(cli.to_json(record) + "\n")
    return record


def records_of(name):
    file = HERE / "results" / f"bench_{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def newest(name):
    """The last record of results/bench_<name>.jsonl for each device and dtype."""
    return {(r["device"], r.get("dtype")): r for r in records_of(name)}


def shown(result):
    """Both sides of a comparison as text, ours first."""
    if "seconds_per_step" in result:
        return [f"{s:.2f} s a step" for s in result["seconds_per_step"].values()]
    return [f"{t:,.0f} tokens/s" for t in result["tokens_per_second"].values()]


def speed_table():
    lines = ["| what | device | nanothink | Hugging Face (rl: TRL) | ratio (range) |", "|---|---|---|---|---|"]
    for name in SPEEDS:
        for (device, dtype), r in newest(name).items():
            lines.append(f"| {name}: {r['shape']}, {dtype} | {device} | " + " | ".join(shown(r)) + f" | **{r['ratio']:.2f}** "
                         f"({r['ratio_low']:.2f} to {r['ratio_high']:.2f}) |")
    return "\n".join(lines)


def block_lines(result):
    """A line of text for each row of bench.py kernels and exact."""
    lines = []
    for r in result["rows"]:
        parts = [f"{name} {t:.3f} ms" if isinstance(t, float) else f"{name}: {t}" for name, t in r["ms"].items()]
        ratio = f"   {r['ratio']:.2f} x the best other" if r["ratio"] else ""
        more = "".join(f"   {k} {v}" for k, v in r.items() if k in ("extra_gb", "logprob_diff_max") and v)
        lines.append(f"{r['block']:<20} {r['case']}: {', '.join(parts)}{ratio}{more}")
    return lines


def block_table(name):
    """One row for each block and case, on each device: the milliseconds of ours and of the best other, and their ratio."""
    lines = ["| what | case | device | ours | others | others' best / ours |", "|---|---|---|---|---|---|"]
    for (device, dtype), r in newest(name).items():
        for b in r["rows"]:
            cells = {n: f"{n} {t:,.0f} ms" if t >= 1000 else f"{n} {t:.3g} ms"
                     for n, t in b["ms"].items() if isinstance(t, float)}
            own = ", ".join(c for n, c in cells.items() if n.startswith(b["ours"]))
            others = ", ".join(c for n, c in cells.items() if not n.startswith(b["ours"]))
            ratio = f"**{b['ratio']:.2f}**" if b["ratio"] else ""
            lines.append(f"| {b['block']} | {b['case']} | {device}, {dtype} | {own} | {others} | {ratio} |")
    return "\n".join(lines) if len(lines) > 2 else f"Not measured yet: run `python bench.py {name}`."


def sampler_lines(result):
    """A line of text for each load of bench.py sampler."""
    lines = []
    for r in result["rows"]:
        speeds = ", ".join(f"{side} {s:,.0f}" if isinstance(s, float) else f"{side}: {s}"
                           for side, s in r["tokens_per_second"].items())
        ratios = ", ".join(f"{side} {x[0]:.2f} ({x[1]:.2f} to {x[2]:.2f})" for side, x in r["ratios"].items())
        lines.append(f"{r['load']}, {r['shape']}: {speeds} tokens/s; ours over {ratios}; busy slots {r['busy']}, first token "
                     f"after {r['first_token_seconds'][0]:.2f} s, {r['bandwidth_share']:.3f} of the bandwidth")
    return lines


def sampler_table():
    """One row for each load on each device."""
    lines = ["| load | device | nanothink, tokens/s | `generate` | continuous batching | ours / `generate` | busy slots | "
             "first token, median | share of bandwidth |", "|---" * 9 + "|"]
    for (device, dtype), r in newest("sampler").items():
        for b in r["rows"]:
            speeds = [f"{s:,.0f}" if isinstance(s, float) else str(s) for s in b["tokens_per_second"].values()]
            ratio = b["ratios"].get("generate")
            lines.append(f"| {b['load']}: {b['shape']}, {dtype} | {device} | " + " | ".join(speeds) + " | "
                         + (f"**{ratio[0]:.2f}** ({ratio[1]:.2f} to {ratio[2]:.2f})" if ratio else "") + " | "
                         + (f"{b['busy']:.0%}" if b["busy"] else "no queue") + f" | {b['first_token_seconds'][0]:.2f} s | "
                         f"{b['bandwidth_share']:.1%} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet: run `python bench.py sampler`."


def async_table():
    """Seconds for a step of each arm, and accuracy after equally many steps."""
    lines, signed = [], "{0:+.3f} [{1:+.3f}, {2:+.3f}]".format
    for r in newest("async").values():
        kinds = list(dict.fromkeys(s["lengths"] for s in r["speed"]))
        lines += [f"Seconds for a step on {r['device']}, mean with its 95% bootstrap interval:", "",
                  "| arm | " + " | ".join(f"{k} lengths" for k in kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
        by_arm = {}
        for s in r["speed"]:
            by_arm.setdefault(s["arm"], {})[s["lengths"]] = f"{s['seconds']:.2f} [{s['interval'][0]:.2f}, {s['interval'][1]:.2f}]"
        lines += [f"| {arm} | " + " | ".join(cells.get(k, "") for k in kinds) + " |" for arm, cells in by_arm.items()]
        lines += ["", f"Verified accuracy at 4 to 8 operations after {r['steps']} steps from one checkpoint, the difference "
                  "paired by problem over all seeds, and seconds for the whole command:", "",
                  "| arm | by seed | all seeds | difference to taking turns | seconds of each seed | mean staleness |",
                  "|---" * 6 + "|"]
        for a in r["accuracy"]:
            runs = [x for x in r["runs"] if x["arm"] == a["arm"]]
            lines.append(f"| {a['arm']} | " + ", ".join(f"{x:.3f}" for x in a["by_seed"])
                         + " | {:.3f} [{:.3f}, {:.3f}] | ".format(*a["accuracy"])
                         + (signed(*a["difference"]) if a["difference"] else "") + " | "
                         + ", ".join(f"{x['command_seconds']:.0f}" for x in runs) + " | "
                         + (f"{statistics.mean(x['staleness_mean'] for x in runs):.2f}" if runs else "") + " |")
        lines.append("")
    return "\n".join(lines).rstrip() or "Not measured yet: run `python bench.py async --init runs/laptop/sft`."


def bits_table():
    """Sampled tokens whose log-probability the trainer has otherwise."""
    lines = []
    for r in newest("bits").values():
        lines += [f"On {r['device']}, {r['parameters'] / 1e6:.0f}M weights, {r['dtype']}:", "",
                  "| mode | temperature | tokens | mean log-probability | of them differ | at most | times new weights | "
                  "rows that gave way |",
                  "|---" * 8 + "|"]
        lines += [f"| {x['mode']} | {x['temperature']} | {x['tokens']:,} | {x['logprob']:.2f} | **{x['differ']:,}** | "
                  f"{x['greatest']:.2g} | {x['updates']} | {x['preempted']} |" for x in r["rows"]] + [""]
    return "\n".join(lines).rstrip() or "Not measured yet: run `python bench.py bits --tokens 20000`."


def large_table():
    """What bench.py pretrain and largest found."""
    lines = []
    for r in newest("pretrain").values():
        lines += [f"Pre-training on {r['device']}, {r['dtype']}, where a plain product reaches {r['peak_tflops']:,} TFLOP/s:", "",
                  "| size | batch | tokens/s | share of the peak | true share | Hugging Face | ratio | where the time goes |",
                  "|---" * 8 + "|"]
        for x in r["rows"]:
            theirs, ratio = x["tokens_per_second"]["hugging face"], x["ratios"].get("hugging face")
            lines.append(f"| {x['size']} | {x['shape']} | {x['tokens_per_second']['ours']:,.0f} | {x['share_of_peak']:.1%} | "
                         f"{x['true_share']:.1%} | " + (f"{theirs:,.0f} | **{ratio[0]:.2f}** ({ratio[1]:.2f} to {ratio[2]:.2f})"
                                                        if ratio else f"{theirs} |")
                         + " | " + ", ".join(f"{name} {share:.0%}" for name, share in x["groups"].items()) + " |")
        lines.append("")
    for r in newest("largest").values():
        fits = max((x for x in r["rows"] if x["fits"]), key=lambda x: x["layers"])
        lines += [f"The largest model that trains on {r['device']} (rows of {r['T']} tokens, AdamW, activations recomputed) has "
                  f"{fits['parameters'] / 1e9:.2f}B weights and takes {fits['measured_gb']} GB, predicted "
                  f"{fits['predicted_gb']} GB."]
    return "\n".join(lines).rstrip() or "Not measured yet: run `make gpu`, then the commands above."


def learn_table():
    """Exact mode and fast: what was learned, and how far sampler and trainer were apart."""
    lines, cell = [], "{0:.2f} [{1:.2f}, {2:.2f}]".format
    for r in newest("learn").values():
        lines += [f"{r['steps']} steps on {r['device']} from the fine-tuned model of the laptop recipe, mean reward with its 95% "
                  "bootstrap interval over steps:", "",
                  "| mode | first third | last third | `logprob_diff_max`, least and greatest of all steps |", "|---" * 4 + "|"]
        lines += [f"| {m['arm']} | {cell(*m['reward'][0])} | {cell(*m['reward'][1])} | " +
                  " and ".join("0.0" if x == 0 else f"{x:.1e}" for x in m["logprob_diff_max"]) + " |" for m in r["rows"]] + [""]
    return "\n".join(lines).rstrip() or "Not measured yet: run `python bench.py learn --init runs/laptop/sft --steps 60`."


def plan_table():
    """Predictions beside measurements."""
    lines = ["| weights | response tokens | arm | predicted, s a step | measured | predicted / measured |", "|---" * 6 + "|"]
    for r in newest("plan").values():
        lines += [f"| {x['parameters'] / 1e6:.1f}M | {x['response']:.0f} | {x['arm']} | {x['predicted_seconds']:.2f} | "
                  f"{x['measured_seconds']:.2f} | **{x['predicted_over_measured']:.2f}** |" for x in r["rows"]]
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet: run `python bench.py plan --check`."


def pipeline_table():
    """Two tables: the first seed by operations, and every seed by band."""
    found = [r for r in records_of("pipeline") if "stage_seconds" in r]
    records = sorted({r["seed"]: r for r in found}.values(), key=lambda r: r["seed"])     # the newest of each seed
    if not records:
        return "Not measured yet: run `python bench.py pipeline`."
    times = {r["device"]: f"{r['seconds']} seconds on {r['device']} (commit {r['commit']})" for r in found if r["seconds"]}
    first, cell = records[0], "{0:.2f} [{1:.2f}, {2:.2f}]".format
    stages, signed = list(first["verified"]), "{0:+.2f} [{1:+.2f}, {2:+.2f}]".format
    took = "; ".join(times.values())                      # the newest of each device
    lines = [f"The whole of it took, after installation, {took}. Share of answers on "
             f"unseen problems with every step right, {first['verified']['base'][0]['problems']} problems for each number of "
             f"operations, at temperature {first.get('temperature', 1.0):g}, with 95% bootstrap intervals:", "",
             "| operations | " + " | ".join(stages) + f" | {stages[-1]} pass@8 |", "|---" * (len(stages) + 2) + "|"]
    for rows in zip(*first["verified"].values(), strict=True):
        cells = [cell(*r["pass@1"]) for r in rows] + [cell(*rows[-1]["pass@8"])]
        lines.append(f"| {rows[0]['ops']} | " + " | ".join(cells) + " |")
    bands = sorted({(g["band"], *g["ops"]) for g in first["gain"]})
    lines += ["", "The same with other seeds (other weights, other training problems, other draws, other test problems); gains "
              "with paired 95% bootstrap intervals:", ""]
    for name, low, high in bands:
        lines += [f"{low} to {high} operations:", "", "| seed (commit) | " + " | ".join(stages) + " | "
                  + " | ".join(f"{a} to {b}" for a, b in itertools.pairwise(stages)) + " |",
                  "|---" * (2 * len(stages)) + "|"]
        for r in records:
            mean = {s: statistics.mean(row["pass@1"][0] for row in rows if low <= row["ops"] <= high)
                    for s, rows in r["verified"].items()}
            found = {(g["before"], g["after"]): g["gain"] for g in r["gain"] if g["band"] == name}
            lines.append(f"| {r['seed']} ({r['commit']}) | " + " | ".join(f"{mean[s]:.2f}" for s in stages) + " | "
                         + " | ".join(signed(*found[p]) for p in itertools.pairwise(stages)) + " |")
        lines.append("")
    return "\n".join(lines).rstrip()


def spurious_table():
    """One row for each reward and seed."""
    signed, lines = "{0:+.2f} [{1:+.2f}, {2:+.2f}]".format, []
    for r in newest("spurious").values():
        low, high = r["arms"][0]["ops"]
        lines += [f"On {r['device']}, {low} to {high} operations, verified accuracy at temperature 1:", "",
                  "| reward | seed | verified, before to after | gain | answer alone, before to after |", "|---|---|---|---|---|"]
        for arm in sorted(r["arms"], key=lambda a: (["strict", "answer", "random", "incorrect"].index(a["reward"]),
                                                    a["train_seed"])):
            lines.append(f"| {arm['reward']} | {arm['train_seed']} | " + " to ".join(f"{v:.2f}" for v in arm["process"])
                         + f" | {signed(*arm['gain'])} | " + " to ".join(f"{v:.2f}" for v in arm["answer"]) + " |")
    return "\n".join(lines) or "Not measured yet: run recipes/spurious.sh."


def real_table():
    """Seconds and memory of a real model's SFT and GRPO."""
    lines = []
    for r in newest("real").values():
        sft, grpo = r["sft"], r["grpo"]
        lines += [f"{r['init']} on {r['data']}, {r['device']}: twenty steps of SFT took {sft['seconds']:.0f} seconds and "
                  f"{sft['peak_gib']:.1f} GiB, and the negative log-likelihood went from {sft['nll_first5']:.3f} (mean of the "
                  f"first five steps) to {sft['nll_last5']:.3f} (of the last five); two steps of GRPO took "
                  f"{grpo['seconds']:.0f} seconds and {grpo['peak_gib']:.1f} GiB."]
    return "\n".join(lines) or "Not measured yet: run `python bench.py real`."


def readme(text):
    """The README with its generated tables renewed."""
    for name, made in (("bench", speed_table()), ("pipeline", pipeline_table()), ("spurious", spurious_table()),
                       ("real", real_table()), ("kernels", block_table("kernels")), ("exact", block_table("exact")),
                       ("sampler", sampler_table()), ("async", async_table()), ("learn", learn_table()), ("large", large_table()),
                       ("bits", bits_table()), ("plan", plan_table())):
        text = re.sub(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", lambda m, made=made: m[1] + made + m[2], text,
                      flags=re.S)
    return text
