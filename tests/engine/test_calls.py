"""Replies that call tools: what was drawn stays as it is, and nothing but the request itself decides what it says."""

import copy
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers import assert_same_state, joined_by_threads, killed_in, run_main, state_of, tiny_checkpoint, write_rows

import distill
import grpo
from engine import runner
from engine.calls import WORKERS
from engine.draws import SamplingParams, draw, uniform
from formats.chat import after_thinking
from measuring import questions
from model import Config, Transformer
from rl.batches import pack
from rl.groups import Rollout
from rl.prompts import Prompts
from rl.rollouts import Rollouts
from sampler import Sampler
from tasks import tools
from tasks.rewards import Score, parse_rewards
from tasks.tools import Toolbox, calculate, open_tools
from tasks.world import World
from tokenizer import Tokenizer


@pytest.fixture(scope="module")
def words():
    world = World()
    return Tokenizer.train((f"{p.question}\n{p.solution}" for p in map(world.problem, range(200))), 300)


@pytest.fixture(scope="module")
def model(words):
    """A random model that often ends its turn."""
    torch.manual_seed(0)
    shape = dict(layers=2, width=32, heads=4, kv_heads=2, attention="rope+window", window=30)
    model = Transformer(Config(vocab_size=len(words), **shape))
    with torch.no_grad():
        for w in model.parameters():
            w.add_(torch.randn_like(w) * 0.15)
        model.head[words.im_end] *= 4
    model.exact = True
    return model


class Each(Toolbox):
    """Every turn ends with a call, whatever it says; one in three is of a tool that is not there."""

    def call_in(self, said):
        return ("calculator", f"{len(said)} * 3 + {sum(map(ord, said)) % 97}") if len(said) % 3 else ("none", said[:5])


def prompts_of(words, count):
    questions = [World().problem(i).question[:30 + 7 * (i % 12)] for i in range(count)]
    return [words.chat_prompt([{"role": "user", "content": question}]) for question in questions]


def sampled(model, words, count, n=2, seed=3, **how):
    """The completions of so many prompts, and the sampler."""
    sampler = Sampler(model, words, **how)
    done = sampler.generate(prompts_of(words, count), n, [40 + 9 * (i % 11) for i in range(count)], seed=seed, tools=Each(most=3))
    return [c for group in done for c in group], sampler


def from_the_trainer(model, completions, T=1024):
    """The bits that training computes for every token: {number of the completion: log-probabilities}, from packed rows."""
    rollouts, found = [Rollout(None, c, None, Score(1.0, {}, None)) for c in completions], []
    batches = pack(rollouts, T, 4 * T)
    with torch.no_grad():
        logprobs = [model(b.tokens, b.documents, b.targets) for b in batches]
    for r in rollouts:
        b = batches[r.batch]
        here = b.documents[r.row] == r.document
        last = slice(-len(r.completion.tokens), None)
        assert b.loss_mask[r.row, here][last].tolist() == [1.0 - forced for forced in r.completion.forced]
        assert b.sampler_logprobs[r.row, here][last].tolist() == r.completion.logprobs
        found.append(logprobs[r.batch][r.row, here][last].tolist())
    return found


def assert_bits(model, completions):
    """What was drawn has the trainer's log-probabilities to the last bit; returns how many tokens that are."""
    count = 0
    for c, computed in zip(completions, from_the_trainer(model, completions), strict=True):
        drawn = [(a, b) for a, b, forced in zip(computed, c.logprobs, c.forced, strict=True) if not forced]
        assert all(a == b for a, b in drawn)
        count += len(drawn)
    return count


