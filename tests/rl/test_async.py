"""Rollouts ahead of training: what is consumed, how old it may be, and what happens when a rank dies."""

import argparse
import functools
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import HANG, ROOT, script
from helpers import a_run, joined_by_threads

from model import Config, Transformer, load
from rl import asynchronous
from rl.asynchronous import AsyncRollouts
from rl.correction import correction
from rl.losses import LOSSES, Clip
from rl.prompts import Prompts
from rl.rollouts import Rollouts
from sampler import Completion, Sampler
from tasks.rewards import ReplyGroup, parse_rewards, random_reward
from tasks.task import Problem, Reply

DATA = "world:ops=1-3,split=rl"
TOY = ["--data", DATA, "--mode", "plain", "--reward", "answer", "--prompts", 4, "--group", 4, "--max-new-tokens", 24,
       "--dtype", "float32", "--rows", 8, "--lr", 1e-4]


def steps_of(out):
    return [r for r in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if "reward" in r]


def rollouts_of(able, kind, **options):
    model, tokenizer = load(able)
    model.exact = True
    rewards = options.pop("rewards", parse_rewards("answer", DATA))
    common = dict(P=4, G=2, mode="plain", caps=[(0, 40)], seed=3, rows=5) | options
    return model, kind(Prompts([DATA], 0), tokenizer, rewards, **common)


def test_groups_are_consumed_in_their_order_whatever_their_length(able):
    """What finishes first is not what is trained on first: batch by batch the problems are those of Prompts, and the
    completions are the very ones that an engine without haste would have drawn."""
    model, ahead = rollouts_of(able, lambda *a, **o: AsyncRollouts(a_run(), *a, ahead=3, **o), rows=16)
    ahead.begin(model, 0)
    prompts, lengths, out_of_order = Prompts([DATA], 0), [], False
    for step in range(5):
        found = ahead.collect(model, step)
        ready = sorted(ahead.maker.ready)
        out_of_order |= bool(ready) and ready[0] > sum(ahead.prompts.given)
        assert len(found.groups) == len(found.sampled) == 4 and 0 <= found.busy <= found.slots
        for g, group in zip(range(4 * step, 4 * step + 4), found.groups, strict=True):
            problem = prompts.next()
            assert [r.problem.question for r in group] == [problem.question] * 2
            _, slow = rollouts_of(able, Rollouts)
            [[*wanted]], *_ = slow.sample(model, [problem], [g], 2, 40, 3 * 1_000_003)
            assert [r.completion.tokens for r in group] == [r.completion.tokens for r in wanted]
            assert [r.completion.logprobs for r in group] == [r.completion.logprobs for r in wanted]
            lengths += [len(r.completion.tokens) for r in group]
        ahead.publish(model, step + 1)                    # to the same weights
    assert len(set(lengths)) > 5 and out_of_order         # short ones did finish before longer ones that came earlier


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_nothing_older_than_it_may_be_is_trained_on_and_batches_stay_full(able, ahead):
    model, rollouts = rollouts_of(able, lambda *a, **o: AsyncRollouts(a_run(), *a, ahead=ahead, **o))
    rollouts.begin(model, 0)
    ages = []
    for step in range(8):
        groups = rollouts.collect(model, step).groups
        assert len(groups) == 4 and rollouts.notes()["stale_groups"] == 0
        ages.append(max(step - v for g in groups for r in g for v in r.completion.versions))
        rollouts.publish(model, step + 1)
    assert max(ages) <= ahead and (max(ages) > 0) == (ahead > 0) and ages[0] == 0
    # three updates during which nobody collected: what was in flight is too old, is dropped, and replaced
    for version in range(9, 12):
        rollouts.publish(model, version)
    before = sum(rollouts.prompts.given)
    groups = rollouts.collect(model, 11).groups
    notes = rollouts.notes()
    assert len(groups) == 4 and notes["staleness_max"] <= ahead
    assert sum(rollouts.prompts.given) - before == 4 + notes["stale_groups"] and (notes["stale_groups"] > 0 or ahead != 1)


