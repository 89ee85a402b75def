"""Needles: texts read by a reader of its own must give the same answer, at the length and depth that were asked for."""

import json
import random
import re

import pytest
import torch
from conftest import real_file
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import evaluate
from measuring import needles
from model import load
from sources.fingerprint import fingerprint, parts_of
from sources.open import open_source
from sources.texts import sample_texts
from tasks import needle_tables
from tasks.needle_tables import PARTS, needle_table, print_needles, prompt_parts, sweep
from tasks.problems import load_problems, open_task
from tasks.tables import Graded
from tasks.task import Reply, prompt_ids
from tasks.verdict import Verdict
from training.lineage import longest_rows

WIKI = "wikitext2/valid.txt"


def solved(question):
    """The answer, from the text alone."""
    name = r"[a-z]+(?: in [A-Z]\w+ [A-Z]\w+)?"
    told = dict(re.findall(rf"The ({name}) number (\d+|the {name})\.", question))
    last = re.findall(r"(?:How many|In how many places) [^.?]*\?$", question)[0]
    if m := re.fullmatch(r"How many (\w+) in all\?", last):
        return sum(int(value) for name, value in told.items() if name.startswith(f"{m[1]} in "))
    if m := re.fullmatch(r"In how many places are (\w+)\?", last):
        return sum(name.startswith(f"{m[1]} in ") for name in told)
    value = told[re.fullmatch(r"How many (.+)\?", last)[1]]
    while not value.isdecimal():
        value = told[value.removeprefix("the ")]
    return int(value)


