"""Transforms that write documents: what a teacher is asked, each filter with what it must drop and what it must keep, and
thinking checked step by step on oracles that are wrong by construction."""

import argparse
import json
import random
import re
from collections import Counter

import pytest
from conftest import real_file, script
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import augment
from formats.texts import read_texts
from sampler import Sampler
from sources.open import open_source
from tasks.problems import load_problems, open_task
from tasks.task import Reply
from transforms import Item, find
from transforms.parts import filters, prompts, teachers
from transforms.parts.items import open_items, pieces_of

WORLD = "world:ops=1-3,split=pretrain"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("think") / "init", tokenizer)


def made(tmp_path, *args, name="o.jsonl"):
    """(rows, result) of a command."""
    out = tmp_path / name
    code, found, err = run_main(augment, *args, "--out", out)
    assert code == 0, err
    return [json.loads(line) for line in out.read_text().splitlines()], found


@pytest.fixture
def asked(monkeypatch):
    """Notes the prompts that are sampled from, as text, with their stop texts."""
    seen = []

    class Watched(Sampler):
        def generate(self, prompts, *args, stop_texts=None, **more):
            seen.extend(zip((self.tokenizer.decode(p) for p in prompts), stop_texts))
            return super().generate(prompts, *args, stop_texts=stop_texts, **more)
    monkeypatch.setattr(teachers, "Sampler", Watched)
    return seen


# ---- the rows, and thinking on the world

def test_an_oracles_thinking_stands_behind_the_document(tmp_path, tokenizer):
    problems = load_problems(WORLD, 12)
    rows, found = made(tmp_path, "think", "--init", "oracle:", "--data", WORLD, "--count", 12)
    for row, p in zip(rows, problems, strict=True):
        assert row["text"] == f"{p.question}\n{p.solution}\n<think>\n{p.reasoning}\n</think>"
        assert row["meta"]["thought"] == "verified" and row["meta"]["teacher"] == "oracle:"
    assert found["documents"] == 12 and found["verified"][0] == 1 and found["rationalised"][0] == 0 and not found["dropped"]
    rows, _ = made(tmp_path, "think", "--init", "oracle:", "--data", WORLD, "--count", 12, "--place", "before", name="b.jsonl")
    for row, p in zip(rows, problems, strict=True):
        assert row["text"] == f"{p.question}\n<think>\n{p.reasoning}\n</think>\n{p.solution}"
    assert list(read_texts(tmp_path / "b.jsonl")) == [row["text"] for row in rows]
    cost = json.loads((tmp_path / "o.jsonl.ledger.json").read_text())["teachers"]["init"]
    assert cost == {"answers": 12}                        # an oracle costs nothing


@pytest.mark.parametrize("world", [WORLD, "world:ops=2-6,modulus=0,max_value=9", "world:ops=1-3,style=long,turns=0.5",
                                   "world:ops=1-4,reverse=0.5,distractors=1,places=1"])
def test_a_rationalising_oracle_is_measured_as_what_it_is(tmp_path, world):
    rows, found = made(tmp_path, "think", "--back", "--init", "oracle:rationalise=0.3", "--data", world, "--count", 400)
    problems = load_problems(world, 400)
    # counted here by what was changed: thoughts that are not the world's own
    bent = [p.reasoning not in row["text"].partition("<think>")[2] for row, p in zip(rows, problems, strict=True)]
    assert found["rationalised"][0] == pytest.approx(sum(bent) / 400, abs=1e-4) and 0.2 < sum(bent) / 400 < 0.4
    assert found["verified"][0] == pytest.approx(1 - sum(bent) / 400, abs=1e-4) and found["wrong"][0] == 0
    assert [row["meta"]["thought"] == "rationalised" for row in rows] == bent
    for p, row in zip(problems, rows):                    # every result is right, and so is the answer
        thought = row["text"].partition("<think>\n")[2].removesuffix("\n</think>")
        assert [line.rpartition("= ")[2] for line in thought.split("\n")] == [
            line.rpartition("= ")[2] for line in p.reasoning.split("\n")]
    kept, found = made(tmp_path, "think", "--init", "oracle:rationalise=0.3", "--data", world, "--count", 400, "--verified",
                       name="v.jsonl")
    assert len(kept) == 400 - sum(bent) and found["dropped"] == {"not_verified": sum(bent)}


