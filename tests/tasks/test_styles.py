"""How solutions are written: the long style, read by a parser of its own; steps that are taken back; documents with errors."""

import hashlib
import itertools
import json
import math
import re
from argparse import Namespace
from collections import Counter
from dataclasses import replace

import pytest
from conftest import script
from helpers import calls_of, run_main, tiny_checkpoint
from test_world import read

import augment
import evaluate
from measuring import questions
from sources.generated import sample_texts
from sources.open import open_source
from tasks.options import set_apart
from tasks.task import Reply
from tasks.verify import mark_lines, steps_of, verify
from tasks.world import World
from transforms.parts.items import open_items

COMPUTE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
TINY = "world:tiny,ops=1-3"


# a reader of the long style that shares nothing with the one in tasks/

def compute(op, a, b, modulus):
    return COMPUTE[op](a, b) % modulus if modulus else COMPUTE[op](a, b)


def read_operand(words):
    """["lions", "3"] -> ("lions", 3); ["4"] -> (None, 4)."""
    return (" ".join(words[:-1]) or None), int(words[-1])


class LongReader:
    """Reads a long solution line by line, by the sums in it and by the question alone.

    standing   {quantity: value} of the steps that were not taken back
    faults     {quantity: what is wrong with its step}, of those
    odd        other lines that are not as the question, or arithmetic, have it
    denied     [(quantity, value)] of the steps that were taken back
    """

    def __init__(self, question, text):
        self.equations, self.asked, self.modulus = read(question)
        self.leaves = {name: int(e) for name, e in self.equations if e.isdigit()}
        self.standing, self.faults, self.odd, self.denied, self.restated, self.answer = {}, {}, [], [], [], None
        for line in text.split("\n"):
            kinds = {"The": self.read_facts, "Check:": self.read_check, "No,": self.read_back, "Answer:": self.read_answer}
            kinds.get(line.split(" ")[0], self.read_step)(line)

    def read_facts(self, line):
        for name, expression in re.findall(r"The (.+?) number (.+?)\.", line):
            self.restated.append((name, re.sub(r"\bthe ", "", expression)))
            if self.restated[-1] not in self.equations:
                self.odd.append(line)

    def read_step(self, line):
        words = line.split(" ")
        at, equals = next(i for i, w in enumerate(words) if w in COMPUTE), words.index("=")
        self.step = (a_name, a), op, (b_name, b), (target, value) = (
            read_operand(words[:at]), words[at], read_operand(words[at + 1:equals]), read_operand(words[equals + 1:]))
        wrong = [name for name, n in ((a_name, a), (b_name, b)) if name and n != self.standing.get(name, self.leaves.get(name))]
        if not self.follows(target, a_name or str(a), op, b_name or str(b)):
            wrong.append("no fact says so")
        if compute(op, a, b, self.modulus) != value:
            wrong.append("no sum")
        assert target not in self.standing, "done twice without being taken back"
        self.standing[target], self.faults[target] = value, wrong

    def follows(self, target, a, op, b):
        """Whether a fact that was restated says what the step computes, as it stands or solved for another of its members."""
        for name, expression in self.restated:
            if not expression.isdigit():
                x, word, y = re.fullmatch(r"(.+?) (plus|minus|times) (.+)", expression).groups()
                forms = {"plus": [(name, x, "+", y), (name, y, "+", x), (x, name, "-", y), (y, name, "-", x)],
                         "minus": [(name, x, "-", y), (x, name, "+", y), (y, x, "-", name)],
                         "times": [(name, x, "*", y), (name, y, "*", x)]}[word]
                if (target, a, op, b) in forms:
                    return True
        return False

    def read_check(self, line):
        a, op, b, found, verdict = re.fullmatch(r"Check: (\d+) ([-+*]) (\d+) = (\d+), (yes|no)\.", line).groups()
        (_, left), step_op, (_, right), (_, value) = self.step
        sum_, expected = {"+": (("-", value, right), left), "-": (("+", value, right), left),
                          "*": (("*", right, left), value)}[step_op]
        true = compute(op, int(a), int(b), self.modulus) == int(found)
        if not true or (op, int(a), int(b)) != sum_ or (verdict == "yes") != (int(found) == expected):
            self.odd.append(line)

    def read_back(self, line):
        name, value = re.fullmatch(r"No, (.+) (\d+) is wrong\.", line).groups()
        assert (name, int(value)) == self.step[3] and self.faults.pop(name) and self.standing.pop(name) == int(value)
        self.denied.append((name, int(value)))

    def read_answer(self, line):
        self.answer = int(line.removeprefix("Answer: "))


