"""Instructions: each has its own check, which passes what follows it and no other reply, be the number right or wrong."""

import itertools
import math
import re
from collections import Counter

import pytest
from conftest import script
from test_world import solve

from sources.conversations import open_conversations
from sources.open import open_source
from tasks.instructions import KINDS, in_words, number_in
from tasks.problems import load_problems, open_task
from tasks.rewards import REWARDS, ReplyGroup, parse_rewards
from tasks.task import Reply

DEEP = {kind: load_problems(f"instructions:kinds={kind},ops=3,branch=0", 20) for kind in KINDS}


def steps_of(problem):
    """The lines of the gold steps, written by the world."""
    return load_problems("world:ops=3,branch=0", 20)[DEEP[problem.kind].index(problem)].solution.split("\n")[:-1]


def written(problem):
    """A reply to each instruction, written here."""
    steps, a = steps_of(problem), problem.answer
    name = steps[-1].rpartition("= ")[2].rpartition(" ")[0]
    question = problem.question[:problem.question.index("?") + 1]
    return {"number": a, "words": "zero one two three four five six seven eight nine".split()[int(a)],
            "sentence": f"There are {a} {name}.", "steps": f"1. {steps[0]}\n2. {steps[1]}\n3. {steps[2]}\nAnswer: {a}",
            "two_lines": f"{steps[2]}\nAnswer: {a}", "repeat": f"{question}\nAnswer: {a}",
            "answer_first": "\n".join([f"Answer: {a}", *steps])}


@pytest.mark.parametrize("kind", KINDS)
def test_each_check_passes_its_own_replies_and_no_other(kind):
    for problem in DEEP[kind][:8]:
        assert solve(problem.question[:problem.question.index("?") + 1]) == {int(problem.answer)}
        for other, text in written(problem).items():
            verdict = problem.task.grade(problem, Reply(text))
            assert verdict.answer_ok and verdict.process_ok == (other == kind) == verdict.right, (kind, other, verdict)
        assert problem.task.steps_in(problem.solution) in (steps_of(problem), steps_of(problem)[-1:], [])
        assert kind not in ("steps", "repeat", "answer_first") or problem.task.steps_in(problem.solution) == steps_of(problem)
        verdict = problem.task.grade(problem, Reply(problem.solution))
        assert verdict.ok and verdict.reason == "ok" and verdict.steps_ok == 1.0
        thought = f"<think>\n{problem.task.reply(problem)[0]}\n</think>\n\n{problem.solution}"
        assert problem.task.grade(problem, Reply(thought)).ok


def wrong_number(problem):
    """The reply with another number as its answer; its steps stay right."""
    a, b = problem.answer, str((int(problem.answer) + 1) % 10)
    words = {in_words(int(a)): in_words(int(b))}
    text = problem.solution
    if problem.kind in ("number", "words"):
        return words.get(text, b)
    if problem.kind == "sentence":
        return text.replace(f" {a}.", f" {b}.")
    return text.replace(f"Answer: {a}", f"Answer: {b}")


@pytest.mark.parametrize("kind", KINDS)
def test_number_and_instruction_are_graded_apart(kind):
    for problem in DEEP[kind]:
        verdict = problem.task.grade(problem, Reply(wrong_number(problem)))
        assert not verdict.answer_ok and verdict.process_ok and not verdict.right and "it is" in verdict.reason
        for name, wanted in (("answer", 0), ("process", 1), ("strict", 0)):
            assert REWARDS[name](problem, Reply(wrong_number(problem)), ReplyGroup(problem, [])) == wanted
            assert REWARDS[name](problem, Reply(problem.solution), ReplyGroup(problem, [])) == 1
        for text in ("", "hm", "<think>\n" + problem.solution):
            verdict = problem.task.grade(problem, Reply(text))
            assert not verdict.answer_ok and not verdict.process_ok


