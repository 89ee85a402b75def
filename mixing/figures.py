"""The page of mix.py: the mixture, how far small proxies can be trusted, and what one target costs another."""

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np

import page
from mixing.fit import FITS
from mixing.proxies import Plan
from mixing.solve import frontier
from mixing.table import measured
from page.plots import Plot, figure, rate_text, short, ticks
from page.sections import section, table

TEMPLATE = Path(page.__file__).parent / "template.html"
COLOURS = dict(zip(["proxies", *FITS], ("three", "one", "two", "c1")))


def dot(plot: Plot, x: float, y: float, colour: str, title: str, size: float = 3, opacity: float = 0.6) -> None:
    plot.parts.append(f'<circle cx="{plot.x(x)}" cy="{plot.y(y)}" r="{size}" style="fill:var(--{colour});opacity:{opacity}">'
                      f"<title>{escape(title)}</title></circle>")


def span(values: Iterable[float], margin: float = 0.06) -> tuple[float, float]:
    """The range of an axis that holds all values."""
    low, high = float(min(values)), float(max(values))
    room = (high - low) * margin or abs(high) * margin or 1.0
    return low - room, high + room


def rank_plot(rows: list[dict]) -> str:
    """Spearman's rho against the size of the proxy for one target, with intervals."""
    sizes = [math.log10(row["parameters"]) for row in rows]
    names = ["proxies", *FITS]
    rates = [rate for row in rows for name in names if (rate := row[name])]
    if not rates:
        return ""
    xs = span(sizes) if len(set(sizes)) > 1 else (sizes[0] - 0.5, sizes[0] + 0.5)
    plot = Plot(xs, (min(-0.1, *(rate[1] for rate in rates)), 1.05), "parameters of the proxy",
                [(x, short(row["parameters"])) for x, row in zip(sizes, rows)])
    legend = []
    for n, name in enumerate(names):
        points = [(x + 0.012 * n, row[name]) for x, row in zip(sizes, rows) if row[name]]
        if not points:
            continue
        plot.line([(x, rate[0]) for x, rate in points], "line dash" if name == "proxies" else "line", COLOURS[name])
        for x, rate in points:
            plot.line([(x, rate[1]), (x, rate[2])], "line thin", COLOURS[name])
            dot(plot, x, rate[0], COLOURS[name], f"{name}: {rate_text(rate)}", opacity=1)
        legend.append((name, COLOURS[name], "line", rate_text(points[-1][1])))
    return figure(rows[0]["target"], legend, plot, "Of predicted and measured values at the largest size; proxies: of the values "
                  "measured at this size. Numbers: at the largest size that has one.")


def pareto_plot(plan: Plan, results: dict, solved: dict, pair: tuple[str, str]) -> str:
    """One target against another at the largest size: the proxies, and the mixtures that no other is predicted to beat in
    both."""
    a, b = (list(plan.targets).index(target) for target in pair)
    Y, predicted = measured(plan, results, list(plan.sizes)[-1])[:, [a, b]], solved["predictions"][:, [a, b]]
    best = frontier(predicted)
    edge = predicted[best]
    chosen = [solved["predicted"][target] for target in pair]
    everything = np.vstack([Y, edge, [chosen]])
    xs, ys = span(everything[:, 0]), span(everything[:, 1])
    plot = Plot(xs, ys, escape(pair[0]), [(x, short(x)) for x in ticks(*xs)], width=520, height=330)
    for i, (x, y) in enumerate(Y):
        dot(plot, x, y, "three", f"proxy {i}: {dict(zip(plan.sources, plan.mixtures[i]))}")
    plot.line([(float(x), float(y)) for x, y in edge], "line", "one")
    dot(plot, *Y[0], "two", "token shares", size=5, opacity=1)
    dot(plot, *chosen, "one", "the chosen mixture, as predicted", size=5, opacity=1)
    legend = [("proxies", "three", "box", ""), ("token shares, measured", "two", "box", ""),
              ("predicted: no mixture is better in both", "one", "line", ""), ("chosen", "one", "box", "")]
    return figure(f"{pair[1]} against {pair[0]}", legend, plot, "Lower is better in both. A point holds its mixture.",
                  kind="double")


def mixture_tables(plan: Plan, solved: dict, confirmed: dict) -> str:
    """What the mixture is, what it promises, and what it kept where it was trained."""
    shares, best = solved["token_shares"], solved["best_proxy"]
    ways = {"chosen": solved["shares"], "token shares": shares["shares"], "best proxy": best["shares"]}
    found = table(["source", *ways], [[source, *(f"{way[source]:.1%}" for way in ways.values())] for source in plan.sources])
    found += table(["target", "weight", "chosen, predicted", "token shares, predicted", "token shares, measured",
                    "best proxy, measured"],
                   [[target, weight, solved["predicted"][target], shares["predicted"][target], shares["measured"][target],
                     best["measured"][target]] for target, weight in plan.targets.items()])
    if confirmed:
        found += table(["trained to confirm", *plan.targets, "weighted"], [
            [way, *(rate_text(rate, ".4f") for rate in confirmed[way]["values"].values()),
             rate_text(confirmed[way]["value"], ".4f")] for way in ("chosen", "token shares")])
    return found


def whole_page(plan: Plan, results: dict, rows: list[dict], solved: dict, pair: tuple[str, str] | None, confirmed: dict) -> str:
    """The whole page, HTML that needs no file beside it."""
    title = "Mixture: " + ", ".join(f"{share:.1%} {source}" for source, share in solved["shares"].items())
    trust = "".join(rank_plot([row for row in rows if row["target"] == target]) for target in plan.targets)
    names = ["proxies", *FITS]
    trusted = table(["target", "size", "parameters", *names], [
        [row["target"], row["size"], short(row["parameters"]), *(rate_text(row[name]) for name in names)] for row in rows])
    trained = table(["size", "mixture", *plan.sources, *plan.targets], [
        [size, i, *(f"{s:.3f}" for s in plan.mixtures[i]), *results[size, i]["values"].values()] for size, i in plan.jobs()])
    body = (f"<header><h1>{escape(title)}</h1><p class=lead>By the {solved['fit']} fit to {len(plan.mixtures)} mixtures at the "
            f"largest of {len(plan.sizes)} sizes.</p></header>"
            + section("The mixture", mixture_tables(plan, solved, confirmed))
            + section("How far proxies can be trusted", f"<div class=charts>{trust}</div>{trusted}",
                      "Spearman's rank correlation over mixtures with its 95% bootstrap interval. Every prediction is of a "
                      "mixture that the fit has not seen.")
            + (section("What one target costs the other", f"<div class=charts>{pareto_plot(plan, results, solved, pair)}</div>")
               if pair else "")
            + section("Proxies", trained))
    return TEMPLATE.read_text(encoding="utf-8").replace("BODY", body, 1).replace("TITLE", escape(title), 1)