def learners(able, ranks, state=None, step=0, **options):
    """AsyncRollouts of so many learners, which go on from a state; threads stand for processes."""
    joined, found = joined_by_threads(ranks), []
    for rank in range(ranks):
        run = a_run()
        run.rank, run.ranks = rank, ranks
        model, rollouts = rollouts_of(able, functools.partial(AsyncRollouts, run), **options)
        rollouts.joined = joined[rank]
        if state:
            rollouts.prompts.restore(state)
        rollouts.begin(model, step)
        found.append((model, rollouts))
    return found


def steps_with(learners, steps, versions=1):
    """Collects these steps on all learners; the groups of each, by rank. versions: weights go on by so many a step."""
    with ThreadPoolExecutor(len(learners)) as pool:
        for step in steps:
            yield [found.groups for found in pool.map(lambda both, step=step: both[1].collect(both[0], step), learners)]
            assert len({str(rollouts.prompts.state()) for _, rollouts in learners}) == 1      # one place
            for version in range(step + 1, step + 1 + versions):
                for model, rollouts in learners:
                    rollouts.publish(model, version)


@pytest.mark.parametrize("ahead, before, after, versions", [(0, 2, 2, 1), (1, 2, 2, 1), (1, 2, 1, 2), (2, 1, 4, 3), (1, 4, 2, 1)])
def test_after_a_resume_no_prompt_comes_twice_and_none_is_lost(able, ahead, before, after, versions):
    """On the same number of learners or another. What is too old or without spread is replaced alike on all of them."""
    options, prompts = dict(ahead=ahead, replace=1, caps=[(0, 8)], rewards=parse_rewards("random")), Prompts([DATA], 0)
    number = {prompts.next().question: g for g in range(400)}
    first, numbers, drawn = learners(able, before, **options), [], []

    def note(steps):
        for by_rank in steps:
            groups = [g for groups in by_rank for g in groups]
            assert len(groups) == 4 and [len(groups) for groups in by_rank] == [4 // len(by_rank)] * len(by_rank)
            numbers.extend(number[g[0].problem.question] for g in groups)
            drawn.append([r.completion.tokens for g in groups for r in g])
    note(steps_with(first, range(0, 3 * versions, versions), versions))
    state = first[0][1].prompts.state()
    again = learners(able, after, state, step=3 * versions, **options)
    note(steps_with(again, range(3 * versions, 6 * versions, versions), versions))
    assert numbers == sorted(set(numbers)) and len(numbers) == 24             # each once, in order
    end, gone = sum(again[0][1].prompts.given), set(range(numbers[-1] + 1)) - set(numbers)
    assert end > numbers[-1] and all(n < end for n in gone)
    _, judge = rollouts_of(able, Rollouts, **{k: v for k, v in options.items() if k != "ahead"})
    for g in sorted(gone) if versions == 1 else []:       # nothing is too old: what was left out has no spread
        problem = next(q for q, n in number.items() if n == g)
        scores = {score_of(judge, problem, g, i) for i in range(2)}
        assert len(scores) == 1
    if not ahead:                                         # on-policy the very completions of a run that was not stopped
        whole = [[r.completion.tokens for groups in by_rank for g in groups for r in g]
                 for by_rank in steps_with(learners(able, before, **options), range(6))]
        assert drawn == whole


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_on_one_learner_ends_the_step_on_all_of_them_and_gives_its_prompts_back(able, monkeypatch, ranks):
    found, errors = learners(able, ranks, ahead=1, caps=[(0, 8)]), []
    list(steps_with(found, [0]))
    place = found[0][1].prompts.state()

    def give_up(error):
        errors.append(str(error))
        raise SystemExit(2)

    def broken(*_):
        raise ValueError("a reward of the user's")
    monkeypatch.setattr(found[-1][1], "_take", broken)
    for _, rollouts in found:
        rollouts.give_up = give_up
    with ThreadPoolExecutor(ranks) as pool:
        done = [pool.submit(rollouts.collect, model, 1) for model, rollouts in found]
    assert [d.exception().code for d in done] == [2] * ranks and errors == ["a reward of the user's"] * ranks
    assert all(rollouts.prompts.state() == place for _, rollouts in found)


def test_bad_input_on_a_rank_that_only_samples_is_one_line(able, monkeypatch, capsys):
    run = a_run()
    run.rank, run.ranks, run.rollout_ranks = 1, 1, 1
    run.state, run.stopping, run.catch_interrupts = None, False, lambda: None
    model, rollouts = rollouts_of(able, lambda *a, **o: AsyncRollouts(run, *a, ahead=0, **o), window=50)
    news = {"start": rollouts.prompts.state() | {"version": 0}, "news": {"version": 0, "allowed": 4, "stop": False}}
    monkeypatch.setattr(asynchronous, "look", lambda run, key: news[key])
    monkeypatch.setattr(asynchronous, "take", lambda run, key, keep: news[key])
    with pytest.raises(SystemExit) as stop:
        asynchronous.only_sample(run, rollouts, model)
    [line] = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "is longer than the window of 50" in line


def score_of(rollouts, question, g, sample):
    problem = Problem(question, "0")
    [reply] = [Reply("", sample=sample)]
    return random_reward(problem, reply, ReplyGroup(problem, [reply], rollouts.seed * 1_000_003 + g))


def test_a_stop_while_waiting_gives_the_prompts_back(able, monkeypatch):
    model, rollouts = rollouts_of(able, lambda *a, **o: AsyncRollouts(a_run(), *a, ahead=1, **o))
    rollouts.begin(model, 0)
    rollouts.collect(model, 0)
    place, work = rollouts.prompts.state(), rollouts.maker.work

    def stop_soon():
        rollouts.run.stopping = len(rollouts.maker.ready) >= 2
        return work()
    rollouts.publish(model, 1)
    rollouts.maker.ready.clear()
    monkeypatch.setattr(rollouts.maker, "work", stop_soon)
    rollouts.maker.in_flight = dict(list(rollouts.maker.in_flight.items())[:4])
    assert rollouts.collect(model, 1) is None and rollouts.prompts.state() == place
    # and where other ranks make the groups: two have come when it is told to stop
    run = a_run()
    run.rollout_ranks, run.stopping = 1, False
    kept = Completion([1], [2], [0.0], "stop", [1], [False])
    message = {"cap": 8, "busy": 1, "slots": 1, "completions": [vars(kept)] * 2}
    monkeypatch.setattr(asynchronous, "post", lambda *a: None)
    messages = iter([message, message, None])
    monkeypatch.setattr(asynchronous, "take", lambda *a: next(messages))
    model, rollouts = rollouts_of(able, lambda *a, **o: AsyncRollouts(run, *a, ahead=1, **o))
    rollouts.prompts.restore(place)
    rollouts.begin(model, 1)
    assert rollouts.collect(model, 1) is None and rollouts.prompts.state() == place


def test_one_process_interleaves_and_on_policy_stays_exact_through_updates(able, tmp_path):
    for ahead, more in ((0, ["--exact"]), (0, ["--exact", "--updates", 2]), (2, []), (2, ["--correction", "tis"])):
        out = tmp_path / f"{ahead}{''.join(map(str, more))}"
        done = script("grpo.py", "--init", able, "--out", out, "--steps", 6, "--async-steps", ahead, *TOY, *more)
        assert done.json["steps"] == 6
        ages = [r["staleness_max"] for r in steps_of(out)]
        assert max(ages) <= ahead and (max(ages) > 0) == (ahead > 0)
        if "--exact" in more:
            assert [r["logprob_diff_max"] for r in steps_of(out)] == [0.0] * 6


@pytest.mark.parametrize("recompute", [False, True])
def test_the_corrected_gradient_is_that_of_the_weights_that_learn(recompute):
    """Completions begun by weights A and finished by weights B: weighted by pi_B / mu over the completion, mu being what the
    sampler reported token by token, their gradient is in expectation the on-policy one of B, which is computed from all 125
    completions there are. Without the weight it is another one."""
    torch.manual_seed(0)
    V, new, batches, each, D = 5, 3, 60, 200, torch.float64
    model = Transformer(Config(vocab_size=V, layers=2, width=16, heads=2, kv_heads=1)).to(D)
    with torch.no_grad():
        for w in model.parameters():
            w.mul_(8) if w.ndim == 2 else w.add_(0.3 * torch.randn_like(w))
    a = {name: w.clone() for name, w in model.state_dict().items()}
    b = {name: w + 0.15 * w.std() * torch.randn_like(w) if w.ndim == 2 else w for name, w in a.items()}
    prompt, reward = [1, 2], torch.randn(V, V, V, dtype=D)

    def gradient(completions, weights_of):
        """Of the sum over completions of weight times loss, flat."""
        rows = torch.tensor([c.prompt + c.tokens for c in completions])
        documents = torch.zeros_like(rows)[:, 1:]
        mask = torch.tensor([0.0] * (len(prompt) - 1) + [1.0] * new, dtype=D).expand(len(rows), -1)
        behind = torch.zeros(len(rows), len(prompt) - 1, dtype=D)
        sampler = torch.cat([behind, torch.tensor([c.logprobs for c in completions], dtype=D)], dim=1)
        logprobs = model(rows[:, :-1], documents, rows[:, 1:])
        A = torch.stack([reward[tuple(c.tokens)] for c in completions])[:, None].expand_as(logprobs)
        loss, _ = LOSSES["grpo"].of_tokens(logprobs, logprobs.detach(), A, mask, documents, Clip())
        model.zero_grad()
        (loss * weights_of(logprobs.detach(), sampler, mask, documents) * mask).sum().backward()
        return torch.cat([w.grad.flatten() for w in model.parameters()])

    everything = [Completion(prompt, list(t), [0.0] * new) for t in itertools.product(range(V), repeat=new)]
    model.load_state_dict(b)
    exact = gradient(everything, lambda logprobs, s, mask, d: (logprobs * mask).sum(dim=1, keepdim=True).exp())
    found = {kind: [] for kind in ("none", "tis", "seq-tis")}
    for i in range(batches):
        model.load_state_dict(a)
        engine = Sampler(model, rows=each)
        engine.start(8, stop=set(), seed=i)
        requests = engine.submit(prompt, new, each)
        engine.step()
        engine.update_weights(b, recompute=recompute)
        while engine.running:
            engine.step()
        drawn = [r.completion for r in requests]
        assert all(c.versions == [0, 1, 1] for c in drawn)
        for kind in found:
            weights_of = functools.partial(correction, kind, cap=1e9)
            found[kind].append(gradient(drawn, weights_of) / each)

    def apart(kind):
        """Mean over the weights of the squared distance to the on-policy gradient, in standard errors."""
        g = torch.stack(found[kind])
        g, exact_ = g[:, exact.abs() > 1e-6], exact[exact.abs() > 1e-6]
        return float(((g.mean(0) - exact_) / (g.std(0) / len(g) ** 0.5)).square().mean())
    assert apart("seq-tis") < 2.5 and apart("none") > 10, {kind: apart(kind) for kind in found}


def torchrun(ranks, *args):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", str(ROOT / "grpo.py"),
            *map(str, args)]


