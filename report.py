"""One self-contained HTML page of a pipeline's runs: what it achieved, each stage's curves, completions, settings.

    python report.py --runs runs/base runs/mid --out report.html
    python report.py --runs runs/sft runs/grpo --evaluation evaluation.json --out report.html

It reads what the other scripts wrote, log.jsonl in each run folder and the file of `evaluate.py --out`, and computes
nothing but means and bootstrap intervals over problems. What a run has not got is left out of the page. The page needs
no script, no network and no file beside it: its plots are SVG.

Simpler than a dashboard: the runs are one pipeline, stage after stage; many seeds are not laid over each other.
"""

import json
import math
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from data import split_spec
from evaluate import gain, interval, parse_band, pass_at_k
from page.plots import Plot, bar_plot, clock, figure, line_plot, rate_text, short
from training import cli

RL = "grpo.py"

# What is drawn of a stage where its records have it: title, {field of a record: name in the legend}, how to read it.
PANELS = [
    ("Loss", {"loss": "loss"}, ""),
    ("Plain negative log-likelihood", {"nll": "nats per token"}, "Unweighted, so comparable across kinds of loss."),
    ("Reward", {"reward": "mean", "reward_std": "standard deviation"}, ""),
    ("Accuracy of rollouts", {"answer": "answer", "process": "every step"}, "The gap: right answers, wrong steps."),
    ("Response length, tokens", {"length_mean": "mean", "length_max": "longest"}, ""),
    ("Sampler against trainer", {"logprob_diff_mean": "mean", "logprob_diff_max": "largest"},
     "Difference of a token's log-probability, nats. At 0 training is truly on-policy."),
    ("Entropy, nats per token", {"entropy": "entropy"}, ""),
    ("Groups without spread", {"zero_spread": "share of groups"}, "All rewards alike: nothing to learn from."),
    ("Cut off at the cap", {"cut_off": "share of completions"}, ""),
    ("Clipped", {"clip_low": "below", "clip_high": "above", "clipped": "at the bound"}, "Shares of tokens."),
    ("KL divergence from the start", {"kl": "nats per token"}, ""),
    ("Log-probability of the answers", {"chosen": "chosen", "rejected": "rejected"}, ""),
    ("Change against the reference", {"chosen_change": "chosen", "rejected_change": "rejected"},
     "The margin can grow while both fall."),
    ("Margin", {"margin": "chosen minus rejected"}, ""),
    ("Preference accuracy", {"accuracy": "share of pairs"}, "Pairs in which chosen gained more than rejected."),
    ("Gradient norm", {"grad_norm": "before clipping"}, ""),
    ("Where the time goes", {"rollout_share": "step in rollouts", "wasted_slots": "decode slots wasted"}, "Shares."),
    ("Tokens per second", {"tokens_per_second": "all", "rollout_tokens_per_second": "rollouts",
                           "train_tokens_per_second": "training"}, ""),
]


# Reading what the scripts wrote. Nothing below this part knows how the files are laid out.

