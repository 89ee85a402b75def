"""The results of each bench as Markdown tables, from the newest records."""

import itertools
import math
import statistics
from collections.abc import Sequence

from benchmarks.records import newest, records_of
from benchmarks.timing import both_sides


def markdown(head: list[str], rows: list[list]) -> str:
    """A Markdown table; "" where there are no rows. Every row has a cell for each head."""
    assert all(len(row) == len(head) for row in rows), f"a row of this table has too few cells, or too many: {head}"
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines) if rows else ""


def with_interval(value: Sequence[float], form: str = ".2f") -> str:
    """0.61 [0.50, 0.70], of (mean, low, high)."""
    mean, low, high = value
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def with_range(ratio: Sequence[float]) -> str:
    """**1.18** (1.15 to 1.19), of (median, low, high)."""
    return f"**{ratio[0]:.2f}** ({ratio[1]:.2f} to {ratio[2]:.2f})"


def fold(title: str, text: str) -> str:
    """Text that a click on its title shows."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


# the pipeline

def of_each_seed() -> list[dict]:
    """The newest record of the pipeline for each seed, in their order; only those of today's recipe, which has the stages of the
    newest record."""
    found = [r for r in records_of("pipeline") if "stage_seconds" in r]
    found = [r for r in found if list(r["verified"]) == list(found[-1]["verified"])]
    return sorted({r["seed"]: r for r in found}.values(), key=lambda r: r["seed"])


def accuracy_of(record: dict, low: int, high: int) -> dict[str, float]:
    """{stage: mean verified pass@1 over low to high operations}."""
    return {stage: statistics.mean(row["pass@1"][0] for row in rows if low <= row["ops"] <= high)
            for stage, rows in record["verified"].items()}


def pooled(gains: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The mean over seeds of (mean, low, high), with its interval by the test problems alone: their errors are independent. It
    says nothing about other seeds."""
    mean = statistics.mean(g[0] for g in gains)
    below, above = (math.sqrt(sum((g[0] - g[side]) ** 2 for g in gains)) / len(gains) for side in (1, 2))
    return mean, mean - below, mean + above


def last_gains(records: list[dict], low: int, high: int, what: str = "gain") -> list[Sequence[float]]:
    """What the last stage gained over the one before it in a band: for each record a rate, in pass@1 or as "gain_at_k"."""
    pair = list(records[0]["verified"])[-2:]
    return [g[what] for r in records for g in r["gain"]
            if what in g and g["ops"] == [low, high] and [g["before"], g["after"]] == pair]


def pipeline_seconds() -> str:
    """How long the pipeline took, on each device on which it was timed: the shortest and the longest of the seeds. How long two
    of its stages last depends on the seed."""
    times = {}
    for r in of_each_seed():
        if r["seconds"]:
            times.setdefault((r["device"], r["commit"]), []).append(r["seconds"])
    return "; ".join(f"{' to '.join(f'{s:,}' for s in sorted({min(found), max(found)}))} seconds on {device} (commit {commit})"
                     for (device, commit), found in times.items())