ENV = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("ranks, rollout_ranks, ahead, more", [
    (2, 1, 0, ["--exact"]), (2, 1, 2, []), (3, 1, 1, ["--shard", "--keep-rate", 0, 1, "--candidates", 4]),
    (3, 2, 1, ["--replace", 1]), (2, 0, 1, [])])
def test_ranks_that_sample_and_ranks_that_learn(able, tmp_path, ranks, rollout_ranks, ahead, more):
    out = tmp_path / "run"
    flags = ["--init", able, "--out", out, "--steps", 5, "--async-steps", ahead, "--rollout-ranks", rollout_ranks, *TOY, *more]
    done = subprocess.run(torchrun(ranks, *flags), capture_output=True, text=True, env=ENV, timeout=HANG)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = steps_of(out)
    assert len(steps) == 5 and max(r["staleness_max"] for r in steps) <= ahead
    assert json.loads(done.stdout.strip().splitlines()[-1])["steps"] == 5
    if "--exact" in more:
        assert [r["logprob_diff_max"] for r in steps] == [0.0] * 5
    if rollout_ranks == 1 and ahead:                      # and it goes on where it stopped, with other ranks
        resumed = torchrun(2, *flags, "--resume")
        assert subprocess.run(resumed, capture_output=True, text=True, env=ENV, timeout=HANG).returncode == 0