@dataclass(eq=False)
class Stage:
    """One run folder, and what was measured of it."""
    folder: Path
    about: dict = field(default_factory=dict)              # the log's first record: flags, script, versions, ...
    records: list = field(default_factory=list)
    result: dict = field(default_factory=dict)             # empty where the run did not come to its end
    notes: list = field(default_factory=list)
    tables: dict = field(default_factory=dict)             # {world spec: {operations: evaluate.py's row}}
    others: dict = field(default_factory=dict)             # {other measurement: [mean, low, high] or [number]}
    samples: list = field(default_factory=list)            # evaluate.py's completions
    colour: str = "one"                                    # a variable of the page's style

    @property
    def name(self):
        return self.folder.resolve().name

    @property
    def flags(self):
        return self.about.get("flags", {})

    @property
    def script(self):
        return self.about.get("script", "")

    @property
    def ended_by(self):
        """The flag by which the stage ended before --steps, as it was meant to; "" for one that was interrupted."""
        return self.result.get("ended_by", "")

    @property
    def steps(self):
        return max([0, *(r.get("step", 0) for r in self.records), self.result.get("steps", 0)])

    def curve(self, name):
        """[(step, value)] of a field, where it is a finite number."""
        return [(r["step"], float(r[name])) for r in self.records
                if "step" in r and isinstance(r.get(name), int | float) and math.isfinite(r[name])]

    def add(self, name, found):
        """Files one measurement, of evaluate.py or of the training script itself."""
        if "rows" in found:
            self.samples += found["samples"]
            found = found["rows"]
        if isinstance(found, list):
            self.tables[name] = {row["ops"]: row for row in found if "ops" in row}
        elif "accuracy" in found:
            self.others |= {f"{name}: {k}": rate for k, rate in found["accuracy"].items()}
        elif "bits_per_byte" in found:
            self.others[f"{name}: bits per byte"] = [found["bits_per_byte"]]


def read_stage(folder):
    """A run folder's log: Stage. A last line that was cut off is dropped and noted; any other bad line is an error."""
    stage, path = Stage(Path(folder)), Path(folder) / "log.jsonl"
    if not path.is_file():
        raise ValueError(f"--runs {folder}: " + ("has no log.jsonl; give a folder that a training script wrote to"
                                                 if path.parent.is_dir() else "no such folder"))
    lines, wanted = path.read_text(errors="replace").strip().split("\n"), 0
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not all(isinstance(record.get(key, {}), dict) for key in ("flags", "result")):
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not a JSON object; fix it, or leave the run out")
            stage.notes.append("the log's last line is cut off" if line else "the log is empty")
        elif "flags" in record:
            stage.about = record
            wanted = stage.flags.get("steps", 0)
        elif "result" in record:
            stage.result = record["result"]
        elif "resumed_at" in record:
            stage.notes.append(f"resumed at step {record['resumed_at']:,}")
            wanted = record.get("steps", wanted)          # --steps may be raised
        else:
            stage.records.append(record)
    if not stage.result or (stage.steps < wanted and not stage.ended_by):
        stage.notes.append(f"not finished: step {stage.steps:,} of {wanted:,}")
    for name, found in stage.result.get("eval", {}).items():
        stage.add(name, found)
    return stage


