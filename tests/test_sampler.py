"""Generation: what a request yields depends on nothing but itself, and its log-probabilities are the model's."""

import io
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from conftest import script

import sampler as sampling
from sampler import Sampler, draw, truncate, uniform

HOWS = [dict(temperature=0.0), dict(temperature=1.0), dict(temperature=0.7, top_k=20), dict(temperature=1.3, top_p=0.8)]


def prompts_of(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 400, (int(torch.randint(1, 30, (1,), generator=g)),), generator=g).tolist() for _
            in range(count)]


@pytest.mark.parametrize("how", HOWS)
def test_a_request_is_the_same_alone_and_among_63_others(tiny, tokenizer, how):
    prompts = prompts_of(64)
    together = Sampler(tiny, tokenizer, rows=64).generate(prompts, max_new_tokens=20, seed=5, **how)
    fewer_rows = Sampler(tiny, tokenizer, rows=7).generate(prompts, max_new_tokens=20, seed=5, **how)
    assert [c.tokens for [c] in together] == [c.tokens for [c] in fewer_rows]
    assert len({len(c.tokens) for [c] in together}) > 1 or how["temperature"] == 0
    for i in (0, 17, 63):                                                     # alone, but with its request number kept
        alone = Sampler(tiny, tokenizer).generate([[9]] * i + [prompts[i]], max_new_tokens=[1] * i + [20], seed=5,
                                                  **how)[i][0]
        assert alone.tokens == together[i][0].tokens
        torch.testing.assert_close(torch.tensor(alone.logprobs), torch.tensor(together[i][0].logprobs), rtol=1e-9,
                                   atol=1e-9)


@pytest.mark.parametrize("how", HOWS)
def test_logprobs_match_a_full_pass(tiny, tokenizer, how):
    for [c] in Sampler(tiny, tokenizer, rows=5).generate(prompts_of(12), max_new_tokens=15, seed=1, **how):
        ids = torch.tensor([c.prompt + c.tokens])
        logits = tiny(ids)[0, len(c.prompt) - 1:-1]
        t = how["temperature"] or 1.0
        expected = truncate(logits / t, how.get("top_k", 0), how.get("top_p", 1.0)).log_softmax(-1)
        torch.testing.assert_close(torch.tensor(c.logprobs, dtype=torch.float64),
                                   expected.gather(1, ids[0, len(c.prompt):, None]).squeeze(1).detach(),
                                   rtol=1e-9, atol=1e-9)
        if how["temperature"] == 0:
            assert c.tokens == logits.argmax(-1).tolist()
        if how == dict(temperature=1.0):
            trained = tiny.logprobs(ids)[0, len(c.prompt) - 1:]
            torch.testing.assert_close(torch.tensor(c.logprobs, dtype=torch.float64), trained.detach(), rtol=1e-9,
                                       atol=1e-9)


def test_n_samples_share_one_prefill(tiny, tokenizer, monkeypatch):
    passes = []
    monkeypatch.setattr(tiny, "prefill", lambda tokens, documents,
                        f=tiny.prefill: passes.append(tokens.shape[1]) or f(tokens, documents))
    s, prompts = Sampler(tiny, tokenizer, rows=4), prompts_of(5)
    done = s.generate(prompts, n=6, max_new_tokens=8, temperature=1.0)
    assert s.prefills == 5 and sum(passes) == sum(map(len, prompts))
    assert all(len(group) == 6 for group in done)
    assert any(len({tuple(c.tokens) for c in group}) > 1 for group in done)
    apart = Sampler(tiny, tokenizer).generate([p for p in prompts for _ in range(6)], max_new_tokens=8, temperature=1.0)
    assert [c.tokens for group in done for c in group] == [c.tokens for [c] in apart]


def test_ends_and_stamps(tiny, tokenizer):
    prompts = prompts_of(30)
    done = [c for [c] in Sampler(tiny, tokenizer, rows=6, version=3).generate(prompts, max_new_tokens=12,
            temperature=1.0, stop=set(range(100)))]
    assert {c.finish for c in done} == {"stop", "length"}
    for c, p in zip(done, prompts, strict=True):
        assert c.prompt == p and len(c.tokens) == len(c.logprobs) == len(c.versions) and set(c.versions) == {3}
        assert all(t >= 100 for t in c.tokens[:-1])
        assert (c.finish == "stop") == (c.tokens[-1] < 100) and (c.finish == "stop" or len(c.tokens) == 12)


def test_finished_rows_leave_and_waiting_ones_take_their_place(tiny, tokenizer):
    s = Sampler(tiny, tokenizer, rows=4)
    limits = [40, 2, 2, 2] + [2] * 40
    s.generate([[7]] * 44, max_new_tokens=limits, stop=set())
    # the long one alone decides: 40 tokens, 39 decodes
    assert s.steps == 39


