"""Tools: how calls are read, the calculator, solutions with calls, what counts as needless, and functions of a user's file."""

import copy
import json
from dataclasses import asdict

import numpy as np
import pytest
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import chat
import distill
import evaluate
import grpo
from engine import calls
from engine.conversation import reply_messages
from engine.requests import Completion
from rl.asynchronous import FIELDS
from sources.conversations import GeneratedChats, open_conversations
from tasks.problems import open_task
from tasks.rewards import parse_rewards, score_group
from tasks.task import Reply
from tasks.tools import Call, Toolbox, calculate, call_in, needless_calls, open_tools
from tokenizer import Tokenizer

LARGE = "world:tiny,ops=1-3,given=99,max_value=999,calls=4"

TOOLS = """
import os, sys, time
def shout(text):
    print("not an answer")
    return text.upper()
def hang(text):
    while True:
        pass
def sleep(text):
    time.sleep(10 ** 6)
def fail(text):
    return {}[text]
def stop(text):
    sys.exit(3)
def die(text):
    os._exit(0)
def long(text):
    return "x" * 10 ** 7
def prints(text):
    print("x" * 10 ** 7)
    return "fine"
def number(text):
    return 7
def broken_text(text):
    return "\\ud800 <|im_end|>"
def child(text):
    return str(os.system("yes | head -c 10000000"))
"""