def read_evaluation(path, stages):
    """Gives each stage what evaluate.py measured of it, instead of its own evaluations; returns evaluate.py's flags.

    Reads what its --out wrote, and also its last line of output, which has no rates by problem and no completions."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        folders = found.get("results") or {name: value for name, value in found.items() if isinstance(value, dict)}
        if not all(isinstance(measured, dict) for measured in folders.values()):
            raise TypeError
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"--evaluation {path}: is not the JSON object that evaluate.py --out writes") from None
    # runs that were moved since are known by their last names
    moved = {s.folder.resolve() for s in stages}.isdisjoint(Path(name).resolve() for name in folders)
    key = (lambda path: path.resolve().name) if moved else Path.resolve
    named = {key(Path(name)): measured for name, measured in folders.items()}
    if named.keys().isdisjoint(key(s.folder) for s in stages):
        raise ValueError(f"--evaluation {path}: measures {', '.join(folders) or 'nothing'}, which is not in --runs")
    for stage in stages:
        stage.tables = {}                                  # greedy and sampled accuracies must not stand side by side
        for name, value in named.get(key(stage.folder), {}).items():
            stage.add(name, value)
    return found.get("flags", {"k": found.get("k", [1])})


def before_and_after(stages):
    """The stage that the headline is about, the last RL or else the last one, and the stage that it started from."""
    i = max([i for i, s in enumerate(stages) if s.script == RL], default=len(stages) - 1)
    start = Path(stages[i].flags.get("init") or ".").resolve()
    return next((s for s in stages[:i] if s.folder.resolve() == start), stages[i - 1] if i else None), stages[i]


# Numbers.

def band_of(stage, measured, asked=""):
    """The numbers of operations that were asked for, else those that the stage trained on most, else all; of the
    measured ones."""
    if asked:
        return sorted(set(parse_band("--band", asked)) & set(measured)) or sorted(measured)
    worlds = [d for d in stage.flags.get("data", []) if d.startswith("world:")]
    main = max(worlds, key=lambda spec: split_spec(spec)[1], default="")
    ops = re.search(r"ops=(\d+)(?:-(\d+))?", main)
    return [n for n in sorted(measured) if ops and int(ops[1]) <= n <= int(ops[2] or ops[1])] or sorted(measured)


def per_problem(table, band, k=1):
    """Verified pass@k of each problem of the band; empty where rows lack "right" or a problem has under k samples."""
    counts = [pair for ops in band for pair in table[ops].get("right", [])]
    return [pass_at_k(n, c, k) for c, n in counts] if counts and min(n for _, n in counts) >= k else []


def rate_of(table, band, k=1):
    """Verified pass@k over the band: [mean, low, high], or [mean] where only the rows' means are known, or []."""
    if each := per_problem(table, band, k):
        return list(interval(each))
    rows = [(table[ops]["problems"], table[ops]["process"].get(f"pass@{k}")) for ops in band]
    if not rows or any(rate is None for _, rate in rows):
        return []
    return rows[0][1] if len(rows) == 1 else [sum(n * rate[0] for n, rate in rows) / sum(n for n, _ in rows)]


def paired_gain(before, after, band):
    """Mean gain in verified pass@1 and its 95% bootstrap interval, each problem paired with itself; [] if unknown."""
    counts = [len(per_problem(table, band)) for table in (before, after)]
    return list(gain(before.values(), after.values(), band)) if counts[0] == counts[1] > 0 else []


def common_specs(before, after):
    """The worlds on which pass@1 of both stages was measured, at the same numbers of operations."""
    return [spec for spec, rows in after.tables.items() if before and rate_of(rows, rows)
            and before.tables.get(spec, {}).keys() == rows.keys()]


def headline(before, after, evaluation):
    """What the pipeline's last step gained: (a sentence, its explanation, the numbers for the JSON line)."""
    specs = common_specs(before, after)
    if not specs:
        loss = after.result.get("loss")
        return (f"{after.name}: {after.steps:,} steps" + (f", loss {loss:.3f}" if isinstance(loss, float) else ""),
                "No two stages were measured on the same problems, so no gain can be told.", {})
    a, b = before.tables[specs[0]], after.tables[specs[0]]
    band = band_of(after, a, evaluation.get("band"))
    old, new, grown = rate_of(a, band), rate_of(b, band), paired_gain(a, b, band)
    numbers = {"before": before.name, "after": after.name, "band": band, "gain": grown or None,
               "verified": [round(old[0], 4), round(new[0], 4)]}
    how = "greedy" if evaluation.get("k", [1]) == [1] else f"temperature {evaluation.get('temperature', '?')}"
    text = (f"{after.name} against {before.name}: {rate_text(grown or [new[0] - old[0]], '+.2f')} in pass@1 ({how}) "
            f"over {sum(a[ops]['problems'] for ops in band)} problems. "
            + ("95% bootstrap interval over problems, paired." if grown else "No per-problem results, so no interval."))
    if evaluation.get("solved"):
        solved = band_of(after, a, evaluation["solved"])
        numbers["gain_on_solved"] = paired_gain(a, b, solved)
        text += f" At {span(solved)} operations, solved before: {rate_text(numbers['gain_on_solved'], '+.2f')}."
    verb = ("takes" if not grown else "raises" if grown[1] > 0 else "lowers" if grown[2] < 0
            else "does not measurably move")
    return (f"{'RL' if after.script == RL else after.name} {verb} verified accuracy at {span(band)} operations, "
            f"from {old[0]:.2f} to {new[0]:.2f}", text, numbers)


