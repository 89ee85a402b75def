"""README.md and results/README.md: the generated parts are up to date, and the list of files says what each file says."""

import ast
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import ROOT

import bench
from benchmarks import file_tree, plan, readme, records, tables
from benchmarks.figure import HEIGHT, pipeline_figure

FRONT = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results" / "README.md").read_text()


def part(text, name):
    return re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.S)[1]


def tracked():
    """The names of all files of the repository."""
    done = subprocess.run("git ls-files --cached --others --exclude-standard".split(), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git repository")
    return [name for name in done.stdout.splitlines() if (ROOT / name).exists()]


@pytest.mark.parametrize("path", readme.files(), ids=lambda path: path.name)
def test_what_is_generated_is_up_to_date(path):
    assert path.read_text() == readme.files()[path], "run python bench.py readme"


def test_readme_is_short_and_names_only_files_that_exist():
    assert len(FRONT.splitlines()) < 250
    for folder, text in ((ROOT, FRONT), (ROOT / "results", RESULTS)):
        for name in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            assert (folder / name).exists(), name


def test_links_into_the_page_of_results_lead_to_a_heading():
    headings = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.*)$", RESULTS, re.M)}
    linked = re.findall(r"\(results/README\.md#([^)]+)\)", FRONT) + re.findall(r"\(#([^)]+)\)", RESULTS)
    assert set(linked) <= headings and set(re.findall(r"\(#([^)]+)\)", RESULTS)) == headings


def test_every_file_has_its_line_in_the_tree():
    """Compared with the files in git, whose docstrings are read here without the code of benchmarks/."""
    link = r"^- \**\[[^]]+\]\(([^)]+)\)\**: (.*)$"
    lines, front = (dict(re.findall(link, text, re.M)) for text in ((ROOT / "FILES.md").read_text(), part(FRONT, "tree")))
    expected = {name for name in tracked() if re.fullmatch(r"[^/]+\.py|(?!tests/|\.)[\w/]+\.(py|sh)", name)}
    folders = {name.split("/")[0] for name in expected if "/" in name}
    files = {name for name in expected if not name.endswith("__init__.py")}
    assert {name for name in lines if name.endswith((".py", ".sh"))} == files
    assert {name for name in front if "." not in name} == folders | {"results", "tests"}
    assert {name: line for name, line in front.items() if "." in name} == {n: x for n, x in lines.items() if n in front}
    assert {name for name in front if "." in name} == {name for name in files if "/" not in name}
    for name in files:
        text = (ROOT / name).read_text()
        own = (ast.get_docstring(ast.parse(text)) if name.endswith(".py") else
               re.sub(r"^# ?", "", text.split("\n", 1)[1], flags=re.M))           # without the first line, which names the shell
        assert lines[name] and " ".join(own.split()).startswith(lines[name]), name
    long = {name for name, line in lines.items() if len(line) > 175}
    assert not long, "the first sentence of a file is its line in README.md; make it shorter, and run python bench.py readme"


def test_first_sentences():
    assert file_tree.first_sentence("One (arXiv 1707.06347, e.g. v2) and 1.5, ... two. Three.") == \
        "One (arXiv 1707.06347, e.g. v2) and 1.5, ... two."
    assert file_tree.first_sentence("No stop\nat all\n\nSecond.") == "No stop at all"


def test_commands_on_the_page_of_results_are_those_of_the_bench():
    shown = re.findall(r"^python bench\.py.*$", RESULTS, re.M)
    assert shown and all(command in bench.__doc__ + plan.__doc__ for command in shown)
    assert {command.split()[2] for command in shown} == set(bench.BENCHES) - {"launches"} | {"plan"}


def test_the_figure_shows_the_mean_over_seeds():
    def record(seed, base, grpo):
        rows = {"base": base, "grpo": grpo}
        return {"seed": seed, "verified": {s: [{"ops": n + 1, "pass@1": [v, v, v]} for n, v in enumerate(values)]
                                           for s, values in rows.items()}}
    svg = ElementTree.fromstring(pipeline_figure([record(0, [1.0, 0.2], [1.0, 0.6]), record(1, [0.5, 0.0], [1.0, 1.0])]))
    base, grpo = (list(map(lambda xy: float(xy.split(",")[1]), line.get("points").split()))
                  for line in svg.iter("{http://www.w3.org/2000/svg}polyline"))
    bottom, top = HEIGHT - 34, 8                          # of the axes
    assert base == pytest.approx([bottom - 0.75 * (bottom - top), bottom - 0.1 * (bottom - top)], abs=0.1)
    assert grpo == pytest.approx([top, bottom - 0.8 * (bottom - top)], abs=0.1)
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}circle"))) == 8