@pytest.mark.parametrize("errors", [0.0, 0.2, 1.0])
def test_the_dial_of_an_oracle_is_the_chance_of_a_wrong_step(tmp_path, errors):
    """One step each, so that the share of wrong answers is the dial itself."""
    world = "world:ops=1,split=sft"
    rows, found = made(tmp_path, "distill", "--init", f"oracle:errors={errors}", "--data", world, "--count", 300,
                       "--samples", 2)
    assert found["verified"][0] == pytest.approx(1 - errors, abs=0.07)
    task = open_task(world)
    for row in rows:                                      # steps and answer agree with each other, right or wrong
        problem, turn = task.problem(row["meta"]["index"]), row["messages"][1]
        right = task.grade(problem, Reply(f"{turn['reasoning']}\n{turn['content']}"))
        assert right.answer_ok == right.process_ok
        assert turn["reasoning"].rpartition(" ")[2] == turn["content"].removeprefix("Answer: ")
    if errors == 0.2:                                     # two samples are two draws
        both = [row for row in rows if sum(r["meta"]["item"] == row["meta"]["item"] for r in rows) == 2]
        assert both and found["dropped"]["repeated"] > 100


def test_an_oracle_thinks_in_the_style_that_it_is_told(tmp_path):
    problems = load_problems(f"{WORLD},style=long,turns=1", 60)
    rows, found = made(tmp_path, "think", "--init", "oracle:style=long,turns=1", "--data", WORLD, "--count", 60)
    for row, p in zip(rows, problems, strict=True):
        assert row["text"].endswith(f"Answer: {p.answer}\n<think>\n{p.reasoning}\n</think>") and "is wrong." in p.reasoning
    assert found["verified"][0] == 1                      # wrong turns are taken back
    rows, found = made(tmp_path, "think", "--init", "oracle:style=long,turns=1,errors=1", "--data", WORLD, "--count", 60,
                       name="w")
    assert len(rows) == 60 and found["verified"][0] == 0 and found["wrong"][0] > 0.8
    rows, _ = made(tmp_path, "think", "--init", "oracle:solution=1", "--data", f"{WORLD},solution=0", "--count", 9, name="s")
    assert all(p.reasoning and row["text"] == f"{p.question}\nAnswer: {p.answer}\n<think>\n{p.reasoning}\n</think>"
               for row, p in zip(rows, load_problems(WORLD, 9), strict=True))


def test_errors_carry_on_to_the_answer(tmp_path):
    """A line is wrong in itself at the rate of the dial alone: what follows from it is computed from it."""
    world = "world:ops=4,modulus=0,max_value=30,branch=0"
    rows, found = made(tmp_path, "distill", "--init", "oracle:errors=0.3", "--data", world, "--count", 250)
    off, untouched = [], 0
    for row, p in zip(rows, load_problems(world, 250), strict=True):
        values, wrong = {}, False
        for line in row["messages"][1]["reasoning"].split("\n"):
            before, _, after = line.partition(" = ")
            sides = [side.split() for side in re.split(r" [-+*] ", before)]
            # each result is stated again where it is used
            assert all(values.get(side[0], side[1]) == side[1] for side in sides if len(side) == 2)
            left, right = (int(side[-1]) for side in sides)
            value = {"+": left + right, "-": left - right, "*": left * right}[re.search(r" ([-+*]) ", before)[1]]
            off.append(value != int(after.split()[-1]))
            values[after.split()[0]], wrong = after.split()[-1], wrong or off[-1]
        assert row["messages"][1]["content"] == f"Answer: {after.split()[-1]}"
        untouched += not wrong
        assert wrong or row["messages"][1]["reasoning"] == p.reasoning
    assert sum(off) / len(off) == pytest.approx(0.3, abs=0.06)
    assert found["verified"][0] == pytest.approx(untouched / 250, abs=1e-4)