def test_a_reply_is_what_was_drawn_and_what_the_tools_said(model, words):
    """Each call is answered with its own result, and each token is the one that its number and all before it give."""
    completions, _ = sampled(model, words, 12)
    assert {len(c.calls) for c in completions} >= {0, 1, 2, 3, 4}
    box, params = Each(most=3), SamplingParams(exact=True)
    for number, c in enumerate(completions):
        assert len(c.tokens) == len(c.logprobs) == len(c.versions) == len(c.forced)
        assert c.decoded == len(c.tokens) - sum(c.forced)
        begin = 0
        for i, call in enumerate(c.calls):
            said = after_thinking(words.decode(c.tokens[begin:call.start], skip_special=True))
            assert (call.name, call.argument) == box.call_in(said) and c.tokens[call.start - 1] == words.im_end
            if i >= 3:
                assert call.failed and call.answer == "error: no calls are left; 3 are allowed"
            elif call.name == "calculator":
                assert not call.failed and call.answer == calculate(call.argument)
            else:
                assert call.failed and call.answer == "error: there is no tool none; use calculator"
            if call.end > call.start:                     # else there was no room
                turn = words.encode_chat([{"role": "tool", "content": call.answer}], add_generation_prompt=True)[0]
                assert c.tokens[call.start:call.end] == words.encode("\n") + turn
            else:
                assert c.finish == "length" and call is c.calls[-1]
            begin = call.end
        inside = {t for call in c.calls for t in range(call.start, call.end)}
        assert [t in inside for t in range(len(c.tokens))] == c.forced
        with torch.no_grad():
            logits = model(torch.tensor([c.prompt + c.tokens]))[0, len(c.prompt) - 1:-1]
        positions = torch.arange(len(c.tokens))
        drawn, _ = draw(logits, uniform(3, torch.full_like(positions, number), positions), params)
        assert all(token == again or forced for token, again, forced in zip(c.tokens, drawn.tolist(), c.forced, strict=True))
        ended = c.tokens[-1] in words.stop_ids and not (c.calls and begin == len(c.tokens))
        assert c.finish == ("stop" if ended else "length")
    assert_bits(model, completions)


def test_rows_pool_graphs_and_pieces_change_nothing(model, words, monkeypatch):
    """Nor does it change anything that the keys before a call are kept, which is nearly always so."""
    computed, decode = [], Transformer.decode
    monkeypatch.setattr(Transformer, "decode", lambda copy, tokens, cache: (
        computed.append(tokens.shape[1] > 1), decode(copy, tokens, cache))[1])
    wanted, sampler = sampled(model, words, 5)
    assert 0 < sum(computed) <= sampler.prefills          # what goes on from kept keys; without pieces only these have R > 1
    with monkeypatch.context() as patch:
        patch.setattr(runner, "free_bytes", lambda device: 0)
        computed.clear()
        again, _ = sampled(model, words, 5, pool_tokens=64 * 64)
        assert again == wanted and not any(computed)
    for how in (dict(rows=3), dict(rows=4, graphs=True), dict(rows=64, pool_tokens=4 * 64, prefill_chunk=10),
                dict(rows=16, pool_tokens=4 * 64, graphs=True)):
        found, sampler = sampled(model, words, 5, **how)
        assert found == wanted, how
        assert (sampler.preempted > 0) == ("pool_tokens" in how)
        assert not sampler.cache.in_use()
    alone = Sampler(model, words).generate(prompts_of(words, 5)[4:], 1, 76, seed=3, numbers=[8], tools=Each(most=3))
    assert alone == [[wanted[8]]]


def under_new_weights(model, words, engine, requests, every=1, most=13):
    """Runs the requests of an engine at version 7 while its weights change, mostly in the middle of calls; what is drawn after
    each change has the log-probabilities of the new weights. Returns the completions."""
    old = {name: w.clone() for name, w in model.state_dict().items()}
    torch.manual_seed(1)
    new = {name: w + 0.1 * torch.randn_like(w) for name, w in old.items()}
    try:
        steps, wanted, graphs = 0, 12, engine.graphs
        while engine.unfinished:
            unread = {(r.number, t) for d in engine.unread for r, t in zip(d.running, d.tokens.tolist()) if r}
            ends = any(t == words.im_end for _, t in unread)                  # with graphs, maybe a call that is not read yet
            if steps >= wanted and engine.calls.open and ends == graphs and engine.version < most:
                engine.update_weights((new, old)[engine.version % 2 == 0], recompute=True)    # the odd versions are the old ones
                wanted = steps + every
            engine.step()
            steps += 1
        completions = [r.completion for r in requests]
        assert all(c.versions == sorted(c.versions) for c in completions)
        for weights, odd in ((new, 0), (old, 1)):
            model.load_state_dict(weights)
            for c, computed in zip(completions, from_the_trainer(model, completions), strict=True):
                for a, b, forced, v in zip(computed, c.logprobs, c.forced, c.versions, strict=True):
                    assert a == b or forced or v % 2 != odd
        return completions
    finally:
        model.load_state_dict(old)


