"""The engine under the sampler: nothing is lost, and nothing but a request itself decides what it yields."""

import math
import os
import random
from pathlib import Path

import pytest
import torch

from engine.cache import free_bytes
from engine.graphs import Graphs
from engine.weights import SamplingCopy
from kernels import processor
from model import Config, Linear, Transformer
from sampler import Sampler

V = 60


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=V, layers=3, width=32, heads=4, kv_heads=2, attention="rope+window+nope", window=40))
    with torch.no_grad():
        for w in model.parameters():
            w.mul_(4) if w.ndim == 2 else w.add_(0.3 * torch.randn_like(w))
    return model


def load_of(count, seed=0, longest=60, tail=0):
    """Prompts and limits; tail > 0: one request in 50 is that many times longer."""
    dice = random.Random(seed)
    prompts = [[dice.randrange(V) for _ in range(dice.randrange(1, longest))] for _ in range(count)]
    return prompts, [dice.randrange(5, 20) * (tail if tail and i % 50 == 7 else 1) for i in range(count)]


def run(engine, prompts, limits, order=None, n=1, together=10 ** 9, **how):
    """Submits the requests in this order, `together` at first and then one with every step; all completions by prompt."""
    order, done = list(order or range(len(prompts))), {}
    engine.start(max(len(p) + limit for p, limit in zip(prompts, limits)), stop={3}, seed=4, **how)
    while order or engine.running or engine.waiting:
        while order and (together > 0 or not engine.waiting):
            i = order.pop(0)
            done[i] = engine.submit(prompts[i], limits[i], n, key=i * n)
            together -= 1
        engine.step()
    return [[r.completion for r in done[i]] for i in range(len(prompts))]


def same(found, wanted):
    return all(a.tokens == b.tokens and a.logprobs == b.logprobs and a.finish == b.finish
               for x, y in zip(found, wanted, strict=True) for a, b in zip(x, y, strict=True))


def test_no_order_pool_chunk_or_preemption_changes_a_bit(model):
    prompts, limits = load_of(24, longest=150, tail=8)
    wanted = run(Sampler(model, rows=64, exact=True), prompts, limits, n=2)
    assert any(c.finish == "stop" for group in wanted for c in group)
    shuffled = random.Random(1).sample(range(24), 24)
    for how, options in (
        (dict(rows=7), {}), (dict(rows=16), dict(order=shuffled)), (dict(rows=16), dict(together=5)),
        (dict(rows=16, prefill_chunk=16), {}), (dict(rows=16, prefill_chunk=100), dict(order=shuffled, together=3)),
        (dict(rows=16, graphs=True), {}), (dict(rows=7, graphs=True, prefill_chunk=16), dict(together=5)),
        (dict(rows=64, pool_tokens=7 * 64, graphs=True), {}), (dict(rows=64, pool_tokens=8 * 64), {}),
        (dict(rows=64, pool_tokens=6 * 64, prefill_chunk=10), dict(order=shuffled)),
    ):
        engine = Sampler(model, exact=True, **how)
        assert same(run(engine, prompts, limits, n=2, **options), wanted), (how, options)
        assert (engine.preempted > 0) == ("pool_tokens" in how)
        assert engine.cache.in_use() == engine.cache.pools[0].used == 0


def test_busy_slots_on_a_long_tailed_load(model):
    engine = Sampler(model, rows=32)
    prompts, limits = load_of(300, tail=16)
    run(engine, prompts, limits)
    assert engine.slots > 0 and engine.busy / engine.slots >= 0.95


def test_with_graphs_prompts_enter_together(model, monkeypatch):
    """A prefill is hundreds of launches however few its prompts are; without graphs a free row is filled at once."""
    prompts, limits = load_of(100)
    calls = {}
    for graphs in (False, True):
        engine = Sampler(model, rows=32, graphs=graphs, exact=True)
        prefill, calls[graphs] = engine.runner.prefill, []
        monkeypatch.setattr(engine.runner, "prefill", lambda new, version, e=engine, prefill=prefill, to=calls[graphs]: (
            to.append((len(new), len(e.waiting))), prefill(new, version)))
        done = run(engine, prompts, limits)
        assert sum(count for count, _ in calls[graphs]) == 100 and len(done) == 100
        assert engine.busy / engine.slots >= (0.75 if graphs else 0.95)
    assert all(count >= min(4, waiting) for count, waiting in calls[True])     # 4: an eighth of the rows
    assert min(count for count, _ in calls[False]) == 1


