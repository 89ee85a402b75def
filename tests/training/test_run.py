"""The verbs of the loop one by one, on a model of one number: when it goes on, and when it logs, evaluates and saves."""

import json
import math
import signal
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers import on_two_ranks

from training.flags import training_flags, until_flags
from training.machine import commit
from training.metrics import Largest
from training.run import Run


class Numbers:
    """Data: the numbers 1, 2, 3, ..., as the micro-batches [n] and [n + 0.5]; ends after `count` of them."""

    def __init__(self, count=100):
        self.at, self.count = 0, count

    def next(self, rank, ranks, rows):
        if self.at == self.count:
            raise StopIteration
        self.at += 1
        return [SimpleNamespace(x=self.at + half, loss_mask=torch.ones(1, 2), to=lambda device, x=self.at + half:
                                SimpleNamespace(x=x)) for half in (0.0, 0.5)]

    def state(self):
        return {"at": self.at}

    def restore(self, state):
        self.at = state["at"]


def started(tmp_path, *flags, count=100):
    p = training_flags("A stage.")
    until_flags(p)
    p.add_argument("--max-epochs", type=float, default=1.0)
    args = p.parse_args(["--data", "x", "--out", str(tmp_path / "run"), "--device", "cpu", "--optimizer", "adamw",
                         "--schedule", "constant", "--warmup", "0", *map(str, flags)])
    run, model = Run(args, {}), torch.nn.Linear(1, 1, bias=False)
    model.save = lambda folder, tokenizer, weights: None
    evaluate = mock.Mock(return_value={"world:ops=1": [{"ops": 1, "process": {"pass@1": [0.75, 0, 1]}}]})
    with mock.patch.object(signal, "signal", lambda *_: None):
        run.begin(model, None, Numbers(count), evaluate)
    return run


def loss_of(batch, factor=1.0):
    """Two tokens of this loss; the metrics have divisors of their own."""
    w = torch.ones((), requires_grad=True)
    return w * 2 * batch.x * factor, {"x": (batch.x, 1), "per_token": (2 * batch.x, 4), "largest": Largest(batch.x)}


def records(tmp_path):
    return [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]


def loop(run, factor=lambda step: 1.0):
    while run.going():
        batches = run.next_batches()
        if batches is None:
            break
        loss = run.backward(run.model, batches, lambda b: loss_of(b, factor(run.step)))
        run.update(loss)
        run.end_of_step()


def test_a_loop_logs_evaluates_and_saves_when_it_is_time(tmp_path, capsys):
    run = started(tmp_path, "--steps", 7, "--log-every", 3, "--eval-every", 2, "--save-every", 3, "--eval-data", "world:ops=1")
    saved, save = [], run.save
    run.save = lambda: (saved.append(run.step), save())
    loop(run)
    run.finish({"mine": 1})
    found = records(tmp_path)[1:]
    assert [r["step"] for r in found if "loss" in r] == [3, 6, 7] and [r["step"] for r in found if "eval" in r] == [2, 4, 6]
    assert saved == [3, 6, 7]
    first = next(r for r in found if r["step"] == 3 and "loss" in r)          # of this step alone: the numbers 3 and 3.5
    assert first["loss"] == 3.25 and first["x"] == 3.25 and first["per_token"] == 13 / 8 and first["largest"] == 3.5
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == found[-1]["result"] and result["mine"] == 1 and result["x"] == 7.25 and len(result["eval"]) == 1
    assert run.evaluate.call_count == 4 and "ended_by" not in result


def test_a_broken_step_is_skipped_logged_and_after_several_the_run_saves_and_ends(tmp_path, capsys):
    run = started(tmp_path, "--steps", 20, "--log-every", 9)
    with pytest.raises(SystemExit) as stop:
        loop(run, lambda step: math.nan if step == 2 or step > 10 else 1.0)
    assert stop.value.code == 2 and "5 steps in a row skipped" in capsys.readouterr().err
    assert [r["step"] for r in records(tmp_path) if r.get("skipped")] == [3, 12, 13, 14, 15]
    kept = torch.load(tmp_path / "run" / "train_state.pt", weights_only=True)
    assert kept["step"] == 15 and kept["guard"]["skipped"] == 6 and kept["stream"]["at"] == 16


def test_data_that_is_used_up_ends_the_run_as_meant(tmp_path, capsys):
    run = started(tmp_path, "--steps", 9, "--eval-data", "world:ops=1", count=4)
    loop(run)
    run.finish()
    run.close()                                           # no exit code other than 0
    out = capsys.readouterr()
    result = json.loads(out.out.splitlines()[-1])
    assert result["ended_by"] == "--max-epochs" and result["steps"] == 4 and "eval" in result and "is used up" in out.err


