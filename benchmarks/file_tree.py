"""The list of files in README.md: a line for each folder and each file, made of the first sentence of its docstring."""

import ast
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.records import HERE

# The order in README.md. A file or a folder that is not named here comes after the others.
ROOT = ("model.py", "tokenizer.py", "data.py", "sampler.py", "pretrain.py", "sft.py", "dpo.py", "grpo.py", "distill.py",
        "augment.py", "mix.py", "evaluate.py", "chat.py", "report.py", "bench.py")
FOLDERS = ("kernels", "engine", "tasks", "sources", "formats", "transforms", "training", "rl", "page", "benchmarks", "claims",
           "recipes", "results", "tests")
WITHOUT_CODE = {"recipes": "Shell scripts that run complete pipelines, and the smallest GRPO.",
                "results": "What was measured, as lines of JSON, and the tables made of them.",
                "tests": "The tests, in the same folders as the code; faults.json lists faults that the tests must notice."}


def first_sentence(text: str) -> str:
    """Of a docstring or of a comment; it ends at a full stop or a question mark before a capital letter."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    found = re.match(r"(.*?(?<!\.\.)(?<!e\.g)[.?!])(?=\s[A-Z]|$)", paragraph)
    return found[1] if found else paragraph


def about(path: Path) -> str:
    """The first sentence of what a file says about itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return first_sentence(ast.get_docstring(ast.parse(text)) or "")
    if path.suffix == ".sh":
        lines = text.split("\n")[1:]                      # without the first line, which names the shell
        return first_sentence("\n".join(line[1:].strip() for line in lines[:next(
            (i for i, line in enumerate(lines) if not line.startswith("# ")), len(lines))]))
    return first_sentence(re.sub(r"^#.*\n", "", text, flags=re.M))


def in_order(names: Iterable[str], order: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def folders() -> list[str]:
    """The folders that hold code or scripts, and results."""
    found = {p.parent.name for kind in ("py", "sh") for p in HERE.glob(f"[a-z]*/*.{kind}")} | {"results"}
    return in_order(found - {"runs"}, FOLDERS)


def files_of(folder: str) -> list[Path]:
    """The files of a folder that have a line of their own; the files of results and tests have none."""
    if folder in ("results", "tests"):
        return []
    found = [*(HERE / folder).rglob("*.py"), *(HERE / folder).rglob("*.sh"), *(HERE / folder).glob("README.md")]
    if folder == "claims":                                # its README.md has a table of the claims
        found = [path for path in found if "\nCLAIM = " not in path.read_text(encoding="utf-8")]
    return sorted((p for p in found if p.name != "__init__.py"), key=lambda p: (len(p.parts), p))


def tree() -> str:
    """The list in Markdown, with links."""
    lines = [f"- [{name}]({name}): {about(HERE / name)}" for name in in_order((p.name for p in HERE.glob("*.py")), ROOT)]
    for folder in folders():
        package = HERE / folder / "__init__.py"
        lines.append(f"- **[{folder}/]({folder})**: {about(package) if package.exists() else WITHOUT_CODE[folder]}")
        lines += [f"  - [{path.relative_to(HERE / folder)}]({path.relative_to(HERE)}): {about(path)}"
                  for path in files_of(folder)]
    return "\n".join(lines)