SPECS = ["needle:length=300", "needle:tiny,length=40-200", "needle:kind=several,length=256", "needle:kind=chain,length=256",
         "needle:kind=chain,length=128,places=0,needles=5", "needle:kind=sum,length=200",
         "needle:kind=count,length=400,needles=8"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_a_reader_finds_the_same_answer(spec, with_tokenizer, tokenizer):
    task = open_task(spec, tokenizer if with_tokenizer else None)
    answers, seen = set(), set()
    for i in range(20):
        p = task.problem(i)
        assert str(solved(p.question)) == p.answer and p == open_task(spec, task.tokenizer).problem(i)
        sentences = re.findall(r"[^.?]+[.?](?: |$)", p.question)
        assert "".join(sentences) == p.question, "nothing but whole sentences"
        assert p.question[p.asked:].startswith(("How many", "In how many")) and p.question[:p.asked].endswith(". ")
        told = [p.question[a:b] for a, b in p.needles]
        assert all(p.question.count(sentence) == 1 and re.fullmatch(r"The [^.]* number [^.]*\.", sentence) for sentence in told)
        assert len(told) == (1 if p.kind in ("single", "several") else int(p.answer) if p.kind == "count" else task.needles)
        assert solved(" ".join([*told, p.question[p.asked:]])) == int(p.answer), "the needles alone are enough"
        without = p.question
        for sentence in told:
            without = without.replace(f"{sentence} ", "")
        about = re.search(r"(?:many|are) (\w+)", p.question[p.asked:])[1]
        assert p.kind == "several" or not re.search(rf"The {about}\b", without), "and nothing else is about it"
        if p.kind == "several":
            assert len(re.findall(rf"The {about} in", p.question)) == 4
        answers.add(p.answer)
        seen.add(p.question)
        for text in (p.solution, f"Answer: {p.answer}", f"There are {p.answer}.", f" {p.answer}\nThe owls number 888."):
            assert task.grade(p, Reply(text)).right, text
        assert not task.grade(p, Reply(f"Answer: {int(p.answer) + 1}")).right and not task.grade(p, Reply("")).right
    assert len(seen) == 20 and len(answers) >= 5


def test_a_text_is_as_long_as_it_is_asked_for_and_never_longer(tokenizer):
    for spec, slack in (("needle:length=64+1k", 25), ("needle:tiny,length=64+500", 8), ("needle:length=256,kind=sum", 25),
                        (f"needle:length=100+1k,haystack={real_file(WIKI)}", 8)):
        task = open_task(spec, tokenizer)
        for i in range(6):
            p = task.problem(i)
            ids = prompt_ids(tokenizer, p, "plain")
            assert p.length == task.lengths[i % len(task.lengths)][0] and p.tokens == len(ids)
            assert p.length - slack <= len(ids) <= p.length, spec
    drawn = {open_task("needle:tiny,length=64-1k", tokenizer).problem(i).length for i in range(20)}
    assert len(drawn) > 15 and min(drawn) >= 64 and max(drawn) <= 1024


def test_a_needle_stands_at_its_depth(tokenizer):
    task = open_task("needle:tiny,length=256+512,depth=0+0.3+1", tokenizer)
    assert task.cells == 6
    for i in range(12):
        p = task.problem(i)
        start, end = p.needles[0]
        assert p.depth == (0, 0.3, 1)[i // 2 % 3] and p.length == (256, 512)[i % 2]
        assert abs(start / (p.asked - (end - start)) - p.depth) < 0.04
        assert p.depth or start == 0
        assert p.depth < 1 or end + 1 == p.asked
    depths = [open_task("needle:tiny,length=256,depth=0.2-0.6").problem(i).depth for i in range(40)]
    assert 0.2 <= min(depths) < 0.25 and 0.55 < max(depths) <= 0.6


def test_a_haystack_of_text_keeps_its_sentences_and_its_order(tmp_path):
    text = " ".join(f"Sentence {i} has no number in it." for i in range(400))
    (tmp_path / "hay.txt").write_text(text)
    task = open_task(f"needle:length=150,kind=sum,needles=3,haystack={tmp_path / 'hay.txt'}")
    starts = set()
    for i in range(10):
        p = task.problem(i)
        assert str(solved(p.question)) == p.answer
        numbers = [int(n) for n in re.findall(r"Sentence (\d+) has no number in it\.", p.question)]
        assert len(numbers) > 8 and all((b - a) % 400 == 1 for a, b in zip(numbers, numbers[1:]))
        starts.add(numbers[0])
    assert len(starts) > 5 and parts_of(task.source) == (task.source, str(tmp_path / "hay.txt"))
    before = fingerprint(task.source)
    (tmp_path / "hay.txt").write_text(text.replace("number", "letter"))
    assert fingerprint(task.source) != before


def test_splits_and_seeds_have_other_texts():
    texts = {options: {p.question for p in load_problems(f"needle:tiny,length=100{options}", 20)}
             for options in ("", ",split=test", ",split=pretrain", ",seed=1,split=test")}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 80


def test_documents_teach_what_is_asked(tokenizer):
    for spec, weighed in (("needle:tiny,length=64", 2), ("needle:tiny,length=64,kind=chain,needles=2,solution=0", 2),
                          ("needle:length=128,kind=sum", 8)):
        task, source = open_task(spec, tokenizer), open_source(spec, tokenizer)
        ids, weights = source.get(3)
        p = task.problem(3)
        given, learned = task.document(3)
        assert tokenizer.decode(ids.tolist()[:-1]) == given + learned and ids[-1] == tokenizer.eot
        assert given == task.prompt(p, "plain") and len(tokenizer.encode(given)) <= p.length
        assert (weights == 1).sum() >= weighed and tokenizer.decode(ids[weights == 1].tolist()[:-1]) == learned
        assert task.grade(p, Reply(learned)).right and next(iter(sample_texts(spec))).endswith(open_task(spec).problem(0).answer)
    chat = open_source("needle:length=256,kind=chain,format=chat", tokenizer)
    said = tokenizer.decode(chat.get(0)[0].tolist())
    assert said.count(chat.task.problem(0).question) == 1 and f"Answer: {chat.task.problem(0).answer}" in said


def test_documents_that_ask_more_than_once(tokenizer):
    """Each further question is about another fact of the text, and its answer is the one that the text gives."""
    for spec, asked in (("needle:tiny,length=64,asks=4", 4), ("needle:tiny,length=300,asks=30,named=1", None),
                        ("needle:length=128,asks=3,named=1", 3), ("needle:tiny,length=24,asks=9", None)):
        task, orders = open_task(spec, tokenizer), set()
        for i in range(20):
            p, (given, learned) = task.problem(i), task.document(i)
            assert given == task.prompt(p, "plain") and len(tokenizer.encode(given)) <= p.length
            text, told = p.question[:p.asked], (given + learned)[p.asked:]
            lessons = re.findall(r"(How many ([^?]+)\?)\nAnswer:(.*?) (\d+)(?:\n|$)", told)
            assert "".join(f"{question}\nAnswer:{name} {value}\n" for question, _, name, value in lessons) == f"{told}\n"
            for question, thing, name, value in lessons:
                assert solved(f"{text} {question}") == int(value) and name == (f" {thing}" if task.named else "")
            facts = set(re.findall(r"The ([^.]*) number", text))
            assert len({thing for _, thing, *_ in lessons}) == len(lessons) == min(asked or task.asks, len(facts))
            assert lessons[0][3] == p.answer
            orders.add(tuple(thing for _, thing, *_ in lessons))
            assert task.grade(p, Reply(learned)).right, "what a model that has learned it goes on with"
            assert not task.grade(p, Reply(f" {int(p.answer) + 1}\nHow many cats?\nAnswer: {p.answer}")).right
            assert task.grade(p, Reply(f"{p.solution}\nHow many cats?\nAnswer: {int(p.answer) + 1}")).right
        assert len(orders) > 10 and task.document(3) == open_task(spec, tokenizer).document(3)
    plain, named = (open_task(f"needle:tiny,length=64{more}", tokenizer).problem(5) for more in ("", ",named=1"))
    assert named.tokens <= 64 and plain.answer == named.answer and plain.question[plain.asked:] == named.question[named.asked:]
    for text in ("5\nThe answer is 7.", "5 lions + 2 = owls 7\nAnswer: 7", "<think>\n7\n</think>\n\nAnswer: 7"):
        assert open_task("needle:tiny,length=64").answer_in(text) == ("5" if text.startswith("5\n") else "7")


def test_options_that_do_not_fit_are_refused():
    for options, why in (("kind=many", "use one of single"), ("length=7", "length=7 is too short"),
                         ("length=1k-512", "range that rises"),
                         ("length=1m", "such as 1k-16k"), ("depth=2", "0 (beginning) to 1"), ("depth=-1", "use a number"),
                         ("kind=sum,places=0", "use places=1"), ("kind=sum,needles=9", "at most 8"), ("contexts=moon", "'moon'"),
                         ("kind=chain,needles=1", "2 or more"), ("max_value=5", "at least 9"), ("format=qa", "plain or chat"),
                         ("split=valid", "use one of pretrain"), ("haystack=nowhere.txt", "no such file"),
                         ("places=2", "0 or 1"), ("asks=0", "use 1 or more"), ("asks=2,kind=chain", "kind=single"),
                         ("asks=2,format=chat", "format=plain"), ("named=2", "use 0, or 1"), ("named=1,kind=sum", "single or")):
        with pytest.raises((ValueError, OSError), match=re.escape(why)):
            open_task(f"needle:{options}")


def test_a_length_has_room_for_the_longest_names(tokenizer):
    """The length is refused at once, and not after days at the first problem that does not fit."""
    for spec, words, tokens in (("needle:kind=chain,needles=3,length=", 45, 140), ("needle:kind=sum,length=", 41, 115)):
        with pytest.raises(ValueError, match="is too short, the needles and the question alone may be"):
            open_task(f"{spec}{words - 5}")
        with pytest.raises(ValueError, match=f"length={words} is too short"):
            open_task(f"{spec}{words}", tokenizer)
        task = open_task(f"{spec}{tokens}", tokenizer)
        assert all(task.problem(i).tokens <= tokens for i in range(200))


# what is measured

def test_what_a_token_is_part_of(tokenizer):
    """Read back as text: the parts of a prompt, plain and in a chat, also behind letters of several bytes."""
    for spec in ("needle:length=200,depth=0", "needle:length=200,kind=chain,needles=3,depth=0.5",
                 "needle:length=200,kind=several,depth=0.6"):
        p = open_task(spec, tokenizer).problem(1)
        for mode in ("plain", "chat"):
            ids = prompt_ids(tokenizer, p, mode)
            parts = prompt_parts(tokenizer, ids, p)
            said = {name: tokenizer.decode([i for i, part in zip(ids, parts) if PARTS[part] == name]) for name in PARTS}
            assert said["needle"].strip() == " ".join(p.question[a:b] for a, b in sorted(p.needles))
            assert said["question"].strip().startswith(p.question[p.asked:])
            assert all(PARTS[part] != "first" for part in parts[10:])
            first = sum(PARTS[part] == "first" for part in parts)
            assert first == sum(PARTS[part] in ("first", "context") for part in parts[:10])
            assert first < 10 if p.depth == 0 else first == 10
    p.question = p.question.replace("The ", "Thé ", 1)
    p.needles, p.asked = tuple((a, b) for a, b in p.needles), p.asked
    ids = tokenizer.encode(p.question)
    needle = [i for i, part in zip(ids, prompt_parts(tokenizer, ids, p)) if PARTS[part] == "needle"]
    assert tokenizer.decode(needle).strip() == p.question[slice(*p.needles[0])]
    with pytest.raises(ValueError, match="changes the text"):
        prompt_parts(tokenizer, ids[1:], p)


def test_lengths_of_a_sweep_double():
    assert sweep("1k-16k") == "needle:length=1k+2k+4k+8k+16k,depth=0+0.25+0.5+0.75+1,split=test"
    assert sweep("96-384,kind=chain") == "needle:length=96+192+384,depth=0+0.25+0.5+0.75+1,split=test,kind=chain"
    assert sweep("64+100,depth=0.5,split=dev") == "needle:length=64+100,depth=0.5,split=dev"
    assert sweep("1k-2k+8k").startswith("needle:length=1k+2k+8k,")
    assert sweep("256+1k-4k").startswith("needle:length=256+1k+2k+4k,")
    assert sweep("24-48,tiny").startswith("needle:length=24+48,")             # too short for a needle without tiny
    for text, why in (("2k-1k", "range that rises"), ("1k,depth=0-1", "depth is a range"), ("1k,colour=red", "not known"),
                      ("long", "begins with lengths"), ("needle:tiny,length=64", "begins with lengths"),
                      ("64-500,tiny", "is never 500; use 64-256[+]500"), ("64,asks=4,tiny", "asks is of documents for training")):
        with pytest.raises(ValueError, match=why):
            sweep(text)


def test_a_table_has_a_row_for_each_length_and_a_column_for_each_depth(tokenizer, capsys):
    task, rng, graded, wanted = open_task(sweep("64-256,depth=0+1,places=0"), tokenizer), random.Random(0), [], {}
    for p in map(task.problem, range(5 * task.cells)):
        right = rng.random() < (0.9 if p.depth else 0.2)
        wanted.setdefault((p.length, p.depth), []).append(right)
        graded.append(Graded(p, [Reply("")], [Verdict(right, None, None, "")]))
    found = needle_table(graded, [1], 128)
    assert {(c["length"], c["depth"]): c["right"] for c in found["cells"]} == {
        cell: [[int(r), 1] for r in right] for cell, right in wanted.items()}
    assert [(r["length"], r["problems"], r["beyond"]) for r in found["lengths"]] == [
        (64, 10, False), (128, 10, False), (256, 10, True)]
    for row in found["lengths"]:
        both = [r for (length, _), right in wanted.items() if length == row["length"] for r in right]
        assert row["accuracy"]["pass@1"][0] == sum(both) / 10 and row["length"] - 8 <= row["tokens"] <= row["length"]
    print_needles(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:6] == ["length", "problems", "depth", "0", "depth", "1"]
    assert [line.split()[0] for line in lines[1:4]] == ["64", "128", "256"]
    assert [line.endswith(" *") for line in lines] == [False, False, False, True, False] and "rows of 128 tokens" in lines[4]
    assert f"{sum(wanted[256, 1.0]) / 5:.3f}" == lines[3].split()[3]


def test_evaluate_measures_needles_and_their_attention(tokenizer, tmp_path, monkeypatch):
    """With replies that are right where the needle is not at the beginning; and with the attention of what is shown."""
    folder, watched = tiny_checkpoint(tmp_path / "init", tokenizer, attention="window+nope", window=8), []
    write_rows(folder / "log.jsonl", [{"flags": {"seq_len": 64}}])
    model, _ = load(folder)
    real, of = needles.attention_mass, Reply.of

    def noted(model, tokens, parts, rows, count):
        watched.append((tokens[0].tolist(), parts[0].tolist(), rows[0].tolist()))
        return real(model, tokens, parts, rows, count)

    def reply(completion, tokenizer, limit, sample=0, tools=None):
        told = tokenizer.decode(completion.prompt)
        asked = re.search(r"How many (.+)\?", told)[1]
        assert limit > len(tokenizer.encode(f"Answer: {solved(told[:told.index('?') + 1])}"))
        return Reply("" if told.startswith(f"The {asked} number") else str(solved(told[:told.index("?") + 1])), 1, limit)
    monkeypatch.setattr(needles, "attention_mass", noted)
    monkeypatch.setattr(Reply, "of", reply)
    code, line, err = run_main(evaluate, "--init", folder, "--needle", "64-128,places=0,depth=0+0.5", "--problems", 3,
                               "--attention", 2, "--out", tmp_path / "found.json")
    monkeypatch.setattr(Reply, "of", of)
    assert code == 0, err
    (name, found), = line[str(folder)].items()
    assert name == "needle:length=64+128,split=test,places=0,depth=0+0.5" and found["window"] == 64
    assert [row["beyond"] for row in found["lengths"]] == [row["beyond"] for row in found["attention"]] == [False, True]
    assert {(c["length"], c["depth"]): c["accuracy"]["pass@1"][0] for c in found["cells"]} == {
        (64, 0): 0, (64, 0.5): 1, (128, 0): 0, (128, 0.5): 1}
    assert found["accuracy"]["pass@1"][0] == 0.5 and "right" not in str(found)
    kept = json.loads((tmp_path / "found.json").read_text())["results"][str(folder)][name]
    assert len(kept["right"]) == 12 and [len(c["right"]) for c in kept["cells"]] == [3] * 4
    problems = load_and_ask(name, tokenizer)
    assert len(watched) == 4 and [row["problems"] for row in found["attention"]] == [2, 2]
    for (tokens, parts, rows), p in zip(watched, [p for n in (64, 128) for p in problems if p.length == n][:2] +
                                        [p for p in problems if p.length == 128][:2]):
        assert tokens == prompt_ids(tokenizer, p, "plain") and rows == [PARTS[part] == "question" for part in parts]
        assert parts == prompt_parts(tokenizer, tokens, p) and rows[-1]
    for row in found["attention"]:
        assert [(one["layer"], one["kind"]) for one in row["layers"]] == [(0, "window"), (1, "nope")]
        assert all(abs(sum(one[part] for part in PARTS) - 1) < 1e-3 for one in row["layers"])
    mine = real(model, torch.tensor([watched[0][0]]), torch.tensor([watched[0][1]]), torch.tensor([watched[0][2]]), 4)
    other = real(model, *(torch.tensor([x]) for x in watched[1]), 4)
    mean = (float(mine[1].mass[:, 1].mean()) + float(other[1].mass[:, 1].mean())) / 2
    assert abs(found["attention"][0]["layers"][1]["needle"] - mean) < 1e-4


def load_and_ask(spec, tokenizer):
    task = open_task(spec, tokenizer)
    return [task.problem(i) for i in range(3 * task.cells)]


def test_the_longest_rows_of_a_run_and_of_those_that_it_started_from(tmp_path):
    for name, flags in (("base", {"seq_len": 256}), ("long", {"seq_len": 1024, "init": "base"}),
                        ("sft", {"seq_len": 512, "init": "long"}), ("rl", {"init": "sft"}), ("other", {"init": "elsewhere"}),
                        ("round", {"seq_len": 64, "init": "round"})):
        flags = {k: str(tmp_path / v) if k == "init" else v for k, v in flags.items()}
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "log.jsonl", [{"flags": flags}, {"step": 1}])
    found = {name: longest_rows(tmp_path / name) for name in ("base", "long", "sft", "rl", "other", "round", "nothing")}
    assert found == {"base": 256, "long": 1024, "sft": 1024, "rl": 1024, "other": 0, "round": 64, "nothing": 0}
    (tmp_path / "long" / "log.jsonl").write_text("no log\n")
    assert longest_rows(tmp_path / "rl") == 512


def test_refusals(tmp_path, tokenizer):
    folder = tiny_checkpoint(tmp_path / "init", tokenizer)
    assert "--attention has no effect without --needle" in refusal(evaluate, "--init", folder, "--data", "world:ops=1",
                                                                   "--attention", 1)
    assert "--limit has no effect" in refusal(evaluate, "--init", folder, "--needle", "64", "--limit", 1)
    assert "length is a range" in refusal(evaluate, "--init", folder, "--data", "needle:length=64-128")
    assert "give --data, --task, --needle, --benchmark or --text" in refusal(evaluate, "--init", folder)
    assert run_main(evaluate, "--init", folder, "--needle", "64,depth=1,places=0", "--problems", 1)[1][str(folder)][
        "needle:length=64,split=test,depth=1,places=0"]["window"] == 2048, "where no run says it, the config does"
    assert needle_tables.FIRST == 10
