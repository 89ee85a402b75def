"""The list of files: a line for each, made of the first sentence of its docstring.

README.md has the files of the root and the folders; FILES.md has every file.
"""

import ast
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.records import HERE

# The order in README.md. A file or a folder that is not named here comes after the others.
ROOT = ("model.py", "tokenizer.py", "data.py", "sampler.py", "pretrain.py", "sft.py", "dpo.py", "grpo.py", "distill.py",
        "augment.py", "mix.py", "evaluate.py", "chat.py", "report.py", "bench.py")
FOLDERS = ("kernels", "engine", "tasks", "sources", "formats", "transforms", "mixing", "scaling", "training", "rl", "page",
           "benchmarks", "claims", "recipes", "results", "tests")
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


def tracked(paths: Iterable[Path]) -> list[Path]:
    """Those that git knows: a user's own files beside them are not part of the project. All of them where there is no git."""
    done = subprocess.run(["git", "-C", str(HERE), "ls-files", "-z"], capture_output=True, text=True, check=False)
    known = {HERE / name for name in done.stdout.split("\0")}
    return [path for path in paths if done.returncode or path in known]


def folders() -> list[str]:
    """The folders that hold code or scripts, and results."""
    found = {p.parent.name for kind in ("py", "sh") for p in tracked(HERE.glob(f"[a-z]*/*.{kind}"))} | {"results"}
    return in_order(found - {"runs"}, FOLDERS)


def files_of(folder: str) -> list[Path]:
    """The files of a folder that have a line of their own; the files of results and tests have none."""
    if folder in ("results", "tests"):
        return []
    found = [*(HERE / folder).rglob("*.py"), *(HERE / folder).rglob("*.sh"), *(HERE / folder).glob("README.md")]
    return sorted((p for p in tracked(found) if p.name != "__init__.py"), key=lambda p: (len(p.parts), p))


def root_lines() -> list[str]:
    """A line of Markdown, with a link, for each script and file in the root."""
    return [f"- [{name}]({name}): {about(HERE / name)}" for name in in_order((p.name for p in tracked(HERE.glob("*.py"))), ROOT)]


def about_folder(folder: str) -> str:
    package = HERE / folder / "__init__.py"
    return about(package) if package.exists() else WITHOUT_CODE[folder]


def tree() -> str:
    """The list of README.md: the files of the root, and the folders."""
    lines = root_lines()
    for folder in folders():
        count = len(files_of(folder))
        more = f" ([{count} files](FILES.md#{folder}))" if count else ""
        lines.append(f"- **[{folder}/]({folder})**: {about_folder(folder)}{more}")
    return "\n".join(lines)


def page() -> str:
    """FILES.md: every file."""
    parts = ["# All files\n\nOne line for each, made of the first sentence in it by `python bench.py readme`.",
             "## The root\n\n" + "\n".join(root_lines())]
    for folder in folders():
        lines = [f"- [{path.relative_to(HERE / folder)}]({path.relative_to(HERE)}): {about(path)}" for path in files_of(folder)]
        parts.append("\n".join([f"## {folder}\n\n{about_folder(folder)}", *([""] if lines else []), *lines]))
    return "\n\n".join(parts) + "\n"