@pytest.mark.parametrize("graphs", [False, True])
def test_new_weights_while_calls_are_under_way(model, words, graphs):
    engine = Sampler(model, words, rows=6, graphs=graphs, version=7)
    engine.start(200, seed=1)
    requests = [r for i, p in enumerate(prompts_of(words, 12)) for r in engine.submit(p, 50 + i, tools=Each(most=9))]
    completions = under_new_weights(model, words, engine, requests)
    assert sum(len(set(c.versions)) > 1 for c in completions) > 3 and engine.version >= 10


@pytest.mark.slow
def test_a_thousand_replies(model, words):
    """Ragged, preempted, with new weights in flight: each token that was drawn as the trainer has it."""
    engine = Sampler(model, words, rows=64, pool_tokens=64 * 64, version=7)
    engine.start(300, seed=1)
    requests = [r for i, p in enumerate(prompts_of(words, 1000)) for r in engine.submit(p, 30 + 9 * (i % 12), tools=Each(most=3))]
    completions = under_new_weights(model, words, engine, requests, every=20, most=60)
    assert {len(c.calls) for c in completions} >= {0, 1, 2, 3, 4} and engine.preempted > 0 and engine.version > 9
    assert sum(len(c.tokens) - sum(c.forced) for c in completions) > 30_000 and not engine.cache.in_use()


