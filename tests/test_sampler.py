"""Generation: what a request yields depends on nothing but itself, and its log-probabilities are the model's."""

import io
import json
import math
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import script

import sampler as sampling
from engine import runner
from engine.conversation import stream
from engine.draws import SamplingParams, draw, truncate, uniform
from engine.thinking import HAND_OVER, parse_think
from formats.chat import split_thinking
from sampler import Sampler

HOWS = [dict(temperature=0.0), dict(temperature=1.0), dict(temperature=0.7), dict(temperature=0.7, top_k=20),
        dict(temperature=1.3, top_p=0.8)]


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
            temperature=1.0, stop=set(range(40)))]
    assert {c.finish for c in done} == {"stop", "length"}
    for c, p in zip(done, prompts, strict=True):
        assert c.prompt == p and len(c.tokens) == len(c.logprobs) == len(c.versions) and set(c.versions) == {3}
        assert all(t >= 40 for t in c.tokens[:-1])
        assert (c.finish == "stop") == (c.tokens[-1] < 40) and (c.finish == "stop" or len(c.tokens) == 12)


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
        tokens, logprobs = draw(logits, u, SamplingParams(**how))
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
    for seed, request, position in ((0, 0, 0), (0, 0, 1), (3, 5, 7), (123456789, 2 ** 40, 99)):
        x = splitmix((seed * golden + request + golden) % 2 ** 64)            # the generator adds its step, then mixes
        x = splitmix((x * golden + position + golden) % 2 ** 64)
        assert x and float(uniform(seed, torch.tensor([request]), torch.tensor([position]))) == (x >> 11) / 2 ** 53


def test_bad_requests(tiny, tokenizer):
    s = Sampler(tiny, tokenizer)
    assert s.generate([]) == []
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        s.generate([[1], []])
    for bad in (dict(temperature=-1), dict(top_p=0), dict(top_k=-1)):
        with pytest.raises(ValueError, match="use temperature"):
            s.generate([[1]], **bad)
    for bad in (dict(n=0), dict(max_new_tokens=0)):
        with pytest.raises(ValueError, match="a request needs"):
            s.generate([[1]], **bad)
    with pytest.raises(ValueError, match="raise pool_tokens"):
        Sampler(tiny, tokenizer, pool_tokens=64).generate([[1]], max_new_tokens=64)


