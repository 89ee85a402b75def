"""The runner of claims: commands and their folders, side by side, shared, failed, killed and gone on with.

The commands are two small scripts of the tests' own in place of ours: train.py, which can resume, and measure.py."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import HANG, ROOT

from claims.runner import commands, schedule
from claims.runner.commands import in_order, make
from claims.runner.schedule import Schedule, makespan

TRAIN = """
import json, os, pathlib, signal, sys, time
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out, steps = pathlib.Path(flags["--out"]), int(flags["--steps"])
out.mkdir(parents=True, exist_ok=True)
(out / "pid").write_text(str(os.getpid()))
assert ("--resume" in sys.argv) == (out / "step").exists(), "resumed what was not begun, or began what was"
if (out / "older version").exists():
    print("train.py: --resume: the run was started with no --new-flag", file=sys.stderr)
    sys.exit(2)
step = int((out / "step").read_text()) if (out / "step").exists() else 0
with open(out / "began", "a") as f:
    f.write(f"{step} {os.environ.get('OMP_NUM_THREADS')}\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
if "--fail" in flags:
    print("step 1 of 2\\rstep 2 of 2\\rtrain.py: --data x: no such file", file=sys.stderr)
    sys.exit(2)
while step < steps:
    time.sleep(0.01)
    step += 1
    (out / "new").write_text(str(step))
    (out / "new").replace(out / "step")
print("a line before")
print(json.dumps({"steps": step, "seed": flags.get("--seed")}))
"""
MEASURE = """
import json, pathlib, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = pathlib.Path(flags["--out"])
assert not out.exists(), "what is there is never written over"
step = (pathlib.Path(flags["--init"]) / "step").read_text()
out.write_text(json.dumps({"step": int(step)}))
print(json.dumps({"step": int(step)}))
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder with the two scripts, where the runner looks for ours."""
    for name, text in {"train.py": TRAIN, "measure.py": MEASURE}.items():
        (tmp_path / name).write_text(text)
    for module in (commands, schedule):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(commands, "RESUMABLE", {"train.py"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arm(steps, *flags, seed=0):
    """train, then measure"""
    return make("measure.py", "--init", make("train.py", "--steps", steps, "--seed", seed, *flags), output="found.json")


def runs_of(house, *arms, slots=2, **options):
    done = Schedule(list(arms), house / "runs", [{"OMP_NUM_THREADS": "1"}] * slots, **options)
    done.run()
    return done


def test_a_folder_belongs_to_a_command_line(house):
    (house / "rows.jsonl").write_text("one")
    base = make("train.py", "--steps", 3)
    assert base.name == make("train.py", "--steps", "3").name and base == make("train.py", "--steps", 3)
    others = [make("train.py", "--steps", 4), make("train.py", "--step", "s3"), make("measure.py", "--steps", 3),
              make("train.py", "--steps", 3, output="x"), make("train.py", "--init", base), make("train.py", "--init", arm(1)),
              make("train.py", "--data", "rows.jsonl"), make("train.py", "--data", (base, "@0.3"))]
    names = [c.name for c in [base, *others]]
    assert len(set(names)) == len(names)
    (house / "rows.jsonl").write_text("two")                                   # what a file holds belongs to the command
    assert make("train.py", "--data", "rows.jsonl").name not in names
    assert make("train.py", "--data", "rows.jsonl@0.3").name != make("train.py", "--data", "gone.jsonl@0.3").name
    mixed = make("train.py", "--data", (base, "@0.3"), "w")
    assert mixed.line(house) == ["train.py", "--data", f"{house}/{base.name}/out@0.3", "w", "--out", f"{house}/{mixed.name}/out"]
    assert in_order([arm(3), arm(3), arm(4)]) == [*arm(3).needs, arm(3), *arm(4).needs, arm(4)]


@pytest.mark.parametrize("script, words, why", [
    ("nothing.py", [], "no script"), ("../train.py", [], "no script"), ("train.py", [["--steps", 3]], "is no word"),
    ("train.py", ["--steps", None], "is no word"), ("train.py", ["--out", "x"], "--out is added")])
def test_what_is_no_command(house, script, words, why):
    with pytest.raises(ValueError, match=why):
        make(script, *words)


def test_arms_share_what_they_need_and_nothing_runs_twice(house, capfd):
    shared = make("train.py", "--steps", 3)
    arms = [make("measure.py", "--init", shared, "--k", k, output="found.json") for k in (1, 2)]
    done = runs_of(house, *arms, arm(5))
    assert not done.failed and len(list((house / "runs").iterdir())) == 5
    assert (shared.out(done.runs) / "began").read_text() == "0 1\n"            # once, and with one thread
    assert json.loads(arm(5).out(done.runs).read_text()) == {"step": 5}
    whole = json.loads((shared.folder(done.runs) / "whole.json").read_text())
    assert whole["line"] == {"steps": 3, "seed": None} and whole["seconds"] > 0 and not whole["resumed"] and "commit" in whole
    assert 0 < whole["cpu_seconds"] < 100                    # that of one process, and not of all so far
    assert "5 of 5 commands, about 0 s left" in capfd.readouterr().err
    again = runs_of(house, *arms, arm(5))
    assert again.reused == 5 and (shared.out(done.runs) / "began").read_text() == "0 1\n"
    assert runs_of(house, *arms, fresh=True).reused == 0
    assert (shared.out(done.runs) / "began").read_text() == "0 1\n"            # of a new folder


def test_a_failed_arm_is_one_line_and_the_others_go_on(house, capfd):
    bad, good = arm(2, "--fail", "1"), arm(2)
    done = runs_of(house, bad, good)
    lines = [line for line in capfd.readouterr().err.splitlines() if "ended with" in line]
    assert len(lines) == 1 and "ended with exit code 2: train.py: --data x: no such file (all of it: " in lines[0]
    assert set(done.failed) == {bad, *bad.needs} and done.failed[bad] == done.failed[bad.needs[0]]
    assert json.loads(good.out(done.runs).read_text()) == {"step": 2}


def test_a_command_that_ends_without_its_result_has_failed(house):
    (house / "measure.py").write_text("print('no json')")
    assert "it said nothing" in runs_of(house, arm(1)).failed[arm(1)]


def runner(house, steps):
    """The runner as a program of its own, on one arm."""
    text = (f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT)!r})\n"
            "from claims.runner import commands, schedule\n"
            f"commands.ROOT = schedule.ROOT = Path({str(house)!r})\ncommands.RESUMABLE = {{'train.py'}}\n"
            f"train = commands.make('train.py', '--steps', {steps}, '--seed', 0)\n"
            "done = schedule.Schedule([commands.make('measure.py', '--init', train, output='found.json')], Path('runs'), [{}])\n"
            "done.run()\nsys.exit(130 * done.stopping)\n")
    (house / "runner.py").write_text(text)
    return subprocess.Popen([sys.executable, "runner.py"], cwd=house, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1"})


def until(condition):
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def begun(house, steps=10 ** 6, step=3):
    """A runner whose training has made some steps; the file in which it counts."""
    process, count = runner(house, steps), arm(steps).needs[0].out(house / "runs") / "step"
    until(lambda: count.exists() and int(count.read_text() or 0) >= step)
    return process, count


def test_stopped_and_gone_on_with(house):
    """The command that trains is asked to save; the next call resumes it, and counts the time of both."""
    process, count = begun(house)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=HANG)
    assert process.returncode == 130 and said.count("stopping: ") == 1
    made, train = int(count.read_text()), arm(10 ** 6).needs[0]
    assert float((train.folder(house / "runs") / "spent").read_text()) > 0
    train_text = (house / "train.py").read_text().replace("while step < steps", "while step < 0")      # it ends at once
    (house / "train.py").write_text(train_text)
    done = runs_of(house, arm(10 ** 6))
    assert json.loads(arm(10 ** 6).out(done.runs).read_text()) == {"step": made}
    assert [line.split()[0] for line in (count.parent / "began").read_text().splitlines()] == ["0", str(made)]
    whole = json.loads((train.folder(done.runs) / "whole.json").read_text())
    assert whole["resumed"] and whole["seconds"] > float((train.folder(done.runs) / "spent").read_text())


def test_what_an_older_version_has_begun_begins_again(house, capfd):
    out = arm(3).needs[0].out(house / "runs")
    out.mkdir(parents=True)
    for name in ("step", "older version"):
        (out / name).write_text("1")
    done = runs_of(house, arm(3))
    assert not done.failed and (out / "began").read_text() == "0 1\n" and not (out / "older version").exists()
    assert "begins again, because it cannot resume: train.py: --resume: the run was started with no" in capfd.readouterr().err


def test_killed_runner_leaves_a_command_that_the_next_one_waits_for(house, capfd):
    """After kill -9 the command lives on, with its lock; the next runner uses what it makes, and does not write beside it."""
    process, count = begun(house, steps=150)
    process.kill()
    process.communicate(timeout=HANG)
    done = runs_of(house, arm(150))
    assert not done.failed and json.loads(arm(150).out(done.runs).read_text()) == {"step": 150}
    assert "is being run by another process" in capfd.readouterr().err
    assert [line.split()[0] for line in (count.parent / "began").read_text().splitlines()] == ["0", "150"]


def test_killed_with_its_commands_and_gone_on_with(house):
    process, count = begun(house)
    process.kill()
    process.communicate(timeout=HANG)
    os.kill(int((count.parent / "pid").read_text()), signal.SIGKILL)
    time.sleep(0.1)
    made = int(count.read_text())
    (house / "train.py").write_text((house / "train.py").read_text().replace("while step < steps", "while step < 0"))
    done = runs_of(house, arm(10 ** 6))
    assert json.loads(arm(10 ** 6).out(done.runs).read_text()) == {"step": made}


def test_half_a_measurement_is_made_again(house):
    out = arm(3).out(house / "runs")
    out.parent.mkdir(parents=True)
    out.write_text("half")
    assert json.loads(arm(3).out(runs_of(house, arm(3)).runs).read_text()) == {"step": 3}


def test_two_runners_make_a_command_once(house):
    both = [runner(house, 40), runner(house, 40)]
    assert [process.wait(timeout=HANG) for process in both] == [0, 0]
    assert (arm(40).needs[0].out(house / "runs") / "began").read_text().count("\n") == 1
    for process in both:
        process.stderr.close()


def test_time_left_comes_from_commands_of_the_same_shape(house):
    runs_of(house, arm(3, seed=0))
    known = Schedule([arm(3, seed=1), arm(30, seed=1)], house / "runs", [{}, {}])
    alike, other = arm(3, seed=1).needs[0], arm(30, seed=1).needs[0]
    first = json.loads((arm(3, seed=0).needs[0].folder(house / "runs") / "whole.json").read_text())
    assert known.expected(alike) == first["seconds"] == known.expected(other)  # of its shape; of its script
    assert schedule.shape(alike) == schedule.shape(arm(3, seed=0).needs[0]) != schedule.shape(other)
    known.shapes[schedule.shape(other)] = 100.0
    assert known.chains()[other] > 100 and "about" in known.time_left()
    assert Schedule([arm(3)], house / "nothing", [{}]).time_left() == "time left not known yet"
    known.shapes = {schedule.shape(alike): 600.0}                              # the mean, of what nothing is known about
    assert known.time_left() == "about 20.0 min left"


def test_makespan(house):
    a, b = arm(1), arm(2)
    seconds = {a.needs[0]: 5.0, a: 1.0, b.needs[0]: 2.0, b: 1.0}
    assert makespan([a, b], seconds, 2) == 6 and makespan([a, b], seconds, 1) == 9
    assert makespan([a, b], {a: 1.0, b.needs[0]: 2.0, b: 1.0}, 2) == 3        # the rest is done