def test_draws_follow_the_distribution(tiny):
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, 4)
    u = uniform(3, torch.arange(20_000), torch.zeros(20_000, dtype=torch.long))
    for how in (dict(), dict(temperature=0.5), dict(top_k=2), dict(top_p=0.7)):
        tokens, logprobs = draw(logits, u, **how)
        p = truncate(logits[:1] / how.get("temperature", 1), how.get("top_k", 0), how.get("top_p", 1.0)).softmax(-1)[0]
        counts = torch.bincount(tokens, minlength=4) / 20_000
        assert ((counts - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt() + 1e-9).all()
        torch.testing.assert_close(logprobs, p.log()[tokens])


def test_top_p_keeps_the_fewest_that_reach_it():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()[:, [2, 0, 3, 1]]
    kept = {p: torch.isfinite(truncate(logits, top_p=p))[0].tolist() for p in (0.01, 0.5, 0.51, 0.81, 1.0)}
    assert kept == {0.01: [0, 1, 0, 0], 0.5: [0, 1, 0, 0], 0.51: [0, 1, 0, 1], 0.81: [1, 1, 0, 1], 1.0: [1, 1, 1, 1]}
    assert torch.isfinite(truncate(torch.zeros(1, 9), top_k=3)).sum() == 3    # of equal tokens, still k


def test_uniform_numbers_are_uniform_and_keyed():
    requests, positions = torch.arange(400).repeat_interleave(100), torch.arange(100).repeat(400)
    u = uniform(0, requests, positions)
    assert (u >= 0).all() and (u < 1).all() and len(u.unique()) == 40_000
    counts = torch.histc(u, 50, 0, 1)
    assert float(((counts - 800) ** 2 / 800).sum()) < 100                     # chi-square, 49 degrees of freedom
    grid = u.view(400, 100) - 0.5
    for a, b in ((grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:]),
                 (grid, uniform(1, requests, positions).view(400, 100) - 0.5)):
        # no correlation with a neighbour in any key
        assert abs(float((a * b).mean()) * 12) < 0.03
    assert torch.equal(uniform(7, requests[:5], positions[:5]), uniform(7, requests, positions)[:5])


def splitmix(x):
    """Reference in plain integers."""
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9 % 2 ** 64
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb % 2 ** 64
    return x ^ (x >> 31)


def test_uniform_is_splitmix64():
    golden = 0x9e3779b97f4a7c15
    for seed, request, position in ((0, 0, 1), (3, 5, 7), (123456789, 2 ** 40, 99)):
        x = splitmix((seed * golden + request) % 2 ** 64)
        x = splitmix((x * golden + position) % 2 ** 64)
        assert float(uniform(seed, torch.tensor([request]), torch.tensor([position]))) == (x >> 11) / 2 ** 53


def test_bad_requests(tiny, tokenizer):
    s = Sampler(tiny, tokenizer)
    assert s.generate([]) == []
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        s.generate([[1], []])
    for bad in (dict(temperature=-1), dict(top_p=0), dict(top_k=-1), dict(n=0), dict(max_new_tokens=0)):
        with pytest.raises(ValueError, match="use temperature"):
            s.generate([[1]], **bad)


def test_streaming_holds_back_half_a_character(tiny, tokenizer, monkeypatch):
    ids = tokenizer.encode("aé€b")
    assert any("\ufffd" in tokenizer.decode([i]) for i in ids)
    def generate(self, prompts, on_token, **_):
        for i in ids:
            on_token(0, i, -2.0)
        return [[sampling.Completion(prompts[0], ids, [-2.0] * len(ids), "stop")]]
    monkeypatch.setattr(Sampler, "generate", generate)
    args = SimpleNamespace(max_new_tokens=9, temperature=0, top_p=1, top_k=0, seed=0, colors=False)
    out = io.StringIO()
    sampling.answer(Sampler(tiny, tokenizer), [1], args, out)
    assert out.getvalue() == "aé€b\n"
    args.colors, out = True, io.StringIO()
    sampling.answer(Sampler(tiny, tokenizer), [1], args, out)
    assert out.getvalue().count("\x1b[48;5;94m") >= 3


def test_commands(toy_run):
    once = script("sampler.py", "--init", toy_run, "--prompt", "Zoo, mod 10.", "--max-new-tokens", 5, "--temperature",
                  1)
    assert once.json["turns"] == 1 and once.json["tokens"] <= 5 and once.json["mean_logprob"] < 0
    assert script("sampler.py", "--init", toy_run, "--chat", "--prompt", "hello", "--max-new-tokens", 5,
                  "--colors").json["turns"] == 1
    assert "give --prompt" in script("sampler.py", "--init", toy_run, ok=False).stderr


def test_frequencies_of_whole_texts(tiny, tokenizer):
    """Two-token texts from one prompt appear as often as the model says."""
    n = 4000
    [done] = Sampler(tiny, tokenizer, rows=512).generate([[11, 12]], n=n, max_new_tokens=2, temperature=0.5, top_k=3,
                                                         stop=set())
    seen = Counter(tuple(c.tokens) for c in done)
    assert len(seen) > 3
    for pair, count in seen.items():
        p = math.exp(next(sum(c.logprobs) for c in done if tuple(c.tokens) == pair))
        assert abs(count / n - p) < 4.5 * math.sqrt(p * (1 - p) / n)