def processes(out):
    """{rank: pid} of the running scripts that write to `out`."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if str(out).encode() in command and b"torch.distributed.run" not in command:
            found |= {int(e[5:]): int(folder.name) for e in environment if e.startswith(b"RANK=")}
    return found


@pytest.mark.parametrize("fails", ["on the way", "at once"])
def test_weights_that_do_not_arrive_stop_the_run_after_its_step(able, monkeypatch, fails):
    """A rollout rank dies while weights are sent to it, before torchrun tells the learner: gloo tells this with the last
    broadcast, or refuses the next. Both leave a step that was made and is not saved yet."""
    class Handle:
        def wait(self):
            if fails == "on the way":
                raise RuntimeError("Connection closed by peer\nframe #0")

    def broadcast(weight, source, group, async_op):
        if fails == "at once" and sent:
            raise RuntimeError("Connection closed by peer")
        sent.append(weight)
        return Handle()
    run, sent, said = a_run(), [], []
    run.rollout_ranks = 1
    run.say = said.append
    monkeypatch.setattr(asynchronous, "post", lambda *_: None)
    model, rollouts = rollouts_of(able, lambda *a, **o: AsyncRollouts(run, *a, ahead=1, **o))
    rollouts.begin(model, 0)
    monkeypatch.setattr(asynchronous.dist, "broadcast", broadcast)
    if fails == "on the way":
        rollouts.publish(model, 1)
        assert len(sent) == len(model.state_dict()) and not run.stopping and not said
    else:
        sent.append(None)
    rollouts.publish(model, 2)
    assert run.stopping
    assert said == ["the run must stop: new weights do not reach the ranks that sample (Connection closed by peer)"]
    monkeypatch.setattr(run, "store", argparse.Namespace(check=lambda _: False), raising=False)
    assert rollouts.collect(model, 2) is None             # so the loop ends, and the run is saved


def test_a_store_that_is_gone_stops_the_run_with_its_steps_saved(able, monkeypatch):
    """torchrun, which keeps the store, was killed; its ranks live on."""
    run, said, gone = a_run(), [], []

    def post(*_):
        if gone:
            raise asynchronous.dist.DistNetworkError("Broken pipe")
    run.rollout_ranks, run.say = 1, said.append
    monkeypatch.setattr(asynchronous, "post", post)
    model, rollouts = rollouts_of(able, lambda *a, **o: AsyncRollouts(run, *a, ahead=1, **o))
    rollouts.begin(model, 0)
    before, _ = list(rollouts.prompts.given), gone.append(True)
    assert rollouts.collect(model, 0) is None and rollouts.prompts.given == before and run.stopping
    assert said == ["the run must stop: the ranks that sample cannot be reached (Broken pipe)"]
    rollouts.finish()


STOPPED = [pytest.param(what, marks=pytest.mark.slow) for what in ("rollout rank stopped", "learner stopped")]    # half a minute


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes where Linux lists them")
@pytest.mark.parametrize("what", ["rollout rank killed", "rollout rank killed, groups ready", "learner killed", *STOPPED,
                                  "Ctrl-C"])
def test_faults_end_the_run_or_go_by(able, tmp_path, what):
    out = tmp_path / "run"
    flags = ["--init", able, "--out", out, "--steps", 100_000, "--async-steps", 1, "--rollout-ranks", 1, "--save-every", 3, *TOY]
    with open(tmp_path / "err", "w") as err:
        agent = subprocess.Popen(torchrun(2, *flags), stdout=subprocess.DEVNULL, stderr=err, env=ENV, start_new_session=True)
    try:
        wait_for(lambda: (out / "train_state.pt").exists() and len(steps_of(out)) >= 5)
        pids = processes(out)
        assert sorted(pids) == [0, 1]
        pid = pids[1 if "rollout" in what else 0]
        if "stopped" in what:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(1)
            before = len(steps_of(out))
            time.sleep(30)
            assert len(steps_of(out)) <= before + 2       # at most what was in flight
            os.kill(pid, signal.SIGCONT)
            wait_for(lambda: len(steps_of(out)) >= before + 4)
        if what == "Ctrl-C":
            os.killpg(agent.pid, signal.SIGINT)
        elif "ready" in what:                             # the learner makes a step more, whose weights nobody takes
            os.kill(pids[0], signal.SIGSTOP)
            time.sleep(3)
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)
            os.kill(pids[0], signal.SIGCONT)
        else:
            os.kill(pid, signal.SIGKILL)
        assert agent.wait(timeout=HANG) != 0
        wait_for(lambda: not processes(out))          # no orphans
        saved = torch.load(out / "train_state.pt", weights_only=True)["step"]
        assert saved >= 3
        if "rollout" in what or what == "Ctrl-C":         # the learner lived to save and to tell
            assert saved >= steps_of(out)[-1]["step"]
            said = (tmp_path / "err").read_text()
            assert "the run must stop" in said or "stopping after this step" in said
    finally:
        for pid in [*processes(out).values(), agent.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    again = subprocess.Popen(torchrun(2, *flags, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV,
                             start_new_session=True)
    try:
        # the log of the first run may have these steps already, and a program that only begins may lose a signal
        wait_for(lambda: "resumed_at" in (out / "log.jsonl").read_text() and steps_of(out)[-1]["step"] >= saved + 2)
    finally:
        os.killpg(again.pid, signal.SIGINT)
        again.wait(timeout=HANG)


def test_a_full_disk_ends_all_ranks_and_keeps_the_checkpoint(able, tmp_path):
    """Files may not grow beyond a size, which is how a full disk looks from within."""
    out = tmp_path / "run"
    flags = ["--init", able, "--out", out, "--steps", 30, "--async-steps", 1, "--rollout-ranks", 1, "--save-every", 2, *TOY]
    first = subprocess.Popen(torchrun(2, *flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV,
                             start_new_session=True)
    wait_for(lambda: (out / "train_state.pt").exists())
    os.killpg(first.pid, signal.SIGINT)
    first.wait(timeout=HANG)

    def files():
        return {p.name: p.read_bytes() for p in out.iterdir() if p.name != "log.jsonl"}
    before, done = files(), torch.load(out / "train_state.pt", weights_only=True)["step"]
    size = min(len(before["model.safetensors"]), len(before["train_state.pt"])) // 2
    full = subprocess.run(torchrun(2, *flags, "--resume"), capture_output=True, text=True, env=ENV, timeout=HANG,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    assert 2 <= done < 28 and full.returncode != 0, full.stderr[-3000:]
    assert f"cannot write the checkpoint of step {done // 2 * 2 + 2}" in full.stderr, full.stderr[-3000:]
    assert not processes(out) and files() == before
    again = subprocess.run(torchrun(2, *flags, "--resume"), capture_output=True, text=True, env=ENV, timeout=HANG)
    assert again.returncode == 0 and steps_of(out)[-1]["step"] == 30, again.stderr[-3000:]


def wait_for(condition):
    end = time.time() + HANG
    while not condition():
        assert time.time() < end, "it took too long"
        time.sleep(0.05)


def test_flags_that_do_not_go_together(able, tmp_path):
    for flags, message in ((["--rollout-ranks", 1], "one at least must learn"), (["--async-steps", -1], "0 or more")):
        done = script("grpo.py", "--init", able, "--out", tmp_path / "run", "--steps", 1, *TOY, *flags, ok=False)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
