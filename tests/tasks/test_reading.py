"""Questions of the world read back: what is read is the problem that was written, and what is no problem is none."""

import pytest

from tasks.reading import read_question
from tasks.world import World

WORLDS = ["ops=1-6", "ops=1-5,modulus=0,max_value=40,paraphrase=4", "ops=2-5,reverse=1,distractors=0-3", "tiny,ops=1-3",
          "ops=2-6,order=shuffled,distractors=2,paraphrase=4,reverse=0.5", "ops=3,places=1,paraphrase=4,branch=0.5"]


@pytest.mark.parametrize("spec", WORLDS)
def test_what_was_written_is_read(spec):
    world = World.from_spec(spec)
    for i in range(150):
        p = world.problem(i)
        found = read_question(f"{p.question}\n{p.solution}")
        assert (found.question, found.answer, found.modulus, found.context) == (p.question, p.answer, p.modulus, p.context)
        assert {(s.target, s.normal(), s.value) for s in found.steps} == {(s.target, s.normal(), s.value) for s in p.steps}
        assert len(found.steps) == found.ops == p.ops and found.task.verify(found, p.solution).ok
        for step in p.steps:                              # all that a right line may name
            assert all(found.values[x] == p.values[x] for x in (step.target, step.left, step.right) if isinstance(x, str))
        wrong = p.solution.replace(f"Answer: {p.answer}", f"Answer: {int(p.answer) + 1}")
        assert not found.task.verify(found, wrong).ok
        assert not found.task.verify(found, p.solution.partition("\n")[2]).ok


GOOD = "Zoo. The lions number 3. The owls number the lions plus 4. How many owls?"


@pytest.mark.parametrize("question", [
    "", "Zoo.", "How many owls?", "Zoo. How many owls?", "Zoo. The lions number 3. How many lions?",
    GOOD.replace("How many owls?", ""), GOOD.replace("How many owls?", "How many bears?"), GOOD.replace("Zoo", "Moon"),
    GOOD.replace("the lions plus", "the bears plus"), GOOD.replace("plus 4", "plus the bears"),
    GOOD.replace("plus 4", "plus the owls"), GOOD.replace("The owls", "The lions"), GOOD.replace("plus", "over"),
    GOOD.replace(" How", " The lions number 3. How"), GOOD.replace(" How", " The owls number 9. How"),
    GOOD.replace(" How", " It rains. How"), GOOD.replace("Zoo.", "Zoo, mod 1."), GOOD.replace("3.", "three."),
    "Zoo. The owls number the lions times 4. The owls number 8. How many lions?",
    "Zoo. The owls number 8. The bears number the lions times 4. The bears number 8. How many lions?"])
def test_what_is_no_problem(question):
    assert read_question(GOOD).answer == "7" and read_question(question) is None