def test_a_run_that_was_killed_while_it_measured_itself_has_its_loss_and_metrics(tmp_path, capsys):
    """The last checkpoint is written, the result is not."""
    run = started(tmp_path, "--steps", 5, "--eval-data", "world:ops=1")
    loop(run)
    run.evaluate.side_effect = KeyboardInterrupt          # as a kill would end it
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    run.log_file.close()
    again = started(tmp_path, "--steps", 5, "--eval-data", "world:ops=1", "--resume")
    loop(again)
    again.finish()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["steps"] == 5 and result["loss"] == round(run.loss, 4) > 0 and result["x"] == run.means["x"] > 0


@pytest.mark.parametrize("half", ['{"step": 3, "a": {"b": 1}', '{"step": 3', "3", ""])
def test_a_last_line_that_was_half_written_is_left_out(tmp_path, half):
    """A cut may stand behind a bracket within the record."""
    run = started(tmp_path, "--steps", 4)
    loop(run)
    run.save()
    run.log_file.close()
    file = tmp_path / "run" / "log.jsonl"
    whole = records(tmp_path)
    file.write_text(file.read_text() + half)
    again = started(tmp_path, "--steps", 8, "--resume")
    assert records(tmp_path)[:-1] == whole and records(tmp_path)[-1]["resumed_at"] == 4 == again.step
    again.log_file.close()


def test_a_resume_without_a_checkpoint_says_that_it_begins_again(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"flags": {}}\n')
    assert started(tmp_path, "--steps", 2, "--resume").step == 0
    assert "no checkpoint yet" in capsys.readouterr().err


@pytest.mark.parametrize("flags, steps", [(["--until-loss", 100], 20), (["--until-accuracy", 0.7, "--eval-every", 3], 6)])
def test_a_goal_ends_the_loop_and_its_step_is_logged(tmp_path, flags, steps):
    run = started(tmp_path, "--steps", 50, "--log-every", 4, "--eval-data", "world:ops=1", *flags)
    loop(run)
    assert run.step == steps and run.ended == flags[0]
    assert "--until-loss" not in flags or records(tmp_path)[-1]["step"] == steps
    run.finish()
    again = started(tmp_path, "--steps", 60, "--log-every", 4, "--eval-data", "world:ops=1", *flags, "--resume")
    loop(again)                                           # a goal that is reached is not left behind
    assert again.step == steps and again.ended == flags[0]


@pytest.mark.parametrize("flags, count", [(["--steps", 5], 100), (["--steps", 9], 4),
                                          (["--steps", 50, "--until-loss", 100], 100)])
def test_a_finished_run_that_is_started_again_repeats_its_result_and_writes_nothing(tmp_path, capsys, flags, count):
    run = started(tmp_path, *flags, "--eval-data", "world:ops=1", count=count)
    loop(run)
    run.finish({"mine": 1})
    result, log = json.loads(capsys.readouterr().out.splitlines()[-1]), (tmp_path / "run" / "log.jsonl").read_bytes()
    assert result["loss"] > 0 and result["mine"] == 1
    for _ in range(2):
        again = started(tmp_path, *flags, "--eval-data", "world:ops=1", "--resume", count=count)
        again.save = None
        loop(again)
        again.finish({"mine": 0})
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result and not again.evaluate.called
        again.close()
        assert (tmp_path / "run" / "log.jsonl").read_bytes() == log
    other = started(tmp_path, *flags, "--eval-data", "world:ops=2", "--resume", count=count)
    other.evaluate.return_value = {"world:ops=2": []}
    loop(other)
    other.finish()                                        # measured on something else, with the loss and the time that it took
    assert records(tmp_path)[-1]["result"] == result | {"eval": {"world:ops=2": []}}


def test_a_result_that_is_missing_is_made_up_for(tmp_path, capsys):
    """A kill between the last save and the result, say while the run is evaluated."""
    run = started(tmp_path, "--steps", 3, "--eval-data", "world:ops=1")
    loop(run)
    run.save()
    again = started(tmp_path, "--steps", 3, "--eval-data", "world:ops=1", "--resume")
    loop(again)
    again.finish()
    assert again.evaluate.called and records(tmp_path)[-1]["result"]["steps"] == 3


def test_an_interrupted_run_exits_with_130_and_goes_on(tmp_path):
    run = started(tmp_path, "--steps", 9)
    run.backward, backward = (lambda *a: (setattr(run, "stopping", run.step == 3), backward(*a))[1]), run.backward
    loop(run)
    run.finish()
    with pytest.raises(SystemExit) as stop:
        run.close()
    assert stop.value.code == 130 and run.step == 4
    again = started(tmp_path, "--steps", 9, "--resume")
    first, *_, last = records(tmp_path)
    assert last == {"resumed_at": 4, "steps": 9, "commit": first["commit"]} and last["commit"] == commit()
    assert again.step == 4 and again.data.at == 4 and again.until.recent == run.until.recent and len(again.until.recent) == 4