@pytest.fixture
def folder(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tools.py").write_text(TOOLS)
    return tiny_checkpoint(tmp_path / "tiny", tokenizer)


# calls

@pytest.mark.parametrize("text, wanted", [
    ("<tool_call>calculator 93 + 48</tool_call>", ("calculator", "93 + 48")),
    ("lions 3 + 4 = owls 7\n<tool_call>\nlook up this\n</tool_call>\n", ("look", "up this")),
    ('<tool_call>\n{"name": "f", "arguments": {"expression": "1 + 1"}}\n</tool_call>', ("f", "1 + 1")),
    ('<tool_call>{"name": "f", "arguments": "x"}</tool_call>', ("f", "x")),
    ('<tool_call>{"name": "f", "arguments": {"n": 12}}</tool_call>', ("f", "12")),
    ("<tool_call>f</tool_call>", ("f", "")),
    ("<tool_call></tool_call>", ("", "")),
    ("<tool_call>f 1</tool_call> and more", None), ("f 1</tool_call>", None), ("<tool_call>f 1", None), ("Answer: 3", None)])
def test_a_call_is_the_end_of_a_turn(text, wanted):
    assert call_in(text) == wanted


@pytest.mark.parametrize("text", [
    "<tool_call>f 1</tool_call>\n<tool_call>f 2</tool_call>", '<tool_call>{"name": "f"}</tool_call>',
    '<tool_call>{"name": 3, "arguments": "x"}</tool_call>', '<tool_call>{"name": "f", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": 1, "b": 2}}</tool_call>', "<tool_call>{broken</tool_call>",
    '<tool_call>{"name": "f", "arguments": {"a": [1]}}</tool_call>', "<tool_call>" + "{" * 100_000 + "</tool_call>"])
def test_a_call_that_cannot_be_read_is_answered_with_the_reason(text):
    name, reason = call_in(text)
    assert name == "" and reason


@pytest.mark.parametrize("text, value", [
    ("93 + 48", "141"), ("7 - 9", "-2"), ("12 * 12", "144"), ("7/2", "7/2"), ("(1 + 2) * 3", "9"), ("2^10", "1024"),
    ("1,200 + 1", "1201"), ("1,234,567-1", "1234566"), ("0.1 + 0.2", "3/10"),
    ("123456789 * 987654321", str(123456789 * 987654321))])
def test_the_calculator_is_exact(text, value):
    assert calculate(text) == value


@pytest.mark.parametrize("text", ["3,14*2", "(1,2)", "12,3456 + 1", "", "x + 1", "1 / 0", "9^9^9^9", "3 4", "sin(1)",
                                  "__import__('os')", "(" * 150 + "1", "1 +", "1" * 400, "(((((1+1)^20)^20)^20)^20)^20"])
def test_the_calculator_refuses_the_rest(text):
    with pytest.raises(ValueError):
        calculate(text)


# the world with a calculator

def test_solutions_with_calls_say_the_same_and_are_right(tokenizer):
    """The calls are the steps, each is answered rightly, and what the assistant says is the solution."""
    plain, task = open_task(LARGE.replace(",calls=4", "")), open_task(LARGE + ",needless=0.5")
    again = 0
    for i in range(60):
        problem, messages = task.problem(i), task.messages(task.problem(i))
        assert plain.problem(i).solution == problem.solution              # the option changes no problem
        assert [m["role"] for m in messages] == ["assistant", "tool"] * (len(messages) // 2) + ["assistant"]
        lines = [line for m in messages[::2] for line in m["content"].split("\n")]
        assert "\n".join(line for line in lines if not call_in(line)) == problem.solution
        made = [Call(*call_in(m["content"]), answer["content"], False, 0, 0)
                for m, answer in zip(messages[::2], messages[1::2], strict=False)]
        for call in made:
            a, op, b = call.argument.split()
            assert int(call.answer) == {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[op](int(a), int(b))
        texts = [call.argument for call in made]
        assert list(dict.fromkeys(texts)) == task.useful_calls(problem)[:len(set(texts))] and len(made) <= 4
        repeated = sum(a == b for a, b in zip(texts, texts[1:], strict=False))
        assert needless_calls(made, task.useful_calls(problem)) == repeated
        again += repeated
        reply = Reply("\n".join(lines), calls=made)
        assert task.grade(problem, reply).ok and task.well_formed(reply.text, False)
        assert not task.well_formed("Hm.\n" + reply.text, False)
    assert 20 < again < 80
    assert max(int(p.answer) for p in map(task.problem, range(60))) > 150


def test_calls_are_needless_if_they_fail_repeat_or_ask_for_nothing_needed():
    def call(argument, failed=False):
        return Call("calculator", argument, "", failed, 0, 0)
    useful = ["93 + 48", "141 - 7"]
    assert needless_calls([call("93 + 48"), call("141-7")], useful) == 0
    assert needless_calls([call("48 + 93"), call("93 + 48")], useful) == 1    # the same sum
    assert needless_calls([call("7 - 141"), call("1 + 1"), call("93 + 48")], useful) == 2
    assert needless_calls([call("93 + 48", failed=True)], useful) == 1
    assert needless_calls([call("1 + 1"), call("1 +  1"), call("2", failed=True)]) == 2


def test_the_reward_counts_right_answers_and_needless_calls():
    task = open_task(LARGE)
    problem = task.problem(0)
    useful = [Call("calculator", text, "", False, 0, 0) for text in task.useful_calls(problem)]
    replies = [Reply(problem.solution, calls=calls) for calls in ([], useful, useful + useful[:1])]
    replies.append(Reply("Answer: 100000", calls=[]))
    replies.append(Reply("Answer: 100000", calls=useful + useful))
    scores = {mix: [s.reward for s in score_group(problem, replies, parse_rewards(mix, LARGE))]
              for mix in ("strict+needless:-0.25", "strict+thrift:-0.25")}
    assert scores == {"strict+needless:-0.25": [1, 1, 0.75, 0, -0.25 * len(useful)], "strict+thrift:-0.25": [1, 1, 0.75, 0, 0]}


@pytest.mark.parametrize("spec", ["world:calls=-1", "world:needless=0.5", "world:calls=2,needless=2", "world:given=20",
                                  "world:modulus=0,given=100", "world:calls=2,needless=0.1,solution=0"])
def test_options_that_do_not_go_together(spec):
    with pytest.raises(ValueError):
        open_task(spec)


# training on conversations with calls

def test_the_assistant_learns_its_calls_and_not_what_tools_say(tokenizer):
    """The ids are those that the engine would make of the same turns, and the loss is on what it would draw."""
    task = open_task(LARGE)
    chats = GeneratedChats(LARGE, tokenizer, 512)
    for i in range(10):
        problem = task.problem(i)
        *messages, last = task.messages(problem)
        ids = tokenizer.chat_prompt([{"role": "user", "content": problem.question}])
        mask = [0.0] * len(ids)
        for said, answer in zip(messages[::2], messages[1::2], strict=True):
            drawn, told = [*tokenizer.encode(said["content"]), tokenizer.im_end], tokenizer.tool_turn(answer["content"])
            ids, mask = ids + drawn + told, mask + [1.0] * len(drawn) + [0.0] * len(told)
        drawn = [*tokenizer.encode(last["content"]), tokenizer.im_end]
        ids, mask = ids + drawn + tokenizer.encode("\n"), mask + [1.0] * len(drawn) + [0.0]
        found, weights = chats.get(i)
        assert found.tolist() == ids and weights.tolist() == mask
    no_think = GeneratedChats(LARGE, tokenizer, 512, no_think=1.0).get(0)[0].tolist()
    assert tokenizer.decode(no_think).count("<think>\n\n</think>") == 1       # in front of the first turn alone


def test_conversations_of_files_with_tools(tokenizer, tmp_path):
    messages = [{"role": "user", "content": "What is 2 + 2?"}, *open_task(LARGE).messages(open_task(LARGE).problem(1))]
    write_rows(tmp_path / "chats.jsonl", [{"messages": messages}])
    [(ids, weights)] = [open_conversations(str(tmp_path / "chats.jsonl"), tokenizer, 512).get(0)]
    assert ids.tolist() == tokenizer.encode_chat(messages)[0]
    marks = np.array(tokenizer.encode_chat(messages)[1])
    assert np.array_equal(weights, marks) and 0 < marks.sum() < len(marks)
    for wrong, message in (({"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}, '"tool_calls" has no meaning'),
                           ({"role": "tool", "content": "4", "tool_call_id": "x"}, '"tool_call_id" has no meaning'),
                           ({"role": "tool", "content": "4", "weight": 1}, "belongs to an assistant's turn")):
        write_rows(tmp_path / "wrong.jsonl", [{"messages": [messages[0], wrong, {"role": "assistant", "content": "4"}]}])
        with pytest.raises(ValueError, match=message):
            open_conversations(str(tmp_path / "wrong.jsonl"), tokenizer, 512)


def test_marks_of_calls_are_tokens_where_a_checkpoint_has_them(tokenizer):
    """And only in what an assistant says: in a user's text they stay text."""
    spec, n = copy.deepcopy(tokenizer._spec), len(tokenizer)
    spec["added_tokens"] += [spec["added_tokens"][-1] | {"id": n + i, "content": mark, "special": False}
                             for i, mark in enumerate(("<tool_call>", "</tool_call>"))]
    theirs = Tokenizer(spec, tokenizer._config)
    said = "lions 3 + 4 = owls 7\n<tool_call>f 1</tool_call>"
    messages = [{"role": "user", "content": said}, {"role": "assistant", "content": said}]
    ids, mask = theirs.encode_chat(messages)
    assert [i for i in ids if i >= n] == [n, n + 1] and all(mask[at] == 1 for at, i in enumerate(ids) if i >= n)
    assert theirs.decode(ids) == tokenizer.decode(tokenizer.encode_chat(messages)[0])
    begin = ids.index(n)
    assert ids[begin + 1:begin + 1 + len(tokenizer.encode("f 1"))] == tokenizer.encode("f 1")
    completion = Completion(theirs.chat_prompt(messages[:1]), ids[len(theirs.chat_prompt(messages[:1])):-1])
    assert call_in(Reply.of(completion, theirs, 100).text) == ("f", "1")


# completions

def test_what_a_tool_says_is_not_graded(tokenizer):
    """Nor is it said by the model in the history of a chat."""
    prompt = tokenizer.chat_prompt([{"role": "user", "content": "How many?"}])
    first, told = [*tokenizer.encode("<tool_call>f x</tool_call>"), tokenizer.im_end], tokenizer.tool_turn("Answer: 7")
    last = [*tokenizer.encode("lions 3 + 4 = owls 7"), tokenizer.im_end]
    at = len(first), len(first) + len(told)
    call, tokens = Call("f", "x", "Answer: 7", False, *at), first + told + last
    c = Completion(prompt, tokens, [0.0] * len(tokens), "stop", calls=[call])
    reply = Reply.of(c, tokenizer, 100, tools=Toolbox())
    assert reply.text == "<tool_call>f x</tool_call>\nlions 3 + 4 = owls 7" and len(reply.calls) == 1
    assert Reply.of(c, tokenizer, 100).calls is None and open_task("world:").answer_in(reply.text) is None
    assert c.decoded == len(first) + len(last)
    messages = reply_messages(tokenizer, c)
    assert [(m["role"], m["content"]) for m in messages] == [
        ("assistant", "<tool_call>f x</tool_call>"), ("tool", "Answer: 7"), ("assistant", "lions 3 + 4 = owls 7")]
    again = tokenizer.encode_chat([{"role": "user", "content": "How many?"}, *messages])[0]
    assert again == prompt + c.tokens + tokenizer.encode("\n")
    assert Completion(**json.loads(json.dumps({f: getattr(c, f) for f in FIELDS}))) == c == Completion(**vars(c))
    assert asdict(c).keys() == set(FIELDS)


# functions of a user's file

def answers(folder, *names, seconds=60.0):
    box = open_tools([f"my_tools.py:{name}" for name in names], seconds=seconds)
    begun = {name: calls.run_tool(box, name, "some text") for name in names}
    return {name: future.result() for name, future in begun.items()}


def test_whatever_a_tool_does_there_is_an_answer(folder):
    found = answers(folder, "shout", "fail", "stop", "die", "long", "prints", "number", "broken_text", "child")
    assert found["shout"] == ("SOME TEXT", False)
    assert found["broken_text"] == ("? <|im_end|>", False) and found["child"] == ("0", False)
    for name, reason in (("fail", "KeyError: 'some text'"), ("stop", "SystemExit: 3"), ("die", "the tool ended its process"),
                         ("long", "its answer has 10000000 characters"), ("prints", "it printed more than 1000 characters"),
                         ("number", "it returned int, not text")):
        text, failed = found[name]
        assert failed and reason in text and len(text) <= 200, name
    found = answers(folder, "hang", "sleep", seconds=0.2)
    assert found == dict.fromkeys(("hang", "sleep"), ("no answer in 0.2 seconds", True))
    assert answers(folder, "shout") == {"shout": ("SOME TEXT", False)}        # a new process has taken its place


def test_flags_and_refusals(folder, tmp_path):
    write_rows(tmp_path / "q.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    common = ["--init", folder, "--out", "run", "--steps", 1, "--prompts", 1, "--group", 2, "--max-new-tokens", 20]
    for flags, message in (
        (["--data", "q.jsonl", "--tool", "my_tools.py:none"], "my_tools.py has no none"),
        (["--data", "q.jsonl", "--tool", "none.py:f"], "none.py: no such file"),
        (["--data", "q.jsonl", "--tool", "my_tools.py:os"], "my_tools.py:os: is no function"),
        (["--data", "q.jsonl", "--tool", "my_tools.py:fail", "my_tools.py:fail"], "two tools have the name fail"),
        (["--data", "q.jsonl", "--tool", "abacus"], "use FILE.py:NAME"),
        (["--data", LARGE, "--tool", "calculator"], "has a tool of its own"),
        (["--data", LARGE, "--mode", "plain"], "--mode plain has no turns"),
        (["--data", LARGE, "--think-budget", 3], "--think-budget watches one turn")):
        assert message in refusal(grpo, *common, *flags)
        assert message in refusal(distill, *common, "--teacher", folder, *flags)
    assert not (tmp_path / "run").exists()
    asked = ["--init", folder, "--chat", "--tool", "calculator"]
    assert "two tools" in refusal(evaluate, *asked, "x.py:calculator", "--data", "q.jsonl")
    assert "has a tool of its own" in refusal(evaluate, *asked, "--data", LARGE)


def test_scripts_with_tools(folder, tmp_path):
    write_rows(tmp_path / "q.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    asked = ["--init", folder, "--data", "q.jsonl", "--chat", "--max-new-tokens", 5, "--tool", "my_tools.py:shout"]
    code, found, err = run_main(evaluate, *asked)
    assert code == 0 and found[str(folder)]["q.jsonl"]["calls"] == 0, err
    easy = LARGE.replace("1-3", "1").replace("calls=4", "calls=1")
    code, found, err = run_main(evaluate, "--init", folder, "--data", easy, "--chat", "--problems", 1)
    row = found[str(folder)][easy][0]
    assert row["calls"] == row["failed_calls"] == row["needless_calls"] == 0
    code, found, err = run_main(evaluate, "--init", folder, "--data", easy, "--problems", 1)
    assert code == 0 and "calls" not in found[str(folder)][easy][0], err      # asked as plain text
    code, found, err = run_main(chat, "--init", folder, "--prompt", "1 + 1?", "--tool", "calculator", "--max-new-tokens", 5)
    assert code == 0 and found["turns"] == 1, err
