"""Writes one HTML page about the runs of a pipeline: what it achieved, and the curves, completions and settings of each stage.

    python report.py --runs runs/base runs/mid --out report.html
    python report.py --runs runs/sft runs/grpo --evaluation evaluation.json --out report.html

It reads log.jsonl and ledger.json in each run folder, and the file of `evaluate.py --out`. It computes only means and bootstrap
intervals over problems. What a run did not log is left out of the page. The page needs no script, no network and no other file:
its plots are SVG.

page/ holds the parts: stages.py reads, numbers.py computes, sections.py and plots.py draw, panels.py lists the curves.

Simpler than a dashboard: the runs are the stages of one pipeline. Curves of several seeds cannot be compared in one plot.
"""

from html import escape
from pathlib import Path

from page.numbers import headline
from page.plots import short
from page.sections import accuracy, completions, costs, settings, stage_cards, training
from page.stages import RL, Stage, before_and_after, read_evaluation, read_stage
from training import cli

TEMPLATE = Path(__file__).parent / "page" / "template.html"


def whole_page(stages: list[Stage], evaluation: dict) -> tuple[str, dict]:
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
    chosen = evaluation.get("band")
    body = (f"<header><p class=lead>{escape(' → '.join(s.name for s in stages))}</p><h1>{escape(title)}</h1>"
            f"<p class=lead>{escape(text)}</p></header>" + stage_cards(stages) + costs(stages)
            + accuracy(stages, before, after, chosen) + completions(before, after, chosen) + training(stages) + settings(stages))
    return TEMPLATE.read_text(encoding="utf-8").replace("BODY", body, 1).replace("TITLE", escape(title), 1), numbers


def main() -> None:
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
    html, numbers = whole_page(stages, evaluation)
    html = html.encode("utf-8", "replace")
    with cli.bad_input():
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_bytes(html)
    cli.finish({"out": args.out, "stages": [s.name for s in stages], "bytes": len(html)} | numbers)


if __name__ == "__main__":
    main()