@pytest.mark.parametrize("spec, words", [
    ("oracle:errors=2", "errors=2: use a number from 0 to 1"), ("oracle:errors", "each option once"),
    ("oracle:errors=0,errors=1", "each option once"), ("oracle:colour=red", "'colour=red' is not known"),
    ("oracle:ops=9", "has other problems than")])
def test_an_oracle_that_makes_no_sense_is_refused(tmp_path, spec, words):
    assert words in refusal(augment, "think", "--init", spec, "--data", WORLD, "--count", 2, "--out", tmp_path / "o")
    data = write_rows(tmp_path / "q.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    assert "knows the answers of world:... alone" in refusal(augment, "think", "--init", "oracle:", "--data", data,
                                                             "--out", tmp_path / "p")


# ---- what a teacher is asked

def test_a_plain_prompt_is_a_row_up_to_its_thinking(folder, tmp_path, asked):
    rows, _ = made(tmp_path, "think", "--init", "oracle:", "--data", WORLD, "--count", 5)
    made(tmp_path, "think", "--init", folder, "--plain", "--data", WORLD, "--count", 5, "--max-new-tokens", 3, name="p.jsonl")
    assert [text for text, _ in asked] == [row["text"].partition("<think>\n")[0] + "<think>\n" for row in rows]
    assert {stops for _, stops in asked} == {("</think>",)}
    del asked[:]
    made(tmp_path, "think", "--init", folder, "--plain", "--back", "--data", WORLD, "--count", 5, "--max-new-tokens", 3, name="q")
    for (text, _), p in zip(asked, load_problems(WORLD, 5), strict=True):
        assert text == f"{p.question}\nAnswer: {p.answer}\n<think>\n" and p.reasoning not in text


def test_a_chat_teacher_opens_its_think_block(folder, tmp_path, asked):
    sentences = [f"The {animal} sleep by day and hunt at night." for animal in ("owls", "bats")]
    data = write_rows(tmp_path / "d.jsonl", [{"text": text} for text in sentences])
    made(tmp_path, "think", "--init", folder, "--data", data, "--max-new-tokens", 3)
    for (text, stops), document in zip(asked, sentences, strict=True):
        wanted = prompts.read("think").replace("{document}", document)
        assert text == f"<|im_start|>user\n{wanted}<|im_end|>\n<|im_start|>assistant\n<think>\n" and stops == ("</think>",)
    del asked[:]
    made(tmp_path, "think", "--init", folder, "--data", data, "--max-new-tokens", 3, "--whole", name="w.jsonl")
    assert all(text.endswith("<|im_start|>assistant\n") for text, _ in asked)
    del asked[:]
    for seed in (0, 1):
        made(tmp_path, "think", "--init", folder, "--data", data, "--max-new-tokens", 3, "--focus", "--seed", seed,
             name=f"f{seed}")
    points = [text.split(" [READING HERE]")[0].split("user\n")[1] for text, _ in asked]
    assert all(whole.startswith(point) and point for whole, point in zip(sentences * 2, points, strict=True))
    assert len(set(points)) > 2
    # the mark is taken out of the row, which has the document as it was
    item = next(open_items("documents", find_args(data), lambda text: [text]))
    rows, _ = find("think").keep(item, [[Reply("The owls hunt at night.")]], find_args(data, place="after"))
    assert rows[0]["text"].startswith(sentences[0] + "\n<think>\n")


def find_args(data, **more):
    return argparse.Namespace(**{"data": [str(data)], "count": 0, "prompt": "think", "place": "after", "drop_cut": False,
                                 "verified": False, "most_repeated": 0.4, "least_overlap": 0.15} | more)