@pytest.mark.parametrize("graphs", [False, True])
def test_new_weights_between_two_steps(model, graphs):
    """Versions are stamped as tokens are drawn, and from the change on a recomputed cache is that of the new weights."""
    torch.manual_seed(1)
    old = {name: w.clone() for name, w in model.state_dict().items()}
    new = {name: w + 0.1 * torch.randn_like(w) for name, w in old.items()}
    prompts, limits = load_of(12, seed=2)
    limits = [limit + 10 for limit in limits]
    try:
        for recompute in (True, False):
            model.load_state_dict(old)
            engine = Sampler(model, rows=5, exact=True, version=7, graphs=graphs)
            engine.start(200, stop=set(), seed=1)
            requests = [r for p, limit in zip(prompts, limits) for r in engine.submit(p, limit)]
            for step in range(10 ** 6):
                if step == 8:
                    engine.update_weights(new, 8, recompute)
                    before = [r.drawn for r in requests]
                if not (engine.running or engine.waiting):
                    break
                engine.step()
            assert any(before) and not all(before)
            for r, drawn in zip(requests, before):
                c = r.completion
                assert c.versions == [7] * drawn + [8] * (r.limit - drawn)
                with torch.no_grad():
                    model.exact = True
                    logprobs = model.logprobs(torch.tensor([c.prompt + c.tokens]))[0, len(c.prompt) - 1:]
                    if recompute or not drawn:            # what the new weights say of the rest, to the last bit
                        assert torch.equal(logprobs[drawn:], torch.tensor(c.logprobs[drawn:]))
                    elif drawn < r.limit:                 # the cache kept the old weights' keys
                        assert not torch.equal(logprobs[drawn:], torch.tensor(c.logprobs[drawn:]))
                    model.load_state_dict(old)
                    logprobs = model.logprobs(torch.tensor([c.prompt + c.tokens]))[0, len(c.prompt) - 1:]
                    assert torch.equal(logprobs[:drawn], torch.tensor(c.logprobs[:drawn]))
                    model.load_state_dict(new)
    finally:
        model.load_state_dict(old)
        model.exact = False


def test_a_prompt_is_computed_by_the_weights_that_answer_it(model):
    """One row, three samples of a prompt: those that still wait when new weights come are theirs from the first token on."""
    old = {name: w.clone() for name, w in model.state_dict().items()}
    torch.manual_seed(2)
    new = {name: w + 0.1 * torch.randn_like(w) for name, w in old.items()}
    try:
        engine = Sampler(model, rows=1, exact=True, version=7)
        engine.start(60, stop=set(), seed=1)
        requests = engine.submit(list(range(4, 40)), 6, n=3)
        engine.step()
        engine.update_weights(new)                        # without a number: the next one
        while engine.running or engine.waiting:
            engine.step()
        assert [r.completion.versions for r in requests] == [[7] + [8] * 5, [8] * 6, [8] * 6]
        model.exact = True
        for c in (r.completion for r in requests[1:]):
            with torch.no_grad():
                logprobs = model.logprobs(torch.tensor([c.prompt + c.tokens]))[0, len(c.prompt) - 1:]
            assert torch.equal(logprobs, torch.tensor(c.logprobs))
    finally:
        model.load_state_dict(old)
        model.exact = False


def test_the_engines_copies_follow_the_weights():
    """Exchanged for others between two runs, or while a run calls back; an exact one multiplies by copies alone."""
    torch.manual_seed(1)
    model, other = (Transformer(Config(vocab_size=V, layers=1, width=32, heads=2, kv_heads=1, tied=False)) for _ in range(2))
    engine, how = Sampler(model, exact=True), dict(prompts=[[5, 6, 7], [8]], stop=(), max_new_tokens=9)
    old, wanted = (Sampler(m, exact=True).generate(**how) for m in (model, other))
    assert same(engine.generate(**how), old) and not same(old, wanted)
    model.load_state_dict({name: w.clone() for name, w in other.state_dict().items()}, assign=True)
    assert same(engine.generate(**how), wanted)
    seen = []

    def back(*_):
        if len(seen) == 2 * 5:                            # tokens
            engine.update_weights({name: 0 * w for name, w in other.state_dict().items()})
        seen.append(engine.version)
    for [c], [before] in zip(engine.generate(**how, on_token=back), wanted, strict=True):
        assert c.logprobs[:5] == before.logprobs[:5] and c.versions[5:] == [0] + [1] * 3
        assert c.logprobs[6:] == pytest.approx([-math.log(V)] * 3)
    assert engine.runner.copy.exact and not model.exact


