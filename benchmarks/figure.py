"""The figure of README.md: verified accuracy by operations after each stage of the pipeline, as an SVG file.

Its background is transparent, and its colours can be read on a white page and on a dark one.
"""

import statistics
from html import escape

from page.plots import Plot

COLOURS = {"base": "#7d8590", "mid": "#58a6d6", "sft": "#2f7fd0", "dpo": "#9a6dd7", "grpo": "#e0701a"}
OTHERS = ("#3fa266", "#c9519b", "#b58a1b")                # for stages of other names
STYLE = ("text { font: 13px system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif; fill: #6e7681 } "
         ".grid { stroke: #7d8590; stroke-opacity: .25 } .title { font-weight: 600; font-size: 14px }")
WIDTH, HEIGHT, TOP = 760, 300, 56                         # of the axes; above them the title and the legend


def pipeline_figure(records: list[dict]) -> str:
    """The SVG. records: of the pipeline, one for each seed. A line is the mean over seeds, a dot is one seed."""
    stages = list(records[0]["verified"])
    others = iter(OTHERS * len(stages))
    colour = {stage: COLOURS.get(stage) or next(others) for stage in stages}
    ops = [row["ops"] for row in records[0]["verified"][stages[0]]]
    plot = Plot((min(ops) - 0.2, max(ops) + 0.2), (0, 1), "operations in a problem", [(n, n) for n in ops], WIDTH, HEIGHT)
    legend = []
    for i, stage in enumerate(stages):
        by_seed = [[row["pass@1"][0] for row in r["verified"][stage]] for r in records]
        means = [statistics.mean(values) for values in zip(*by_seed, strict=True)]
        points = [(plot.x(n), plot.y(mean)) for n, mean in zip(ops, means, strict=True)]
        dash = ' stroke-dasharray="6 4"' if stage == "dpo" else ""                # its line is nearly the line of sft
        path = " ".join(f"{x},{y}" for x, y in points)
        plot.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour[stage]}" '
                          f'stroke-width="2.5" stroke-linejoin="round"{dash}/>')
        plot.parts += [f'<circle cx="{plot.x(n)}" cy="{plot.y(value)}" r="2.5" fill="{colour[stage]}" fill-opacity=".6"/>'
                       for values in by_seed for n, value in zip(ops, values, strict=True)]
        legend.append(f'<line x1="{46 + 78 * i}" x2="{68 + 78 * i}" y1="40" y2="40" stroke="{colour[stage]}" '
                      f'stroke-width="2.5"{dash}/><text x="{74 + 78 * i}" y="44">{escape(stage)}</text>')
    title = f"Share of unseen problems with every step right, at temperature {records[0].get('temperature', 1.0):g}"
    seeds = f"{len(records)} seeds: lines are means, dots single seeds"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + HEIGHT}" width="{WIDTH}" '
            f'height="{TOP + HEIGHT}" role="img" aria-label="{escape(title)}, after each stage; {seeds}"><style>{STYLE}</style>\n'
            f'<text class="title" x="46" y="18">{escape(title)}</text>'
            f'<text x="{WIDTH - 8}" y="44" text-anchor="end">{seeds}</text>\n' + "\n".join(legend)
            + f'\n<g transform="translate(0 {TOP})">\n' + "\n".join(plot.parts) + "\n</g>\n</svg>\n")