LONG = {"plain": "world:ops=1-5", "tiny": TINY, "numbers": "world:ops=2-4,modulus=0", "mod 7": "world:modulus=7,branch=1",
        "reverse": "world:ops=1-4,reverse=1,operators=+-,order=shuffled", "wordings": "world:ops=3,paraphrase=4,distractors=1-2",
        "places": "world:ops=4,places=1", "products": "world:ops=2,operators=*"}


@pytest.mark.parametrize("name", LONG)
def test_a_reader_of_its_own_finds_the_long_style_right(name):
    world, turns, steps = World.from_spec(f"{LONG[name]},style=long,turns=0.4"), 0, 0
    short = World.from_spec(LONG[name])
    for i in range(120):
        p = world.problem(i)
        found = LongReader(p.question, p.solution)
        assert found.odd == [] and not any(found.faults.values()), (p.question, p.solution)
        assert found.standing == {s.target: s.value for s in p.steps}
        assert found.answer == found.standing[found.asked] == int(p.answer)
        verdict = world.verify(p, p.solution)
        assert verdict.ok and verdict.steps_ok == 1.0
        assert world.verify(p, f"<think>\n{p.reasoning}\n</think>\n\nAnswer: {p.answer}").ok
        again = short.problem(i)
        assert (p.question, p.answer, p.steps) == (again.question, again.answer, again.steps)
        assert not set(found.denied) & set(found.standing.items()), "a number is wrong, and then it is right"
        turns, steps = turns + len(found.denied), steps + p.ops
    assert abs(turns / steps - 0.4) < 4 * math.sqrt(0.24 / steps), "a wrong turn at the share of the steps that was asked for"


def test_what_was_written_before_there_were_styles_stays_as_it_was():
    """200 documents, by a digest taken from the code without styles."""
    plain, tiny = "3ad7d9ced89dfb4a", "87ed33fd54a8021d"
    for spec, digest in (("world:", plain), ("world:ops=1-3,contexts=zoo,modulus=0,max_value=9,branch=0", tiny), (TINY, tiny),
                         (f"{TINY},style=short,errors=0,format=plain", tiny)):
        found = hashlib.blake2b(digest_size=8)
        for text in sample_texts(spec, 200):
            found.update(text.encode() + b"\0")
        assert found.hexdigest() == digest, spec


def test_the_same_problem_has_the_same_text_wherever_it_comes_up():
    """Of a world of few problems each comes up many times, with another number, in another order of facts."""
    options = "ops=1,contexts=zoo,modulus=2,style=hybrid,turns=0.5,errors=0.3"
    texts, spoiled = {}, 0
    for spec in (f"world:{options}", f"world:{options},seed=3", f"world:{options},order=shuffled"):
        world = World.from_spec(spec)
        for i in range(4000):
            lesson = world.lesson(i)
            assert texts.setdefault(lesson.key, lesson.solution) == lesson.solution
            spoiled += lesson.solution != world.problem(i).solution
    assert len(texts) < 11_000 and spoiled


def test_hybrid_has_a_share_of_each_style():
    for style, share in (("hybrid", 0.5), ("short:3+long:1", 0.25)):
        problems = list(itertools.islice(World.from_spec(f"{TINY},style={style}"), 600))
        long = [p for p in problems if "Check: " in p.solution]
        assert abs(len(long) / 600 - share) < 4 * math.sqrt(share * (1 - share) / 600)
        short = World.from_spec(TINY)
        assert all(p.solution == short.problem(i).solution for i, p in enumerate(problems) if p not in long)
        assert all(World.from_spec(f"{TINY},style={style}").longest(p).count("Check: ") >= p.ops for p in problems[:20])


# steps that are taken back

P = World.from_spec("world:ops=3,distractors=1,branch=0,modulus=0,split=test").problem(2)
FIRST, SECOND, THIRD = P.reasoning.split("\n")
LAST = f"Answer: {P.answer}"


def off(line, by=1):
    """A step with another result."""
    return re.sub(r"(\d+)$", lambda m: str(int(m[1]) + by), line)


def back(line):
    return f"No, {line.rpartition('= ')[2]} is wrong."


def fed(line, by=1):
    """A step that takes its first operand for another number."""
    return re.sub(r"(\d+)", lambda m: str(int(m[1]) + by), line, count=1)