@pytest.mark.parametrize("option", ["max_new_tokens", "think_budget", "tools", "numbers", "stop_texts"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_option_per_prompt_has_one_value_per_prompt(tiny, tokenizer, option, count):
    value = {"max_new_tokens": 3, "numbers": 0, "stop_texts": ("a",)}.get(option)
    with pytest.raises(ValueError, match=f"{option} has {count} values for 2 prompts"):
        Sampler(tiny, tokenizer).generate([[1], [2]], **{option: [value] * count})


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
    stream(Sampler(tiny, tokenizer), [1], args, None, out)
    assert out.getvalue() == "aé€b\n"
    args.colors, out = True, io.StringIO()
    stream(Sampler(tiny, tokenizer), [1], args, None, out)
    assert out.getvalue().count("\x1b[48;5;94m") >= 3


def test_commands(toy_run):
    once = script("sampler.py", "--init", toy_run, "--prompt", "Zoo, mod 10.", "--max-new-tokens", 5, "--temperature",
                  1)
    assert once.json["turns"] == 1 and once.json["tokens"] <= 5 and once.json["mean_logprob"] < 0
    assert script("sampler.py", "--init", toy_run, "--chat", "--prompt", "hello", "--max-new-tokens", 5,
                  "--colors").json["turns"] == 1
    brief = script("sampler.py", "--init", toy_run, "--chat", "--prompt", "hello", "--max-new-tokens", 40, "--think", 3)
    assert "<think>" in brief.stdout and "Time to answer.\n</think>\n\n" in brief.stdout
    assert "use on, off" in script("sampler.py", "--init", toy_run, "--chat", "--prompt", "hello", "--think", "so",
                                   ok=False).stderr
    assert "--think has no effect without --chat" in script("sampler.py", "--init", toy_run, "--prompt", "hello", "--think", "on",
                                    ok=False).stderr
    assert "give --prompt" in script("sampler.py", "--init", toy_run, ok=False).stderr


def test_chat_and_the_chat_of_the_sampler_are_one(toy_run):
    """The same reply by both commands; and a conversation whose second turn sees the first, until an empty line."""
    flags = ("--init", toy_run, "--prompt", "hello", "--max-new-tokens", 12, "--temperature", 1, "--seed", 3, "--think", "off",
             "--system", "Be brief.")
    one, other = (script(*command, *flags).stdout for command in (["chat.py"], ["sampler.py", "--chat"]))
    assert one == other and json.loads(one.splitlines()[-1])["turns"] == 1
    flags = ("chat.py", "--init", toy_run, "--max-new-tokens", 6)
    prompts, usual = [], Sampler.generate

    def generate(self, ids, **how):
        prompts.append(self.tokenizer.decode(ids[0]))
        return usual(self, ids, **how)
    with mock.patch("builtins.input", side_effect=["How many lions?", "And owls?", ""]), \
            mock.patch.object(Sampler, "generate", generate):
        assert script(*flags).json["turns"] == 2
    assert prompts[1].startswith(prompts[0]) and "And owls?" in prompts[1]
    with mock.patch("builtins.input", side_effect=EOFError):
        assert script(*flags).json == {"turns": 0}
    assert "use on, off" in script(*flags, "--think", "so", ok=False).stderr


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


# think budgets

def thoughtful(tokenizer, count=24, think=True):
    """Chat prompts that leave a think block open."""
    return [tokenizer.chat_prompt([{"role": "user", "content": f"How many lions, {i} or {7 * i}?"}], think)
            for i in range(count)]


def hand_over(tokenizer, budget=1):
    words = HAND_OVER if budget else "\n"
    return [*tokenizer.encode(words), tokenizer.end_think, *tokenizer.encode("\n\n")]


def handed_over(done):
    """The completions, most of them, whose block the model did not close before the budget was used up."""
    found = [c for [c] in done if sum(c.forced) > 1]                          # one alone is an end token drawn again
    assert len(found) > 0.6 * len(done)
    return found


@pytest.mark.parametrize("budget", [0, 1, 7])
@pytest.mark.parametrize("how", HOWS)
def test_a_budget_closes_the_block_and_an_answer_follows(tiny, tokenizer, budget, how):
    s = Sampler(tiny, tokenizer, rows=9)
    for c in handed_over(s.generate(thoughtful(tokenizer), max_new_tokens=60, think_budget=budget, seed=2, **how)):
        at = c.forced.index(True)
        forced = hand_over(tokenizer, budget and at)                          # an end drawn at once leaves nothing thought
        assert at <= budget and (at == budget or c.tokens[at - 1] != tokenizer.end_think)
        assert c.tokens[at:at + len(forced)] == forced and all(c.forced[at:at + len(forced)])
        assert len(c.tokens) == len(c.logprobs) == len(c.versions) == len(c.forced)
        assert all(math.isfinite(x) for x in c.logprobs)
        reasoning, said = split_thinking(tokenizer.decode_reply(c.prompt, c.tokens))
        assert reasoning.endswith("\nTime to answer.") if budget and at else reasoning == ""
        assert said.strip() or c.finish == "length"


def test_without_a_budget_nothing_changes_and_nothing_is_forced(tiny, tokenizer):
    s, prompts = Sampler(tiny, tokenizer), thoughtful(tokenizer)
    plain = [c for [c] in s.generate(prompts, max_new_tokens=30, seed=3)]
    assert not any(any(c.forced) or len(c.forced) != len(c.tokens) for c in plain)
    # a budget that is never reached, where no block ends early, leaves every token as it was
    ample = s.generate(prompts, max_new_tokens=90, think_budget=90, answer_tokens=8, seed=3, stop=set())
    free = s.generate(prompts, max_new_tokens=90, seed=3, stop=set())
    for [a], [b] in zip(ample, free):
        if not any(a.forced):
            assert a == b and tokenizer.end_think in a.tokens
            continue
        at = a.forced.index(True)
        assert at == 90 - 8 - len(hand_over(tokenizer)) and a.tokens[:at] == b.tokens[:at]
        assert a.logprobs[:at] == b.logprobs[:at]


def test_a_budget_does_not_make_neighbours_matter(tiny, tokenizer):
    prompts = [*thoughtful(tokenizer, 20), *prompts_of(20)]
    options = dict(max_new_tokens=50, seed=5, stop=set(range(60)))
    budgets = [[None, 0, 3, 20][i % 4] for i in range(40)]
    together = Sampler(tiny, tokenizer, rows=40).generate(prompts, think_budget=budgets, **options)
    fewer = Sampler(tiny, tokenizer, rows=3).generate(prompts, think_budget=budgets, **options)
    late = Sampler(tiny, tokenizer, rows=3, graphs=True).generate(prompts, think_budget=budgets, **options)
    for others in (fewer, late):
        assert [(c.tokens, c.forced) for [c] in together] == [(c.tokens, c.forced) for [c] in others]
    for i in (1, 6, 11, 33):
        [[alone]] = Sampler(tiny, tokenizer).generate([prompts[i]], think_budget=budgets[i], numbers=[i], **options)
        assert alone.tokens == together[i][0].tokens and alone.forced == together[i][0].forced
        torch.testing.assert_close(alone.logprobs, together[i][0].logprobs, rtol=1e-9, atol=1e-9)
    for [c], budget in zip(together, budgets):
        assert budget is not None or not any(c.forced)


def test_logprobs_under_a_budget(tiny, tokenizer):
    """Drawn and forced tokens have the model's own; a token that was drawn in place of an end, that without ends."""
    stop, again = set(range(300)), 0
    s = Sampler(tiny, tokenizer, rows=5)
    for c in handed_over(s.generate(thoughtful(tokenizer), max_new_tokens=40, think_budget=4, seed=1, temperature=0.7,
                                    stop=stop)):
        ids = torch.tensor([c.prompt + c.tokens])
        logits = tiny(ids)[0, len(c.prompt) - 1:-1].detach() / 0.7
        at = c.forced.index(True)
        begins = at + len(hand_over(tokenizer, at))                           # of the answer
        for i in range(begins, len(c.tokens)):
            if c.forced[i]:
                logits[i, :300], again = -torch.inf, again + 1
        expected = logits.log_softmax(-1).gather(1, ids[0, len(c.prompt):, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(c.logprobs, dtype=torch.float64), expected, rtol=1e-9, atol=1e-9)
    assert again > 10


def test_an_end_inside_the_block_closes_it_and_no_answer_is_empty(tiny, tokenizer):
    stop, early = set(range(32, 400)), 0                                      # most draws would be the end
    s = Sampler(tiny, tokenizer)
    for c in handed_over(s.generate(thoughtful(tokenizer, 60), max_new_tokens=60, think_budget=9, seed=1, stop=stop)):
        at = c.forced.index(True)
        early += at < 9
        words = hand_over(tokenizer, at)
        assert c.tokens[at:at + len(words)] == words and not stop & set(c.tokens[:at])
        answer_text = tokenizer.decode([t for t in c.tokens[at + len(words):] if t not in stop])
        assert answer_text.strip() or c.finish == "length"
    assert early > 30
    for [c] in s.generate(prompts_of(60), max_new_tokens=60, think_budget=9, seed=1, stop=stop):
        assert c.tokens[0] not in stop                                        # without a block too


def test_the_answer_keeps_its_room(tiny, tokenizer):
    for limit, answer_tokens, room in ((60, 10, 10), (60, 64, 30), (40, 25, 20)):
        done = Sampler(tiny, tokenizer).generate(thoughtful(tokenizer), max_new_tokens=limit, think_budget=999,
                                                 answer_tokens=answer_tokens, stop=set())
        for c in handed_over(done):
            assert len(c.tokens) == limit and c.forced[limit - room - 1] and not any(c.forced[limit - room:])


def test_a_block_that_the_model_opens_is_closed_too(tiny, tokenizer, monkeypatch):
    def draws(*sequence):
        """Lets every row draw these tokens in turn."""
        left = iter(sequence)
        def draw(logits, u, *how):
            return torch.full((len(logits),), next(left)), torch.zeros(len(logits), dtype=torch.float64)
        monkeypatch.setattr(runner, "draw", draw)
        monkeypatch.setattr("engine.draws.draw", draw)
    forced = hand_over(tokenizer)
    def tokens(*sequence, **options):
        draws(*sequence)
        [[c]] = Sampler(tiny, tokenizer).generate(thoughtful(tokenizer, 1, None), **(dict(max_new_tokens=50) | options))
        return c.tokens, [i for i, was in enumerate(c.forced) if was]
    think, close, end, a = tokenizer.think, tokenizer.end_think, tokenizer.im_end, tokenizer.encode("a")[0]
    newline = tokenizer.encode("\n")[0]
    hidden = [a] * len(forced)                                                # drawn, but not taken
    assert tokens(think, a, a, *hidden, a, end, think_budget=2) == (
        [think, a, a, *forced, a, end], list(range(3, 3 + len(forced))))
    assert tokens(think, a, end, *hidden[1:], a, end, think_budget=9) == (
        [think, a, *forced, a, end], list(range(2, 2 + len(forced))))
    assert tokens(think, a, a, close, newline, a, end, think_budget=2) == ([think, a, a, close, newline, a, end], [])
    assert tokens(think, close, newline, end, a, end, think_budget=2) == ([think, close, newline, a, end], [3])
    assert tokens(a, think, a, a, a, end, think_budget=2) == ([a, think, a, a, a, end], [])   # not at the start
    assert tokens(end, a, end, think_budget=2) == ([a, end], [0])
    at_once = hand_over(tokenizer, 0)
    assert tokens(think, *[a] * len(at_once), a, end, think_budget=0) == (
        [think, *at_once, a, end], list(range(1, 1 + len(at_once))))
    assert tokens(end) == ([end], [])


def test_a_budget_of_zero_is_the_empty_block(tiny, tokenizer):
    [c] = handed_over(Sampler(tiny, tokenizer).generate(thoughtful(tokenizer, 1), max_new_tokens=20, think_budget=0))
    assert c.prompt + c.tokens[:c.forced.index(False)] == thoughtful(tokenizer, 1, False)[0]


def test_bad_budgets(tiny, tokenizer):
    for bad in (dict(think_budget=-1), dict(think_budget=5, max_new_tokens=3), dict(think_budget=[None, -2])):
        with pytest.raises(ValueError, match="think budget is at least 0 and needs max_new_tokens"):
            Sampler(tiny, tokenizer).generate([[1], [2]], **bad)
    with pytest.raises(ValueError, match="special tokens <think> and </think>"):
        Sampler(tiny).generate([[1]], think_budget=5)
    lacking = SimpleNamespace(think=None, end_think=None, stop_ids=set())
    with pytest.raises(ValueError, match="special tokens <think> and </think>"):
        Sampler(tiny, lacking).generate([[1]], think_budget=5)


def test_parse_think():
    assert [parse_think(t) for t in ("on", "off", "auto", "0", "12")] == [
        (True, None), (False, None), (None, None), (True, 0), (True, 12)]
    for bad in ("yes", "-3", "1.5", ""):
        with pytest.raises(ValueError, match="use on, off, auto or a number"):
            parse_think(bad)