def pipeline_table() -> str:
    """The first seed by operations, and every seed by band."""
    records = of_each_seed()
    if not records:
        return ""
    first = records[0]
    stages, problems = list(first["verified"]), first["verified"]["base"][0]["problems"]
    rows = [[rows[0]["ops"], *(with_interval(r["pass@1"]) for r in rows), with_interval(rows[-1]["pass@8"])]
            for rows in zip(*first["verified"].values(), strict=True)]
    parts = [f"After installation the pipeline took {pipeline_seconds()}. The first table is for seed {first['seed']}. It shows "
             f"the share of answers with every step right, on {problems} unseen problems for each number of operations, at "
             f"temperature {first.get('temperature', 1.0):g}, with 95% bootstrap intervals:",
             markdown(["operations", *stages, f"{stages[-1]} pass@8"], rows),
             "All seeds, with paired 95% bootstrap intervals of each gain. Each seed has its own weights, training problems, "
             "test problems and random numbers:"]
    for name, low, high in sorted({(g["band"], *g["ops"]) for g in first["gain"]}):
        rows = []
        for r in records:
            gains = {(g["before"], g["after"]): g for g in r["gain"] if g["band"] == name}
            last = gains[stages[-2], stages[-1]]
            rows.append([f"{r['seed']} ({r['commit']})", *(f"{x:.2f}" for x in accuracy_of(r, low, high).values()),
                         *(with_interval(gains[pair]["gain"], "+.2f") for pair in itertools.pairwise(stages)),
                         with_interval(last["gain_at_k"], "+.2f") if "gain_at_k" in last else ""])
        ends = f"{stages[-2]} to {stages[-1]}"
        parts += [f"{low} to {high} operations:",
                  markdown(["seed (commit)", *stages, *(f"{a} to {b}" for a, b in itertools.pairwise(stages)), f"pass@8, {ends}"],
                           rows)]
        parts += [f"{kind}, {ends}, the mean of these seeds: {with_interval(pooled(found), '+.3f')} "
                  "(the interval is that of the test problems alone)."
                  for kind, what in (("pass@1", "gain"), ("pass@8", "gain_at_k"))
                  if (found := last_gains(records, low, high, what))]
    if all("rollouts" in r for r in records):
        parts.append("Groups without spread over the whole run of GRPO, and entropy in nats a token: " + "; ".join(
            f"seed {r['seed']}: {r['rollouts']['zero_spread']:.2f}, {r['rollouts']['entropy']:.3f}" for r in records) + ".")
    return "\n\n".join(parts)


def groups_table() -> str:
    """Milliseconds of a decoding step and megabytes of the cache, by length and by key/value heads."""
    parts = []
    for r in newest("groups").values():
        heads = list(r["parameters"])
        rows = [[f"{row['length']:,}", *(f"{ms:.2f} ms, {row['cache_mb'][K]:.1f} MB" if isinstance(ms, float) else ms
                                         for K, ms in row["ms"].items())] for row in r["rows"]]
        parts += [f"{r['sequences']} sequences on {r['device']}, by the tokens that each has already:",
                  markdown(["tokens", *(f"{K} key/value heads" for K in heads)], rows)]
    return "\n\n".join(parts)


def spurious_table() -> str:
    """A row for each reward and seed."""
    parts, order = [], ["strict", "answer", "random", "incorrect"]
    for r in newest("spurious").values():
        low, high = r["arms"][0]["ops"]
        arms = sorted(r["arms"], key=lambda a: (order.index(a["reward"]), a["train_seed"]))
        parts += [f"On {r['device']}, {low} to {high} operations, verified accuracy at temperature 1:",
                  markdown(["reward", "seed", "verified, before to after", "gain", "answer alone, before to after"],
                           [[a["reward"], a["train_seed"], " to ".join(f"{v:.2f}" for v in a["process"]),
                             with_interval(a["gain"], "+.2f"), " to ".join(f"{v:.2f}" for v in a["answer"])] for a in arms])]
    return "\n\n".join(parts)


def real_table() -> str:
    """Seconds and memory of a real model's SFT and GRPO."""
    return "\n\n".join(
        f"{r['init']} on {r['data']}, {r['device']}: twenty steps of SFT took {r['sft']['seconds']:.0f} seconds and "
        f"{r['sft']['peak_gib']:.1f} GiB, and the negative log-likelihood went from {r['sft']['nll_first5']:.3f} (mean of the "
        f"first five steps) to {r['sft']['nll_last5']:.3f} (of the last five). Two steps of GRPO took "
        f"{r['grpo']['seconds']:.0f} seconds and {r['grpo']['peak_gib']:.1f} GiB." for r in newest("real").values())


# speed compared with others

def speed_table() -> str:
    """Training and a GRPO step."""
    return markdown(["what", "device", "nanothink", "Hugging Face (rl: TRL)", "ratio (range)"],
                    [[f"{name}: {r['shape']}, {dtype}", device, *both_sides(r),
                      with_range([r["ratio"], r["ratio_low"], r["ratio_high"]])]
                     for name in ("train", "rl") for (device, dtype), r in newest(name).items()])


