"""Text as a task: positions and segments, judges and rewards against cases made by hand, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import real_file, script
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import evaluate
import grpo
import sft
import tokenizer as tokenizer_script
from formats.chat import END_THINK, THINK
from model import load_both
from sources.conversations import GeneratedChats
from sources.fingerprint import parts_of
from tasks.judges import ModelJudge, StepsJudge, TextJudge, accuracy, labelled_pairs
from tasks.positions import Position, is_clean
from tasks.predictions import answer_in, matches, predicted
from tasks.problems import load_problems, open_task
from tasks.segments import spans, words
from tasks.task import Reply, prompt_ids
from tasks.text import Text
from tasks.world import World
from tokenizer import Tokenizer

WORLD = "text:world:tiny,ops=1-3,documents=30"


def reply(said, thinking=True, gain=None):
    return Reply(f"{THINK}\nhm\n{END_THINK}\n\n<answer>{said}</answer>" if thinking else f"<answer>{said}</answer>",
                 thinking=thinking, gain=gain)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    here = tmp_path_factory.mktemp("text")
    tiny_checkpoint(here / "init", tokenizer)
    sentences = [f"The lions number {i}. Dr. Ng says: “Ünïcode {i}!” All day long they sleep." for i in range(40)]
    (here / "corpus.txt").write_text("\n".join(sentences), encoding="utf-8")
    write_rows(here / "rows.jsonl", [{"text": text} for text in sentences])
    write_rows(here / "qa.jsonl", [{"question": f"What is {i} + 2?", "answer": f"It is {i} + 2 = {i + 2}.\nSo {i + 2} it is.\n"
                                    f"#### {i + 2}"} for i in range(9)])
    return here


# segments and words

@pytest.mark.parametrize("text, wanted", [
    ("It rained. Dr. Ng stayed.\nlions 3 + 4 = owls 7\n", ["It rained.", "Dr. Ng stayed.", "lions 3 + 4 = owls 7"]),
    ("One . Two !\n\n = Head = \n ", ["One .", "Two !", "= Head ="]),
    ("Pi is 3.14 cm. e.g. this. “So?” he said. J. S. Bach!", ["Pi is 3.14 cm. e.g. this.", "“So?” he said.", "J. S. Bach!"]),
    ("一。二？三", ["一。", "二？", "三"]), ("", []), (" \n ", [])])
def test_segments_by_hand(text, wanted):
    assert [text[a:b] for a, b in spans(text)] == wanted


def test_words_in_one_spelling():
    assert words("It  RAINED, “ﬁne” .") == words("it rained, fine") == ["it", "rained", ",", "fine"]
    assert words("3 + 4 = 7") != words("3 - 4 = 7") and words("3.5 cm.") == ["3.5", "cm"] and words(" .!? ") == []


# the form of a reply

@pytest.mark.parametrize("text, thinking, wanted", [
    ("<think>a</think> <answer> b </answer>", True, " b "), ("<think>a</think><answer>b\nc</answer> done", True, "b\nc"),
    ("<think>a</think><answer></answer>", True, None), ("<think>a</think><answer>  </answer>", True, "  "),
    ("<think> </think><answer>b</answer>", True, None), ("<answer>b</answer>", True, None),
    ("so <think>a</think><answer>b</answer>", True, None), ("<think>a<answer>b</answer>", True, None),
    ("<think>a</think><think>a</think><answer>b</answer>", True, None), ("<think>a</think>b", True, None),
    ("<think><answer>a</answer></think>b", True, None), ("<think>a</think><answer>b</answer><answer>b</answer>", True, None),
    ("<think>a</think><answer>b</answer></answer>", True, None), ("<think>a</think><answer>b", True, None),
    ("<answer>b</answer>", False, "b"), ("<think>a</think><answer>b</answer>", False, "b"),
    ("<think><answer>b</answer>", False, None),
    ("b", False, None)])
def test_the_form_is_a_hard_gate(text, thinking, wanted):
    found, fault = predicted(Reply(text, thinking=thinking))
    assert found == wanted and bool(fault) == (wanted is None)
    if wanted is not None:
        assert answer_in(text) == wanted


# the prefix reward

CAT = [b" cat", b"ch", " é".encode()[:2], " é".encode()[2:] + b"!"]          # the third token ends inside of a character


@pytest.mark.parametrize("said, right", [
    (" cat", True), (" catch", True), (" ca", False), (" catc", False), ("cat", False), (" Cat", False), (" cat ", False),
    ("", False),
    (" catch é!", True), (" catch é", False), (" catch é!?", False), (" dog", False), ("  cat", False)])
def test_the_bytes_must_be_those_of_whole_tokens(said, right):
    assert matches(said.encode(), CAT) is right
    wanted, X, Y = False, b"".join(CAT), said.encode()                         # equation 3, once more and in other words
    for n in range(1, len(CAT) + 1):
        wanted = wanted or (Y == X[:len(Y)] and len(Y) == sum(map(len, CAT[:n])))
    assert wanted is right


def test_rewards_of_next_tokens(tokenizer, folder):
    task = open_task(f"{WORLD},kind=rpt,positions=all,next=3", tokenizer)
    problem = next(p for p in map(task.problem, range(task.count)) if p.answer[:1] == " " and p.answer[1:].isalpha()
                   and len(p.next_ids) == 3)
    said = tokenizer.decode(problem.next_ids)
    word, two = problem.answer, tokenizer.decode(problem.next_ids[:2])
    for text, prefix, first in ((word, 1, 1), (two, 1, 1), (said, 1, 1), (word[:-1], 0, 0), (word[1:], 0, 0),
                                (word.title(), 0, 0), (f"{word}?!", 0, 1), (f"{said} more", 0, 1), (" two", 0, 0),
                                (f" {word}", 0, 0)):
        task.reward = "prefix"
        assert task.score(problem, reply(text), []) == float(task.grade(problem, reply(text)).answer_ok) == prefix, text
        task.reward = "first"
        assert task.score(problem, reply(text), []) == first, text
    assert task.score(problem, Reply(f"<answer>{word}</answer>", thinking=True), []) == 0        # no thought
    assert task.score(problem, reply(word, thinking=False), []) == 1                             # none was asked for


def test_a_wrong_token_is_paid_its_probability(tokenizer, folder):
    task = open_task(f"{WORLD},kind=rpt,proxy={folder / 'init'},reward=dense,entropy=0.1", tokenizer)
    problem = task.problem(0)
    likely = {tokenizer.decode([i]): p for i, p in problem.top.items() if tokenizer.encode(tokenizer.decode([i])) == [i]}
    wrong, p = next((text, p) for text, p in likely.items() if text.strip() and text != problem.answer)
    assert len(problem.top) == 16 and 0 < p < 1
    group = [reply(wrong), reply("?!?!"), reply(problem.answer), Reply("nothing", thinking=True)]
    assert [task.score(problem, r, group) for r in group] == [p, 0, 1, 0]
    task.reward = "dense_hit"
    assert [task.score(problem, r, group) for r in group] == [p, 0, 1, 0]
    assert [task.score(problem, r, group[:2]) for r in group[:2]] == [0, 0]     # nobody is right
    assert not task.grade(problem, group[0]).answer_ok


# judges

REFERENCES = ["It rained all day.", "Nobody came!", "“So what?”"]


@pytest.mark.parametrize("said, strict, prefix", [
    ("It rained all day.", 1, 1), ("  it RAINED  all day ", 1, 1), ("It rained all day. Nobody came.", 0, 1),
    ("It rained all day. Nobody came! So what?", 0, 1), ("It rained all day. Nobody", 0, 0), ("It rained", 0, 0), ("", 0, 0),
    ("Nobody came!", 0, 0), ("It rained all night.", 0, 0), ("...", 0, 0), ("It rained all day long.", 0, 0),
    ("It rained all day. Nobody came! So what? More.", 0, 0)])
def test_words_are_judged(said, strict, prefix):
    assert TextJudge().right([said], REFERENCES, True) == [bool(strict)]
    assert TextJudge().right([said], REFERENCES, False) == [bool(prefix)]
    begun = len(words(said)) >= 2 and words("It rained all day.")[:len(words(said))] == words(said)
    assert TextJudge(enough=2).right([said], REFERENCES, False) == [bool(prefix or begun)]
    assert TextJudge(enough=2).right([said], REFERENCES, True) == [bool(strict)]


STEPS = ["lions 3 + 4 = owls 7", "owls 7 - lions 3 = bears 4", "Answer: 4"]


@pytest.mark.parametrize("said, strict, prefix", [
    ("lions 3 + 4 = owls 7", 1, 1), ("4 + lions 3 = owls 7.", 1, 1), ("lions 3 + 4 = owls 8", 0, 0),
    ("lions 2 + 4 = owls 7", 0, 0),
    ("lions 3 - 4 = owls 7", 0, 0), ("lions 3 + 4 = bears 7", 0, 0), ("owls 7 - lions 3 = bears 4", 0, 0), ("lions 3 + 4", 0, 0),
    ("lions 3 + 4 = owls 7\nowls 7 - lions 3 = bears 4", 0, 1), ("lions 3 + 4 = owls 7\nlions 3 - owls 7 = bears 4", 0, 0),
    ("\n".join(STEPS), 0, 1), ("lions 3 + 4 = owls 7\nAnswer: 4", 0, 0), ("hm\nlions 3 + 4 = owls 7", 0, 0), ("", 0, 0),
    ("lions 3 + 4 = owls 7\nlions 3 + 4 = owls 7", 0, 0)])
def test_steps_are_judged(said, strict, prefix):
    judge = StepsJudge(World(contexts="zoo"))
    assert judge.right([said], STEPS, True) == [bool(strict)] and judge.right([said], STEPS, False) == [bool(prefix)]


def test_the_judge_of_steps_agrees_with_the_verifier_of_the_world(folder):
    """A gold step exchanged for another line: the verifier reads the whole solution, the judge only the line."""
    task, checked = Text.from_spec("text:world:tiny,ops=2-3,kind=rlpt,reward=strict,documents=12"), 0
    for i in range(task.count):
        problem = task.problem(i)
        gold = task.writer.problem(task.places[i][0])
        if "Answer" in problem.answer or problem.kind == "middle":
            continue
        name, value = problem.answer.rsplit(" ", 1)
        for line in (problem.answer, f"{name} {int(value) + 1}", problem.answer.replace("+", "*"), problem.answer + "."):
            right = task.writer.verify(gold, gold.solution.replace(problem.answer, line)).process_ok
            assert task.judge_of().right([line], problem.references, True) == [right], line
            checked += 1
    assert checked > 40


def test_equations_are_judged_in_other_solutions(folder):
    task = Text.from_spec(f"text:{folder}/qa.jsonl,kind=rlpt,judge=steps,middle=0")
    assert [task.problem(i).answer for i in range(2)] == ["It is 0 + 2 = 2.", "It is 1 + 2 = 3."]
    problem = task.problem(0)
    assert problem.before == "What is 0 + 2?"
    for said, right in (("0 + 2 = 2", True), ("That makes 0+2 = 2", True), ("0 + 2 = 3", False), ("two", False)):
        assert task.score(problem, reply(said), []) == right


def test_a_model_judges_by_what_it_finds_likelier(tokenizer, folder):
    judge, (model, _) = ModelJudge(str(folder / "init")), load_both(folder / "init")
    pairs = [("It rained.", "It rained. Nobody came."), ("Nobody.", "It rained.")]
    for (said, going_on), margin in zip(pairs, judge.margins(pairs, strict=False), strict=True):
        question = (f"Guess: {said}\nContinuation: {going_on}\nDoes the continuation begin with what the guess says, even if in "
                    "other words? Answer yes or no.")
        before = tokenizer.chat_prompt([{"role": "user", "content": question}], think=False)
        found = []
        for word in ("Yes", "No"):
            ids = torch.tensor([before + tokenizer.encode(word)])
            logprobs = model(ids).detach().log_softmax(-1)[0]
            found.append(sum(float(logprobs[at - 1, ids[0, at]]) for at in range(len(before), ids.shape[1])))
        assert margin == pytest.approx(found[0] - found[1], abs=1e-4)
    judge.margins = lambda pairs, strict: [(1.0 if said == "a" else -1.0) for said, _ in pairs]
    assert judge.right(["a", "b", "a", " "], ["x"], False) == [True, False, True, False]


def test_a_model_that_judges_may_forget_what_it_said_at_any_moment(folder, monkeypatch):
    """Its memory is full between `examine` and `grade`, or when some of the predictions are new and others are not."""
    judge, asked = ModelJudge(str(folder / "init")), []
    judge.margins = lambda pairs, strict: asked.extend(said for said, _ in pairs) or [1.0 for _ in pairs]
    monkeypatch.setattr("tasks.judges.MEMORY", 2)
    assert judge.right(["a", "b", "c"], ["x"], False) == [True] * 3
    assert judge.right(["a", "d"], ["x"], False) == [True] * 2 and judge.right(["a"], ["x"], False) == [True]
    assert asked == ["a", "b", "c", "a", "d"]


def test_what_a_judge_costs_and_how_often_it_is_right(tokenizer, folder):
    task = open_task(f"text:{folder}/corpus.txt,kind=rlpt,judge={folder / 'init'}", tokenizer)
    problem = task.problem(0)
    task.examine(problem, [reply("a"), reply("a"), reply("b"), Reply("none")])
    (kind, flops, tokens), = task.take_bills()
    assert kind == "judge" and flops > 0 and tokens > 0 and task.take_bills() in ([], [("judge", 0, 0)])
    task.grade(problem, reply("a"))
    assert sum(flops for _, flops, _ in task.take_bills()) == 0               # it remembers
    labels = labelled_pairs(task, 24)
    assert {label for _, _, label in labels} == {True, False}
    task._judge.right = lambda said, references, strict: [words(said[0]) == words(references[0])]
    assert accuracy(task, labels)["accuracy"] == 1.0
    task._judge.right = lambda said, references, strict: [True]
    found = accuracy(task, labels)
    assert (found["on_right"], found["on_wrong"]) == (1.0, 0.0) and found["accuracy"] == round(
        sum(label for _, _, label in labels) / len(labels), 4)


def test_a_judge_that_errs_does_so_at_its_rate_and_always_in_the_same_way(folder):
    told = {e: Text.from_spec(f"text:world:tiny,ops=1-3,documents=250,kind=rlpt,judge_errors={e},reward=strict")
            for e in (0, 0.1, 1)}
    n, flipped, counts = told[0].count, {e: [] for e in told}, {"right": [], "wrong": []}
    for i in range(n):
        problem = told[0].problem(i)
        for name, said, truth in (("right", problem.answer, 1.0), ("wrong", "lions 9 + 9 = owls 1", 0.0)):
            for e, task in told.items():
                score = task.score(problem, reply(said), [])
                assert score == task.score(problem, reply(f" {said} "), [])   # the same prediction
                flipped[e].append(score != truth)
                assert task.grade(problem, reply(said)).answer_ok == bool(truth)     # the log tells the truth
            counts[name].append(flipped[0.1][-1])
    assert not any(flipped[0]) and all(flipped[1])
    for found in counts.values():
        assert abs(np.mean(found) - 0.1) < 4 * math.sqrt(0.09 / n), np.mean(found)
    other = Text.from_spec("text:world:tiny,ops=1-3,documents=250,kind=rlpt,judge_errors=0.1,reward=strict,seed=0")
    assert [other.score(other.problem(i), reply(other.problem(i).answer), []) == 0 for i in range(40)] == counts["right"][:40]
    assert told[1].score(told[1].problem(0), Reply("nonsense", thinking=True), []) == 0.0        # the form is not judged


# what is asked

def test_segments_are_asked_for_in_both_ways(folder):
    task = Text.from_spec(f"{WORLD},kind=rlpt,middle=0.5,next=2")
    problems = [task.problem(i) for i in range(task.count)]
    assert sum(p.kind == "middle" for p in problems) == pytest.approx(task.count / 3, abs=1)     # 0.5 to 1
    for p, (number, k, _) in zip(problems, task.places):
        question, solution = task.texts[number]
        lines = solution.split("\n")
        assert p.answer == lines[k] and p.before == "\n".join([question.strip(), *lines[:k]])
        shown = p.question.split("\n\n", 1)[1]
        if p.kind == "next":
            assert shown == p.before and p.references == tuple(lines[k:k + 2])
        else:
            assert shown == "\n".join([p.before, "[...]", lines[k + 1]]) and p.references == (lines[k],)
    assert {(number, k) for number, k, _ in task.places} == {(n, k) for n, (_, text) in enumerate(task.texts)
                                                             for k in range(text.count("\n") + 1)}
    assert not any(p.kind == "middle" for p in map(Text.from_spec(f"{WORLD},middle=0").problem, range(20)))


LONGER = "text:world:tiny,ops=4-6,documents=40,kind=rlpt"


def test_lessons_may_say_several_segments():
    """One, two or three of them, as they stand in the text; all are right by prefix, and by strict only those of one."""
    task = Text.from_spec(f"{LONGER},taught=3")
    said, one = {}, Text.from_spec(LONGER)
    for i, (number, k, form) in enumerate(task.places):
        problem = task.problem(i)
        answer, lines = task.answer_in(task.reply(problem)[1]), task.texts[number][1].split("\n")[k:]
        count = answer.count("\n") + 1
        assert answer == "\n".join(lines[:count]) and (form == "next" or count == 1)
        assert task.judge_of().right([answer], problem.references, strict=False) == [True]
        assert task.judge_of().right([answer], problem.references, strict=True) == [count == 1]
        said[count] = said.get(count, 0) + 1
        assert one.problem(i).solution == f"<answer>{problem.answer}</answer>" and one.problem(i).question == problem.question
    assert min(said[1], said[2], said[3]) > 4, said


@pytest.mark.parametrize("corpus", ["corpus.txt", "rows.jsonl", "qa.jsonl", "world:tiny,ops=2-3,documents=20"])
@pytest.mark.parametrize("options", ["kind=rpt,positions=all", "kind=rpt,context=20", "kind=rlp,next=3,context=9"])
def test_next_tokens_are_those_of_the_text(tokenizer, folder, corpus, options):
    task = open_task(f"text:{corpus if ':' in corpus else folder / corpus},{options}", tokenizer)
    stretches = {}
    for i in range(0, task.count, 7 if "all" in options else 1):
        p, place = task.problem(i), task.places[i]
        question, text = task.texts[place.document]
        ids = tokenizer.encode(question + text)
        assert p.next_ids == tuple(ids[place.at:place.at + task.next]) and 0 < len(p.next_ids) <= task.next
        assert p.before_ids == tuple(ids[place.at - len(p.before_ids):place.at]) and 0 < len(p.before_ids) <= task.context
        assert p.before == tokenizer.decode(p.before_ids) and "\ufffd" not in p.before
        assert tokenizer.encode(p.before)[-3:] == list(p.before_ids)[-3:]     # seen as it was when it was learned
        assert len(tokenizer.decode_bytes(ids[:place.at])) >= len(question.encode())             # what is given is not asked for
        stretches.setdefault(place.document, []).append(place.at)
    assert task.kind == "rpt" or all(len(p.next_ids) == 3 for p in map(task.problem, range(task.count)))
    if "all" not in options:                              # one in each stretch of `context` tokens
        assert all(b - a < 2 * task.context for places in stretches.values() for a, b in zip(places, places[1:]))
        assert open_task(task.source + ",seed=1", tokenizer).places != task.places


def test_the_proxy_chooses_by_the_entropy_of_its_sixteen_likeliest(tokenizer, folder):
    task = open_task(f"text:{folder}/corpus.txt,kind=rpt,proxy={folder / 'init'},context=40,entropy=1.2", tokenizer)
    model, _ = load_both(folder / "init")
    ids, chosen = task.ids[0], {place.at: place for place in task.places}
    for first in range(1, len(ids), 40):                  # from the documentation: stretches of 40, with 40 before them
        start = max(0, first - 40)
        with torch.no_grad():
            p = model(torch.tensor([ids[start:first + 40]]))[0].double().softmax(-1)
        for at in range(first, min(first + 40, len(ids))):
            values, tokens = p[at - 1 - start].sort(descending=True)
            q = values[:16] / values[:16].sum()
            entropy = float(-(q * q.log()).sum())
            if abs(entropy - 1.2) > 1e-3:
                assert (at in chosen) == (entropy > 1.2 and is_clean(tokenizer, ids, at)), at
            if at in chosen:
                assert chosen[at].entropy == pytest.approx(entropy, abs=1e-4)
                assert chosen[at].top == pytest.approx(dict(zip(tokens[:16].tolist(), values[:16].tolist())), abs=1e-5)
    assert 5 < len(chosen) < len(ids) - 5 and [kind for kind, *_ in task.take_bills()] == ["scoring"]
    assert [Position(0, 1, entropy).difficulty for entropy in (0.1, 0.99, 1, 1.49, 1.5, 2)] == [
        "easy", "easy", "medium", "medium", "hard", "hard"] and Position(0, 1).difficulty == ""


def test_a_cold_start_teaches_what_is_rewarded(tokenizer, folder):
    for spec in (f"{WORLD},kind=rlpt", f"{WORLD},kind=rpt", f"text:{folder}/corpus.txt,kind=rpt",
                 f"text:{folder}/corpus.txt,kind=rlpt",
                 f"text:{folder}/qa.jsonl,kind=rlpt,judge=steps,ask=short"):
        task, chats = open_task(spec, tokenizer), GeneratedChats(spec, tokenizer, 2048)
        for i in range(0, task.count, max(1, task.count // 9)):
            ids, weights = chats.get(i)
            problem, begin = task.problem(i), int(np.argmax(weights > 0))
            assert ids[:begin].tolist() == prompt_ids(tokenizer, problem, "think")[:begin] or " /think" in tokenizer.decode(
                prompt_ids(tokenizer, problem, "think"))
            text = tokenizer.decode(ids[begin:], skip_special=True)
            assert task.score(problem, Reply(text, thinking=True), []) == 1.0, (spec, text)
    thoughts = open_task(f"{WORLD},kind=rlp", tokenizer)
    assert thoughts.reply(thoughts.problem(0))[1] == thoughts.problem(0).answer


def test_real_text(tokenizer, folder):
    """Solutions of GSM8K and WikiText: what is asked is asked as it stands there."""
    wiki, gsm = real_file("wikitext2/valid.txt"), real_file("gsm8k/train.jsonl")
    (folder / "wiki.txt").write_text(wiki.read_text()[:20_000])
    for spec in (f"text:{folder}/wiki.txt,kind=rlpt", f"text:{gsm},documents=30,kind=rlpt", f"text:{gsm},documents=30,kind=rpt",
                 f"text:{folder}/wiki.txt,kind=rlp,next=2"):
        task = open_task(spec, tokenizer)
        assert task.count > 25
        for i in range(0, task.count, 5):
            problem = task.problem(i)
            said = problem.answer if task.kind != "rlp" else ""
            assert any(problem.answer in question + text for question, text in task.texts)
            assert task.kind == "rlp" or task.score(problem, reply(said), []) == 1.0


# through the scripts

COMMON = ["--device", "cpu", "--steps", 2]


def test_each_kind_trains_and_is_measured(folder, tmp_path):
    gsm, wiki = real_file("gsm8k/train.jsonl"), folder / "corpus.txt"
    few = ["--prompts", 2, "--group", 2, "--max-new-tokens", 8, "--reward", "score+random", "--show-every", 1, *COMMON]
    for name, spec, more in (("rlpt", f"text:{gsm},documents=9,kind=rlpt", ["--mode", "think"]),
                             ("rpt", f"text:{wiki},kind=rpt,proxy={folder / 'init'}", ["--mode", "think", "--async-steps", 1]),
                             ("rlp", f"text:{wiki},kind=rlp", ["--mode", "plain", "--loss", "rlp"])):
        code, found, err = run_main(grpo, "--init", folder / "init", "--data", spec, "--out", tmp_path / name, *few, *more)
        assert code == 0, err
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        task = open_task(spec, Tokenizer.load(folder / "init"))
        asked = {sample["question"] for r in log for sample in r.get("samples", [])}
        assert asked and asked <= {task.problem(i).question for i in range(task.count)}
        assert (found["flops"].get("scoring", 0) > 0) == (name != "rlpt")     # the proxy, or both models
        assert any("length_hard" in r or "length_easy" in r or "length_medium" in r for r in log) == (name == "rpt")
    code, found, err = run_main(sft, "--init", folder / "init", "--data", f"text:{gsm},documents=9,kind=rlpt", "--out",
                                tmp_path / "cold", "--seq-len", 1024, "--batch-tokens", 1024, *COMMON)
    assert code == 0, err
    spec = f"text:{wiki},kind=rpt,proxy={folder / 'init'}"
    code, found, err = run_main(evaluate, "--init", folder / "init", "--data", spec, "--chat", "--limit", 6, "--k", 1, 8,
                                "--max-new-tokens", 4)
    assert "right" not in found[str(folder / "init")][spec]                   # it is in the file of --out
    assert code == 0 and set(found[str(folder / "init")][spec]["kinds"]) <= {"easy", "medium", "hard"}, err
    assert {"pass@1", "pass@8"} == set(map(str, found[str(folder / "init")][spec]["accuracy"]))


def test_what_a_spec_is_made_of(folder):
    assert parts_of("text:a.txt,kind=rpt,proxy=runs/base") == ("a.txt", "runs/base")
    assert parts_of("text:world:tiny,ops=2,seed=3,judge=steps") == ("world:tiny,ops=2,seed=3",)
    assert parts_of("world:ops=1") == ("world:ops=1",)
    assert load_problems(f"{WORLD},seed=1", 3) != load_problems(WORLD, 3)


@pytest.mark.parametrize("spec, message", [
    ("text:", "names no corpus"), ("text:no.txt,kind=rlpt", "no.txt: no such file"),
    ("text:CORPUS,kind=rptl", "kind=rptl is not known"),
    ("text:CORPUS,knid=rpt", "text option 'knid=rpt' is not known"), ("text:CORPUS,kind=rlpt,kind=rpt", "given twice"),
    ("text:CORPUS,kind=rpt,next=x", "'x' is not a number"),
    ("text:CORPUS,kind=rlpt,proxy=INIT", "proxy=INIT has no effect with kind=rlpt"),
    ("text:CORPUS,kind=rpt,middle=0.2", "middle=0.2 has no effect with kind=rpt"),
    ("text:CORPUS,reward=dense", "reward=dense is not known"),
    ("text:CORPUS,kind=rpt,reward=dense", "needs proxy="), ("text:CORPUS,kind=rpt,positions=entropy", "go together"),
    ("text:CORPUS,kind=rpt,positions=all,proxy=INIT", "go together"),
    ("text:CORPUS,kind=rpt,proxy=nowhere", "no such checkpoint"),
    ("text:CORPUS,judge=steps", "needs documents with steps"), ("text:CORPUS,judge=nowhere", "no such checkpoint"),
    ("text:CORPUS,taught=4", "use 1 to next=3"), ("text:CORPUS,kind=rpt,taught=2", "has no effect with kind=rpt"),
    ("text:CORPUS,judge_errors=2", "is a share"), ("text:SHORT,kind=rlpt", "too short"), ("text:SHORT,kind=rpt", "too short"),
    ("text:SHORT,kind=rlp", "too short"), ("text:text:CORPUS", "text of text"),
    ("text:CORPUS,kind=rpt,proxy=OTHER", "another tokenizer"),
    ("text:CORPUS,kind=rpt,proxy=INIT,entropy=9", "above 9"), ("text:CORPUS,kind=rpt,ask=long", "ask=long"),
    ("text:CORPUS,documents=-1", "at least 0"), ("text:CORPUS,judge_errors=0.1", "is paid by --reward score"),
    ("text:CORPUS,kind=rlp", "is paid by --reward score")])
def test_what_does_not_fit_is_one_line(folder, tmp_path, spec, message):
    if not (folder / "other").exists():
        tiny_checkpoint(folder / "other", Tokenizer.train(["Another text entirely. " * 9], 300))
    (folder / "short.txt").write_text("a")
    for name, path in (("CORPUS", "corpus.txt"), ("SHORT", "short.txt"), ("INIT", "init"), ("OTHER", "other")):
        spec, message = spec.replace(name, str(folder / path)), message.replace(name, str(folder / path))
    assert message in refusal(grpo, "--init", folder / "init", "--data", spec, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_thought_is_not_evaluated_nor_scored_late(folder, tmp_path):
    init, spec = ["--init", folder / "init"], f"text:{folder}/corpus.txt,kind=rlp"
    assert "a thought has no answer" in refusal(evaluate, *init, "--data", spec)
    assert "a thought has no answer" in refusal(grpo, *init, "--data", "world:ops=1", "--out", tmp_path, "--eval-data", spec)
    assert "leave --async-steps" in refusal(grpo, *init, "--data", spec, "--reward", "score", "--async-steps", 1, "--out",
                                            tmp_path / "x")
    assert "--tau has no effect" in refusal(grpo, *init, "--data", spec + "t", "--tau", 0.5, "--out", tmp_path / "x")
    assert "counts in tokens" in refusal(tokenizer_script, "train", "--data", spec, "--out", tmp_path / "t")


def test_the_commands_of_the_judge(folder):
    found = script("-m", "tasks.judges", "--data", f"{WORLD},kind=rlpt", "--pairs", 12).json
    assert found["accuracy"] == found["on_right"] == found["on_wrong"] == 1.0
