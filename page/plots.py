"""Plots as SVG and numbers as text. The page that shows them needs no script and no other file."""

import math
from html import escape

import numpy as np

from tasks.accuracy import rate_text


def running_mean(values: list, window: int) -> np.ndarray:
    """Centred running mean; near the ends the window is shorter."""
    ones = np.ones(window)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


# How numbers are written.

def short(x: float) -> str:
    """Three digits or so: 12.3M, 45k, 0.12."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= max(size, 1e4):
            return f"{x / size:.3g}{unit}"
    return (f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}").replace("e-0", "e-").replace("-", "−")


def clock(seconds: float) -> str:
    size, unit = (1, "s") if seconds < 90 else (60, "min") if seconds < 5400 else (3600, "h")
    return f"{seconds / size:.{0 if size == 1 else 1}f} {unit}"


def whole_rate(rate: list | None, form: str = ".2f") -> str:
    """rate_text, with spaces that do not allow a line break."""
    return rate_text(rate, form).replace(" ", "\N{NO-BREAK SPACE}")


# Plots. Colours are CSS variables of the page, so they change with its dark and its printed style.

class Plot:
    """An SVG: axes with ticks, and the position of a value on them. Drawings are added to `parts`."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float], x_label: str, x_ticks: list | None = None,
                 width: int = 360, height: int = 210):
        self.xs, self.ys, self.width, self.height, self.parts = xs, ys, width, height, []
        for y in ticks(*ys):
            self.parts.append(f'<line class="grid" x1="42" x2="{width - 8}" y1="{self.y(y)}" y2="{self.y(y)}"/>'
                              f'<text x="36" y="{self.y(y) + 4:.1f}" text-anchor="end">{short(y)}</text>')
        for x, text in x_ticks or [(x, short(x)) for x in ticks(*xs) if x == round(x)]:
            self.parts.append(f'<text x="{self.x(x)}" y="{height - 19}" text-anchor="middle">{text}</text>')
        middle = width / 2 + 17
        self.parts.append(f'<text class="soft" x="{middle}" y="{height - 4}" text-anchor="middle">{x_label}</text>')

    def x(self, value: float) -> float:
        return round(46 + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.width - 58), 1)

    def y(self, value: float) -> float:
        return round(self.height - 34 - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (self.height - 42), 1)

    def line(self, points: list, kind: str, colour: str) -> None:
        path = "L".join(f"{self.x(x)} {self.y(y)}" for x, y in points)
        self.parts.append(f'<path class="{kind}" style="--c:var(--{colour})" d="M{path}"/>')

    def svg(self, label: str, kind: str = "") -> str:
        return (f'<svg class="plot {kind}" viewBox="0 0 {self.width} {self.height}" role="img" '
                f'aria-label="{escape(label)}">{"".join(self.parts)}</svg>')


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from low to high."""
    unit = 10 ** math.floor(math.log10((high - low) / 4))
    unit *= next(m for m in (1, 2, 5, 10) if m * unit * 5 >= (high - low) * 0.8)
    return [float(f"{unit * i:.6g}") for i in range(math.ceil(low / unit - 1e-9), math.floor(high / unit + 1e-9) + 1)]


def figure(title: str, legend: list, plot: Plot | str, note: str = "", kind: str = "") -> str:
    """A captioned plot, or drawings of it. legend: [(name, colour, kind of mark, value in words)]."""
    keys = "".join(f'<li><i class="key {mark}" style="--c:var(--{colour})"></i>{escape(name)} <b>{value}</b></li>'
                   for name, colour, mark, value in legend)
    if isinstance(plot, Plot):
        plot = plot.svg(f"{title}: " + "; ".join(f"{name} {value}" for name, *_, value in legend))
    return (f'<figure class="{kind}"><figcaption><h4>{escape(title)}</h4><ul>{keys}</ul></figcaption>{plot}'
            f"<p>{escape(note)}</p></figure>")


def line_plot(title: str, curves: dict, note: str = "") -> str:
    """Curves over steps, {name: [(step, value)]}, or "". From forty points on a running mean lies over them."""
    curves = {name: points for name, points in curves.items() if points}
    values = [v for points in curves.values() for _, v in points]
    if not values:
        return ""
    low = min(0, *values)
    plot = Plot((0, max(x for points in curves.values() for x, _ in points) or 1),
                (low, max(values) if max(values) > low else low + 1), "step")
    legend = []
    for i, (name, points) in enumerate(curves.items()):
        colour, kind = ("one", "two", "three")[i], "line dash" if i else "line"
        if len(points) >= 40:
            plot.line(points, "line thin", colour)
            steps, values = zip(*points)
            points = list(zip(steps, running_mean(values, len(points) // 20)))
        plot.line(points, kind, colour)
        legend.append((name, colour, kind, f"{short(points[0][1])} → {short(points[-1][1])}"))
    return figure(title, legend, plot, note)


def bar_plot(bars: dict, groups: list, width: int, kind: str) -> str:
    """Grouped bars with intervals. bars: {(name, colour): {operations: rate}}."""
    plot = Plot((-0.5, len(groups) - 0.5), (0, 1), "operations", list(enumerate(groups)), width, 260)
    step = 0.84 / len(bars)
    for j, ((name, colour), rates) in enumerate(bars.items()):
        for i, rate in [(i, rates[group]) for i, group in enumerate(groups) if rates.get(group)]:
            left, right = plot.x(i - 0.42 + step * (j + 0.04)), plot.x(i - 0.42 + step * (j + 0.96))
            top, middle = plot.y(rate[0]), round((left + right) / 2, 1)
            whisker = "V".join(str(plot.y(v)) for v in rate[1:]) or top
            plot.parts.append(
                f'<g style="--c:var(--{colour})"><title>{escape(name)}, {groups[i]} operations: '
                f'{whole_rate(rate)}</title>'
                f'<rect x="{left}" y="{top}" width="{right - left:.1f}" height="{plot.y(0) - top:.1f}"/>'
                f'<path class="halo" d="M{middle} {whisker}"/><path class="whisker" d="M{middle} {whisker}"/></g>')
    return plot.svg("Verified accuracy by operations, a bar for each stage; the table below has the numbers", kind)