@pytest.mark.parametrize("exact", [False, True])
def test_copies_in_half_precision_give_the_bits_of_autocast(model, monkeypatch, exact):
    """And follow the weights. Without oneDNN's product of few rows, which is of float32 alone and so not autocast's."""
    monkeypatch.setattr(processor, "able", lambda operator, dtype: False)
    prompts, limits = load_of(12)
    before, old = model.exact, {name: w.clone() for name, w in model.state_dict().items()}
    new = {name: 1.3 * w for name, w in old.items()}

    def drawn():
        engine = Sampler(model, rows=5, exact=exact, dtype=torch.bfloat16)
        found = []
        for weights in (old, new):
            engine.update_weights(weights)
            found.append(run(engine, prompts, limits))
        return found
    try:
        copies = drawn()
        assert all(m.weight.dtype == torch.float32 and m.reordered is None for m in model.modules() if isinstance(m, Linear))
        monkeypatch.setattr(SamplingCopy, "refresh", lambda self: self.model)
        autocast = drawn()
        assert all(same(*pair) for pair in zip(copies, autocast, strict=True)) and not same(*copies)
    finally:
        model.load_state_dict(old)
        model.exact = before


@pytest.mark.parametrize("graphs", [False, True])
def test_abort_of_one_and_of_all(model, graphs):
    prompts, limits = load_of(20, seed=3)
    engine = Sampler(model, rows=4, exact=True, graphs=graphs)
    wanted = run(engine, prompts, limits)
    engine.start(200, stop={3}, seed=4)
    requests = [r for i, (p, limit) in enumerate(zip(prompts, limits)) for r in engine.submit(p, limit, key=i)]
    engine.step()
    engine.abort(requests[1])                                                 # it runs
    engine.abort(requests[15])                                                # it waits
    while len(engine.waiting) > 4:
        engine.step()
    left = {r.number for r in [*engine.running, *engine.waiting]}
    engine.abort()
    assert not engine.running and not engine.waiting and not engine.cache.in_use()
    for r, [c] in zip(requests, wanted):
        if r.number in left | {1, 15}:
            assert r.completion.finish == "aborted" and r.completion.tokens == c.tokens[:len(r.completion.tokens)]
        else:
            assert (r.completion.tokens, r.completion.logprobs) == (c.tokens, c.logprobs)


def test_a_long_prompt_in_pieces_does_not_hold_up_the_others(model):
    engine = Sampler(model, rows=4, prefill_chunk=8)
    engine.start(300, stop=set(), seed=0)
    [short] = engine.submit([1, 2, 3], 30)
    engine.step()
    [long] = engine.submit(list(range(50)) * 4, 5)
    for step in range(1, 30):
        engine.step()
        assert len(short.completion.tokens) == step + 1
        if step == 24:
            assert not long.completion.tokens                                 # 200 tokens are 25 pieces of 8
    assert len(long.completion.tokens) == 5


def test_a_long_prompt_in_pieces_gets_in_though_weights_change_at_every_step(model):
    engine = Sampler(model, rows=4, prefill_chunk=8)
    engine.start(300, stop=set(), seed=0)
    [long] = engine.submit(list(range(50)) * 4, 5)
    for version in range(1, 30):
        engine.step()
        engine.update_weights(version=version)
    assert len(long.completion.tokens) == 5 and long.completion.versions == list(range(3, 8))


def test_a_request_may_be_longer_than_was_thought_if_the_pool_can_hold_it(model):
    engine = Sampler(model, rows=4, exact=True)
    wanted = run(engine, [[1] * 150], [20])
    engine.start(20, stop={3}, seed=4)
    [r] = engine.submit([1] * 150, 20, key=0)
    while engine.running or engine.waiting:
        engine.step()
    assert (r.completion.tokens, r.completion.logprobs) == (wanted[0][0].tokens, wanted[0][0].logprobs)
    with pytest.raises(ValueError, match="more than the cache has room for"):
        engine.submit([1] * 250, 7)


