"""What ends a run from outside: a closed terminal, a reader that leaves, a disk that is full for a moment, a second process, a
source that cannot be read now. The steps that were made are saved, and the run goes on as if nothing had been."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import HANG, ROOT
from helpers import a_run

from data import Stream
from formats.files import read_json_lines
from formats.huggingface import holds_weights
from formats.locks import append_line, take
from sources.documents import Documents
from training import cli
from training.log import Log
from training.progress import Unbroken
from training.resume import find_state

SMALL = ["--data", "world:tiny,ops=1", "--vocab-size", 300, "--layers", 1, "--width", 32, "--heads", 2, "--kv-heads", 1,
         "--seq-len", 64, "--batch-tokens", 128, "--device", "cpu", "--log-every", 1]


def start(out, *more, steps=100_000, **streams):
    return subprocess.Popen([sys.executable, ROOT / "pretrain.py", *map(str, [*SMALL, "--steps", steps, "--out", out, *more])],
                            stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}, **streams)


def wait_for_steps(process, out, steps):
    for _ in range(100 * HANG):
        if (out / "log.jsonl").exists() and len((out / "log.jsonl").read_text().splitlines()) > steps:
            return
        assert process.poll() is None
        signal.sigtimedwait([], 0.01)
    raise AssertionError("it took too long")


@pytest.mark.parametrize("how", ["closed terminal", "reader of standard error left"])
def test_a_run_that_nobody_watches_any_more_saves(tmp_path, how):
    """A terminal that closes sends SIGHUP, and what is written to it fails. Ctrl-C ends the `tee` behind a run as well."""
    out = tmp_path / "run"
    process = start(out, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))      # not nohup
    wait_for_steps(process, out, 3)
    process.stderr.close()
    process.stdout.close()
    process.send_signal(signal.SIGHUP if how == "closed terminal" else signal.SIGINT)
    assert process.wait(HANG) == 130
    saved = torch.load(out / "train_state.pt", weights_only=True)["step"]
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == last["result"]["steps"] == saved >= 3


def test_standard_error_drops_what_cannot_be_written():
    class Closed:
        encoding = "utf-8"

        def write(self, text):
            raise BrokenPipeError

        flush = write
    stream = Unbroken(Closed())
    assert stream.write("abc") == 3 and stream.encoding == "utf-8"
    with pytest.raises(TypeError):                        # a bug is none of these errors
        stream.flush()


def test_a_log_that_cannot_be_written_stops_the_run_after_its_step(monkeypatch):
    run, said = a_run(), []
    monkeypatch.setattr(run, "say", said.append)

    def full(record):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(run.log_file, "write", full)
    run.log({"step": 1})
    run.log({"step": 2})
    assert run.stopping and len(said) == 1 and "No space left on device" in said[0]


def test_one_process_at_a_time_writes_to_a_run(tmp_path):
    """The ranks of a torchrun that was killed live on; --resume must not write beside them."""
    out = tmp_path / "run"
    first = start(out, "--save-every", 2, stderr=subprocess.DEVNULL)
    wait_for_steps(first, out, 3)
    second = start(out, "--save-every", 2, "--resume", stderr=subprocess.PIPE)
    assert "another process is writing to it" in second.communicate(timeout=HANG)[1].decode() and second.returncode == 2
    first.send_signal(signal.SIGINT)
    assert first.wait(HANG) == 130
    steps = [r["step"] for r in read_json_lines(out / "log.jsonl") if "loss" in r]
    assert steps == list(range(1, steps[-1] + 1))         # no line is lost
    third = start(out, "--save-every", 2, "--resume", stderr=subprocess.DEVNULL)                   # no lock is left
    wait_for_steps(third, out, steps[-1] + 4)
    third.send_signal(signal.SIGINT)
    assert third.wait(HANG) == 130


def test_a_log_is_locked_before_and_after_it_is_written_anew(tmp_path):
    def locked():
        with open(tmp_path / "log.jsonl", "a") as file:
            return not take(file)
    log = Log(tmp_path)
    log.open({})
    assert locked()
    log.write({"step": 1})
    assert log.reopen({}, 1) and locked() and read_json_lines(tmp_path / "log.jsonl") == [{"step": 1}]
    log.close()
    assert not locked()


def test_an_adapter_in_the_folder_is_not_removed(tmp_path):
    for name in ("adapter_model.safetensors", "model.safetensors", "pytorch_model.bin", "model-00001-of-00002.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        assert holds_weights(folder) == ""
        (folder / name).write_text("x")
        with pytest.raises(ValueError, match=f"holds {name}, of another model"):
            find_state(folder, {"resume": False}, {}, {})


def test_lines_are_added_behind_whole_lines_and_what_is_cut_off_is_named(tmp_path, capsys):
    path = tmp_path / "new" / "records.jsonl"
    append_line(path, '{"a": 1}')
    with open(path, "a") as file:
        file.write('{"a": 2, "b"')                        # the disk was full
    append_line(path, '{"a": 3}')
    assert read_json_lines(path) == [{"a": 1}, {"a": 3}] and read_json_lines(tmp_path / "none") == []
    assert f"{path}, line 2: is cut off" in capsys.readouterr().err


def test_a_source_that_cannot_be_read_now_loses_no_document(tmp_path, tokenizer, monkeypatch):
    """The rows that a batch had before the error stand in the state, so a resumed run has the same batches."""
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"Word {i} " * (3 + i % 40)}) + "\n" for i in range(300)))

    def stream():
        return Stream([str(tmp_path / "text.jsonl")], tokenizer, 64, 512, seed=1)

    def batches(s, count):
        return [b.tokens for _ in range(count) for b in s.next()]
    wanted = batches(stream(), 45)
    get, calls = Documents.get, []

    def flaky(self, i):
        calls.append(i)
        if len(calls) == 130:
            raise OSError("the network is gone")
        return get(self, i)
    monkeypatch.setattr(Documents, "get", flaky)
    first, found = stream(), []
    with pytest.raises(OSError, match="network"):
        while True:
            found += batches(first, 1)
    assert first.packed and 2 < len(found) < 45           # it fell in the middle of a batch
    torch.save(first.state(), tmp_path / "state.pt")
    second = stream()
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    found += batches(second, 45 - len(found))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_last_line_may_have_no_reader(tmp_path):
    code = "from training import cli; cli.finish({'a': 1})"
    process = subprocess.Popen([sys.executable, "-c", f"import sys; sys.stdin.read(); {code}"], cwd=ROOT, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stdin.close()
    assert process.wait(HANG) == 0 and process.stderr.read() == b""
    with pytest.raises(KeyError), cli.reader_may_leave():
        raise KeyError
