"""Rewards against their definitions, on texts of the world and of question files; and on hostile texts."""

import itertools
import math

import pytest
from helpers import calls_of

from formats import plugins
from sampler import Completion
from tasks import rewards as reward_module
from tasks.problems import load_problems
from tasks.rewards import REWARDS, ReplyGroup, Weighted, grade, parse_rewards, score_group
from tasks.task import Problem, Reply
from tasks.verdict import Verdict

WORLD = load_problems("world:ops=3,split=rl", limit=30)
FILE = Problem("What is 2 + 3?", "5")


def said(problem, answer=None):
    return f"Answer: {problem.answer if answer is None else answer}"


def chat(problem, answer=None):
    """A complete reply in a chat: steps in a think block, the answer after it."""
    return f"<think>\n{problem.reasoning}\n</think>\n\n{said(problem, answer)}"


def wrong(problem):
    return str(int(problem.answer) + 1)


def reward(name, problem, text, **fields):
    reply = Reply(text, **fields)
    return REWARDS[name](problem, reply, ReplyGroup(problem, [reply]))


def rewards(names, problem, text, **fields):
    return [reward(name, problem, text, **fields) for name in names.split()]


def test_answer_process_and_strict_in_the_world():
    names = "answer process strict"
    for p in WORLD:
        for right in (p.solution, chat(p), chat(p).removeprefix("<think>\n")):
            assert rewards(names, p, right) == [1, 1, 1]
        assert rewards(names, p, said(p)) == [1, 0, 0]                        # a lucky guess
        assert rewards(names, p, p.reasoning) == [0, 1, 0]      # no answer
        assert rewards(names, p, chat(p, wrong(p))) == [0, 1, 0]
        first, *rest = p.solution.split("\n")
        assert rewards(names, p, "\n".join(rest)) == [1, pytest.approx(2 / 3), 0]
        assert rewards(names, p, f"{first}\nhm\n{said(p)}") == [1, pytest.approx(1 / 3), 0]


def test_strict_is_never_above_answer_or_process():
    for p, q in itertools.product(WORLD[:8], WORLD[:8]):
        for text in (q.solution, chat(q), said(q), q.reasoning + "\n" + said(p)):
            answer, process, strict = rewards("answer process strict", p, text)
            assert strict <= min(answer, process) and strict == (answer == process == 1)


def test_a_block_that_never_closes_has_no_answer():
    for p in WORLD[:5]:
        text = f"<think>\n{p.solution}"
        assert rewards("answer process strict incorrect majority format", p, text, thinking=True) == [0, 1, 0, 0, 0, 0]
        assert grade(p, Reply(text)).reason == "no answer"
        thought = f"<think>\n{p.solution}\n</think>\n\nDone."                 # an answer only inside of it
        assert rewards("answer process format", p, thought, thinking=True) == [0, 1, 0]
        changed = f"<think>\n{p.solution}\n</think>\n\n{said(p, wrong(p))}"   # what is said counts
        assert rewards("answer incorrect", p, changed) == [0, 1]
    assert rewards("answer incorrect", FILE, "<think>So \\boxed{5}") == [0, 0]
    assert rewards("answer incorrect", FILE, "<think>\\boxed{4}</think>It is 5.") == [1, 0]


def test_marks_beside_a_step_do_not_hide_it():
    p = WORLD[0]
    assert grade(p, Reply(f"<think>{p.reasoning}</think>{said(p)}")).ok
    assert grade(p, Reply(f"<think>{p.reasoning} </think>\n{said(p)} ")).ok


def test_format_of_a_reply_that_should_think():
    for p in WORLD[:5]:
        right = chat(p)
        for text in (right, chat(p, 99), "<think>hm</think>Answer: 0", f"\n<think>\nx\n</think>\nI say:\n{said(p)}"):
            assert reward("format", p, text, thinking=True) == 1
        for text in (p.solution, said(p), "", right.replace("</think>", ""), right.replace("<think>", ""),
                     right.replace("Answer", "answer"), right + "\n" + said(p), right + "\nAnd so on.\n</think>",
                     "<think></think>" + right, right + "<think>", f"<think>\n\n</think>\n\n{p.solution}",
                     "Well. " + right, right.rpartition("\n")[0]):
            assert reward("format", p, text, thinking=True) == 0, text
        assert reward("format", p, right, thinking=True, finish="length") == 0
        assert reward("format", p, right) == 0                                # it should not have thought
    good = "<think>2 + 3 is 5</think>\n\nThe answer is \\boxed{5}."
    assert reward("format", FILE, good, thinking=True) == 1
    for text in (good + " \\boxed{6}", good.replace("\\boxed{5}", "near")[:-25], good.replace("<think>", ""), "5"):
        assert reward("format", FILE, text, thinking=True) == 0, text


