"""The claims on long context and on groups of heads: planted effects and nulls, and arms that differ in one thing alone."""

import json

import numpy as np
import pytest

from claims import grouped_heads, long_context
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import in_order
from claims.runner.measures import Result, numbers_of, read_result
from model import Config, Transformer


def counts(rng, n, rate, samples=1):
    return [[int(c), samples] for c in rng.binomial(samples, np.full(n, rate))]


def of_needles(long=0.6, short=0.6, sink=0.1):
    """What evaluate.py has found, with so many right at the long lengths and at the short ones."""
    rng = np.random.default_rng(0)
    lengths = [{"length": n, "right": counts(rng, 400, short if n <= 512 else long)} for n in long_context.LENGTHS]
    attention = [{"length": n, "layers": [{"layer": i, "kind": "rope", "first": sink * (i + 1), "needle": n / 4096,
                                           "context": 0.5, "question": 0.2, "entropy": 3.0 + i} for i in range(2)]}
                 for n in long_context.LENGTHS]
    return {"needle:x": {"accuracy": {}, "right": [[0, 1]], "lengths": lengths, "attention": attention}}


def long_context_verdict(tmp_path, losses=None, **rates):
    found = {}
    for name, command in long_context.CLAIM.arms(Setting()).items():
        if name.endswith(", loss"):
            found[name] = Result({"eval": {"loss:world": {"loss": (losses or {}).get(name.removesuffix(", loss"), 0.5)}}})
            assert command.script == "pretrain.py"
            continue
        (tmp_path / "evaluation.json").write_text(json.dumps({"results": {"run": of_needles(**rates.get(name, {}))}}))
        found[name] = read_result(tmp_path / "evaluation.json", {})
        assert command.script == "evaluate.py"
    numbers = numbers_of(long_context.CLAIM.statistic, found, draws=60)
    return judge(long_context.CLAIM, numbers), numbers


def test_long_context_holds_where_a_norm_costs_needles_and_no_loss(tmp_path):
    works, harm = {"windows alone": dict(short=0.1)}, {"QK-norm": dict(long=0.3)}
    (verdict, why), numbers = long_context_verdict(tmp_path, **works, **harm)
    assert (verdict, why) == (HOLDS, "")
    assert numbers["needles at 256, QK-norm"][0] == numbers["needles at 256, RoPE"][0] and numbers[long_context.NEEDLES][0] > 0.2
    assert numbers["attention at 1024, RoPE: first"][0] == pytest.approx(0.15)            # the mean over layers
    assert numbers["attention at 256, RoPE: needle"][0] == 0.0625 and numbers["attention at 256, NoPE: entropy"][0] == 3.5
    assert long_context_verdict(tmp_path, losses={"QK-norm": 0.7}, **works, **harm)[0] == (FAILS, "")
    assert long_context_verdict(tmp_path, **works)[0][0] == FAILS
    for broken, arm in (({}, "oracle"), (works | {"RoPE, again": dict(long=0.1)}, "null")):
        (verdict, why), _ = long_context_verdict(tmp_path, **broken, **harm)
        assert verdict == OPEN and why.startswith(f"the {arm} arm"), why


def grouped_heads_verdict(few=0.7, times=0.5, before=0.3, again=None):
    rng, found = np.random.default_rng(1), {}
    for name, command in grouped_heads.CLAIM.arms(Setting()).items():
        if name.endswith("weights"):
            config = {"layers": 2, "kv_heads": int(name.split()[0]), "head_size": 16}
            found[name] = Result({"parameters": 1000}, records=[{"config": config}])
        elif " at " in name:
            speed = 100 if name.startswith("8") else 100 / times
            speeds = (1.0, speed, speed / 9, speed)       # the first step is slow, and one was disturbed
            found[name] = Result({}, records=[{}, *({"rollout_tokens_per_second": v} for v in speeds), {}])
        else:
            rate = {"2": few, "again": few if again is None else again}.get(name, before if "before" in name else 0.7)
            found[name] = Result({}, right={("test", 2, 400): counts(rng, 400, rate, 8)})
        assert (command.script == "evaluate.py") == bool(found[name].right)
    numbers = numbers_of(grouped_heads.CLAIM.statistic, found, draws=60)
    return judge(grouped_heads.CLAIM, numbers), numbers


def test_grouped_heads_hold_where_few_are_as_good_and_cheaper():
    (verdict, why), numbers = grouped_heads_verdict()
    assert (verdict, why) == (HOLDS, "") and numbers[grouped_heads.TIME][0] == 0.5
    assert numbers["kilobytes of a sequence of 1024 tokens, 2 groups"][0] == 2 * 2 * 2 * 16 * 4      # k, v; L, K, hd, bytes
    assert numbers["milliseconds of a token behind 256, 8 groups"][0] == 10, "the median"
    assert grouped_heads_verdict(times=1.5)[0] == (OPEN, "") == grouped_heads_verdict(times=0.97)[0]
    assert grouped_heads_verdict(few=0.5)[0] == (FAILS, "")
    assert grouped_heads_verdict(before=0.8)[0][1].startswith("the oracle arm")
    assert grouped_heads_verdict(again=0.5)[0][1].startswith("the null arm")


def flags_of(command):
    words = [word for word in command.words if isinstance(word, str)]
    return dict(zip(words, words[1:]))


def test_arms_differ_in_one_thing_alone():
    claim = long_context.CLAIM.arms(Setting(2))
    bases = [c for c in in_order(claim.values()) if c.script == "pretrain.py" and "--tokenizer" in c.words]
    assert len(bases) == len(long_context.KINDS) + 1
    own = {"--attention", "--qk-norm", "--window", "--rope-theta", "--seed"}
    assert len({tuple(sorted((k, v) for k, v in flags_of(c).items() if k.startswith("--") and k not in own and k != "--qk-scale"))
                for c in bases}) == 1
    longer = [claim[f"{kind}, loss"] for kind in long_context.KINDS]
    assert len({tuple(word for word in c.words if isinstance(word, str)) for c in longer}) == 1
    assert len({flags_of(claim[kind])["--needle"] for kind in long_context.KINDS}) == 1


def test_models_with_other_groups_have_as_many_weights():
    weights = {}
    for groups, ff in grouped_heads.FEED_FORWARD.items():
        flags = flags_of(grouped_heads.base(Setting(), groups))
        assert (flags["--kv-heads"], flags["--ff"]) == (str(groups), str(ff)) and flags["--heads"] == "8"
        model = Transformer(Config(vocab_size=460, layers=2, width=128, heads=8, kv_heads=groups, ff=ff, qk_norm="head",
                                   attention="window+nope", window=8))
        weights[groups] = sum(w.numel() for w in model.parameters())
    assert max(weights.values()) / min(weights.values()) < 1.002
