"""The list of faults keeps up with the code: each can still be planted, and the tests that should notice it are there."""

import ast

import pytest
from conftest import ROOT
from faults import read_faults

FAULTS = read_faults()


@pytest.mark.parametrize("fault", FAULTS, ids=[f["what"].replace(" ", "-") for f in FAULTS])
def test_a_fault_can_be_planted(fault):
    text = (ROOT / fault["file"]).read_text()
    assert text.count(fault["old"]) == 1, "change `old` in tests/faults.json to what the code says now"
    ast.parse(text.replace(fault["old"], fault["new"]))
    for test in (t for t in fault["tests"] if t.startswith("tests/")):
        path, _, function = test.partition("::")
        assert f"def {function.partition('[')[0]}(" in (ROOT / path).read_text() if function else (ROOT / path).is_file(), test


def test_there_are_enough_and_no_two_are_alike():
    assert len(FAULTS) >= 40 and len({f["what"] for f in FAULTS}) == len(FAULTS)
    assert len({f["file"] for f in FAULTS}) > 10