TRAPS = {
    "number": lambda p: [f"{p.answer}.", f"It is {p.answer}", f"{p.answer} {p.answer}", f"{p.answer}\nAnswer: {p.answer}"],
    "words": lambda p: [f"{p.solution} {p.answer}", f"about {p.solution}", f"{p.solution} {p.solution}"],
    "sentence": lambda p: [p.solution.rstrip("."), p.solution.replace("number", "name"), p.solution * 2, f"Well. {p.solution}",
                           re.sub("of .+ is", "of unicorns is", p.solution)],
    "steps": lambda p: [p.solution.replace("2. ", ""), p.solution.replace("2. ", "3. "), p.solution.replace("2. ", "2) "),
                        p.solution.rpartition("\n")[0], p.solution.partition("\n")[2], f"Steps:\n{p.solution}",
                        re.sub(r" (\d)\n", lambda m: f" {(int(m[1]) + 1) % 10}\n", p.solution, count=1)],
    "two_lines": lambda p: [p.solution.replace("\n", " "), p.solution.replace("\n", "\n\n"),
                            "\n".join(p.solution.split("\n")[::-1]), f"{steps_of(p)[0]}\nAnswer: {p.answer}",
                            f"{p.solution}\nYes."],
    "repeat": lambda p: [p.solution.partition("\n")[2], f"{p.question}\nAnswer: {p.answer}", p.solution.replace("Zoo", "Zoos", 1),
                         p.solution.rpartition("\n")[0], f"{p.solution}\n{p.question}"],
    "answer_first": lambda p: [f"{p.solution}\nAnswer: {p.answer}", "\n".join(p.solution.split("\n")[1:]),
                               p.solution.rpartition("\n")[0], f"Answer: {p.answer}", f"So:\n{p.solution}"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_nearly_follows_does_not(kind):
    for problem in DEEP[kind][:8]:
        for text in TRAPS[kind](problem):
            if text != problem.solution:
                assert not problem.task.grade(problem, Reply(text)).process_ok, text


def test_numbers_in_words_are_read_back():
    assert [in_words(n) for n in (0, 7, 13, 20, 42, 100, 101, 999)] == [
        "zero", "seven", "thirteen", "twenty", "forty-two", "one hundred", "one hundred and one", "nine hundred and ninety-nine"]
    assert len({in_words(n) for n in range(1000)}) == 1000 and all(number_in(in_words(n)) == n for n in range(1000))
    for text, number in (("12", 12), ("-3", -3), ("Twelve.", 12), ("Answer: 5\nAnswer: 6", 6), ("There are 4 owls.", 4),
                         ("owls", None), ("", None), ("9" * 5000, None), ("4 owls", None),
                         ("The number is 5.7.", None), ("It is 5/2.", None), ("It is 1,200.", None), ("It is 7 or is 8.", None),
                         ("It is 7, which is 7.", 7)):
        assert number_in(text) == number


def test_the_instruction_depends_on_the_problem_alone_and_each_kind_has_its_share():
    problems = load_problems("instructions:ops=1-2", 700)
    counts = Counter(p.kind for p in problems)
    for n in counts.values():
        assert abs(n - 100) < 4 * math.sqrt(100 * 6 / 7)
    assert set(counts) == set(KINDS)
    again = {p.about.key: (p.kind, p.solution) for p in load_problems("instructions:ops=1-2,seed=1,order=shuffled", 700)}
    assert all(again.get(p.about.key, (p.kind, p.solution)) == (p.kind, p.solution) for p in problems)
    assert {p.kind for p in load_problems("instructions:kinds=words+steps,tiny,ops=1", 50)} == {"words", "steps"}
    worded = {(p.kind, p.question.removeprefix(p.about.question).strip()) for p in problems}
    assert worded == {(name, wording) for name, kind in KINDS.items() for wording in kind.wordings}


def test_splits_and_errors_are_those_of_the_world():
    questions = [{p.about.key for p in load_problems(f"instructions:tiny,ops=1,split={split}", 300)} for split in ("sft", "test")]
    assert not questions[0] & questions[1]
    task, n = open_task("instructions:ops=1-3,errors=0.3"), 500
    wrong = [i for i in range(n) if not task.grade(task.problem(i), Reply(task.lesson(i).solution)).right
             or task.lesson(i).solution != task.problem(i).solution]
    assert abs(len(wrong) / n - 0.3) < 4 * math.sqrt(0.21 / n)
    assert all(task.grade(task.problem(i), Reply(task.problem(i).solution)).right for i in range(n))


def test_documents_and_chats(tokenizer):
    spec = "instructions:tiny,ops=2"
    task, documents, chats = open_task(spec), open_source(spec, tokenizer), open_conversations(spec, tokenizer, 512, no_think=0.5)
    assert documents.count is None and chats.count is None
    kinds = Counter()
    for i in range(30):
        p = task.problem(i)
        assert tokenizer.decode(documents.get(i)[0]) == f"{p.question}\n{p.solution}<|endoftext|>"
        text = tokenizer.decode(chats.get(i)[0])
        assert f"{p.question} /no_think<|im_end|>" in text or f"{p.question} /think<|im_end|>" in text
        steps = "\n".join(line for line in task.world.problem(i).solution.split("\n")[:-1])
        kinds[f"<think>\n{steps}\n</think>\n\n{p.solution}<|im_end|>" in text] += 1
        assert text.rstrip().endswith(f"</think>\n\n{p.solution}<|im_end|>")
    assert min(kinds.values()) > 10
    qa = open_task(f"{spec},format=qa").document(0)
    assert qa == (f"Question: {task.problem(0).question}\nSolution:\n", task.problem(0).solution)


@pytest.mark.parametrize("spec, message", [
    ("kinds=rhyme", "instruction 'rhyme' is not known: use number+words"), ("kinds=words+words", "twice"),
    ("style=long", "leave them out"), ("solution=0", "leave them out"),
    ("modulus=0,max_value=5000", "too large for words"), ("colour=red", "option 'colour=red'"),
    ("kinds=words,kinds=steps", "'kinds' is given twice")])
def test_bad_options_are_one_clear_line(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_task(f"instructions:{spec}")
    assert "\n" not in str(error.value)
    assert open_task("instructions:modulus=0,max_value=5000,kinds=steps").problem(0).kind == "steps"


def test_rewards_and_show():
    assert parse_rewards("strict+process", "instructions:tiny,ops=1")
    out = script("-m", "tasks.instructions", "--data", "instructions:tiny,ops=1,errors=0.5", "--show", 12).stdout
    assert 1 <= out.count("(wrong: ") <= 11 and out.count("Zoo.") >= 12
    assert len(list(itertools.islice(KINDS, 10))) == 7
