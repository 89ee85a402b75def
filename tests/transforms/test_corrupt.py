"""augment.py corrupt: what each way of spoiling changes, and what it must leave as it is; which rows it cannot spoil."""

import json
import re
from collections import Counter

import pytest
from helpers import refusal, run_main, write_rows

import augment
from training.ledger import read_ledger

WORLD = "world:ops=2-3,split=pretrain,solution=0"


@pytest.fixture(scope="module")
def thought(tmp_path_factory):
    """Forty documents with thinking of two or three lines in front of the answer; all of it differs."""
    out = tmp_path_factory.mktemp("corrupt") / "thought.jsonl"
    code, _, err = run_main(augment, "think", "--init", "oracle:solution=1", "--place", "before", "--data", WORLD, "--count", 40,
                            "--out", out)
    assert code == 0, err
    assert len({blocks(text)[1] for text in texts(out)}) == 40
    return out


def texts(path):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def blocks(text):
    """(what stands before, the thinking, what stands behind), cut by the marks."""
    before, _, rest = text.partition("<think>\n")
    inside, _, behind = rest.partition("\n</think>")
    return before, inside, behind


def spoil(thought, tmp_path, how, *flags, name="o.jsonl"):
    code, found, err = run_main(augment, "corrupt", "--how", how, "--data", thought, "--out", tmp_path / name, *flags)
    assert code == 0, err
    return tmp_path / name, found


@pytest.mark.parametrize("how", ["swap", "blank", "shuffle", "keep"])
def test_only_the_thinking_is_touched(thought, tmp_path, how):
    out, found = spoil(thought, tmp_path, how)
    old, new = ([blocks(text) for text in texts(path)] for path in (thought, out))
    assert [(b, e) for b, _, e in new] == [(b, e) for b, _, e in old]
    assert all(re.fullmatch(r"\nAnswer: \d+", e) for *_, e in new)
    changed = sum(a[1] != b[1] for a, b in zip(old, new, strict=True))
    assert found["changed"] == changed == (0 if how == "keep" else 40)
    row = json.loads(out.read_text().splitlines()[3])
    assert row["meta"]["corrupted"] == how and (row["meta"]["source"], row["meta"]["index"]) == (str(thought), 3)
    assert "teacher" not in row["meta"]
    # the same file ends where the thinking does
    cut, _ = spoil(thought, tmp_path, how, "--until-thought", name="cut.jsonl")
    assert texts(cut) == [f"{b}<think>\n{t}\n</think>" for b, t, _ in new]


def test_a_swap_gives_each_thinking_to_another_document_once(thought, tmp_path):
    old, new = ([blocks(text)[1] for text in texts(path)] for path in (thought, spoil(thought, tmp_path, "swap")[0]))
    assert Counter(old) == Counter(new)
    again, other = (spoil(thought, tmp_path, "swap", "--seed", s, name=f"{s}.jsonl")[0] for s in (0, 1))
    assert [blocks(t)[1] for t in texts(again)] == new != [blocks(t)[1] for t in texts(other)]
    assert Counter(blocks(t)[1] for t in texts(other)) == Counter(old)


def test_a_blank_has_as_many_words_in_as_many_lines(thought, tmp_path):
    old, new = ([blocks(text)[1] for text in texts(path)] for path in
                (thought, spoil(thought, tmp_path, "blank", "--filler", "so")[0]))
    counts = [[[len(line.split()) for line in t.split("\n")] for t in file] for file in (old, new)]
    assert counts[0] == counts[1]
    assert {word for t in new for word in t.split()} == {"so"}


def test_a_shuffle_keeps_the_lines(thought, tmp_path):
    old, new = ([blocks(text)[1] for text in texts(path)] for path in (thought, spoil(thought, tmp_path, "shuffle")[0]))
    assert [sorted(t.split("\n")) for t in new] == [sorted(t.split("\n")) for t in old]
    assert all(a != b for a, b in zip(old, new))


def test_rows_that_have_no_thinking_to_spoil(tmp_path):
    rows = [{"text": text} for text in ("A.\n<think>\none line\n</think>", "B without", "C\n<think>\nnever closed",
                                        "D\n<think>\nx\n</think>\n<think>\ny\n</think>", "E\n<think>\nsame\nsame\n</think> Z")]
    data = write_rows(tmp_path / "d.jsonl", rows)
    out, found = spoil(data, tmp_path, "shuffle")
    assert texts(out) == [rows[0]["text"], rows[4]["text"]] and found["dropped"] == {"no_thinking": 3}
    assert found["changed"] == 0 and found["written"] == 2
    out, _ = spoil(data, tmp_path, "swap", name="s.jsonl")
    assert texts(out) == ["A.\n<think>\nsame\nsame\n</think>", "E\n<think>\none line\n</think> Z"]
    nothing = write_rows(tmp_path / "n.jsonl", rows[1:3])
    code, found, err = run_main(augment, "corrupt", "--how", "blank", "--data", nothing, "--out", tmp_path / "n.out.jsonl")
    assert code == 0 and found["written"] == 0 and "no document of --data has thinking" in err


def test_refusals(thought, tmp_path):
    def refused(data, how="swap"):
        return refusal(augment, "corrupt", "--how", how, "--data", data, "--out", tmp_path / "o.jsonl")
    one = write_rows(tmp_path / "one.jsonl", [{"text": "A\n<think>\nx\n</think>"}])
    assert "has 1 documents with thinking; to swap it takes two" in refused(one)
    assert "give a file that augment.py think wrote" in refused(WORLD, "blank") and not (tmp_path / "o.jsonl").exists()


def test_a_stopped_run_goes_on_and_what_the_teacher_cost_is_kept(thought, tmp_path):
    """Half of the rows, then the rest with --resume: as in one go. A ledger with a cost stands beside the first file."""
    whole, _ = spoil(thought, tmp_path, "swap", name="whole.jsonl")
    path, part = tmp_path / "part.jsonl", tmp_path / "part.jsonl.ledger.json"
    spoil(thought, tmp_path, "swap", "--chunk", 10, name="part.jsonl")
    state = json.loads(part.read_text())
    lines = path.read_text().splitlines(keepends=True)
    state |= {"finished": False, "items": 20, "rows": 20, "bytes": len("".join(lines[:20]).encode()), "counts": {"changed": 20}}
    part.write_text(json.dumps(state))
    _, found = spoil(thought, tmp_path, "swap", "--chunk", 10, "--resume", name="part.jsonl")
    assert texts(path) == texts(whole) and found["changed"] == found["documents"] == 40
    costly = tmp_path / "costly.jsonl"
    costly.write_text(thought.read_text())
    ledger = read_ledger(thought)
    (tmp_path / "costly.jsonl.ledger.json").write_text(json.dumps(ledger | {"own": {"teacher": 1234}}))
    out, found = spoil(costly, tmp_path, "blank", name="from_costly.jsonl")
    assert found["flops"]["inherited"] == found["flops"]["total"] == 1234 and not any(read_ledger(out)["own"].values())
