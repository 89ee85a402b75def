"""The tree of the house in README.md: a line for each room and each file, which is the first sentence of its docstring."""

import ast
import re
from pathlib import Path

from benchmarks.records import HERE

# in the order of README.md; a file or a room that is not named here comes behind the others
ROOT = ("model.py", "tokenizer.py", "data.py", "sampler.py", "pretrain.py", "sft.py", "dpo.py", "grpo.py", "distill.py",
        "augment.py", "mix.py", "evaluate.py", "chat.py", "report.py", "bench.py")
ROOMS = ("kernels", "engine", "tasks", "sources", "formats", "transforms", "training", "rl", "page", "benchmarks", "claims",
         "recipes", "results", "tests")
WITHOUT_CODE = {"recipes": "The stages composed: whole pipelines as shell scripts, and the smallest GRPO.",
                "results": "What was measured, as lines of JSON; README.md there is generated from them.",
                "tests": "In folders like the rooms; faults.json holds the faults that they must notice."}


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
        lines = text.split("\n")[1:]                      # behind the line that names the shell
        return first_sentence("\n".join(line[1:].strip() for line in lines[:next(
            (i for i, line in enumerate(lines) if not line.startswith("# ")), len(lines))]))
    return first_sentence(re.sub(r"^#.*\n", "", text, flags=re.M))


def in_order(names, order) -> list[str]:
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def rooms() -> list[str]:
    """The folders that hold code or scripts, and results."""
    found = {p.parent.name for kind in ("py", "sh") for p in HERE.glob(f"[a-z]*/*.{kind}")} | {"results"}
    return in_order(found - {"runs"}, ROOMS)


def files_of(room: str) -> list[Path]:
    """The files of a room that have a line of their own; of results and tests only the room has one."""
    if room in ("results", "tests"):
        return []
    folder = HERE / room
    found = [*folder.rglob("*.py"), *folder.rglob("*.sh"), *folder.glob("README.md")]
    if room == "claims":                                  # its README.md has a table of the claims
        found = [path for path in found if "\nCLAIM = " not in path.read_text(encoding="utf-8")]
    return sorted((p for p in found if p.name != "__init__.py"), key=lambda p: (len(p.parts), p))


def tree() -> str:
    """The list in Markdown, with links."""
    lines = [f"- [{name}]({name}): {about(HERE / name)}" for name in in_order((p.name for p in HERE.glob("*.py")), ROOT)]
    for room in rooms():
        door = HERE / room / "__init__.py"
        lines.append(f"- **[{room}/]({room})**: {about(door) if door.exists() else WITHOUT_CODE[room]}")
        lines += [f"  - [{path.relative_to(HERE / room)}]({path.relative_to(HERE)}): {about(path)}" for path in files_of(room)]
    return "\n".join(lines)