def test_format_of_plain_text():
    for p in WORLD[:5]:
        for text in (p.solution, said(p), p.solution.replace("\n", "\n\n") + "\n", WORLD[7].solution):
            assert reward("format", p, text) == 1
        for text in ("", chat(p), p.reasoning, f"{p.solution}\nbye", f"Well.\n{p.solution}",
                     f"{said(p)}\n{p.solution}", "Answer:", "Answer: six"):
            assert reward("format", p, text) == 0, text
        assert reward("format", p, p.solution, finish="length") == 0
    assert rewards("format", FILE, "So 5.\n#### 5") == [1]
    assert [reward("format", FILE, t) for t in ("5", "#### 5\n#### 5", "<think>5", "Answer: 5")] == [0, 0, 0, 1]


def test_length_falls_in_a_straight_line():
    p = WORLD[0]
    assert [reward("length", p, "x", tokens=t, limit=20) for t in (0, 5, 10, 20, 30)] == [1, 0.75, 0.5, 0, 0]
    with pytest.raises(ValueError, match="limit"):
        reward("length", p, "x", tokens=3)


def test_random_is_a_fair_coin_that_does_not_see_the_text():
    def throw(text="", seed=0, sample=0, problem=FILE):
        return REWARDS["random"](problem, Reply(text, sample=sample), ReplyGroup(problem, [], seed))
    n = 10_000
    by_sample = [throw(sample=i) for i in range(n)]
    by_seed = [throw(seed=i) for i in range(n)]
    by_problem = [throw(problem=Problem(f"{i} + 1?", "")) for i in range(n)]
    for throws in (by_sample, by_seed, by_problem):
        assert set(throws) == {0.0, 1.0} and abs(sum(throws) / n - 0.5) < 4.5 * 0.5 / math.sqrt(n)
        neighbours = sum(a == b for a, b in itertools.pairwise(throws)) / n
        assert abs(neighbours - 0.5) < 4.5 * 0.5 / math.sqrt(n)
    assert by_sample == [throw("another text, \ud800", sample=i) for i in range(n)]   # again the same, for any text


def test_incorrect_is_answered_and_wrong():
    for p in WORLD[:5]:
        for text, expected in ((p.solution, 0), (said(p, wrong(p)), 1), ("no idea", 0), (chat(p, wrong(p)), 1)):
            assert reward("incorrect", p, text) == expected
    assert [reward("incorrect", FILE, t) for t in ("\\boxed{5}", "\\boxed{6}", "none")] == [0, 1, 0]


def test_majority_follows_the_group_and_not_the_gold():
    p = WORLD[0]
    def score(texts, problem=p):
        return [s.reward for s in score_group(problem, [Reply(t) for t in texts], parse_rewards("majority"))]
    bad = wrong(p)
    assert score([said(p), said(p, bad), said(p, bad), "hm", chat(p, bad)]) == [0, 1, 1, 0, 1]
    assert score([said(p), said(p, bad)]) == [1, 0]                           # of equals, the first
    assert score(["hm", "", "<think>"]) == [0, 0, 0]
    assert score(["\\boxed{1/2}", "\\boxed{0.5}", "\\boxed{7}", "#### 7", "it is .5"], FILE) == [1, 1, 0, 0, 1]


def test_parse_rewards():
    strict, length = REWARDS["strict"], REWARDS["length"]
    assert parse_rewards("strict:1+length:0.1") == [("strict", strict, 1.0), ("length", length, 0.1)]
    assert [(n, w) for n, _, w in parse_rewards("answer + length:-0.5", "q.jsonl")] == [("answer", 1), ("length", -0.5)]
    for mix, message in (("good", "use answer, process, strict"), ("", "is not known"), ("answer:x", "not a number"),
                         ("answer:nan", "finite"), ("answer+answer", "twice"), ("answer:", "not a number")):
        with pytest.raises(ValueError, match=message) as error:
            parse_rewards(mix)
        assert "\n" not in str(error.value)
    for name in ("process", "strict"):
        parse_rewards(name, "world:ops=1", "world:ops=2")
        with pytest.raises(ValueError, match=r"q\.jsonl has none"):
            parse_rewards(f"answer+{name}", "world:ops=1", "q.jsonl")


def test_score_group_adds_up_and_reports():
    p = WORLD[0]
    replies = [Reply(chat(p), 10, 40, thinking=True), Reply(said(p), 30, 40, thinking=True, sample=1)]
    first, second = score_group(p, replies, parse_rewards("strict:2+length:0.1+format:-1"))
    assert first.parts == {"strict": 1, "length": 0.75, "format": 1} and first.reward == pytest.approx(2 + 0.075 - 1)
    assert first.verdict == Verdict(True, True, 1.0, "ok")
    assert second.reward == pytest.approx(0.025) and "missing" in second.verdict.reason and second.verdict.answer_ok
    [of_file] = score_group(FILE, [Reply("\\boxed{6}")], parse_rewards("answer"))
    assert of_file.verdict == Verdict(False, None, None, "answer 6, it is 5")