TRAPS = {
    "as it is": ([FIRST, SECOND, THIRD], "ok"),
    "a wrong result, taken back and done again": ([off(FIRST), back(off(FIRST)), FIRST, SECOND, THIRD], "ok"),
    "two wrong turns at one step": ([off(FIRST), back(off(FIRST)), off(FIRST, 2), back(off(FIRST, 2)), FIRST, SECOND, THIRD],
                                    "ok"),
    "a right step, taken back and done again": ([FIRST, back(FIRST), FIRST, SECOND, THIRD], "ok"),
    "taken back at the end, and done again": ([off(FIRST), SECOND, THIRD, back(off(FIRST)), FIRST], "ok"),
    "one mark before and one behind": ([f"<think>{off(FIRST)}", back(off(FIRST)), FIRST, SECOND, f"{THIRD}</think>"], "ok"),
    "a wrong step that the answer does not need": ([FIRST, "unicorns 3 + 4 = dragons 9", SECOND, THIRD], "ok"),
    "a wrong result that stands": ([off(FIRST), SECOND, THIRD], "result"),
    "taken back without being done again": ([off(FIRST), back(off(FIRST)), SECOND, THIRD], "missing"),
    "a right step taken back for good": ([FIRST, SECOND, THIRD, back(THIRD)], "missing"),
    "done again without being taken back": ([off(FIRST), FIRST, SECOND, THIRD], "computed twice"),
    "a correction that is wrong itself": ([off(FIRST), back(off(FIRST)), off(FIRST, 2), SECOND, THIRD], "result"),
    "a right step corrected into a wrong one": ([FIRST, back(FIRST), off(FIRST), SECOND, THIRD], "result"),
    "the same error again": ([off(FIRST), back(off(FIRST)), off(FIRST), SECOND, THIRD], "result"),
    "another number taken back than was given": ([off(FIRST), back(off(FIRST, 2)), FIRST, SECOND, THIRD], "computed twice"),
    "another quantity taken back": ([off(FIRST), back(off(SECOND)), FIRST, SECOND, THIRD], "computed twice"),
    "what was computed from the number taken back": ([off(FIRST), fed(off(SECOND)), back(off(FIRST)), FIRST, THIRD], "takes"),
    "taken back in other words": ([off(FIRST), back(off(FIRST)) + " Sorry!", FIRST, SECOND, THIRD], "computed twice"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_corrected_error_passes_and_one_that_stands_fails(name):
    lines, reason = TRAPS[name]
    verdict = verify(P, "\n".join([*lines, LAST]))
    assert reason in verdict.reason and verdict.answer_ok and verdict.process_ok == (reason == "ok"), verdict
    assert verdict.steps_ok == (1 if reason == "ok" else pytest.approx(2 / 3))


def test_steps_that_stand_are_read():
    found = steps_of("\n".join([off(FIRST), back(off(FIRST)), FIRST, SECOND, off(SECOND), THIRD]))
    assert {target: len(lines) for target, lines in found.items()} == {s.target: n for s, n in zip(P.steps, (1, 2, 1))}
    assert found[P.steps[0].target][0][0] == P.steps[0]
    marks = [mark for _, mark in mark_lines(P, "\n".join([off(FIRST), back(off(FIRST)), FIRST, LAST]))]
    assert marks == [False, None, True, True]


def test_taking_back_over_and_over_costs_no_more_than_the_text_is_long():
    lines = [f"a 1 + b 2 = c {n}" for n in range(2500)]
    for text in ("\n".join(lines), "\n".join(line for pair in zip(lines, map(back, lines)) for line in pair),
                 "\n".join([*lines, *(["No, c 7 is wrong."] * 2500)]), "No, " * 20_000, "No, a 1 is wrong" + "." * 50_000):
        _, calls = calls_of(verify, P, text)
        assert calls < 4 * len(text) + 2000


def test_the_form_of_a_long_answer():
    long, short = World.from_spec(f"{TINY},style=long,turns=1"), World.from_spec(TINY)
    for i in range(20):
        text = long.problem(i).solution
        assert "No, " in text and long.well_formed(text, False) and not short.well_formed(text, False)
        assert not long.well_formed(f"Well then.\n{text}", False) and long.well_formed(short.problem(i).solution, False)


# errors

@pytest.mark.parametrize("options", ["", "style=long", "style=hybrid,modulus=7", "solution=0", "operators=*",
                                     "reverse=1,operators=+-"])
def test_the_share_of_wrong_documents_is_what_was_asked_for(options):
    spec, n = f"world:ops=1-4,{options}", 700
    share, worlds = {0.1: 0, 0.3: 0}, {errors: World.from_spec(f"{spec},errors={errors}") for errors in (0.1, 0.3)}
    kinds, clean = Counter(), World.from_spec(spec)
    for i in range(n):
        p, spoiled = clean.problem(i), {errors: world.lesson(i).solution for errors, world in worlds.items()}
        for errors, text in spoiled.items():
            problem = worlds[errors].problem(i)
            assert problem == replace(p, task=problem.task), "the problem is the true one"
            verdict = verify(problem, text)
            wrong = text != p.solution
            assert verdict.answer_ok + bool(verdict.process_ok) < 2 if wrong else verdict.answer_ok
            share[errors] += wrong
            if wrong and errors == 0.3:
                kinds["steps" if not verdict.process_ok else "answer"] += 1
        assert spoiled[0.1] in (p.solution, spoiled[0.3]), "what is wrong at 0.1 is so at 0.3, in the same way"
    for errors, count in share.items():
        assert abs(count / n - errors) < 4 * math.sqrt(errors * (1 - errors) / n)
    if options != "solution=0":
        assert min(kinds["steps"], kinds["answer"]) > 0.3 * sum(kinds.values())


def test_what_follows_from_a_wrong_step_is_computed_from_it():
    world, seen = World.from_spec("world:ops=3,branch=0,errors=1"), 0
    for i in range(100):
        lesson = world.lesson(i)
        found = LongReader(lesson.question, "\n".join(
            [" ".join(f"The {name} number {e}." for name, e in read(lesson.question)[0]), lesson.solution]))
        wrong = [target for target, why in found.faults.items() if why]
        assert all(found.faults[target] == ["no sum"] for target in wrong) and len(wrong) <= 1
        assert (found.answer == found.standing[found.asked]) == bool(wrong)
        seen += bool(wrong)
    assert 20 < seen < 80


def test_the_check_of_a_step_that_is_wrong_and_stands_is_a_false_one():
    world = World.from_spec("world:ops=2,style=long,turns=0,errors=1")
    for i in range(60):
        found = LongReader(world.problem(i).question, text := world.lesson(i).solution)
        steps_wrong = any(found.faults.values())
        assert "no." not in text and text.count("yes.") == 2
        assert bool(found.odd) == steps_wrong, "only a wrong step has a false check"


# forms, and where a SPEC is used

def test_the_form_of_documents(tokenizer):
    plain, qa, chat = (World.from_spec(f"{TINY},format={f}") for f in ("plain", "qa", "chat"))
    p = plain.problem(5)
    assert plain.document(5) == (f"{p.question}\n", p.solution)
    assert qa.document(5) == (f"Question: {p.question}\nSolution:\n", p.solution) and qa.problem(5).question == p.question
    assert qa.prompt(p, "plain") == qa.document(5)[0] and qa.prompt(p, "chat") == plain.prompt(p, "chat")
    assert qa.verify(p, "".join(qa.document(5))).ok
    ids, weights = open_source(f"{TINY},format=chat", tokenizer).get(5)
    same, also = open_source(f"{TINY},chat=1", tokenizer).get(5)
    assert ids.tolist() == same.tolist() and weights.tolist() == also.tolist()
    assert tokenizer.decode(ids) == (f"<|im_start|>user\n{p.question}<|im_end|>\n<|im_start|>assistant\n<think>\n{p.reasoning}\n"
                                     f"</think>\n\nAnswer: {p.answer}<|im_end|>\n")
    ids, weights = open_source(f"{TINY},format=qa,q_weight=0.5", tokenizer).get(5)
    prompt = tokenizer.encode(qa.document(5)[0])
    assert tokenizer.decode(ids) == "".join(qa.document(5)) + "<|endoftext|>"
    assert weights.tolist() == [0.5] * len(prompt) + [1.0] * (len(ids) - len(prompt)) and chat.document(5) == plain.document(5)


def test_errors_and_styles_reach_documents_and_conversations(tokenizer):
    spec = f"{TINY},style=long,errors=1"
    world = World.from_spec(spec)
    from_chat = open_source(f"{spec},chat=1", tokenizer)
    for i in range(20):
        told = world.lesson(i)
        assert told.solution in tokenizer.decode(open_source(spec, tokenizer).get(i)[0])
        text = tokenizer.decode(from_chat.get(i)[0])
        assert told.reasoning in text and told.solution.rpartition("\n")[2] in text
        assert not verify(world.problem(i), text.partition("assistant\n")[2].replace("<|im_end|>", "")).ok


def test_augment_takes_documents_as_they_are_and_problems_as_they_should_be(tmp_path):
    """Thinking is added to the documents of a corpus of low quality; an oracle knows better than they do."""
    spec, out = f"{TINY},style=hybrid,errors=0.5", tmp_path / "rows.jsonl"
    world = World.from_spec(spec)
    code, _, err = run_main(augment, "think", "--init", "oracle:", "--data", spec, "--count", 30, "--out", out)
    assert code == 0, err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    for i, row in enumerate(rows):
        assert row["text"] == "".join(world.document(i)) + f"\n<think>\n{world.problem(i).reasoning}\n</think>"
        assert row["meta"]["thought"] == "verified"
    wrong = [i for i in range(30) if world.lesson(i).solution != world.problem(i).solution]
    assert len(rows) == 30 and 5 < len(wrong) < 25
    code, found, err = run_main(augment, "distill", "--plain", "--init", "oracle:", "--data", spec, "--count", 30,
                                "--out", tmp_path / "b.jsonl")
    assert code == 0 and found["verified"][0] == 1.0, err
    items = list(open_items("documents", Namespace(count=9, data=["knowledge:people=3,times=2"]), lambda text: [text]))
    assert len(items) == 6 and all(item.problem is None for item in items)
    assert [item.text for item in items] == list(sample_texts("knowledge:people=3,times=2", 9))


def test_the_preset_expands_and_what_stands_beside_it_wins():
    same = World.from_spec("world:ops=1-3,contexts=zoo,modulus=0,max_value=9,branch=0")
    assert [World.from_spec(TINY).problem(i).question for i in range(50)] == [same.problem(i).question for i in range(50)]
    for spec in ("world:tiny,max_value=20,ops=2,contexts=market", "world:max_value=20,ops=2,contexts=market,tiny"):
        world = World.from_spec(spec)
        assert (world.max_value, world.contexts, world.modulus, world.branch, world.ops) == (20, ["market"], 0, 0.0, [2])
        assert world.source == spec


@pytest.mark.parametrize("spec, message", [
    ("world:teeny,ops=1", "'teeny' is not known: see the options in tasks/world.py, class World, or one of its presets: tiny"),
    ("world:style=tall", "style 'tall'"), ("world:style=long:0", "share above 0"), ("world:errors=2", "0 to 1"),
    ("world:turns=-1", "0 to 1"), ("world:format=book", "plain, qa, chat"), ("world:tiny,ops=1,ops=2", "given twice"),
    ("world:errors=few", "not a number"), ("world:tiny=1", "option 'tiny=1'")])
def test_bad_options_are_one_clear_line(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        World.from_spec(spec)
    assert "\n" not in str(error.value)


def test_options_set_apart():
    assert set_apart("world:tiny,chat=0.3,contexts=zoo:3+school:1", ["chat"]) == ("world:tiny,contexts=zoo:3+school:1",
                                                                                   {"chat": "0.3"})
    with pytest.raises(ValueError, match="'chat' is given twice"):
        set_apart("world:chat=1,chat=0", ["chat"])


def test_problems_are_shown_as_documents_have_them():
    out = script("-m", "tasks.world", "--data", f"{TINY},style=long,errors=0.5,format=qa", "--show", 8).stdout
    assert out.count("Question: Zoo.") == 8 and out.count("\nSolution:\n") == 8 and out.count("Check: ") >= 8
    assert 1 <= out.count("(wrong: ") <= 7


def test_evaluation_gives_a_long_answer_its_room(tmp_path, tokenizer, monkeypatch):
    """A model that writes the long style is measured on problems of any style that has it."""
    folder, limits = tiny_checkpoint(tmp_path / "tiny", tokenizer), []

    def note(model, tokenizer, prompts, room, **_):
        limits.extend(room)
        return [[Reply("", 1, 1)] for _ in prompts]
    monkeypatch.setattr(questions, "replies_to", note)
    for style in ("long", "hybrid"):
        code, found, _ = run_main(evaluate, "--init", folder, "--data", f"{TINY},style={style},split=test", "--problems", 5)
        assert code == 0 and json.dumps(found)
        for limit, (ops, i) in zip(limits, itertools.product((1, 2, 3), range(5)), strict=True):
            long, plain = (World.from_spec(f"world:tiny,ops={ops},split=test,style=long,turns={x}") for x in (0.1, 0))
            room, least = (2 * len(tokenizer.encode(world.problem(i).solution)) + 8 for world in (long, plain))
            assert limit == room if style == "long" else limit >= least
        limits.clear()
