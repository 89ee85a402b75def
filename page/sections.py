"""The sections of the page, as HTML; a section is "" if there is nothing to show."""

import math
import re
from html import escape
from pathlib import Path

from page.numbers import band_of, common_specs, rate_of, span, used
from page.panels import PANELS
from page.plots import Plot, bar_plot, clock, figure, line_plot, short, whole_rate
from page.stages import Stage


def section(title: str, body: str, lead: str = "") -> str:
    return f"<section><h2>{title}</h2><p class=lead>{lead}</p>{body}</section>" if body or lead else ""


def table(head: list, rows: list) -> str:
    """The first column holds names; everything is escaped here."""
    def cells(row, kind=""):
        first, *rest = (re.sub(r"([/,])(?!\s)", r"\1<wbr>", escape(str(c))) for c in row)
        tag = "th scope=col" if kind else "td"
        rest = "".join(f"<{tag}>{c}</{tag[:2]}>" for c in rest)
        return f"<tr><th scope={kind or 'row'}>{first}</th>{rest}</tr>"
    return ('<div class="scroll" role="region" aria-label="table" tabindex="0"><table><thead>' + cells(head, "col")
            + "</thead><tbody>" + "".join(map(cells, rows)) + "</tbody></table></div>")


def shown(text: str) -> str:
    """Text from a model, escaped. HTML does not allow control characters; they become visible symbols."""
    return escape(text.translate({c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n"}))


def stage_cards(stages: list[Stage]) -> str:
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


def costs(stages: list[Stage]) -> str:
    """The ledger of each stage, and the table of its mixture (as phi-4's, arXiv 2412.08905)."""
    rows, mixtures, unknown = [], [], []
    for s in stages:
        for row in s.result.get("mixture", []):
            mixtures.append([s.name, row["source"], f"{row['share']:.1%}", short(row["tokens"]), short(row["unique_tokens"]),
                             f"{row['epochs']:.2f}"])
        for row in s.result.get("prompts", []):
            mixtures.append([s.name, row["source"], f"{row['share']:.1%}", f"{row['prompts']:,} prompts",
                             f"{row['unique_prompts']:,} prompts", f"{row['epochs']:.2f}"])
        if s.ledger is None:
            rows.append([s.name] + ["–"] * 9)
            continue
        own, tokens = s.ledger["own"], s.ledger["tokens"]
        unique = sum(row["unique_tokens"] for row in s.result.get("mixture", []))
        # what made data cost is of other ledgers: its teachers and judges, once for the whole way to this stage
        made = sum(other["own"].get(kind, 0) for other in s.ledger["inherited"].values() for kind in ("teacher", "judge"))
        rows.append([s.name, short(tokens.get("training", 0)), short(unique) if unique else "–",
                     short(tokens.get("rollouts", 0)), *(short(own.get(kind, 0)) for kind in ("training", "rollouts", "scoring")),
                     short(made), short(sum(own.values())), short(s.ledger["total"])])
        unknown += [name for name in s.ledger["unknown"] if name not in unknown]
    if not any(s.ledger for s in stages):
        return ""
    notes = f"<p class=note>▲ unknown cost, so totals are lower bounds: {escape(', '.join(unknown))}</p>" if unknown else ""
    mixture = table(["stage", "source", "share", "used, tokens", "unique, tokens", "epochs"], mixtures) if mixtures else ""
    head = ["stage", "tokens trained", "unique tokens", "tokens sampled", "FLOPs: training", "rollouts", "scoring",
            "teachers and judges", "this stage", "all until here"]
    return section("What it cost", table(head, rows) + notes + mixture,
                   "Runs are compared at equal tokens (those trained), at equal data (the unique ones) or at equal money: all "
                   "FLOPs from random weights until here, made data included.")


def pass_curves(stages: list[Stage], spec: str, band: list[int]) -> str:
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


def accuracy(stages: list[Stage], before: Stage | None, after: Stage, chosen: str | None) -> str:
    """Accuracy by operations after every stage, for each world that was measured; pass@k for the stages of the headline."""
    body = ""
    for spec in dict.fromkeys(spec for s in stages for spec in s.tables):
        measured = [s for s in stages if spec in s.tables]
        groups, last = sorted({ops for s in measured for ops in s.tables[spec]}), measured[-1].tables[spec]
        bars = {(s.name, s.colour): {ops: rate_of(s.tables[spec], [ops]) for ops in s.tables[spec]} for s in measured}
        drawn = bar_plot(bars, groups, 740, "wide") + bar_plot(bars, groups, 360, "narrow")
        plots = figure("Verified pass@1 by operations", [(*bar, "box", "") for bar in bars], drawn, kind="double")
        if spec in common_specs(before, after):
            plots += pass_curves([before, after], spec, band_of(after, groups, chosen))
        body += (f"<p class=lead>On <code>{escape(spec)}</code>, {max(row['problems'] for row in last.values())} "
                 f"problems for each number of operations.</p><div class=charts>{plots}</div>"
                 + table(["operations", *(s.name for s in measured), f"most common error of {measured[-1].name}"],
                         [[ops, *(whole_rate(rates.get(ops)) for rates in bars.values()),
                           last.get(ops, {}).get("why", "")] for ops in groups]))
    if names := dict.fromkeys(name for s in stages for name in s.others):
        rows = [[name, *(whole_rate(s.others.get(name)) for s in stages)] for name in names]
        body += table(["", *(s.name for s in stages)], rows)
    return section("Accuracy", body, "A solution counts only if every step of it is right. Whiskers, bands and "
                   "brackets are 95% bootstrap intervals over problems." if body else
                   "Nothing was measured: there is no --evaluation, and no run evaluated itself (--eval-data).")


def completion(title: str, text: str, reason: str, ok: bool, lines: list | None, stage: Stage) -> str:
    """One completion, with each line marked as right, wrong or no step; the reason is shown at the line that it is about."""
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


def completions(before: Stage | None, after: Stage, chosen: str | None, most: int = 4) -> str:
    """The same questions before and after, the first one of each number of operations; then early and late rollouts."""
    theirs, body = {s["question"]: s for s in (before.samples if before else [])}, ""
    both = [s for s in after.samples if s["question"] in theirs]
    band = band_of(after, {s["ops"] for s in both}, chosen)
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
    lead = "The first ones in the files; nobody selected them. ✓ a right step, ✗ a wrong one."
    return section("Completions", body, lead if body else "")


def training(stages: list[Stage]) -> str:
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


def settings(stages: list[Stage]) -> str:
    """Flags and versions: a table of those that differ between stages, then lines for the others: of all stages, of one."""
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
