"""Pivotal tokens: the search against an oracle whose pivotal tokens were planted, and the pairs that come of it."""

import json
import math
import random
from argparse import Namespace
from collections import Counter

import pytest
from helpers import run_main, tiny_checkpoint, write_rows

import augment
import dpo
from engine.requests import Completion
from sources.conversations import Pairs
from tasks.task import Problem, Reply
from transforms import Ask, Item, pivotal
from transforms.parts import teachers

ARGS = Namespace(plain=False, mode="", samples=10, gap=0.2, low=0.2, high=0.8, paths=1, max_new_tokens=64, temperature=1.0,
                 init="folder")


def run_search(rate, logprobs, gap=0.2):
    """Answers whatever the search wants, until it wants nothing: (pivotal, beginnings that were measured)."""
    known = {}
    while True:
        found, wanted = pivotal.search(logprobs, known.get, gap)
        if not wanted:
            return found, set(known)
        assert not set(wanted) & set(known)
        known.update({n: rate(n) for n in wanted})


@pytest.mark.parametrize("T", [1, 2, 7, 64, 500])
@pytest.mark.parametrize("jump", [0.5, -0.4, 0.2])
def test_a_planted_token_is_found_exactly(T, jump):
    for at in sorted({0, T // 3, T // 2, T - 1}):
        found, measured = run_search(lambda n, at=at: 0.45 + jump * (n > at), [-1.0] * T)
        assert found == [at]
        assert len(measured) <= 2 + math.ceil(math.log2(T)) if T > 1 else len(measured) == 2


def test_several_tokens_and_none():
    jumps = {5: 0.25, 6: 0.21, 90: 0.3}
    found, measured = run_search(lambda n: 0.2 + sum(j for at, j in jumps.items() if n > at), [-1.0] * 128)
    assert found == sorted(jumps) and len(measured) <= 2 + 3 * 7
    # what the method cannot see: jumps that cancel each other inside a part whose ends are all it looks at
    assert run_search(lambda n: 0.5 - 0.3 * (n > 40) + 0.4 * (n > 41), [-1.0] * 128) == ([], {0, 128})
    assert run_search(lambda n: 0.5 + 0.001 * n, [-1.0] * 128)[0] == []                # many small steps, none of them pivotal
    assert run_search(lambda n: 0.5, [-1.0] * 128) == ([], {0, 128})
    # a jump below the gap
    assert run_search(lambda n: 0.5 + 0.19 * (n > 60), [-1.0] * 128)[0] == []


def test_a_part_is_cut_where_its_log_probability_is_halved():
    assert pivotal.halves([-1.0] * 8, 0, 8) == 4 and pivotal.halves([-1.0] * 8, 2, 5) in (3, 4)
    assert pivotal.halves([-0.1, -0.1, -0.1, -3.0, -0.1, -0.1], 0, 6) in (3, 4)
    assert pivotal.halves([-3.0, -0.1, -0.1], 0, 3) == 1 and pivotal.halves([-0.1, -0.1, -3.0], 0, 3) == 2
    assert pivotal.halves([0.0] * 6, 0, 6) == 3
    rng = random.Random(0)
    for _ in range(200):                                   # against all cuts
        logprobs = [-rng.random() ** 4 for _ in range(rng.randrange(2, 20))]
        cut = pivotal.halves(logprobs, 0, len(logprobs))
        sides = [abs(sum(logprobs[:k]) - sum(logprobs[k:])) for k in range(1, len(logprobs))]
        assert 0 < cut < len(logprobs) and math.isclose(sides[cut - 1], min(sides), abs_tol=1e-12)


# the transform, with a model of letters: token 1 at place 3 makes success likely, token 2 there unlikely; 9 ends an answer

LENGTH, PLACE, END = 8, 3, 9
CHANCE = {1: 0.9, 2: 0.1}


def draw(prefix, rng):
    """A completion that begins with the prefix: tokens 1 to 4, of which all but the one at PLACE mean nothing; then 5 (right)
    or 6."""
    tokens = list(prefix)
    while len(tokens) < LENGTH:
        tokens.append(rng.choice([1, 2]) if len(tokens) == PLACE else rng.choice([3, 4]))
    if len(tokens) == LENGTH:
        tokens.append(5 if rng.random() < CHANCE[tokens[PLACE]] else 6)
    return [*tokens, END] if tokens[-1] != END else tokens


class LetterTask:
    source = "letters"

    def prompt(self, problem, mode):
        return [{"role": "user", "content": problem.question}]

    def grade(self, problem, reply):
        return Namespace(right=5 in reply.completion.tokens, answer_ok=5 in reply.completion.tokens)


def rollouts(ask, rng):
    replies = []
    for _ in range(ask.n):
        tokens = draw(ask.begins, rng)
        reply = Reply("".join(map(str, tokens)))
        reply.completion = Completion([7, 7], tokens, [-math.log(2)] * len(tokens), "stop")
        reply.decode = lambda ids: "".join(map(str, ids))
        replies.append(reply)
    return replies


def run_transform(args, seed=0, asked=None):
    asked, rng = [] if asked is None else asked, random.Random(seed)
    item = Item(0, "letters", 0, "", Problem("?", "5", task=LetterTask()))
    answers = [rollouts(a, rng) for a in pivotal.ask(item, args, rng)]
    while more := pivotal.ask_again(item, answers, args, rng):
        answers += [rollouts(a, rng) for a in more]
        asked += more
        assert len(asked) < 100
    return item, answers


def test_the_planted_token_becomes_a_pair():
    args = Namespace(**{**vars(ARGS), "samples": 200})
    item, answers = run_transform(args)
    rows, dropped = pivotal.keep(item, answers, args)
    assert dropped == Counter() or dropped == Counter(no_counterpart=1)
    first = answers[0][0].completion.tokens
    [row] = [row for row in rows if row["meta"]["position"] == PLACE]
    assert row["ids"] == {"prompt": [7, 7, *first[:PLACE]], "chosen": [1], "rejected": [2]}
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("77" + "".join(map(str, first[:PLACE])), "1", "2")
    assert row["meta"]["pivotal"] == ("chosen" if first[PLACE] == 1 else "rejected")
    assert row["meta"]["chosen_rate"] > 0.8 and row["meta"]["rejected_rate"] < 0.2 and 0.4 < row["meta"]["rate"] < 0.6
    # the other places: only the last, where 5 or 6 decides
    assert {row["meta"]["position"] for row in rows} <= {PLACE, LENGTH}
    counts = pivotal.tally(item, answers, args)
    assert counts["rollouts"] == 200 * len(answers) and counts["searched"] == 1


def test_both_directions_and_both_paths():
    """Over many seeds: the pair at PLACE always prefers 1 to 2, whichever of them the searched answer has."""
    args, seen = Namespace(**{**vars(ARGS), "samples": 100, "paths": 2}), set()
    for seed in range(6):
        item, answers = run_transform(args, seed)
        for row in pivotal.keep(item, answers, args)[0]:
            if row["meta"]["position"] == PLACE:
                assert (row["ids"]["chosen"], row["ids"]["rejected"]) == ([1], [2])
                seen.add(row["meta"]["pivotal"])
    assert seen == {"chosen", "rejected"}


def test_no_beginning_is_measured_twice():
    for seed in range(4):
        args, asked = Namespace(**{**vars(ARGS), "samples": 50, "paths": 2}), []
        _, answers = run_transform(args, seed, asked)
        assert len(answers) == 1 + len(asked) and len({a.begins for a in asked}) == len(asked)
        assert all(a.n == 50 and a.begins and a.max_new_tokens == 64 - len(a.begins) for a in asked)


@pytest.mark.parametrize("right, reason", [(9, "too_easy"), (1, "too_hard")])
def test_questions_that_teach_little_are_left_out(right, reason):
    item = Item(0, "letters", 0, "", Problem("?", "5", task=LetterTask()))
    replies = []
    for i in range(10):
        reply = Reply("x")
        reply.completion = Completion([7], [3, 5 if i < right else 6, END], [-1.0] * 3, "stop")
        replies.append(reply)
    assert pivotal.ask_again(item, [replies], ARGS, random.Random(0)) == []
    assert pivotal.keep(item, [replies], ARGS) == ([], Counter({reason: 1}))


@pytest.mark.parametrize("wrong, message", [({"temperature": 0.0}, "needs draws"), ({"low": 0.9}, "is above --high"),
                                            ({"paths": 11}, "only 10 answers"), ({"init": "oracle:errors=0"}, "draws no tokens")])
def test_bad_flags(wrong, message):
    with pytest.raises(ValueError, match=message):
        pivotal.check(Namespace(**{**vars(ARGS), **wrong}))


def test_an_answer_goes_on_from_its_beginning(tmp_path, tokenizer):
    """A continuation is what the sampler draws behind prompt and beginning, and its reply is the whole answer."""
    folder = tiny_checkpoint(tmp_path / "init", tokenizer)
    model = teachers.Checkpoint("init", str(folder), False, Namespace(
        device="cpu", dtype="float32", rows=8, max_new_tokens=20, temperature=1.0, top_p=1.0, top_k=0, seed=3))
    question = [{"role": "user", "content": "How many lions?"}]
    prompt, begins = tokenizer.chat_prompt(question), tuple(tokenizer.encode("lions 3 + 4"))
    [replies], cost = model.answer([(Item(5), 0, Ask(question, n=3, begins=begins, max_new_tokens=7))], 0)
    [drawn] = model.sampler.generate([prompt + list(begins)], 3, 7, 1.0, seed=3, numbers=[5])
    for reply, completion in zip(replies, drawn):
        assert (reply.completion.prompt, reply.completion.tokens) == (prompt, [*begins, *completion.tokens])
        assert reply.text == tokenizer.decode_reply(prompt, [*begins, *completion.tokens])
        assert reply.text.startswith("lions 3 + 4")
        assert reply.tokens == len(begins) + len(completion.tokens) and reply.limit == len(begins) + 7
    assert cost["drawn_tokens"] == sum(len(c.tokens) for c in drawn) and cost["prompt_tokens"] == len(prompt) + len(begins)


TASK = '''from tasks.task import Problem
class Parity:
    count = 6
    def problem(self, i):
        return Problem(f"Say something, number {i}.", "even")
    def grade(self, problem, reply):
        return sum(map(ord, reply.text)) % 2 == 0
'''


def test_from_a_checkpoint_to_dpo(tmp_path, tokenizer):
    """A random model, and a task of which the last token decides: pairs come out, each behind a beginning that was drawn, and
    dpo.py trains on their one token."""
    folder = tiny_checkpoint(tmp_path / "init", tokenizer)
    (tmp_path / "parity.py").write_text(TASK)
    out = tmp_path / "pivots.jsonl"
    code, found, err = run_main(augment, "pivotal", "--init", folder, "--task", f"{tmp_path}/parity.py:Parity", "--samples", 8,
                                "--max-new-tokens", 80, "--temperature", 1.5, "--gap", 0.3, "--out", out)
    assert code == 0 and found["written"] >= 1 and found["searched"] <= 6, err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    ledger = json.loads((tmp_path / "pivots.jsonl.ledger.json").read_text())
    assert ledger["teachers"]["init"]["answers"] == found["rollouts"]
    source = Pairs(str(out), tokenizer, 512)
    for row, ((ids, weights), (other, _), start) in zip(rows, source.pairs):
        question = tokenizer.chat_prompt([{"role": "user", "content": f"Say something, number {row['meta']['index']}."}])
        assert row["ids"]["prompt"][:len(question)] == question and start == len(question) + row["meta"]["position"]
        assert ids.tolist() == row["ids"]["prompt"] + row["ids"]["chosen"] and other[-1] == row["ids"]["rejected"][0] != ids[-1]
        assert weights.tolist() == [0.0] * start + [1.0] and start == len(row["ids"]["prompt"])
        meta = row["meta"]
        assert meta["chosen_rate"] - meta["rejected_rate"] >= 0.3 and meta["rejected_rate"] <= meta["rate"] <= meta["chosen_rate"]
    assert run_main(dpo, "--init", folder, "--data", out, "--steps", 2, "--seq-len", 512, "--batch-tokens", 1024, "--out",
                    tmp_path / "dpo")[0] == 0


@pytest.mark.parametrize("change, message", [
    ({"ids": {"prompt": [5], "chosen": [6]}}, "must have lists"),
    ({"ids": {"prompt": [5], "chosen": [6], "rejected": [True]}}, "must have lists"),
    ({"chosen": "another text"}, "not its text in the tokenizer"),
    ({"ids": {"prompt": [5], "chosen": [6], "rejected": [99999]}}, "not its text"),
    ({"ids": {"prompt": [5], "chosen": [6], "rejected": [6]}, "rejected": None}, "chosen equals rejected"),
    ({"system": "x"}, "has no meaning")])
def test_pairs_of_ids_that_do_not_fit(tmp_path, tokenizer, change, message):
    ids = {"prompt": [5], "chosen": [6], "rejected": [7]}
    row = {"ids": ids} | {key: tokenizer.decode(part) for key, part in ids.items()}
    row = {k: row["chosen"] if v is None else v for k, v in (row | change).items()}
    with pytest.raises(ValueError, match=message):
        Pairs(str(write_rows(tmp_path / "p.jsonl", [row])), tokenizer, 64)