def test_a_users_prompt_is_used_and_noted(folder, tmp_path, asked):
    own = tmp_path / "own.txt"
    own.write_text("# a note\nSolve: {question} It is {answer}.\n# no note\n")
    rows, _ = made(tmp_path, "think", "--init", folder, "--plain", "--prompt", own, "--data", WORLD, "--count", 3,
                   "--max-new-tokens", 200, "--temperature", 1.5)
    for (text, _), p in zip(asked, load_problems(WORLD, 3), strict=True):
        assert text == f"Solve: {p.question} It is {p.answer}.\n# no note"
    assert all(row["meta"]["prompt"] == prompts.fingerprint(str(own)) for row in rows)
    args = ["think", "--init", folder, "--plain", "--data", WORLD, "--count", 1, "--out", tmp_path / "x", "--prompt"]
    assert "no such file; give one, or one of" in refusal(augment, *args, "nowhere")
    own.write_text("{colour}")
    assert "nothing to put at {colour}; use {document}" in refusal(augment, *args, own)
    own.write_text("{question} {answer}!")
    code, *_ = run_main(augment, *args[:-3], "--out", tmp_path / "o.jsonl", "--prompt", own, "--resume")
    assert code == 2                                      # not the run that is there


@pytest.mark.parametrize("flags, words", [
    ("--focus --back", "two ways to ask"), ("--back", "need questions with answers"), ("--place before", "need questions"),
    ("--verified", "need questions"), ("--plain --whole", "--whole has no effect with --plain")])
def test_flags_that_do_not_fit(folder, tmp_path, flags, words):
    data = write_rows(tmp_path / "d.jsonl", [{"text": "The owls."}])
    assert words in refusal(augment, "think", "--init", folder, "--data", data, "--out", tmp_path / "o", *flags.split())


# ---- documents

def test_long_documents_are_cut_at_the_ends_of_lines_and_lose_nothing(tokenizer):
    rng = random.Random(0)
    words = [["owls", "lions", "12", "number", "the"][rng.randrange(5)] for _ in range(700)]
    text = "".join(word + (" \n" if rng.random() < 0.1 else " ") for word in words) + "x" * 300

    def length(piece):
        return len(tokenizer.encode(piece))
    for most in (16, 50, 400, 10 ** 6):
        pieces = pieces_of(text, length, most)
        assert "".join("".join(pieces).split()) == "".join(text.split()) and all(piece.strip() for piece in pieces)
        assert all(length(piece) <= most + 1 for piece in pieces)
    assert pieces_of("one\ntwo\n", length, 100) == ["one\ntwo"] and pieces_of("\n \n", length, 9) == []
    assert {line for piece in pieces_of("a b\n" * 40, length, 40) for line in piece.split("\n")} == {"a b"}