def sampler_table() -> str:
    """A row for each load on each device."""
    rows = []
    for (device, dtype), r in newest("sampler").items():
        for b in r["rows"]:
            found = [b["tokens_per_second"].get(side, "not measured") for side in ("ours", "generate", "continuous batching")]
            speeds = [f"{s:,.0f}" if isinstance(s, float) else s for s in found]
            ratio = b["ratios"].get("generate")
            rows.append([f"{b['load']}: {b['shape']}, {dtype}", device, *speeds, with_range(ratio) if ratio else "",
                         f"{b['busy']:.0%}" if b["busy"] else "no queue", f"{b['first_token_seconds'][0]:.2f} s",
                         f"{b['bandwidth_share']:.1%}"])
    return markdown(["load", "device", "nanothink, tokens/s", "`generate`", "continuous batching", "ours / `generate`",
                     "busy slots", "first token, median", "share of bandwidth"], rows)


def block_cells(r: dict) -> list[str]:
    """Milliseconds of ours and of the others, and the time of the fastest other divided by ours."""
    cells = {name: f"{name} {t:,.0f} ms" if t >= 1000 else f"{name} {t:.3g} ms"
             for name, t in r["ms"].items() if isinstance(t, float)}
    return [", ".join(c for name, c in cells.items() if name.startswith(r["ours"])),
            ", ".join(c for name, c in cells.items() if not name.startswith(r["ours"])),
            f"**{r['ratio']:.2f}**" if r["ratio"] else ""]


def exact_table() -> str:
    """What exact mode costs: a row for each kind of work on each device."""
    return markdown(["what", "case", "device", "exact mode", "others", "others' best / exact"],
                    [[r["block"], r["case"], f"{device}, {dtype}", *block_cells(r)]
                     for (device, dtype), record in newest("exact").items() for r in record["rows"]])


def kernels_table() -> str:
    """For each device a table of the blocks and one of the products, with a row for each weight. A click unfolds them."""
    return "\n\n".join(fold(f"{device}, {dtype}", "\n\n".join(filter(None, (
        markdown(["what", "case", "ours", "others", "others' best / ours"],
                 [[r["block"], r["case"], *block_cells(r)] for r in record["rows"] if r["block"] != "product"]),
        products_table([r for r in record["rows"] if r["block"] == "product"])))))
        for (device, dtype), record in newest("kernels").items())


def products_table(rows: list[dict]) -> str:
    """Rows of bench.py kernels about products, which are of "M x K by K x N": a line for each weight, a column for each M."""
    table, sizes = {}, {}
    for r in rows:
        M, weight = r["case"].split(" x ", 1)
        sizes[M] = None
        table.setdefault(weight.split(" by ")[1], {})[M] = f"{r['ms']['invariant']:.3g} ({r['ratio']:.2f})" if r["ratio"] else ""
    found = markdown(["weight", *(f"{int(M):,} rows" for M in sizes)],
                     [[weight, *(cells.get(M, "") for M in sizes)] for weight, cells in table.items()])
    return found and ("Matrix products whose rows do not depend on each other: milliseconds, and in brackets the time of the "
                      f"library divided by ours.\n\n{found}")


# exact mode

def bits_table() -> str:
    """Sampled tokens with a different log-probability in the trainer; also for all shapes."""
    parts = []
    for r in newest("bits").values():
        parts += [f"On {r['device']}, {r['parameters'] / 1e6:.0f}M weights, {r['dtype']}:",
                  markdown(["mode", "temperature", "tokens", "mean log-probability", "tokens that differ", "largest difference",
                            "times new weights came", "rows preempted"],
                           [[x["mode"], x["temperature"], f"{x['tokens']:,}", f"{x['logprob']:.2f}", f"**{x['differ']:,}**",
                             f"{x['greatest']:.2g}", x["updates"], x["preempted"]] for x in r["rows"]])]
    for r in newest("shapes").values():
        sizes = [x["head_size"] for x in r["rows"]]
        parts.append(f"Exact mode with shapes that no tile divides, on {r['device']}, {r['dtype']}: every even head size from "
                     f"{min(sizes)} to {max(sizes)}, odd widths, {r['rows'][0]['groups'][0]} to {r['rows'][0]['groups'][1]} "
                     f"query heads per key head. Of {r['tokens']:,} tokens **{r['differ']:,}** differ.")
    return "\n\n".join(parts)


