"""Prompts, and rollouts of one step on any number of ranks: which groups are kept, where they go, and what is said of them."""

import copy
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import a_run, joined_by_threads, run_main

import grpo
from model import Config, Transformer
from rl.batches import MICRO_TOKENS, deal, pack
from rl.diagnosis import nothing_to_learn
from rl.groups import Rollout, differs_by_task, has_spread
from rl.lengths import cap_at, overlong_penalty, parse_caps
from rl.prompts import Prompts
from rl.rollouts import Rollouts
from sampler import Completion
from tasks.rewards import ReplyGroup, Score, parse_rewards, random_reward, score_group
from tasks.task import Problem, Reply
from tasks.verdict import Verdict
from training import machine


def test_the_table_of_prompts_by_hand(tmp_path):
    """As phi-4's table of a mixture, in prompts: 20 of them, a quarter from a file of two questions."""
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(2)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = Prompts([f"{tmp_path}/q.jsonl@1", "world:ops=1@3"])
    for _ in range(20):
        prompts.next()
    assert prompts.table() == [
        {"source": f"{tmp_path}/q.jsonl", "share": 0.25, "prompts": 5, "unique_prompts": 2, "epochs": 2.5},
        {"source": "world:ops=1", "share": 0.75, "prompts": 15, "unique_prompts": 15, "epochs": 1.0}]
    prompts.keep({(1, 4): 0.5, (1, 7): 0.5, (0, 0): 1.0}, 0.1, 0.9)           # a pool of two problems of the world
    for _ in range(6):
        prompts.next()
    assert prompts.table()[1] == {"source": "world:ops=1", "share": 1.0, "prompts": 6, "unique_prompts": 2, "epochs": 3.0}


def test_prompts_keep_their_shares_their_order_and_their_place():
    specs = ["world:ops=1@3", "world:ops=2@1"]
    a, b = Prompts(specs), Prompts(specs)
    first = [a.next() for _ in range(40)]
    assert sum(p.ops == 1 for p in first) == 30 and len({p.question for p in first}) == 40
    for _ in range(17):
        b.next()
    c = Prompts(specs)
    c.restore(b.state())
    assert [c.next().question for _ in range(23)] == [p.question for p in first[17:]]
    a.keep({(0, 3): 1.0, (0, 4): 0.5, (1, 2): 0.75, (1, 9): 0.0}, 0.25, 0.9, easy_first=True)
    assert a.pool == [(1, 2), (0, 4)]
    assert [a.next().question for _ in range(3)] == [a.problem(1, 2).question, a.problem(0, 4).question, a.problem(1, 2).question]
    with pytest.raises(ValueError, match="pass rate"):
        a.keep({(0, 3): 1.0}, 0.25, 0.9)


def test_caps_in_stages_and_the_soft_penalty():
    caps = parse_caps(["32", "64@10", "128@20"])
    assert [cap_at(caps, s) for s in (0, 9, 10, 19, 20, 99)] == [32, 32, 64, 64, 128, 128]
    for bad in (["0"], ["a"], ["32@5"], ["32@-1"]):
        with pytest.raises(ValueError, match="max-new-tokens"):
            parse_caps(bad)
    assert [overlong_penalty(n, 100, 20) for n in (10, 80, 90, 100)] == [0, 0, -0.5, -1]
    assert overlong_penalty(100, 100, 0) == 0


