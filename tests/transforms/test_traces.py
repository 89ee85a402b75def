"""The filters of reasoning traces, with traps of both kinds: what must go, and what looks like it and must stay."""

import pytest

from tasks.world import World
from transforms.distill import is_repetitive
from transforms.parts.overlap import Overlap, overlap_with
from transforms.parts.traces import is_guess, mixes_languages

SENTENCE = "First I add the lions and the owls and get seven of them. "


@pytest.mark.parametrize("text, wanted", [
    (SENTENCE * 5, True),
    ("Now let me think about it once more, wait. " * 8 + "So 3 + 4 = 7.", True),
    ("wait " * 40, True), ("ha" * 30, True),
    ("The result is 5. " + "But hold on, is it really five, or is it six? " * 6, True),
    # a solution may come back to a line, check itself, and have rows that look alike
    (SENTENCE + "Then I take two of them away. Let me check the first step. " + SENTENCE + "The answer is five.", False),
    ("\n".join(f"lions {i} + 4 = owls {i + 4}" for i in range(30)), False),
    ("-" * 200, False), ("1/3 = 0.333333333333333333333333", False), ("." * 50, False), ("3 + 4 = 7", False), ("", False)])
def test_repetition(text, wanted):
    assert is_repetitive(text) == wanted


def test_right_solutions_of_the_world_are_not_repetitive():
    world = World.from_spec("ops=8-12,places=1,paraphrase=4")
    assert not any(is_repetitive(p.solution) for p in map(world.problem, range(50)))


@pytest.mark.parametrize("reasoning, answer, question, wanted", [
    (None, "7", "", True), ("", "The answer is 7.", "", True), (None, "\\boxed{7}", "", True), (None, "#### 7", "", True),
    ("7", "Answer: 7", "", True),
    (None, "I'll just guess that it is as many as there were days, 7.", "", True),
    ("There are many ways. My best guess would be seven of them.", "7", "", True),
    # short, but with the working; guessing is what the question is about, or a method
    (None, "3 + 4 = 7", "", False), ("lions 3 + 4 = owls 7", "Answer: 7", "", False),
    (None, "He had three, then four more came, so seven. The answer is 7.", "", False),
    ("She guessed 80, so my guess must be 82 to be nearer to it.", "82", "Whose guess of the jelly beans is nearest?", False),
    ("I will guess and check: two times three is six, which fits.", "3", "", False),
    ("They guessed it in three rounds of two minutes each, so six.", "6", "", False)])
def test_guesses(reasoning, answer, question, wanted):
    assert is_guess(reasoning, answer, question) == wanted


@pytest.mark.parametrize("question, text, wanted", [
    ("How many lions?", "We add 3 and 4, 因此 the answer is 7.", True),
    ("How many lions?", "We 加 3 and 4.", True), ("How many lions?", "We add, а потом subtract.", True),
    ("How many lions?", "그래서 seven.", True),
    ("狮子有多少?", "我们把三和四加起来 and then we get seven lions", True),
    # formulas, names, accents, and the question's own scripts are no mixture
    ("What is the area?", "Area = πr², Δx = 3 µm, α + β = γ, αβ = 2", False),
    ("Who is nearer?", "Zoë and François, Łukasz and Müller.", False),
    ("How many?", "𝑎 + 𝑏 = ℝ, 5 Ω, naïve Ⅳ", False),
    ("狮子有多少?", "3 + 4 = 7 km, sin x, \\boxed{7}, Answer: 7", False),
    ("ライオンは?", "全部で七頭です。", False),
    ("What does Привет mean?", "Привет means hello.", False), ("3 + 4 = ?", "Seven.", False)])
def test_languages(question, text, wanted):
    assert mixes_languages(question, text) == wanted


def test_overlap_needs_a_run_of_words():
    validation = ["Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many?",
                  "What is 2 + 2?", "Too short"]
    overlap = Overlap(validation)
    assert overlap.touches("Once NATALIA sold clips to 48 of her friends in april; and then she... nothing.")
    # twelve words of the thirteen
    assert not overlap.touches("Natalia sold clips to 48 of her friends in April, and then he stopped.")
    # a text of fewer words counts whole, one of three words not at all
    assert overlap.touches("So, what is 2 + 2?") and not overlap.touches("What is 2 + 3?") and not overlap.touches("Too short")
    assert not overlap.touches("") and not Overlap([]).touches("anything at all that is written here")
    assert Overlap(validation, n=5).touches("to 48 of her friends")


def test_overlap_with_files(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "How many legs do seven lions have in all?", "answer": "28"}\n')
    (tmp_path / "t.jsonl").write_text('{"text": "It was a dark and stormy night in the old town."}\n')
    overlap = overlap_with((str(tmp_path / "q.jsonl"), str(tmp_path / "t.jsonl")))
    assert overlap.touches("how many legs do seven lions have, in all")
    assert overlap.touches("It was a dark and stormy night in the old town")
    with pytest.raises(ValueError, match="has no end"):
        overlap_with(("world:ops=1",))