def used(stage):
    """Seconds and tokens of a stage, None where the log does not say. RL logs both at each step, and its tokens are the
    sampled ones; the `seconds` of the other scripts' results count from the last resume."""
    each = [r for r in stage.records if {"seconds", "rollout_share", "rollout_tokens_per_second"} <= r.keys()]
    if each and len(each) == stage.steps:
        sampled = sum(r["seconds"] * r["rollout_share"] * r["rollout_tokens_per_second"] for r in each)
        return sum(r["seconds"] for r in each), sampled
    return stage.result.get("seconds"), stage.steps * stage.flags.get("batch_tokens", 0) or None


def shown(text):
    """Text from a model, escaped; control characters, which HTML does not allow, as the signs for them."""
    return escape(text.translate({c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n"}))


def span(band):
    return f"{band[0]} to {band[-1]}" if len(band) > 1 else str(band[0])


def pass_curves(stages, spec, band):
    """Verified pass@k over the band against k, for the stages before and after."""
    curves = {s: {k: r for k in (2 ** i for i in range(14)) if (r := rate_of(s.tables[spec], band, k))} for s in stages}
    ks = sorted({k for found in curves.values() for k in found})
    if len(ks) < 2:
        return ""
    plot = Plot((0, math.log2(ks[-1])), (0, 1), "k, samples for a problem", [(math.log2(k), k) for k in ks], height=260)
    legend = []
    for (s, found), kind in zip(curves.items(), ("line dash", "line")):
        low, high = ([(math.log2(k), rate[i]) for k, rate in found.items() if len(rate) == 3] for i in (1, 2))
        if low:
            plot.line(low + high[::-1], "band", s.colour)
        plot.line([(math.log2(k), rate[0]) for k, rate in found.items()], kind, s.colour)
        ends = " → ".join(f"{found[k][0]:.2f}" for k in (min(found), max(found)))
        legend.append((s.name, s.colour, kind, ends))
    return figure(f"Verified pass@k at {span(band)} operations", legend, plot)


# Sections of the page, as HTML; "" where there is nothing to show.

def section(title, body, lead=""):
    return f"<section><h2>{title}</h2><p class=lead>{lead}</p>{body}</section>" if body or lead else ""


def table(head, rows):
    """The first column holds names; everything is escaped here."""
    def cells(row, kind=""):
        first, *rest = (re.sub(r"([/,])(?!\s)", r"\1<wbr>", escape(str(c))) for c in row)
        tag = "th scope=col" if kind else "td"
        rest = "".join(f"<{tag}>{c}</{tag[:2]}>" for c in rest)
        return f"<tr><th scope={kind or 'row'}>{first}</th>{rest}</tr>"
    return ('<div class="scroll" role="region" aria-label="table" tabindex="0"><table><thead>' + cells(head, "col")
            + "</thead><tbody>" + "".join(map(cells, rows)) + "</tbody></table></div>")


def stage_cards(stages):
    cards, total, partly = "", 0, False
    for s in stages:
        seconds, tokens = used(s)
        resumed = any("resumed" in note for note in s.notes) and not s.curve("rollout_share")
        total, partly = total + (seconds or 0), partly or resumed or seconds is None
        facts = {"time since resume" if resumed else "time": clock(seconds) if seconds else "–",
                 "tokens": short(tokens) if tokens else "–", "steps": f"{s.steps:,}",
                 "parameters": short(s.about["parameters"]) if "parameters" in s.about else "–",
                 "starts from": Path(s.flags["init"]).name if s.flags.get("init") else "random weights"}
        if s.ended_by:
            facts["ended by"] = f"{s.ended_by} {s.flags.get(s.ended_by[2:].replace('-', '_'), '')}"
        cards += (f'<li style="--c:var(--{s.colour})"><h3>{escape(s.name)}</h3><code>{escape(s.script)}</code><dl>'
                  + "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()) + "</dl>"
                  + "".join(f"<p class=note>▲ {escape(note)}</p>" for note in s.notes) + "</li>")
    lead = f"{'At least ' * partly}{clock(total)} of training in all."
    return section("Stages", f'<ol class="stages">{cards}</ol>', lead)


def accuracy(stages, before, after, asked):
    """By operations after every stage and, for the stages of the headline, by k: for each world that was measured."""
    body = ""
    for spec in dict.fromkeys(spec for s in stages for spec in s.tables):
        measured = [s for s in stages if spec in s.tables]
        groups, last = sorted({ops for s in measured for ops in s.tables[spec]}), measured[-1].tables[spec]
        bars = {(s.name, s.colour): {ops: rate_of(s.tables[spec], [ops]) for ops in s.tables[spec]} for s in measured}
        drawn = bar_plot(bars, groups, 740, "wide") + bar_plot(bars, groups, 360, "narrow")
        plots = figure("Verified pass@1 by operations", [(*bar, "box", "") for bar in bars], drawn, kind="double")
        if spec in common_specs(before, after):
            plots += pass_curves([before, after], spec, band_of(after, groups, asked))
        body += (f"<p class=lead>On <code>{escape(spec)}</code>, {max(row['problems'] for row in last.values())} "
                 f"problems for each number of operations.</p><div class=charts>{plots}</div>"
                 + table(["operations", *(s.name for s in measured), f"most common error of {measured[-1].name}"],
                         [[ops, *(rate_text(rates.get(ops)) for rates in bars.values()),
                           last.get(ops, {}).get("why", "")] for ops in groups]))
    if names := dict.fromkeys(name for s in stages for name in s.others):
        rows = [[name, *(rate_text(s.others.get(name)) for s in stages)] for name in names]
        body += table(["", *(s.name for s in stages)], rows)
    return section("Accuracy", body, "A solution counts only if every step of it is right. Whiskers, bands and "
                   "brackets are 95% bootstrap intervals over problems." if body else
                   "Nothing was measured: there is no --evaluation, and no run evaluated itself (--eval-data).")


def completion(title, text, reason, ok, lines, stage):
    """One completion, its lines marked as right, wrong or no step; the reason stands at the line that it is about."""
    lines, about = lines or [[line, None] for line in text.split("\n")], f"= {reason.partition(':')[0]} "
    wrong = [i for i, (_, good) in enumerate(lines) if good is False]
    to_blame = [i for i in wrong if about in lines[i][0] or reason.startswith("answer")]
    body = ""
    for i, (line, good) in enumerate(lines):
        sign, kind = {True: ("✓", "right"), False: ("✗", "wrong")}.get(good, ("", ""))
        why = f" <em>← {shown(reason)}</em>" if i in to_blame[:1] else ""
        mark = f'<i role=img aria-label="{kind}">{sign}</i>' if sign else "<i></i>"
        body += f'<div class="{kind}">{mark}<span>{shown(line)}{why}</span></div>'
    verdict = "✓ right" if ok else "✗ wrong" if to_blame else f"✗ {reason}"
    return (f'<div class="completion" style="--c:var(--{stage.colour})"><h4>{escape(title)} '
            f'<b class="{"right" if ok else "wrong"}">{shown(verdict)}</b></h4><div class=text>{body}</div></div>')


def completions(before, after, asked, most=4):
    """The same questions before and after, the first of each number of operations; and early and late rollouts."""
    theirs, body = {s["question"]: s for s in (before.samples if before else [])}, ""
    both = [s for s in after.samples if s["question"] in theirs]
    band = band_of(after, {s["ops"] for s in both}, asked)
    firsts = {s["ops"]: s for s in reversed(both) if s["ops"] in band}
    for ops, mine in sorted(firsts.items())[:most]:
        body += f"<article><p><b>{ops} operations.</b> {shown(mine['question'])}</p><div class=pair>" + "".join(
            completion(stage.name, s["text"], s.get("reason", ""), s.get("ok"), s.get("lines"), stage)
            for stage, s in ((before, theirs[mine["question"]]), (after, mine))) + "</div></article>"
    if rollouts := [r for r in after.records if r.get("samples")]:
        body += f"<h3>Rollouts of {escape(after.name)}, early and late</h3><div class=pair>"
        for r in rollouts[:1] + rollouts[1:][-1:]:
            body += "<div>" + "".join(f"<article><p>{shown(s['question'])}</p>" + completion(
                f"step {r['step']}, reward {s['reward']:.2f}", s["text"], s["reason"], s["reason"] == "ok", None, after)
                + "</article>" for s in r["samples"][:2]) + "</div>"
        body += "</div>"
    lead = "The first of their kind, not chosen. ✓ a right step, ✗ a wrong one."
    return section("Completions", body, lead if body else "")


def training(stages):
    body = ""
    for s in stages:
        charts = "".join(line_plot(title, {label: s.curve(name) for name, label in fields.items()}, note)
                         for title, fields, note in PANELS)
        notes = dict.fromkeys(r["note"] for r in s.records if "note" in r)
        body += (f"<h3>{escape(s.name)} <code>{escape(s.script)}</code></h3>"
                 + "".join(f"<p class=lead>{escape(note)}</p>" for note in notes)
                 + (f"<div class=charts>{charts}</div>" if charts else "<p class=lead>No step was logged.</p>"))
    return section("Training", body, "Thin lines are single records; the thick line over them is their running mean "
                   "over a twentieth of the run. Numbers: where a line starts and ends.")


def settings(stages):
    """Flags and versions: a table of those that differ between stages; in lines, the common and the lonely ones."""
    columns = []
    for s in stages:
        facts = {k: s.about.get(k) for k in ("script", "commit", "device", "ranks")} | s.about.get("versions", {}) | {
            "--" + k.replace("_", "-"): " ".join(map(str, v)) if isinstance(v, list) else v for k, v in s.flags.items()}
        columns.append({k: str(v) for k, v in facts.items() if v not in ("", None) and v is not False})
    lines, rows = {}, []
    for n in dict.fromkeys(n for column in columns for n in column):
        having = [s.name for s, column in zip(stages, columns) if n in column]
        values = [column.get(n, "–") for column in columns]
        if len(having) > 1 and len(set(values)) > 1:
            rows.append([n, *values])
        else:
            found = next(v for v in values if v != "–")
            lines.setdefault("All stages" if len(having) > 1 else f"Only {having[0]}", []).append(f"{n} {found}")
    return section("Settings and versions", (table(["", *(s.name for s in stages)], rows) if rows else "") + "".join(
        f"<p class=same><b>{escape(who)}:</b> " + " ".join(f"<code>{escape(x)}</code>" for x in what) + "</p>"
        for who, what in lines.items()), "Flags that are off or empty are left out.")


def page(stages, evaluation):
    """The whole page: (HTML, the headline's numbers)."""
    before, after = before_and_after(stages)
    blues = [s for s in stages if not (s is after and s.script == RL)]
    after.colour = "accent"
    for i, s in enumerate(blues):                          # from light to dark along the pipeline
        s.colour = f"c{round(1 + 4 * i / max(1, len(blues) - 1))}"
    title, text, numbers = headline(before, after, evaluation)
    if diffs := [v for _, v in after.curve("logprob_diff_max")]:
        numbers["logprob_diff_max"] = max(diffs)
        text += (f" Log-probabilities of sampler and trainer differ by at most {short(max(diffs))} nats."
                 if max(diffs) else " Sampler and trainer agreed on every log-probability to the last bit.")
    asked = evaluation.get("band")
    body = (f"<header><p class=lead>{escape(' → '.join(s.name for s in stages))}</p><h1>{escape(title)}</h1>"
            f"<p class=lead>{escape(text)}</p></header>" + stage_cards(stages) + accuracy(stages, before, after, asked)
            + completions(before, after, asked) + training(stages) + settings(stages))
    return PAGE.replace("BODY", body, 1).replace("TITLE", escape(title), 1), numbers


def main():
    p = cli.Parser(__doc__)
    p.add_argument("--runs", metavar="FOLDER", nargs="+", required=True, help="run folders, in their order")
    p.add_argument("--evaluation", metavar="FILE", default="", help="what evaluate.py --out wrote")
    p.add_argument("--out", type=cli.out_file, metavar="FILE", required=True, help="HTML file to write")
    p.add_argument("--overwrite", action="store_true", help="write over --out")
    args = p.parse_args()
    with cli.bad_input():
        if Path(args.out).exists() and not args.overwrite:
            raise ValueError(f"--out {args.out}: exists already; add --overwrite, or choose another")
        stages = [read_stage(folder) for folder in args.runs]
        evaluation = read_evaluation(args.evaluation, stages) if args.evaluation else {}
    html, numbers = page(stages, evaluation)
    html = html.encode("utf-8", "replace")
    with cli.bad_input():
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_bytes(html)
    cli.finish({"out": args.out, "stages": [s.name for s in stages], "bytes": len(html)} | numbers)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>TITLE</title>
<style>
:root { --ink:#1b1f24; --soft:#5b6470; --rule:#dde1e6; --grid:#e8ebee; --paper:#fff; --bad:#b42318; --good:#1a6e43;
  --accent:#d1590a; --c1:#93aeca; --c2:#6c9ccb; --c3:#4580ba; --c4:#285f99; --c5:#12365e;
  --one:#2166a8; --two:#d1590a; --three:#5b6470 }
@media screen and (prefers-color-scheme: dark) { :root { --ink:#e6e9ed; --soft:#9aa4b0; --rule:#343b44; --grid:#2a3038;
  --paper:#14171b; --bad:#ff8a7d; --good:#6fce9b; --accent:#ff9b4f; --c1:#546a81; --c2:#5d8ab4; --c3:#74a9da;
  --c4:#a3c9ec; --c5:#d5e7f8; --one:#74a9da; --two:#ff9b4f; --three:#9aa4b0 } }
* { box-sizing:border-box }
body { margin:0 auto; padding:2rem 1.1rem 4rem; max-width:1160px; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  font-variant-numeric:tabular-nums; overflow-wrap:anywhere; -webkit-text-size-adjust:100% }
code, .text { font-family:ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; font-size:.86em }
h1 { font-size:clamp(1.5rem, 1rem + 2.4vw, 2.3rem); line-height:1.18; margin:.2rem 0 .7rem; max-width:26em;
  letter-spacing:-.015em; text-wrap:balance }
h2 { font-size:1.3rem; margin:2.6rem 0 .4rem; padding-top:1rem; border-top:1px solid var(--rule) }
h3 { font-size:1.05rem; margin:1.6rem 0 .6rem } h3 code { color:var(--soft); font-weight:400; margin-left:.3em }
h4 { font-size:.9rem; margin:0 } p { margin:.4rem 0 } p:empty { display:none }
.lead { color:var(--soft); max-width:48em }
figure { margin:0 0 1.5rem; min-width:0; display:grid; grid-row:span 3; grid-template-rows:subgrid }
figure p { color:var(--soft); font-size:.8rem; margin:.1rem 0 0 }
figcaption ul { list-style:none; display:flex; flex-wrap:wrap; gap:0 1rem; margin:.1rem 0 .3rem; padding:0;
  font-size:.8rem; color:var(--soft) } figcaption b { color:var(--ink); font-weight:500 }
.key { display:inline-block; width:1.3em; margin-right:.35em; vertical-align:.25em; border-top:2.5px solid var(--c) }
.key.dash { border-top-style:dashed }
.key.box { width:.8em; height:.8em; background:var(--c); border:0; vertical-align:-.05em }
.charts { display:grid; grid-template-columns:repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap:0 1.8rem;
  margin:1rem 0 0 }
.plot { display:block; width:100%; height:auto } .plot text { font-size:11px; fill:var(--ink) }
.plot .soft { fill:var(--soft) } .grid { stroke:var(--grid) } rect { fill:var(--c) }
.line { fill:none; stroke:var(--c); stroke-width:2; stroke-linejoin:round } .line.dash { stroke-dasharray:5 3 }
.line.thin { stroke-width:1; opacity:.35 } .band { fill:var(--c); opacity:.16 }
.whisker { stroke:var(--ink); stroke-width:1.2 }
.halo { stroke:var(--paper); stroke-width:2.4; opacity:.5 } .wide { display:none }
@media (min-width:720px), print { .double { grid-column:span 2 } .wide { display:block } .narrow { display:none } }
.stages { list-style:none; display:grid; grid-template-columns:repeat(auto-fit, minmax(160px, 1fr)); gap:1.2rem 1rem;
  margin:1rem 0 0; padding:0 } .stages li { border-top:4px solid var(--c); padding-top:.5rem;
  max-width:22rem }
.stages h3 { margin:0 } .stages code { color:var(--soft) }
dl { display:grid; grid-template-columns:auto 1fr; gap:.1rem .7rem; margin:.5rem 0 0; font-size:.86rem;
  overflow-wrap:break-word }
dt { color:var(--soft) } dd { margin:0; text-align:right } .note { color:var(--bad); font-size:.82rem }
.scroll { overflow-x:auto; margin:0 0 1rem }
table { border-collapse:collapse; font-size:.84rem; min-width:100%; overflow-wrap:normal }
th, td { text-align:left; padding:.3rem 1rem .3rem 0; border-bottom:1px solid var(--rule); vertical-align:top;
  max-width:24em }
td { overflow-wrap:break-word; min-width:7em } th[scope=row] { font-weight:400; white-space:nowrap }
thead th { color:var(--soft); vertical-align:bottom }
.same { font-size:.84rem; line-height:1.8 } .same code { white-space:nowrap; margin-right:.8em }
article { margin:1rem 0 1.4rem } article > p { max-width:52em }
.pair { display:grid; grid-template-columns:repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap:.8rem 1.4rem }
.completion { border-left:3px solid var(--c); padding:.1rem 0 .1rem .8rem; min-width:0 }
.completion h4 b { font-weight:500; margin-left:.5em }
b.right, .right i { color:var(--good) } .wrong { color:var(--bad) }
.text { margin-top:.3rem } .text div { display:flex; gap:.5em; white-space:pre-wrap } .text span { min-width:0 }
.text i { flex:none; width:1em; font-style:normal } .text .wrong { font-weight:600 } .text em { font-weight:400 }
:focus-visible { outline:2px solid var(--one); outline-offset:2px }
@page { margin:14mm }
@media print {
  body { font-size:10pt; max-width:none; padding:0; print-color-adjust:exact; -webkit-print-color-adjust:exact }
  h2, h3, h4 { break-after:avoid } figure, article, tr, .stages li { break-inside:avoid } h2 { margin-top:1.4rem }
  .charts { grid-template-columns:repeat(2, 1fr); gap:0 1.5rem } .stages { grid-template-columns:repeat(5, 1fr) }
  .scroll { overflow:visible } table, dl { font-size:7.5pt } th, td { padding-right:.5rem; min-width:0 }
}
</style>
</head>
<body>
BODY
</body>
</html>
"""


if __name__ == "__main__":
    main()