def resident():
    """(MiB of this process, its children, its open files)"""
    here = Path("/proc/self")
    children = [child for thread in (here / "task").iterdir() for child in (thread / "children").read_text().split()]
    return (int((here / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2 ** 20, len(children),
            len(list((here / "fd").iterdir())))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures its memory where Linux tells it")
@pytest.mark.parametrize("count", [400, pytest.param(8_000, marks=pytest.mark.slow)])
def test_soak(model, words, tmp_path, count):
    """Requests with calls come in at random, while others run, wait for tools that answer, fail, hang or end their process, are
    aborted, or get new weights: each ends once, and memory, processes and open files stay what they are."""
    (tmp_path / "own.py").write_text(
        "import os\ndef tool(text):\n    kind = sum(map(ord, text)) % 40\n    while kind == 0:\n        pass\n"
        "    if kind == 1:\n        os._exit(3)\n    return {}[text] if kind < 6 else text[::-1] * 9\n")

    class Own(Toolbox):
        def call_in(self, said):
            return ("tool", said) if len(said) % 4 else ("calculator", f"{len(said)} * 3")
    box = Own(open_tools([f"{tmp_path}/own.py:tool", "calculator"]).specs, most=1, seconds=0.2)
    dice, engine, state = random.Random(0), Sampler(model, words, rows=32, pool_tokens=32 * 60), model.state_dict()
    prompts, submitted, ends, measured = prompts_of(words, 100), 0, bytearray(count), []
    said = dict.fromkeys(("no answer in", "ended its process", "KeyError", "no calls are left"), 0)
    _, others, _ = resident()
    engine.start(200, seed=1)
    while submitted < count or engine.unfinished:
        if submitted < count and len(engine.unfinished) < 64:
            submitted += 1
            engine.submit(dice.choice(prompts), dice.randrange(5, 60), tools=box)
        for r in engine.step():
            assert not ends[r.number] and r.completion.finish in ("stop", "length")
            assert len(r.completion.tokens) == len(r.completion.forced) == len(r.completion.logprobs) <= r.limit
            ends[r.number] = 1
            said = {what: n + sum(what in call.answer for call in r.completion.calls) for what, n in said.items()}
        if dice.random() < 0.01 and engine.unfinished:
            r = dice.choice(list(engine.unfinished))
            engine.abort(r)
            ends[r.number] = 1
        if dice.random() < 0.02:
            engine.update_weights(state, recompute=dice.random() < 0.5)
        if submitted >= count * (len(measured) + 1) // 10:
            measured.append(resident())
    assert submitted == count == sum(ends) and not engine.cache.in_use() and not engine.calls.open
    assert min(said.values()) > 3, said
    (early, _, _), (late, children, files) = measured[3], resident()
    assert late - early < 20 and children <= others + WORKERS and files <= max(m[2] for m in measured[:4]) + 2 * WORKERS, measured


def test_replies_go_on_whatever_their_tools_do(model, words, tmp_path, monkeypatch):
    """Each gets the answer to its own call, also while another tool hangs; and others are as without tools."""
    (tmp_path / "own.py").write_text("def shout(text):\n    return text.upper()\ndef fail(text):\n    return {}[text]\n"
                                     "def hang(text):\n    while True:\n        pass\n")
    box = open_tools([f"{tmp_path}/own.py:{name}" for name in ("shout", "fail")], most=2, seconds=60)
    hangs = Toolbox({name: f"{tmp_path}/own.py:hang" for name in ("shout", "fail")}, most=1, seconds=0.1)
    monkeypatch.setattr(tools, "call_in", lambda said: (("shout", "fail")[len(said) % 2], said[:20]))
    prompts = prompts_of(words, 9)
    done = Sampler(model, words).generate(prompts, 2, 80, seed=3, tools=[hangs] * 2 + [box] * 5 + [None] * 2)
    assert done[7:] == Sampler(model, words).generate(prompts[7:], 2, 80, seed=3, numbers=range(7, 9))
    stopped, made = ([call for group in part for c in group for call in c.calls] for part in (done[:2], done[2:7]))
    assert {call.answer for call in stopped} == {"error: no answer in 0.1 seconds", "error: no calls are left; 1 are allowed"}
    allowed = [call for group in done[2:7] for c in group for call in c.calls[:2]]
    assert {call.name for call in allowed} == {"shout", "fail"} and len(made) > len(allowed)
    for call in allowed:
        assert call.answer == (call.argument.upper() if call.name == "shout" else f"error: KeyError: {call.argument!r}")
    for c in (c for group in done for c in group):
        assert [call.failed for call in c.calls] == [call.answer.startswith("error: ") for call in c.calls]
    assert_bits(model, [c for group in done for c in group])


def test_a_request_that_waits_for_its_tool_can_be_aborted(model, words):
    engine = Sampler(model, words, rows=4)
    engine.start(200, seed=1)
    requests = [r for p in prompts_of(words, 4) for r in engine.submit(p, 100, tools=Each(most=9))]
    while not engine.calls.open:
        engine.step()
    called = engine.calls.open[0]
    engine.abort(called)
    assert called.completion.finish == "aborted" and called not in engine.unfinished
    size = len(called.completion.tokens)
    while engine.unfinished:
        engine.step()
    assert len(called.completion.tokens) == size and all(r.completion.finish for r in requests)


FLAGS = ["--data", "world:ops=1-2,calls=3", "--prompts", 3, "--group", 3, "--max-new-tokens", 60,
         "--rows", 5, "--exact", "--dtype", "float32", "--device", "cpu", "--lr", 1e-3]


@pytest.fixture
def start(model, words, tmp_path, monkeypatch):
    """The model as a checkpoint, for scripts; each of its turns ends with a call."""
    model.save(tmp_path / "init", words)
    monkeypatch.setattr(tools, "call_in", Each().call_in)
    return ["--init", tmp_path / "init", *FLAGS]


RANDOM = ["--reward", "random"]


@pytest.mark.parametrize("more", [[], ["--async-steps", 1, "--recompute"]])
def test_grpo_in_exact_mode(start, tmp_path, more):
    code, result, err = run_main(grpo, *start, *RANDOM, "--steps", 2, "--out", tmp_path / "run", *more)
    assert code == 0, err
    assert result["calls"] > 0.3 and 0 < result["failed_calls"] < result["needless_calls"] <= result["calls"]
    if not more:                                          # with the other some tokens are of older weights
        assert result["logprob_diff_max"] == 0


def test_a_teacher_reads_what_tools_have_said(start, tmp_path):
    """And judges what was drawn alone: in exact mode one that is the student finds nothing to say, in any turn."""
    code, result, err = run_main(distill, *start, "--teacher", tmp_path / "init", "--steps", 1, "--out", tmp_path / "run")
    assert code == 0, err
    assert result["calls"] > 0.3 and result["failed_calls"] > 0
    assert (result["divergence"], result["loss"], result["logprob_diff_max"]) == (0, 0, 0)


@pytest.mark.parametrize("module, more", [(grpo, RANDOM), (distill, ["--teacher", "TEACHER"])])
def test_what_is_measured_on_the_way_may_call_the_tools_of_training(start, tmp_path, monkeypatch, module, more):
    heard, real = [], questions.replies_to
    monkeypatch.setattr(questions, "replies_to", lambda *a, **how: heard.append(real(*a, **how)) or heard[-1])
    asked = write_rows(tmp_path / "q.jsonl", [{"question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(6)])
    flags = [tmp_path / "init" if word == "TEACHER" else asked if word == FLAGS[1] else word for word in [*start, *more]]
    code, result, err = run_main(module, *flags, "--tool", "calculator", "--steps", 1, "--eval-data", asked, "--out",
                                 tmp_path / "run")
    assert code == 0 and result["calls"] > 0, err
    assert sum(len(reply.calls) for replies in heard[0] for reply in replies) > 0


@pytest.mark.parametrize("module, more", [(grpo, [*RANDOM, "--async-steps", 0, "--replace", 1]),
                                          (grpo, [*RANDOM, "--sft-data", "world:ops=1-2,calls=3", "--sft-tokens", 512]),
                                          (distill, ["--teacher", "TEACHER", "--async-steps", 0])])
def test_a_run_with_calls_goes_on_bit_for_bit(start, words, tmp_path, one_thread, module, more):
    tiny_checkpoint(tmp_path / "teacher", words, seed=1)
    more = [tmp_path / "teacher" if word == "TEACHER" else word for word in more]
    flags = [*start, *more, "--steps", 3, "--save-every", 1]
    assert run_main(module, *flags, "--out", tmp_path / "whole")[0] == 0
    killed_in(1, module, *flags, "--out", tmp_path / "run")
    code, result, err = run_main(module, *flags, "--out", tmp_path / "run", "--resume")
    assert code == 0 and result["calls"] > 0, err
    whole, again = (state_of(tmp_path / name) for name in ("whole", "run"))
    for key in ("weights", "optimizers"):
        assert_same_state(again[key], whole[key])


def test_ranks_make_the_replies_that_one_makes(model, words, monkeypatch):
    """Also where groups without spread are replaced, and others are sent to another rank."""
    monkeypatch.setattr(tools, "call_in", Each().call_in)

    def collected(ranks):
        joined = joined_by_threads(ranks)

        def of(rank):
            rollouts = Rollouts(Prompts(["world:ops=1-2,calls=3"], 0), words, parse_rewards("random"), P=4, G=2, caps=[(0, 40)],
                                rows=5, replace=1, rank=rank, ranks=ranks)
            rollouts.joined = joined[rank]
            return rollouts.collect(copy.deepcopy(model), 0).groups
        with ThreadPoolExecutor(ranks) as pool:
            return [r for groups in pool.map(of, range(ranks)) for group in groups for r in group]
    one, two = collected(1), collected(2)
    assert [r.completion for r in two] == [r.completion for r in one] and any(r.completion.calls for r in one)
    assert [(r.reply.text, r.reply.calls, r.earned) for r in two] == [(r.reply.text, r.reply.calls, r.earned) for r in one]
