"""Every public function says what it takes and what it returns."""

import ast

from conftest import ROOT

# Files and folders where that does not hold yet. This list must shrink: an entry that is no longer needed must be taken out.
OPEN = set()


def without_hints(tree):
    """[(line, name, what has no hint)] of the public functions of a file, methods and __init__ among them."""
    found = []

    def visit(node, inside=None):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                visit(child, child)
            elif isinstance(child, ast.FunctionDef) and (child.name == "__init__" or not child.name.startswith("_")):
                arguments = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in child.decorator_list)
                missing = [a.arg for a in arguments[inside is not None and not static:] if a.annotation is None]
                if child.returns is None and child.name != "__init__":
                    missing.append("return")
                if missing:
                    found.append((child.lineno, child.name, missing))
    visit(tree)
    return found


def test_public_functions_have_type_hints():
    missing = {}
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py")]):
        name = path.relative_to(ROOT)
        if name.parts[0] not in ("tests", "runs") and (found := without_hints(ast.parse(path.read_text()))):
            missing.setdefault(name.parts[0], []).extend((str(name), *f) for f in found)
    assert {room: found for room, found in missing.items() if room not in OPEN} == {}
    assert OPEN <= missing.keys(), "has hints now: take it out of OPEN"


def test_a_missing_hint_is_seen():
    text = ("def f(a: int, b): ...\ndef _g(x): ...\n"
            "class C:\n    def __init__(self, x): ...\n    def m(self, y: int) -> None: ...\n")
    assert without_hints(ast.parse(text)) == [(1, "f", ["b", "return"]), (4, "__init__", ["x"])]