def test_real_text_becomes_items(tokenizer):
    path = real_file("wikitext2/test.txt")
    args = find_args(path, count=5)
    items = list(open_items("documents", args, lambda text: pieces_of(text, lambda line: len(line) // 4, 2000)))
    assert [item.index for item in items] == [0, 1, 2, 3, 4] and all(4000 < len(item.text) <= 8200 for item in items)
    assert path.read_text().lstrip().startswith(items[0].text.strip()[:1000])


# ---- filters, each with traps of both kinds

DOCUMENT = "The user interface of the lighthouse has a dial. The keeper turns it by 30 degrees, and the lamp burns for 12 hours."


@pytest.mark.parametrize("text, talks", [
    ("The user wants me to explain the lighthouse. So the lamp burns for 12 hours.", True),
    ("Okay. I've been asked to think about this passage.", True), ("I'm supposed to write an analysis.", True),
    ("The user's request is about lamps.", True), ("As an AI language model, I see a dial.", True),
    ("Sure! The lamp burns.", True), ("The lamp burns.\nCertainly, here it is.", True),
    ("Here is the rewritten text: the lamp", True),
    ("The instructions say that the text must be short.", True), ("I'm sorry, I cannot help with that.", True),
    ("Let me know if you want more about lamps.", True),
    # about users, instructions and requests as a subject
    ("The user interface is a dial, so the user turns it.", False), ("A user would turn the dial.", False),
    ("The instructions of the keeper are on the wall, and a request takes a day.", False),
    ("Why 12 hours? A night is about that long. I think the dial sets the lamp.", False),
    ("He was asked to turn the dial.", False), ("To be sure, 30 degrees is a twelfth of a circle.", False),
    ("It is certainly a lamp, of course.", False), ("The keeper said he was told to turn it.", False)])
def test_talk_about_the_request(text, talks):
    assert filters.about_the_request(text, DOCUMENT) == talks


def test_the_words_of_the_prompt_are_talk_about_the_request():
    """As a small model said them: SmolLM2-135M, asked for its thinking."""
    prompt = prompts.read("think")
    for text in ('The text ends with the phrase "This is where the text ends" to make it clear.',
                 "I want to explain the hard parts to yourself in plain words, as you would to a friend."):
        assert filters.about_the_request(text, DOCUMENT, prompt) and not filters.about_the_request(text, DOCUMENT)
        assert not filters.about_the_request(text, f"{DOCUMENT} {text}", prompt)
    assert not filters.about_the_request("Why does a step follow? Where does a number come from? What does the term mean?",
                                         DOCUMENT, prompt)
    assert filters.about_the_request("I'm going to try to make it more concise.")
    assert filters.about_the_request("Your text is good.")


def test_a_phrase_of_the_document_is_no_talk_about_the_request():
    document = "A chat log. The user asks: how can I help? The user said nothing."
    assert not filters.about_the_request("The user asks first; only then the user said nothing.", document)
    assert filters.about_the_request("The user asks first; the user wants a lamp.", document)


@pytest.mark.parametrize("text, repeats", [
    ("The lamp burns for 12 hours. " * 12, True), ("Let me check again: 30 degrees is a twelfth of a circle.\n" * 6, True),
    ("First the dial is turned by the keeper. " + "Wait. Is that right? Yes, it is. " * 15, True), ("lamp " * 50, True),
    # alike line by line, and yet each says something else: steps of the world, a table, a proof
    ("\n".join(f"lions {i} + {i + 3} = owls {2 * i + 3}" for i in range(20)), False),
    ("The lamp burns. The lamp burns.", False), ("", False), (DOCUMENT, False),
    (" ".join(p.solution for p in load_problems("world:ops=6", 2)), False)])
def test_repetition(text, repeats):
    assert (filters.repeated_share(text) > 0.4) == repeats


@pytest.mark.parametrize("text, related", [
    ("So the dial sets how long the lamp is lit: turned by 30 degrees it burns twelve hours.", True),
    ("A lighthouse needs someone who looks after it at night. " * 2 + "Long nights, then, for the keeper.", True),
    ("Photosynthesis turns water and carbon dioxide into sugar, and plants need light for it.", False),
    ("It is what it is, and so they have been there for all of them.", False), ("", False), ("30 + 12 = 42", False)])
def test_overlap_with_the_document(text, related):
    assert (filters.overlap(text, DOCUMENT) >= 0.15) == related


def test_overlap_asks_the_shorter_of_the_two():
    """A thought about one point of a long document has few of its words, and a long thought about a short one has many more."""
    kinds = "old new blue fast tall small grey loud calm slow fine".split()
    long = DOCUMENT + " " + " ".join(f"{kind} ships pass {kind} harbours" for kind in kinds)
    assert filters.overlap("The keeper turns the dial.", long) == filters.overlap(long, "The keeper turns the dial.") == 1


def test_numbers_count_as_words_where_there_are_no_others():
    assert filters.overlap("3 + 4 = 7", "7 - 4 = 3") == 1 and filters.overlap("3 + 4 = 7", "50 * 2 = 100") == 0


def test_each_reason_of_think(folder, tmp_path):
    data = write_rows(tmp_path / "d.jsonl", [{"text": DOCUMENT}])
    item = next(open_items("documents", find_args(data), lambda text: [text]))
    think, thought = find("think"), "The keeper turns the dial by 30 degrees. So the lamp burns."

    def kept(text, finish="stop", **more):
        rows, dropped = think.keep(item, [[Reply(text, finish=finish)]], find_args(data, **more))
        return rows[0]["text"].removeprefix(DOCUMENT) if rows else dict(dropped)
    assert kept(f"<think>\n{thought}\n") == kept(thought) == f"\n<think>\n{thought}\n</think>"
    assert kept(f"{thought}\nAnd then the", "length") == kept(thought)        # whole lines of it
    assert kept(f"{thought}\nAnd then the", "length", drop_cut=True) == {"cut_off": 1}
    assert kept("<think>\n\n") == {"empty": 1} and kept(f"a <think> {thought}") == {"mark_out_of_place": 1}
    assert kept(f"The user wants this. {thought}") == {"about_the_request": 1}
    assert kept(f"{thought}\n" * 9) == {"repetitive": 1} and kept(f"{thought}\n" * 9, most_repeated=1.0)
    assert kept("Sugar and water.") == {"unrelated": 1}


def test_each_reason_of_paraphrase(tmp_path):
    data = write_rows(tmp_path / "d.jsonl", [{"text": DOCUMENT}])
    args = find_args(data, prompt="paraphrase", plain=False, with_document=False, most_copied=0.8, least_overlap=0.2)
    item = next(open_items("documents", args, lambda text: [text]))
    new = "A dial is the user interface of the lighthouse: turned by 30 degrees by its keeper, it lets the lamp burn 12 hours."

    def kept(text, finish="stop"):
        rows, dropped = find("paraphrase").keep(item, [[Reply(text, finish=finish)]], args)
        return rows[0]["text"] if rows else dict(dropped)
    assert kept(new) == kept(f"<think>\nHm.\n</think>\n\n{new}") == new
    assert kept(new, "length") == {"cut_off": 1} and kept(" ") == {"empty": 1}
    assert kept(f"Sure! {new}") == {"about_the_request": 1} and kept(new.replace("12", "13")) == {"other_numbers": 1}
    assert kept(new.replace(" by 30 degrees", "")) == {"other_numbers": 1}
    assert kept(DOCUMENT) == kept(DOCUMENT.upper()) == {"copied": 1} and kept("The lamp: 30 and 12.") == {"unrelated": 1}
    other = "Plants need light, water and air; 30 of them grew within 12 days, and sugar was made in their green leaves."
    assert kept(other) == {"unrelated": 1}
    assert kept("The lamp and the dial. " * 8) == {"repetitive": 1}
    args.with_document = True
    assert kept(new) == f"{DOCUMENT}\nIn other words:\n{new}"


# ---- end to end

def test_the_oracle_rewords_the_world(folder, tmp_path, asked):
    rows, found = made(tmp_path, "paraphrase", "--init", "oracle:paraphrase=4", "--data", WORLD, "--count", 30)
    problems, task = load_problems(WORLD, 30), open_task(WORLD)
    assert len(rows) > 20 and found["dropped"].get("copied", 0) == 30 - len(rows)
    for row in rows:
        problem = problems[row["meta"]["index"]]
        assert problem.question not in row["text"] and task.grade(problem, Reply(row["text"])).right
    _, found = made(tmp_path, "paraphrase", "--init", "oracle:paraphrase=4,rationalise=1", "--data", WORLD, "--count", 30,
                    name="w")
    assert found["written"] == 0 and set(found["dropped"]) <= {"wrong", "other_numbers", "copied"}
    made(tmp_path, "paraphrase", "--init", folder, "--plain", "--data", WORLD, "--count", 2, "--max-new-tokens", 3,
         name="p")
    assert [text for text, _ in asked] == [f"{p.question}\n{p.solution}\nIn other words:\n" for p in problems[:2]]


def test_synthesis_goes_through_its_topics(folder, tmp_path, asked):
    topics = tmp_path / "topics.txt"
    topics.write_text("bees\n\nbread\nmagnets\n")
    args = ["synthesise", "--init", folder, "--max-new-tokens", 200, "--temperature", 1.5]
    rows, found = made(tmp_path, *args, "--topics", topics, "--count", 7)
    told = [text.split("about this topic: ")[1].split("\n")[0] for text, _ in asked]
    assert sorted(told[:3]) == sorted(told[3:6]) == ["bees", "bread", "magnets"] and found["items"] == 7
    assert [row["meta"]["topic"] for row in rows] == [told[row["meta"]["item"]] for row in rows]
    assert len({text.split(" about this topic")[0] for text, _ in asked}) > 2                   # several forms
    del asked[:]
    rows, _ = made(tmp_path, *args, "--plain", "--topics", "world:ops=2,modulus=0", "--count", 6, name="w.jsonl")
    assert [text for text, _ in asked] == [p.question.split(".")[0] + "." for p in load_problems("world:ops=2,modulus=0", 6)]
    assert rows and all(row["text"].startswith(row["meta"]["topic"]) and row["text"] != row["meta"]["topic"] for row in rows)
    _, found = made(tmp_path, *args, "--plain", "--topics", "world:ops=2", "--sentences", 0, "--verified", "--count", 6, name="v")
    assert found["verified"][0] == 0
    assert found["written"] == 0 and set(found["dropped"]) <= {"wrong", "cut_off", "empty", "repetitive", "about_the_request"}
    refused = refusal(augment, *args, "--topics", topics, "--sentences", 2, "--count", 1, "--out", tmp_path / "x")
    assert "--sentences has no effect with topics from a file" in refused
    assert "no such file" in refusal(augment, *args, "--topics", "nowhere", "--count", 1, "--out", tmp_path / "x")


def test_a_question_that_a_model_wrote_is_checked(tmp_path):
    """On a world every text is judged: the seed is a context, and the model tells, asks and solves."""
    synthesise, args = find("synthesise"), argparse.Namespace(
        topics="world:ops=2,contexts=zoo,modulus=0", sentences=1, prompt="synthesise_plain", plain=True, verified=True, seed=0,
        most_repeated=0.4)
    item, told = Item(0), " The lions number 3. The owls number the lions plus 4. How many owls?\nlions 3 + 4 = owls "
    for text, judged in ((told + "7\nAnswer: 7", "right"), (told + "8\nAnswer: 8", "wrong"), (told + "7\nAnswer: 8", "wrong"),
                         (told.replace("3. The", "3. So the") + "7\nAnswer: 7", "no_question"), (" The lions.", "no_question")):
        rows, dropped = synthesise.keep(item, [[Reply(text)]], args)
        assert dropped == (Counter() if judged == "right" else {judged: 1}) and len(rows) == (judged == "right")
        assert synthesise.tally(item, [[Reply(text)]], args) == {"judged": 1, f"judged_{judged}": 1}
        kept, _ = synthesise.keep(item, [[Reply(text)]], argparse.Namespace(**vars(args) | {"verified": False}))
        assert kept[0]["meta"]["judged"] == judged and kept[0]["text"] == "Zoo." + text
    thought = told + "7\nAnswer: 7\n<think>\nlions 3 + 4 = owls 7\n</think>"      # as a model writes that learned from such rows
    assert synthesise.keep(item, [[Reply(thought)]], args)[0][0]["text"] == "Zoo." + thought
    counts = Counter(judged=8, judged_right=2, judged_no_question=1)
    assert synthesise.summary(counts, args)["verified"][0] == 0.25 and synthesise.summary(counts, args)["no_question"] == 1


def test_rows_of_each_are_trained_on(folder, tmp_path, tokenizer):
    made(tmp_path, "think", "--init", "oracle:", "--data", WORLD, "--count", 40)
    made(tmp_path, "paraphrase", "--init", "oracle:paraphrase=4", "--data", WORLD, "--count", 40, "--with-document",
         name="p.jsonl")
    files = [tmp_path / "o.jsonl", tmp_path / "p.jsonl"]
    script("pretrain.py", "--init", folder, "--data", *files, "--out", tmp_path / "run", "--steps", 2, "--batch-tokens", 512,
           "--seq-len", 256)
    # each document that is learned is the text of one row, marks and all
    tokens, _ = open_source(str(files[0]), tokenizer).get(0)
    assert tokenizer.decode(tokens[:-1]) == json.loads(files[0].read_text().splitlines()[0])["text"]