def learn_table() -> str:
    """Exact and fast mode: what was learned, and how far sampler and trainer differed."""
    parts = []
    for r in newest("learn").values():
        parts += [f"{r['steps']} steps on {r['device']}, {r['dtype']}, from the fine-tuned model of the laptop recipe:",
                  markdown(["mode", "mean reward, first third", "last third", "`logprob_diff_max`, least and greatest step"],
                           [[m["arm"], with_interval(m["reward"][0]), with_interval(m["reward"][1]),
                             " and ".join("0.0" if x == 0 else f"{x:.1e}" for x in m["logprob_diff_max"])] for m in r["rows"]])]
    return "\n\n".join(parts)


def probe_table() -> str:
    """Which blocks give a row the same bits in every batch."""
    return "\n\n".join(fold(f"{device}, {dtype}", markdown(
        ["block", "case", "batch sizes in which some row has different bits"],
        [[x["block"], x["case"], ", ".join(map(str, x["differ"])) or "none"] for x in r["rows"]]))
        for (device, dtype), r in newest("probe").items())


# asynchronous rollouts, and what plan predicts

def step_seconds(record: dict) -> dict:
    """{arm: {kind of lengths: row of the speed part}} of a record of bench.py async."""
    found = {}
    for row in record["speed"]:
        found.setdefault(row["arm"], {})[row["lengths"]] = row
    return found


def async_table() -> str:
    """Seconds for a step of each arm, and accuracy after equally many steps."""
    parts = []
    for r in newest("async").values():
        arms, kinds = step_seconds(r), list(dict.fromkeys(row["lengths"] for row in r["speed"]))

        def cell(row):
            return with_interval([row["seconds"], *row["interval"]]) if row else ""
        parts += [f"Seconds for a step on {r['device']}, mean with its 95% bootstrap interval:",
                  markdown(["arm", *(f"{kind} lengths" for kind in kinds)],
                           [[arm, *(cell(rows.get(kind)) for kind in kinds)] for arm, rows in arms.items()]),
                  async_sentence(arms, kinds)]
        rows = []
        for a in r["accuracy"]:
            runs = [x for x in r["runs"] if x["arm"] == a["arm"]]
            rows.append([a["arm"], ", ".join(f"{x:.3f}" for x in a["by_seed"]), with_interval(a["accuracy"], ".3f"),
                         with_interval(a["difference"], "+.3f") if a["difference"] else "",
                         ", ".join(f"{x['command_seconds']:.0f}" for x in runs),
                         f"{statistics.mean(x['staleness_mean'] for x in runs):.2f}" if runs else ""])
        parts += [f"Verified accuracy at 4 to 8 operations after {r['steps']} steps from one checkpoint, and seconds for the "
                  "whole command. The difference is paired by problem, over all seeds:",
                  markdown(["arm", "by seed", "all seeds", "difference to taking turns", "seconds of each seed",
                            "mean staleness"], rows)]
    return "\n\n".join(filter(None, parts))


def async_sentence(arms: dict, kinds: list[str]) -> str:
    """How long a step takes with asynchronous rollouts, compared with synchronous ones on as many ranks."""
    base, others = arms.get("turns, two ranks"), [a for a in arms if a.endswith("ranks apart")]
    if not base or not others:
        return ""
    return "Compared with two ranks that work in turns (the intervals are above), a step takes on average " + "; ".join(
        f"with {arm.removesuffix(', ranks apart')} " + " and ".join(
            f"{arms[arm][kind]['seconds'] / base[kind]['seconds']:.2f} times as long ({kind} lengths)"
            for kind in kinds if kind in arms[arm]) for arm in others) + "."


def plan_table() -> str:
    """Predictions and measurements."""
    return markdown(["weights", "response tokens", "arm", "predicted, s a step", "measured", "predicted / measured"],
                    [[f"{x['parameters'] / 1e6:.1f}M", f"{x['response']:.0f}", x["arm"], f"{x['predicted_seconds']:.2f}",
                      f"{x['measured_seconds']:.2f}", f"**{x['predicted_over_measured']:.2f}**"]
                     for r in newest("plan").values() for x in r["rows"]])