def soak(model, count, **how):
    """Requests that come in at random while others run, with aborts and new weights: all accounted for, memory at rest."""
    dice, engine, state = random.Random(0), Sampler(model, rows=64, pool_tokens=64 * 40, **how), model.state_dict()
    engine.start(80, stop={3}, seed=0)
    submitted, ends, sizes = 0, bytearray(count + 40), []                      # 1: finished, 2: aborted; in little memory
    while submitted < count or engine.running or engine.waiting:
        for _ in range(dice.randrange(0, 40) if submitted < count and len(engine.waiting) < 200 else 0):
            submitted += 1
            limit = 60 if submitted % 50 == 0 else dice.randrange(1, 5)
            engine.submit([dice.randrange(V) for _ in range(dice.randrange(1, 12))], limit)
        for r in engine.step():
            c = r.completion
            assert not ends[r.number] and c.finish in ("stop", "length") and 0 < len(c.tokens) <= r.limit
            assert len(c.logprobs) == len(c.versions) == len(c.tokens) and all(math.isfinite(x) for x in c.logprobs)
            ends[r.number] = 1
        if dice.random() < 0.01 and engine.running:
            r = dice.choice(engine.running)
            engine.abort(r)
            assert not ends[r.number]
            ends[r.number] = 2
        if dice.random() < 0.05:                            # often: each new shape leaves some compiled code behind, once
            engine.update_weights(state, recompute=dice.random() < 0.5)
        if submitted >= count * (len(sizes) + 1) // 10:
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2 ** 20)
    assert all(ends[:submitted]) and not any(ends[submitted:])
    assert not engine.cache.in_use()
    assert sizes[-1] - sizes[2] < 20, sizes                                   # MiB, after it has warmed up


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures its memory where Linux tells it")


@linux
def test_soak(model):
    soak(model, 8_000)


@linux
def test_soak_with_tokens_read_late(model):
    soak(model, 4_000, graphs=True)


@linux
@pytest.mark.slow
def test_long_soak(model):
    soak(model, 200_000)


def test_free_memory_is_also_what_torch_keeps_for_itself(monkeypatch):
    """After training the allocator holds most of a GPU, and uses little of it."""
    for name, number in (("mem_get_info", (10, 100)), ("memory_reserved", 80), ("memory_allocated", 25)):
        monkeypatch.setattr(torch.cuda, name, lambda device, number=number: number)
    assert free_bytes(torch.device("cuda")) == 10 + 80 - 25


def keep(self, key, work, changed):
    """In place of Graphs.replay: keeps what each graph would keep."""
    return self.captured.setdefault(key, work()) if key not in self.captured else work()


@pytest.mark.parametrize("think_budget", [None, 3])
def test_graphs_of_all_sizes_keep_logits_in_one_place(tokenizer, monkeypatch, think_budget):
    """What the graphs return stays for as long as they do: logits of one step at most, and none where nobody looks at them."""
    monkeypatch.setattr(Graphs, "replay", keep)
    wide = Transformer(Config(vocab_size=len(tokenizer), layers=1, width=32, heads=2, kv_heads=1))
    engine = Sampler(wide, tokenizer, rows=70, graphs=True)
    engine.generate([[5]] * 70, max_new_tokens=[20 + i // 8 for i in range(70)], stop=set(), think_budget=think_budget)
    graphs = [made for key, made in engine.runner.graphs.captured.items() if key[0] == "draw"]
    assert len(graphs) >= 4                               # buckets
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for made in graphs for x in made if x.ndim == 2}
    assert sum(storages.values()) <= 4 * 70 * len(tokenizer) * (think_budget is not None)


def test_graphs_are_dropped_where_a_tensor_that_they_read_was_replaced(model, monkeypatch):
    """They are kept from one run to the next, with weights that change in place and a cache that is large enough."""
    monkeypatch.setattr(Graphs, "replay", keep)
    old = {name: w.clone() for name, w in model.state_dict().items()}
    engine, captured = Sampler(model, rows=4, graphs=True), [None]

    def kept(prompt=5, new=6):
        engine.generate([[1] * prompt] * 4, max_new_tokens=new, stop=set())
        before, captured[0] = captured[0], engine.runner.graphs.captured
        return before is captured[0]
    assert not kept() and kept() and kept(prompt=3)
    engine.update_weights({name: 1.1 * w for name, w in old.items()})
    assert kept()
    assert not kept(prompt=600) and kept(prompt=400)      # another cache
    model.load_state_dict(old, assign=True)
    assert not kept(prompt=400) and kept(prompt=400)
    engine.start(10, stop=set())
    before = engine.runner.graphs.captured
    engine.submit([1] * 50, 8)
    assert engine.runner.graphs.captured is before
    engine.submit([1] * 100, 8)                           # another table
    assert engine.runner.graphs.captured is not before