def test_readme_says_what_the_last_stage_gains_over_all_seeds(monkeypatch):
    """Three seeds with errors of 0.03, 0.04 and 0: the error of their mean is a third of the root of the sum of squares."""
    def record(seed, stages, gain, **more):
        rows = [{"ops": n, "problems": 50, "pass@1": [0.5, 0.4, 0.6], "pass@8": [1, 1, 1]} for n in (4, 8)]
        pairs = list(zip(stages, stages[1:]))
        return {"seed": seed, "stage_seconds": {}, "seconds": 9, "device": "CPU", "commit": "abc",
                "verified": {s: rows for s in stages},
                "gain": [{"band": "edge", "ops": [4, 8], "before": a, "after": b, "gain": gain if b == stages[-1] else [0, 0, 0],
                          "k": 8, "gain_at_k": [x + 0.1 for x in gain]} for a, b in pairs]} | more
    new = {"rollouts": {"zero_spread": 0.25, "entropy": 0.1}}
    older = record(7, ("base", "sft", "dpo"), [-0.5, -0.6, -0.4])             # another recipe
    found = [older, *(record(i, ("base", "sft", "grpo"), [mean, mean - e, mean + e], **new)
                       for i, (mean, e) in enumerate([(0.1, 0.03), (0.2, 0.04), (0.3, 0.0)]))]
    monkeypatch.setattr(tables, "records_of", lambda name: found)
    assert readme.pipeline_line().endswith(
        "GRPO gains, seed by seed, +0.10, +0.20, +0.30 in pass@1 and +0.20, +0.30, +0.40 in pass@8.")
    table = tables.pipeline_table()
    assert "pass@1, sft to grpo, the mean of these seeds: +0.200 [+0.183, +0.217] (the" in table
    assert "seed 0: 0.25, 0.100; seed 1: 0.25, 0.100" in table and "-0.50" not in table and "| 7 (abc)" not in table


def test_claims_are_counted_by_their_verdicts(tmp_path, monkeypatch):
    verdicts = ("holds", "does not hold here", "undecided (the null arm); to decide it: 5 seeds", "undecided; x", "", "")
    rows = [f"| {i} | claim {i}, a \\| b, holds | paper | 1 | +0.1 [0, 1], {1 + 2 * i} seeds | {verdict} | `python` | 2 |"
            for i, verdict in enumerate(verdicts)]
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "README.md").write_text("\n".join(["# Claims", "", "|  | claim |", "| --- | --- |", *rows, ""]))
    monkeypatch.setattr(readme, "HERE", tmp_path)
    assert readme.claims_line().endswith(": 1 hold here, 1 do not, 2 are undecided, 2 are not measured yet. "
                                           "Of the 2 that are decided 1 are so by three seeds or more.")
    assert "6 contested claims" in readme.claims_line()


def test_the_column_of_the_verdict_is_where_the_table_has_it():
    head = next(line for line in (ROOT / "claims" / "README.md").read_text().splitlines() if line.startswith("| "))
    assert head.split(" | ")[readme.VERDICT] == "verdict"


def test_exact_mode_stands_beside_both_fast_arms(monkeypatch):
    rows = [{"block": "GRPO step", "case": "", "ours": "exact", "ratio": ms / 1000 - 0.01,
             "ms": {f"fast, {arm} recomputation": ms, "exact": 1000.0}}
            for arm, ms in (("with", 1000.0), ("without", 800.0))]
    monkeypatch.setattr(readme, "newest", lambda name: {("CPU", "float32"): {"rows": rows}} if name == "exact" else {})
    assert "GRPO step, with recomputation 0.99, GRPO step, without recomputation 0.79." in readme.exact_line()   # as the table


def test_products_are_a_table_of_their_own(monkeypatch):
    rows = [{"block": "product", "case": f"{M} x 8 by 8 x {N}", "ours": "invariant", "ratio": M / 10,
             "ms": {"invariant": 2.0, "library": 1.0}} for N in (8, 16) for M in (1, 4)]
    assert tables.products_table(rows).splitlines()[-4:] == [
        "| weight | 1 rows | 4 rows |", "| --- | --- | --- |", "| 8 x 8 | 2 (0.10) | 2 (0.40) |",
        "| 8 x 16 | 2 (0.10) | 2 (0.40) |"]
    monkeypatch.setattr(tables, "newest", lambda name: {("GPU", "bfloat16"): {"rows": rows}})
    assert "<summary>GPU, bfloat16</summary>" in tables.kernels_table()


def test_marks_that_are_missing_are_named(tmp_path):
    (tmp_path / "README.md").write_text("<!-- a -->\nold\n<!-- /a -->\n")
    assert readme.with_parts(tmp_path / "README.md", {"a": "new"}) == "<!-- a -->\nnew\n<!-- /a -->\n"
    with pytest.raises(ValueError, match="<!-- b -->"):
        readme.with_parts(tmp_path / "README.md", {"a": "new", "b": "more"})


def test_records_are_found_where_they_are_kept():
    assert records.RESULTS == ROOT / "results" and records.records_of("no such bench") == []