def test_the_parts_of_a_batch_do_not_depend_on_the_number_of_ranks():
    """Of 8 groups of 3, numbered as one rank would number them, each part holds the same ones for 1, 2 and 4 ranks."""
    groups = [[f"{g}.{i}" for i in range(3)] for g in range(8)]
    [one], *others = ([deal(groups[r * 8 // n:(r + 1) * 8 // n], range(r * 8 // n, (r + 1) * 8 // n), 8, 5, 1) for r in range(n)]
                      for n in (1, 2, 4))
    assert sorted(x for part in one for x in part) == sorted(x for g in groups for x in g)
    assert [len(part) for part in one] == [5, 5, 5, 5, 4] and one != deal(groups, range(8), 8, 5, 2)
    for ranks in others:
        for m, part in enumerate(one):
            assert sorted(x for rank in ranks for x in rank[m]) == sorted(part)


def test_shares_of_why_nothing_is_learned():
    problem = Problem("What is 2 + 3?", "5")
    def rollout(text, finish="stop", ok=False, reward=0.0):
        return Rollout(problem, Completion([1], [2], [0.0], finish, forced=[False]), Reply(text),
                       Score(reward, {"answer": reward}, Verdict(ok, None, None, "")))
    alike = [[rollout("so \\boxed{5}", "length"), rollout("<think>hm", "length"), rollout("\\boxed{4}"), rollout("<think>hm")],
             [rollout("\\boxed{5}", ok=True, reward=1.0)] * 4]
    assert nothing_to_learn(a_run(), alike, False) == (
        "no group had two different rewards; of 8 completions 25% cut off at the cap (12% with an answer but no end token), "
        "25% no answer found; of 2 groups 50% all right, 50% all wrong, 100% no spread")
    assert nothing_to_learn(a_run(), alike, True) == ""                       # one group was paid and the other was not
    assert nothing_to_learn(a_run(), alike[:1], True).startswith("all rewards of the batch were alike; of 4")
    cut = [[rollout("a", "length", reward=1.0), rollout("b", "length")]]
    assert nothing_to_learn(a_run(), cut, False) == ""
    assert nothing_to_learn(a_run(), cut, False, masked=True).startswith("every completion was cut off and has no loss; of 2")
    alike[0][0] = rollout("so \\boxed{5}", ok=True, reward=1.0)
    assert nothing_to_learn(a_run(), alike, False) == ""


def test_a_penalty_for_length_does_not_save_a_group_from_replacement():
    """DAPO keeps the groups in which some are right and some are wrong."""
    def rollout(reward, penalty):
        return Rollout(Problem("?", "5"), Completion([1], [2], [0.0], "stop"), Reply(""),
                       Score(reward, {"answer": reward}, Verdict(reward == 1, None, None, "")), overlong_penalty=penalty)
    wrong, mixed = [rollout(0.0, 0.0), rollout(0.0, -0.5)], [rollout(0.0, 0.0), rollout(1.0, -1.0)]
    assert has_spread(wrong) and not differs_by_task(wrong)
    assert not has_spread(mixed) and differs_by_task(mixed)


def by_ranks(tokenizer, tiny, ranks, specs, replace=0):
    """Rollouts of so many ranks with one model; threads stand for processes."""
    joined, found = joined_by_threads(ranks), []
    for rank in range(ranks):
        rollouts = Rollouts(Prompts(specs), tokenizer, parse_rewards("random"), P=8, G=2, mode="plain", caps=[(0, 4)],
                            rank=rank, ranks=ranks, replace=replace)

        rollouts.joined = joined[rank] if ranks > 1 else rollouts.joined
        rollouts.sampled, sample = 0, rollouts.sample

        def counted(model, problems, *more, rollouts=rollouts, sample=sample):
            rollouts.sampled += len(problems)
            return sample(model, problems, *more)
        rollouts.sample = counted
        found.append((rollouts, copy.deepcopy(tiny)))
    return found


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_replacing_takes_as_many_prompts_as_are_missing(tokenizer, tiny, ranks):
    """A coin decides the rewards, so about half of the groups have no spread: the first P that have some are kept, in the
    order of the prompts, and what is left after the last time stays."""
    specs, prompts = ["world:ops=1-2"], Prompts(["world:ops=1-2"])
    found = by_ranks(tokenizer, tiny, ranks, specs=specs, replace=2)
    for step in range(4):
        kept = []                                         # what it must be, from the coins alone
        for attempt in range(3):
            for n in range(attempt * 8, attempt * 8 + 8 - len(kept)):
                problem = prompts.next()
                group = ReplyGroup(problem, [Reply("", sample=i) for i in range(2)], step + n)
                coins = {random_reward(problem, reply, group) for reply in group.replies}
                kept += [problem.question] * (len(coins) > 1 or attempt == 2)
            if len(kept) == 8:
                break
        with ThreadPoolExecutor(ranks) as pool:
            parts = list(pool.map(lambda both, step=step: both[0].collect(both[1], step).groups, found))
        assert [g[0].problem.question for part in parts for g in part] == kept and {len(part) for part in parts} == {8 // ranks}
        assert {sum(rollouts.prompts.given) for rollouts, _ in found} == {sum(prompts.given)}
    assert sum(rollouts.sampled for rollouts, _ in found) == sum(prompts.given) < 4 * 8 * 3


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_on_one_rank_ends_the_step_on_all_of_them_and_gives_its_prompts_back(tokenizer, tiny, ranks):
    """Else the others would train without it, or wait for it."""
    found, errors = by_ranks(tokenizer, tiny, ranks, specs=["world:ops=1-2"]), []

    def give_up(error):
        errors.append(str(error))
        raise SystemExit(2)

    def collected(both, step):
        both[0].give_up = give_up
        try:
            return len(both[0].collect(both[1], step).groups)
        except SystemExit as e:
            return e.code
    with ThreadPoolExecutor(ranks) as pool:
        assert list(pool.map(collected, found, [0] * ranks)) == [8 // ranks] * ranks
        found[-1][0].window = 9                           # on one of them
        assert list(pool.map(collected, found, [1] * ranks)) == [2] * ranks
    assert len(errors) == ranks and len(set(errors)) == 1 and "longer than the window of 9" in errors[0]
    assert all(rollouts.prompts.given == [8] for rollouts, _ in found)


@pytest.mark.parametrize("ranks", [1, 3])
def test_pass_rates_ask_each_question_once_and_ranks_share_them(tmp_path, tokenizer, tiny, ranks):
    rows = [{"question": f"What is {i % 9} + 1?", "answer": f"#### {i % 9 + 1}"} for i in range(12)]        # 9 questions
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = by_ranks(tokenizer, tiny, ranks, specs=[str(tmp_path / "q.jsonl")])
    with ThreadPoolExecutor(ranks) as pool:
        rates = list(pool.map(lambda both: both[0].pass_rates(both[1], 30, 2), found))
    assert all(list(r.items()) == list(rates[0].items()) for r in rates)      # the same pool on all, in the same order
    questions = [found[0][0].prompts.problem(*key).question for key in rates[0]]
    assert len(questions) == len(set(questions)) == 9 and [rollouts.sampled for rollouts, _ in found] == [9 // ranks] * ranks
    few = Prompts([str(tmp_path / "q.jsonl"), "world:ops=1-2"]).candidates(7)
    assert len(few) == 7 and {source for source, _ in few} == {0, 1}


@pytest.mark.parametrize("reward, rates", [("answer", [1.0, 0.0]), ("strict", [0.0, 0.0]), ("random+process", [0.0, 0.0])])
def test_pass_rates_are_of_what_the_rewards_look_at(tokenizer, tiny, reward, rates):
    """An answer without steps solves a problem of the world where no reward looks at steps."""
    spec = "world:ops=2,split=rl"
    rollouts = Rollouts(Prompts([spec]), tokenizer, parse_rewards(reward, spec), P=1, G=2, mode="plain", caps=[(0, 1)])
    first = rollouts.prompts.problem(0, 0)

    def score(problem, number, completions, cap, seed):
        replies = [Reply(f"Answer: {first.answer if problem.question == first.question else 'none'}")] * len(completions)
        scores = score_group(problem, replies, rollouts.rewards)
        return [Rollout(problem, c, r, s) for c, r, s in zip(completions, replies, scores, strict=True)]
    rollouts.score = score
    assert list(rollouts.pass_rates(tiny, 2, 2).values()) == rates


def test_candidates_beyond_the_questions_there_are_are_told(able, tmp_path):
    rows = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(5)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--init", able, "--out", tmp_path / "run", "--steps", 1, "--mode", "plain", "--keep-rate",
             0, 1, "--data", tmp_path / "q.jsonl", "--prompts", 2, "--group", 2, "--max-new-tokens", 4]
    code, _, err = run_main(grpo, *flags)
    assert code == 0 and "--candidates 256: there are 5 different questions" in err
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])["pool"] == 5


def test_few_shapes_whatever_the_lengths():
    """oneDNN keeps code for each number of rows that it multiplied, and the heap is in pieces between blocks of many sizes: a
    rank's memory grew by a third within 150 steps."""
    dice, shapes = random.Random(0), set()
    for longest in (150, 150, 150, 700, 2000):
        for _ in range(100):
            chosen = [rollout_of(dice.randrange(60, 140), dice.randrange(1, longest)) for _ in range(dice.randrange(1, 80))]
            shapes |= {tuple(b.tokens.shape) for b in pack(chosen, 0, MICRO_TOKENS["cpu"])}
        if longest == 150:
            assert shapes <= {(rows, 512) for rows in range(1, 9)}
    assert all(rows * T <= 4096 and T % 256 == 0 for rows, T in shapes) and len(shapes) <= 30


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures its memory where Linux tells it")
def test_memory_of_a_long_run_comes_to_rest(tokenizer, tmp_path, monkeypatch):
    """What a rank holds after its first steps it holds after many: of code for new shapes, of pieces of the heap, of anything."""
    Transformer(Config(vocab_size=len(tokenizer), layers=4, width=128, heads=4, kv_heads=2)).save(tmp_path / "init", tokenizer)
    sizes, real = [], machine.give_back_memory

    def measured():
        real()
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2 ** 20)
    monkeypatch.setattr(machine, "give_back_memory", measured)                 # every 10 steps
    flags = ["--init", tmp_path / "init", "--out", tmp_path / "run", "--data", "world:ops=1-3", "--mode", "plain", "--reward",
             "random", "--prompts", 8, "--group", 8, "--max-new-tokens", *[f"{20 + 7 * i % 100}@{i}" for i in range(160)],
             "--steps", 160]
    code, _, err = run_main(grpo, *flags)
    assert code == 0 and len(sizes) == 16, err[-2000:]
    assert max(sizes[8:]) - max(sizes[2:8]) < 40, sizes                       # MiB, after it has warmed up


def rollout_of(prompt, n):
    c = Completion([1] * prompt, [2] * n, [-1.0] * n, "stop", [0] * n, [False] * n)
    return Rollout(None, c, None, Score(1.0, {}, Verdict(True, None, None, "ok")))
