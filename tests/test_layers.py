"""Imports run downwards through the layers, file by file without a circle, and stand at the top of a file.

The layers, from below; a file may import what is in its own layer or below it:
"""

import ast
import sys

from conftest import ROOT

LAYERS = (
    {"kernels", "formats", "training"},
    {"model", "tokenizer"},
    {"tasks", "sources"},
    {"engine", "data"},
    {"sampler"},
    {"measuring"},
    {"rl", "transforms", "page", "mixing", "scaling"},
    {"benchmarks", "claims"},
    {"evaluate", "pretrain", "sft", "dpo", "grpo", "distill", "augment", "mix", "chat", "report", "bench", "recipes"},
)
SCRIPTS = LAYERS[-1]                                      # which nothing imports
OPTIONAL = {"datasets", "datasketch", "jinja2", "math_verify", "pyarrow", "transformers", "triton", "trl", "wandb"}

# What does not hold yet, (file, what it imports): imports of a higher layer; those by which two rooms import each other; those in
# a function. These sets must shrink: an entry that is no longer needed must be taken out.
UPWARDS = set()
SIDEWAYS = set()
INSIDE = {("training.cli", "torch")}                      # small commands start without torch

FLOORS = 12                                               # files on the longest chain of imports, at most; lower it where you can


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(p): p for folder in ("*.py", "[a-z]*/*.py", "[a-z]*/*/*.py") for p in sorted(ROOT.glob(folder))
         if p.relative_to(ROOT).parts[0] not in ("tests", "runs")}


def imports(path, files=FILES):
    """[(module, the function that imports it, or "")] of a file; `from a import b` is a.b where that is a file of ours."""
    found = []

    def visit(node, function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = function or node.name
        if isinstance(node, ast.Import):
            found.extend((alias.name, function) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:                                # relative: from the file's folder
                folder = path.relative_to(ROOT).parts[:-1]
                base = ".".join([*folder[:len(folder) - node.level + 1], *([base] if base else [])])
            found.extend((f"{base}.{alias.name}" if f"{base}.{alias.name}" in files else base, function) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, function)
    visit(ast.parse(path.read_text()), "")
    return list(dict.fromkeys(found))


GRAPH = {name: {module for module, function in imports(path) if not function and module in FILES} - {name}
         for name, path in FILES.items()}


def layer_of(name):
    return next((i for i, rooms in enumerate(LAYERS) if name.split(".")[0] in rooms), None)


def circle(graph):
    """A list of names in which each imports the next and the last one the first; [] where there is none."""
    done = set()

    def search(name, way):
        if name in way:
            return way[way.index(name):]
        if name not in done:
            for other in sorted(graph.get(name, ())):
                if found := search(other, [*way, name]):
                    return found
            done.add(name)
        return []
    return next(filter(None, (search(name, []) for name in sorted(graph))), [])


def chain(graph):
    """The longest chain of imports: names of which each imports the next. How many they are is the number of floors."""
    known = {}

    def below(name):
        if name not in known:
            known[name] = [name, *max(map(below, sorted(graph[name])), key=len, default=[])]
        return known[name]
    return max(map(below, sorted(graph)), key=len)


def test_every_file_has_its_layer():
    assert [name for name in FILES if layer_of(name) is None] == [], "give a new folder its place in LAYERS"


def test_no_file_imports_itself_by_a_way_round():
    assert circle(GRAPH) == []


def test_no_rooms_import_each_other():
    rooms, beside = {}, set()
    for name, others in GRAPH.items():
        for other in others:
            if (name, other) in SIDEWAYS:
                beside.add((name, other))
            elif (name, other) not in UPWARDS and name.split(".")[0] not in SCRIPTS:
                rooms.setdefault(name.split(".")[0], set()).add(other.split(".")[0])
    assert circle({room: others - {room} for room, others in rooms.items()}) == []
    assert beside == SIDEWAYS


def test_imports_run_downwards():
    found = {(name, other) for name, others in GRAPH.items() for other in others if layer_of(other) > layer_of(name)}
    assert found == UPWARDS


def test_nothing_imports_a_script():
    assert [(name, other) for name, others in GRAPH.items() for other in others if other in SCRIPTS] == []


def test_imports_stand_at_the_top():
    """In a function only for packages that may be missing, for Triton, and in the main of a script, which starts quickly so."""
    found = set()
    for name, path in FILES.items():
        for module, function in imports(path):
            first = module.split(".")[0]
            needed = module.startswith(("kernels.gpu", "torch.nn.attention", "torch.distributed.")) or first in OPTIONAL
            if function and function != "main" and not needed:
                found.add((name, module))
    assert found == INSIDE


def test_the_house_has_few_floors():
    assert len(chain(GRAPH)) <= FLOORS, f"one import too many on this way down: {' -> '.join(chain(GRAPH))}"


def test_the_longest_chain_is_found():
    assert chain({"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}) == ["a", "b", "c"]


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) in (["b", "c"], ["c", "b"])
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_are_read_wherever_they_stand(tmp_path):
    path = ROOT / "kernels" / "made_up.py"
    files = {"kernels.exact": None, "model": None, "kernels.gpu.norm": None}

    class Text:
        relative_to = path.relative_to
        read_text = staticmethod(lambda: "from . import exact\nfrom .gpu import norm\ntry:\n    import model\n"
                                         "except ImportError:\n    pass\ndef f():\n    def g():\n        import model\n")
    assert imports(Text, files) == [("kernels.exact", ""), ("kernels.gpu.norm", ""), ("model", ""), ("model", "f")]


if __name__ == "__main__":                                # python tests/test_layers.py: what the graph looks like
    print(f"{len(GRAPH)} files, {sum(map(len, GRAPH.values()))} imports among them, {len(chain(GRAPH))} floors")
    print(" -> ".join(chain(GRAPH)))
    sys.exit(0)