def test_ranks_leave_the_loop_together(tmp_path):
    """A signal that reached one rank after the sum of a step must not end its loop alone."""
    run = started(tmp_path, "--steps", 9)
    run.ranks = 2
    run.stopping = True
    assert run.going()
    run.sum = lambda *numbers: [2.0 * n for n in numbers]                     # the other rank says the same
    run.backward(run.model, run.next_batches(), loss_of)
    assert not run.going()


@pytest.mark.parametrize("name", ["loss", "grad_norm", "tokens_per_second", "eval", "pairs"])
def test_a_metric_cannot_take_a_name_of_the_log(tmp_path, capsys, name):
    run = started(tmp_path, "--steps", 3, "--log-every", 1)
    run.going()
    run.update(run.backward(run.model, run.next_batches(), loss_of))
    run.metrics[name] = (1.0, 2)
    with pytest.raises(SystemExit) as stop:
        run.end_of_step({"pairs": 3})                     # what the script itself puts into the record
    err = capsys.readouterr().err
    assert stop.value.code == 2 and f"metric '{name}': the log has something else under this name" in err
    assert "Traceback" not in err and len(records(tmp_path)) == 1


@pytest.mark.parametrize("error", [ValueError("my_task.py, line 3"), OSError("my_task.py, line 3"), None])
def test_bad_input_in_a_step_ends_the_run_with_its_steps_saved(tmp_path, capsys, error):
    """An error of this rank, or of another one (None), and on several ranks all of them save together."""
    run = started(tmp_path, "--steps", 9)
    for _ in range(2):
        assert run.going()
        run.update(run.backward(run.model, run.next_batches(), loss_of))
        run.end_of_step()
    if error is None:
        run.max, run.gather = lambda number: 1, lambda text: [text, "my_task.py, line 3"]
    with pytest.raises(SystemExit) as stop, run.bad_input():
        if error:
            raise error
    assert stop.value.code == 2 and "my_task.py, line 3" in capsys.readouterr().err
    assert torch.load(tmp_path / "run" / "train_state.pt", weights_only=True)["step"] == 2
    again = started(tmp_path, "--steps", 9, "--resume")
    again.save = None                                     # nothing is new, so there is nothing to save
    with pytest.raises(SystemExit), again.bad_input():
        raise ValueError("again")
    with pytest.raises(KeyError), again.bad_input():      # a bug is no bad input
        raise KeyError("x")


def test_an_evaluation_that_fails_ends_the_run_with_its_steps_saved(tmp_path, capsys):
    run = started(tmp_path, "--steps", 9, "--eval-every", 2, "--eval-data", "world:ops=1")
    run.evaluate.side_effect = ValueError("my_task.py, line 3")
    with pytest.raises(SystemExit):
        loop(run)
    assert "my_task.py, line 3" in capsys.readouterr().err
    assert torch.load(tmp_path / "run" / "train_state.pt", weights_only=True)["step"] == 2


def test_metrics_may_differ_between_ranks(tmp_path):
    """A rank without a metric adds nothing to it; the others' numbers stay under their names. A mean over nothing is no metric.
    One error on all ranks where a name means a mean on one and a Largest on the other."""
    assert on_two_ranks(tmp_path, """
from helpers import a_run
from training.metrics import Largest, means
run = a_run()
def on_each(*metrics):
    try:
        result = means(metrics[run.rank], run)
    except ValueError as e:
        result = str(e)
    return run.gather(result)
assert on_each({"a": (3.0, 4)}, {"b": (3.0, 2)}) == [{"a": 0.75, "b": 1.5}] * 2
assert on_each({"b": (1.0, 2), "a": (3.0, 4), "top": Largest(2)}, {"a": (1.0, 4), "top": Largest(5), "b": (1.0, 2)}) == [
    {"b": 0.5, "a": 0.5, "top": 5.0}] * 2
assert on_each({"b": (1.0, 2), "a": (3.0, 4)}, {"c": (6.0, 3), "b": (5.0, 2), "top": Largest(-7)}) == [
    {"a": 0.75, "b": 1.5, "c": 2.0, "top": -7.0}] * 2
assert on_each({"a": (0.0, 0), "b": (3.0, 4)}, {"a": (3.0, 2), "b": (0.0, 0)}) == [{"a": 1.5, "b": 0.75}] * 2
assert on_each({"a": (0.0, 0.0), "b": (3.0, 4)}, {"a": (0.0, 0.0)}) == [{"b": 0.75}] * 2
first, second = on_each({"a": (3.0, 4)}, {"a": Largest(3)})
assert first == second and first.startswith("metric 'a': some ranks give (sum, divisor)"), first
found = True
""")
