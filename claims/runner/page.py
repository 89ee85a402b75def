"""The page of the claims: one HTML file without a script, with a card and a figure for each claim that was measured."""

from html import escape
from pathlib import Path

from claims.runner.claim import FAILS, HOLDS, OPEN, Claim
from claims.runner.results import COSTS, records_of, together, usual_minutes
from claims.runner.table import command, place, signed
from claims.runner.undecided import to_decide
from page.plots import rate_text, short
from page.sections import table

TEMPLATE = Path(__file__).parent.parent.parent / "page" / "template.html"
COLOURS = {HOLDS: "good", FAILS: "bad"}
UNMEASURED = "not measured yet"
SAID = {HOLDS: "hold here", FAILS: "do not", OPEN: "are undecided", UNMEASURED: "are not measured yet"}   # of several claims


def dots(rows: dict[str, tuple], colours: list[str], low: float, high: float, zero: bool) -> str:
    """An SVG: under each name a line from `low` to `high`, with a dot at its value and a whisker over its interval, and the
    number beside it. rows: {name: (mean, low, high)}. zero: a line at 0 through all."""
    width, step, left, right = 360, 44, 6, 206

    def x(value):
        return round(left + (min(max(value, low), high) - low) / (high - low) * (right - left), 1)
    parts = []
    for i, (name, rate) in enumerate(rows.items()):
        y, text = step * i + 32, signed(rate) if zero else rate_text(list(rate), ".3f")
        parts.append(
            f'<g style="--c:var(--{colours[i % len(colours)]})"><text x="{left}" y="{y - 13}">{escape(name)}</text>'
            f'<text class="soft" x="{width - left}" y="{y + 4}" text-anchor="end">{text}</text>'
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
            + f'<line class="grid" x1="{x(0)}" x2="{x(0)}" y1="{y - 7}" y2="{y + 7}" style="stroke-width:2"/>' * zero
            + f'<path class="whisker" d="M{x(rate[1])} {y}H{x(rate[2])}"/>'
            f'<circle cx="{x(rate[0])}" cy="{y}" r="4" fill="var(--c)"/></g>')
    label = "; ".join(f"{name} {rate_text(list(rate), '.3f')}" for name, rate in rows.items())
    return (f'<svg class="plot" viewBox="0 0 {width} {step * len(rows) + 8}" role="img" aria-label="{escape(label)}">'
            f'{"".join(parts)}</svg>')


def drawing(title: str, plot: str, note: str) -> str:
    return f"<figure><figcaption><h4>{escape(title)}</h4></figcaption>{plot}<p>{escape(note)}</p></figure>"


def card(name: str, claim: Claim, records: list[dict]) -> str:
    """A claim: what, who, their figure, ours with its interval, verdict, figures, costs, command."""
    found, last = together(claim, records), records[-1]
    numbers, seeds = found["numbers"], ", ".join(str(r["seed"]) for r in records)
    reach = max(0.05, *(abs(v) for rate in numbers.values() for v in rate))
    controls = {claim.null: "must show nothing", claim.oracle: "must show an effect"}
    named = {f"{n} ({controls[n]})" if n in controls else n: rate for n, rate in numbers.items()}
    figures = drawing("The numbers of the verdict", dots(named, ["one"], -reach, reach, True),
                      f"95% intervals over problems and seeds; seeds {seeds}.")
    for k in (list(next(iter(found["arms"].values()))) if found["arms"] else []):
        rates = {arm: rate[k] for arm, rate in found["arms"].items() if k in rate}
        figures += drawing(f"Arms, verified {k}", dots(rates, ["two"], 0, 1, False), "From 0 to 1, the mean over test problems.")
    kinds = [k for k in COSTS if any(costs[k] for costs in last["costs"].values())]
    money = table(["arm", *(COSTS[k] for k in kinds)],
                  [[arm, *(short(costs[k]) if costs[k] else "–" for k in kinds)] for arm, costs in last["costs"].items()])
    verdict, why = found["verdict"], f": {found['why']}" if found["why"] else ""
    missing = to_decide(claim, records)
    ours = "; ".join(f"{named} {signed(rate)}" for named, rate in claim.shown(numbers).items())
    facts = {"who": claim.source, "their figure": claim.theirs, "ours": ours,
             "would show it": claim.would_show, "minutes": f"{usual_minutes(records):.1f} for a seed, budget {last['budget']}"}
    facts = ({"to decide it": missing} if missing else {}) | facts
    return (f'<section id="{escape(name)}"><h2>{escape(claim.number)}. {escape(claim.says)}</h2>'
            f"<p>{verdict_text(verdict)}{escape(why)}</p>"
            + "".join(f"<p><b>{k}</b> {escape(v)}</p>" for k, v in facts.items())
            + f"<div class=charts>{figures}</div>"
            + (f"<p class=lead>What each arm took until it was measured (seed {last['seed']}).</p>{money}" if kinds else "")
            + f"<p class=same><code>{escape(command(name, records))}</code></p></section>")


def summary(rows: list[tuple[str, Claim, dict | None]]) -> str:
    """The table at the top: a row for each claim, which links to its card. rows: (name, claim, what its records say together;
    None: it was not measured). Its columns are few, so that it fits on a phone; the sources' figures are on the cards."""
    def cells(name, claim, found):
        if found is None:
            return escape(claim.number), escape(claim.says), UNMEASURED
        return (escape(claim.number), f'<a href="#{escape(name)}" style="color:inherit">{escape(claim.says)}</a>',
                f"{verdict_text(found['verdict'])}<br>{signed(found['numbers'][claim.headline])}")
    body = "".join(f"<tr>{''.join(f'<td style=min-width:0>{cell}</td>' for cell in cells(*row))}</tr>" for row in rows)
    head = "".join(f"<th scope=col>{text}</th>" for text in ("", "claim", "verdict, and ours"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def verdict_text(verdict: str) -> str:
    return f'<b style="color:var(--{COLOURS.get(verdict, "soft")})">{escape(verdict)}</b>'


def write_page(path: str, claims: dict[str, Claim], folder: str | Path) -> dict:
    """Writes the page: a row for each claim, and a card for each that was measured; returns {"out", "cards"}. ValueError where
    none was measured."""
    every = [(name, claim, records_of(name, claim, folder)) for name, claim in sorted(claims.items(), key=place)]
    found = [(name, claim, together(claim, records) if records else None) for name, claim, records in every]
    verdicts = [one["verdict"] if one else UNMEASURED for *_, one in found]
    cards = [card(*one) for one in every if one[2]]
    if not cards:
        raise ValueError(f"--page: {folder}/claims.jsonl has no result of a claim; measure one first")
    counts = ", ".join(f"{verdicts.count(v)} {words}" for v, words in SAID.items() if v in verdicts)
    title = f"{len(found)} contested claims, measured again: {counts}"
    body = (f"<header><h1>{escape(title)}</h1><p class=lead>Each with the source's figure, ours with its 95% interval, "
            f"control arms, and the command that measures it again.</p></header>{summary(found)}{''.join(cards)}")
    text = TEMPLATE.read_text(encoding="utf-8").replace("BODY", body, 1).replace("TITLE", escape(title), 1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return {"out": path, "cards": len(cards)}
