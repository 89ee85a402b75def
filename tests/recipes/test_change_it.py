"""The page "Change it yourself": each of its changes is applied to a copy of the repository, and its commands are run there."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
from conftest import HANG, ROOT

PAGE = (ROOT / "recipes" / "README.md").read_text()
Change = namedtuple("Change", "name diff files commands")


def read(section):
    """A section of the page: its diff, the files that a user writes {name: text}, and its commands."""
    title, text = section.split("\n", 1)
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.S)
    files = dict(re.match(r"# (\S+)\n(.*)", block, re.S).groups() for kind, block in blocks if kind in ("", "python"))
    commands = [line for kind, block in blocks if kind == "sh" for line in block.splitlines()]
    return Change(title.lower().replace(" ", "_"), "".join(block for kind, block in blocks if kind == "diff"), files, commands)


CHANGES = [read(section) for section in PAGE.split("\n## ")[1:]]


@pytest.fixture(scope="module")
def copy(tmp_path_factory, toy_run):
    """The repository, without its history and with a checkpoint."""
    if not shutil.which("git"):
        pytest.skip("git is not there to apply a diff")
    here = tmp_path_factory.mktemp("copy") / "nanothink"
    shutil.copytree(ROOT, here, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "shared"))
    shutil.copytree(toy_run, here / "runs" / "base", ignore=shutil.ignore_patterns("train_state.pt"))
    return here


def git_apply(diff, here, *flags):
    done = subprocess.run(["git", "apply", *flags], input=diff, text=True, cwd=here, capture_output=True,
                          env=os.environ | {"GIT_CEILING_DIRECTORIES": str(here.parent)})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("change", CHANGES, ids=[c.name for c in CHANGES])
def test_a_change(change, copy):
    changed = [line for line in change.diff.splitlines() if re.match(r"[-+](?!--|\+\+)", line)]
    touched = set(re.findall(r"^\+\+\+ b/(.*)$", change.diff, re.M))
    assert sum(line[0] == "+" for line in changed) <= 15 and len(changed) <= 18 and len(touched) + len(change.files) <= 2
    assert change.commands
    for name, text in change.files.items():
        (copy / name).write_text(text)
    if change.diff:
        git_apply(change.diff, copy)
    try:
        assert all((copy / name).is_file() for name in touched)
        ruff = [sys.executable, "-m", "ruff", "check", "--quiet", *touched]
        assert not touched or subprocess.run(ruff, cwd=copy).returncode == 0
        done = subprocess.run([sys.executable, str(copy / "tests" / "recipes" / "changed.py"), change.name,
                               json.dumps(change.commands)], cwd=copy, capture_output=True, text=True, timeout=HANG,
                              env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"})
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    finally:
        if change.diff:
            git_apply(change.diff, copy, "--reverse")


def test_the_page_has_all_that_people_change():
    assert len(CHANGES) == 8 and len({c.name for c in CHANGES}) == 8