def test_a_reward_that_fails_counts_as_zero_and_is_reported(monkeypatch):
    def fail(problem, reply, group):
        return {"nan": math.nan, "inf": math.inf, "word": "word", "one": 1}[reply.text]
    monkeypatch.setitem(REWARDS, "custom", fail)
    seen = []
    scores = score_group(WORLD[0], [Reply(t) for t in ("nan", "inf", "word", "one", "oh")],
                         parse_rewards("custom:2+length"), on_error=lambda *what: seen.append(what))
    assert [s.reward for s in scores] == [0, 0, 0, 2, 0]
    assert [(text, type(e)) for name, text, e in seen if name == "custom"] == [
        ("nan", ValueError), ("inf", ValueError), ("word", ValueError), ("oh", KeyError)]
    assert sum(name == "length" for name, *_ in seen) == 5                    # no limit was given
    assert score_group(WORLD[0], [Reply("oh")], parse_rewards("custom"))[0].reward == 0


def test_exit_in_a_reward_is_an_error_like_others():
    """A reward that runs the text of a reply meets it; it must not end the run as if all were well."""
    seen, leaves = [], Weighted("leaves", lambda *_: exit(), 1.0)
    [score] = score_group(WORLD[0], [Reply("x")], [leaves], on_error=lambda name, text, error: seen.append((name, type(error))))
    assert score.reward == 0 and seen == [("leaves", SystemExit)]
    with pytest.raises(plugins.PluginError, match="SystemExit"), plugins.named("my_rewards.py:leaves"):
        exit()


def test_a_text_that_cannot_be_graded_is_reported(monkeypatch):
    def fail(problem, reply):
        raise RuntimeError("broken")
    monkeypatch.setattr(reward_module, "grade", fail)
    seen = []
    [score] = score_group(WORLD[0], [Reply("x")], parse_rewards("random+answer"),
                          on_error=lambda name, text, error: seen.append(name))
    assert score.verdict.reason == "cannot be graded" and not score.verdict.answer_ok and seen == ["answer", "grade"]


def test_reply_of_a_completion(tokenizer):
    p = WORLD[0]
    user = [{"role": "user", "content": p.question}]
    body = p.reasoning
    for think, tokens, thinking in (
            (True, [*tokenizer.encode(f"\n{body}\n"), tokenizer.end_think, *tokenizer.encode(f"\n\n{said(p)}")], True),
            (None, [tokenizer.think, *tokenizer.encode(f"\n{body}\n"), tokenizer.end_think,
                    *tokenizer.encode(f"\n\n{said(p)}")], True),
            (False, tokenizer.encode(p.solution), False)):
        prompt = tokenizer.encode_chat(user, add_generation_prompt=True, think=think)[0]
        reply = Reply.of(Completion(prompt, [*tokens, tokenizer.im_end], finish="stop"), tokenizer, 200, sample=3)
        assert (reply.tokens, reply.limit, reply.finish, reply.sample) == (len(tokens) + 1, 200, "stop", 3)
        assert reply.thinking == thinking and reply.text.startswith("<think>") == thinking and "<|" not in reply.text
        [score] = score_group(p, [reply], parse_rewards("strict+format"))
        assert score.parts == {"strict": 1, "format": 1}
    plain = Reply.of(Completion(tokenizer.encode(p.question + "\n"), tokenizer.encode(p.solution)), tokenizer, 200)
    assert plain.text == p.solution and not plain.thinking and grade(p, plain).ok


HOSTILE = ["x" * 1_000_000, "{" * 500_000 + "}" * 500_000, "9**9**9", "\\boxed{9**9**9}", "\\boxed{" * 100_000,
           "Answer: " * 100_000, "Answer: 7\n" * 100_000, "<think>" * 100_000, "</think>" * 100_000,
           "<think></think>" * 50_000, "a = b 1 + c 2 = 3\n" * 50_000, "lions 3 + 4 = owls 7\n" * 50_000,
           "lions 3 + 4 = " + "owls " * 200_000, "lions 3 + 4 = owls 7" + " " * 900_000 + "x", " \t" * 500_000,
           "a " * 500_000, "answer is " * 100_000, "#" * 1_000_000, "1," * 500_000, "\n" * 1_000_000, "\0\ud800" * 1000,
           "Answer: " + "9" * 1_000_000, "-" * 1_000_000, "\\boxed{" + "(" * 400 + "}", "^" * 1_000_000]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.parametrize("problem", [WORLD[0], FILE], ids=["world", "file"])
def test_hostile_texts_are_quick_and_raise_nothing(number, problem):
    errors = []
    names = [name for name in REWARDS if problem.task.has_steps or not getattr(REWARDS[name], "checks_steps", False)]
    for name, thinking in itertools.product(names, (False, True)):
        _, calls = calls_of(score_group, problem, [Reply(HOSTILE[number], 10, 20, thinking=thinking)], parse_rewards(name),
                            on_error=lambda *what: errors.append(what))
        assert calls < 100_000 + 4 * len(HOSTILE[number]), name
    assert not errors