def large_table() -> str:
    """What bench.py pretrain and largest found."""
    parts = []
    for r in newest("pretrain").values():
        rows = []
        for x in r["rows"]:
            theirs, ratio = x["tokens_per_second"]["hugging face"], x["ratios"].get("hugging face")
            rows.append([x["size"], x["shape"], f"{x['tokens_per_second']['ours']:,.0f}", f"{x['share_of_peak']:.1%}",
                         f"{x['true_share']:.1%}", f"{theirs:,.0f}" if ratio else theirs, with_range(ratio) if ratio else "",
                         ", ".join(f"{name} {share:.0%}" for name, share in x["groups"].items())])
        parts += [f"Pre-training on {r['device']}, {r['dtype']}; a plain matrix product reaches {r['peak_tflops']:,} TFLOP/s:",
                  markdown(["size", "batch", "tokens/s", "share of the peak", "true share", "Hugging Face", "ratio",
                            "where the time goes"], rows)]
    for r in newest("largest").values():
        fits = max((x for x in r["rows"] if x["fits"]), key=lambda x: x["layers"])
        parts.append(f"The largest model that trains on {r['device']} (rows of {r['T']} tokens, AdamW, activations recomputed) "
                     f"has {fits['parameters'] / 1e9:.2f}B weights and takes {fits['measured_gb']} GB, predicted "
                     f"{fits['predicted_gb']} GB.")
    return "\n\n".join(parts)


# the answer check

def answers_table() -> str:
    """Ours and math-verify on our cases and on other people's; ours also on real solutions and on hostile strings."""
    found = records_of("answers")
    if not found:
        return ""
    r, rows = found[-1], []
    for name, title in (("own", "our own cases"), ("cases", "others' cases")):
        rows += [[title, judge.replace("_", "-"), *counts_of(r[name][judge])] for judge in r["judges"] if name in r]
    rows += [[name, "ours", *counts_of(x)] for name, x in r["real"].items()]
    rows += [["hostile strings", "ours", *counts_of(r["hostile"])]]
    return f"On {r['device']}, commit {r['commit']}:\n\n" + markdown(
        ["checks", "judge", "number", "right", "wrongly accepted", "wrongly rejected", "mean ms", "worst ms"], rows)


def counts_of(x: dict) -> list[str]:
    """The cells of one judge on one set."""
    return [f"{x['checks']:,}", *(f"{x[k]:,}" if k in x else "" for k in ("right", "false_positives", "false_negatives")),
            f"{x['mean_ms']:.2f}", f"{x['worst_ms']:.1f}"]


# the benchmarks, beside lm-eval

def harness_table() -> str:
    """A row for each benchmark; and every question on which text or verdict differ."""
    parts = []
    for r in newest("harness").values():
        rows = [[x["benchmark"], x["questions"], x["ours_right"], x["lm_eval_right"], x["same_verdict"], x["same_text"],
                 "–" if x["same_answer"] is None else x["same_answer"], x["same_verdict_on_one_text"]] for x in r["rows"]]
        parts += [f"{r['init']} in float32 on {r['device']}, template {r['template']}, greedy, at most {r['limit']} tokens:",
                  markdown(["benchmark", "questions", "right: ours", "right: lm-eval", "same verdict", "same text",
                            "same answer read", "same verdict on lm-eval's text"], rows)]
        for x in r["rows"]:
            differ = [[i, short(q["gold"]), short(q["ours"]), yes(q["ours_right"]), short(q["lm_eval"]), yes(q["lm_eval_right"]),
                       why(q)] for i, q in enumerate(x["answers"])
                      if not q["same_text"] or q["same_answer"] is False or q["ours_right"] != q["lm_eval_right"]]
            if differ:
                parts.append(fold(f"{x['benchmark']}: the questions on which a text, an answer or a verdict differ", markdown(
                    ["question", "gold", "ours", "right", "lm-eval", "right", "why"], differ)))
    return "\n\n".join(parts)


def why(question: dict) -> str:
    """Why two verdicts differ, or two texts, on a question of benchmarks/harness.py."""
    if question["same_text"]:
        return "the same text, read in two ways"
    same, nats = question["parting"]
    return f"the texts part after {same} tokens, where ours is {nats:.2g} nats likelier"


def short(answer: str | None) -> str:
    """An answer as a cell of a table."""
    return "–" if answer is None else "`" + " ".join(answer.split())[:40].replace("|", "\\|").replace("`", "'") + "`"


def yes(right: bool) -> str:
    return "yes" if right else "no"
