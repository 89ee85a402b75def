"""Knowledge: facts about people who do not exist, which can only be known from having been told.

Where the reasoning world measures what can be worked out, this task measures what was learned by heart: how often a fact must
be told, and what a later stage forgets or a mixture trades for reasoning. Each person has one fact of each relation
(tasks/people.py: born in, lives in, works as, ...), drawn evenly and apart from each other, so nobody can guess better than 1 in
the number of its values. Documents are short biographies as in "Physics of Language Models: Part 3.1" (arXiv
2309.14316): all facts of one person, in an order and in wordings that change from telling to telling:

    Ada Amberdell works as a baker. The birthplace of Ada Amberdell is Adorna. Ada Amberdell plays the flute.

Probes ask for one fact, as a cloze ("Ada Amberdell was born in") or as a question ("Where was Ada Amberdell born?").

    python -m tasks.knowledge --data knowledge:people=2000,times=1+4+16 --show 3
    python pretrain.py --data world:tiny,ops=1-3,split=pretrain@0.7 knowledge:tiny,split=pretrain@0.3 --out runs/base --steps 240
    python evaluate.py --init runs/base --data knowledge:tiny,split=pretrain,among=8 knowledge:tiny,split=test --max-new-tokens 8

Who a person is depends on the seed and the split alone, and a name belongs to one split whatever the seed. So what is told in one
split can neither help nor contradict what another one says: use split=pretrain in pre-training and split=midtrain later, and
probe both; split=test, told to nobody, shows what guessing gives. (Without split= people come from all splits.) Tell the facts as
biographies and for some of the people also as questions (format=qa,people=500); skip=500 then probes those about whom nobody was
asked.
"""

import itertools
import random
import re
from dataclasses import dataclass
from functools import cached_property

from tasks import show
from tasks.answers import after_thinking
from tasks.options import need, read_options
from tasks.people import FIRST_NAMES, RELATIONS, SURNAME_BEGINNINGS, SURNAME_ENDS
from tasks.task import FORMATS, SWITCHES, Reply, Task
from tasks.task import Problem as AnyProblem
from tasks.verdict import Verdict
from tasks.world import SPLITS, bucket

FORMS = ("cloze", "question")
# For small models that also learn world:tiny: the more often a fact appears, the better it is known.
PRESETS = {"tiny": "people=256,relations=born+works+eats,wordings=2,times=1+2+4+8"}
VALUE = re.compile(rf"\b({'|'.join({value: None for r in RELATIONS.values() for value in r.values})})\b")


@dataclass
class Probe(AnyProblem):
    """A question about one fact. `solution` is the end of a sentence that says it."""
    person: str = ""
    kind: str = ""                   # the relation
    form: str = "cloze"              # one of FORMS


@dataclass(eq=False)
class Knowledge(Task):
    """People, their facts, the documents that tell these and the probes that ask for them. ValueError for options that do not
    fit. The fields are the options of a SPEC; lists are written with a + between."""
    people: int = 2000               # how many
    skip: int = 0                    # people to leave out at the beginning
    relations: str | list[str] = "+".join(RELATIONS)    # which facts: "born+works"
    times: str | list[int] = "1"     # how often each fact is told in an epoch; "1+4+16": a third of the people each
    among: int = 0                   # only the people whose facts are told so often; 0: all
    wordings: int = 4                # number of ways in which each fact may be told, 1 to 4
    probe: str = "cloze"             # cloze or question
    format: str = "plain"            # documents: "plain" (biographies), "qa" (questions, marked) or "chat" (the same in ChatML)
    split: str = ""                  # pretrain, midtrain, sft, rl, dev or test; "" takes people from all
    seed: int = 0                    # another seed, other people

    has_steps = False

    def __post_init__(self):
        text = str(self.times)
        need(all(part.isdecimal() and 0 < int(part) < 10_000 for part in text.split("+")),
             f"times={text}: use numbers from 1 to 9999, such as 8 or 1+4+16")
        self.times, self.relations = [int(part) for part in text.split("+")], self.relations.split("+")
        unknown = [name for name in self.relations if name not in RELATIONS]
        need(not unknown, f"relation {''.join(unknown[:1])!r} is not known: use {'+'.join(RELATIONS)}")
        need(len(set(self.relations)) == len(self.relations), f"relations={'+'.join(self.relations)}: one is given twice")
        need(self.people > 0 and self.skip >= 0, "people and skip: use a number of people of at least 1, and of at least 0")
        need(self.among == 0 or self.among in self.times, f"among={self.among}: nobody's facts are told so often (times={text})")
        need(1 <= self.wordings <= 4, f"wordings={self.wordings}: use 1 to 4")
        need(self.probe in FORMS, f"probe={self.probe}: use one of {', '.join(FORMS)}")
        need(self.format in FORMATS, f"format={self.format}: use one of {', '.join(FORMATS)}")
        need(self.split == "" or self.split in SPLITS, f"split={self.split}: use one of {', '.join(SPLITS)}")
        names = list(itertools.islice(_names(self.seed, self.split), self.skip, self.skip + self.people))
        need(len(names) == self.people, f"people={self.people},skip={self.skip}: there are {self.skip + len(names)} names "
             f"{f'in split {self.split}' if self.split else ''}; take fewer people")
        # [(name, how often their facts are told)]
        self.known = [(name, self.times[number % len(self.times)]) for number, name in enumerate(names, self.skip)]
        self.known = [(name, times) for name, times in self.known if self.among in (0, times)]
        need(self.known, f"among={self.among}: none of {self.people} people; take more people")

    @classmethod
    def from_spec(cls, spec: str) -> "Knowledge":
        """Knowledge from "people=100,times=8" (a leading "knowledge:" is dropped); ValueError for unknown options."""
        task = cls(**read_options(spec, cls, PRESETS))
        task.source = f"knowledge:{spec.removeprefix('knowledge:')}"
        return task

    def value(self, name: str, relation: str) -> str:
        """The fact itself: a function of the seed, the name and the relation."""
        return random.Random(f"{self.seed}|{name}|{relation}").choice(RELATIONS[relation].values)

    def sentence(self, name: str, relation: str, way: int = 0) -> str:
        return RELATIONS[relation].sentences[way].format(x=name, v=self.value(name, relation))

    # probes

    @property
    def count(self) -> int:
        return len(self.known) * len(self.relations)

    def problem(self, i: int) -> Probe:
        """Each relation of the first person, then of the second, and so on; the wording depends on both alone."""
        person, relation = divmod(i, len(self.relations))
        name, relation = self.known[person][0], self.relations[relation]
        rng = random.Random(f"probe|{name}|{relation}")
        return self._probe(name, relation, self.probe, rng)

    def _probe(self, name: str, relation: str, form: str, rng: random.Random) -> Probe:
        value = self.value(name, relation)
        if form == "cloze":
            text = RELATIONS[relation].sentences[rng.randrange(self.wordings)].partition("{v}")[0].rstrip()
        else:
            text = rng.choice(RELATIONS[relation].questions)
        return Probe(text.format(x=name), value, f" {value}.", self, name, relation, form, domain=relation)

    def prompt(self, problem: Probe, mode: str) -> str | list[dict]:
        if mode == "plain":
            return problem.question if problem.form == "cloze" else f"Question: {problem.question}\nAnswer:"
        return [{"role": "user", "content": problem.question + (" ..." if problem.form == "cloze" else "") + SWITCHES[mode]}]

    def grade(self, problem: Probe, reply: Reply) -> Verdict:
        said = self.answer_in(reply.text)
        ok = said == problem.answer
        return Verdict(ok, None, None, "ok" if ok else "no answer" if said is None else f"answer {said}, it is {problem.answer}")

    def answer_in(self, text: str) -> str | None:
        """The first value in the first sentence; None where it names none."""
        first = re.split(r"[.\n]", (after_thinking(text) or "").strip(), maxsplit=1)[0]
        found = VALUE.search(first)
        return found[1] if found else None

    def well_formed(self, text: str, thinking: bool) -> bool:
        """One sentence, which names one value."""
        return len(text.strip().split("\n")) == 1 and len(VALUE.findall(text)) == 1

    # documents

    @cached_property
    def tellings(self) -> list[tuple[str, int]]:
        """(name, number of the telling): everybody's first, then the second of those who are told of twice, and so on."""
        return [(name, number) for number in range(max(times for _, times in self.known))
                for name, times in self.known if number < times]

    @property
    def lessons(self) -> int:
        return len(self.tellings) * (1 if self.format == "plain" else len(self.relations))

    def lesson(self, i: int) -> Probe:
        """A question about a fact that document i tells."""
        number, relation = (i, self.tellings[i][1]) if self.format == "plain" else divmod(i, len(self.relations))
        name, telling = self.tellings[number]
        relation = self.relations[relation % len(self.relations)]
        return self._probe(name, relation, "question", random.Random(f"lesson|{name}|{relation}|{telling}"))

    def document(self, i: int) -> tuple[str, str]:
        if self.format != "plain":
            return super().document(i)
        name, telling = self.tellings[i]
        rng = random.Random(f"telling|{name}|{telling}")
        relations = rng.sample(self.relations, len(self.relations))
        return "", " ".join(self.sentence(name, relation, rng.randrange(self.wordings)) for relation in relations)

    def reply(self, problem: Probe) -> tuple[None, str]:
        return None, self.sentence(problem.person, problem.kind)


def _names(seed: int, split: str):
    """All names of a split, in an order that depends on the seed."""
    low, high = SPLITS.get(split, (0, 100))
    for number in random.Random(seed).sample(range(len(FIRST_NAMES) * len(SURNAME_BEGINNINGS) * len(SURNAME_ENDS)),
                                             len(FIRST_NAMES) * len(SURNAME_BEGINNINGS) * len(SURNAME_ENDS)):
        number, end = divmod(number, len(SURNAME_ENDS))
        first, beginning = divmod(number, len(SURNAME_BEGINNINGS))
        name = f"{FIRST_NAMES[first]} {SURNAME_BEGINNINGS[beginning]}{SURNAME_ENDS[end]}"
        if low <= bucket(name) < high:
            yield name


def main() -> None:
    show.main("Show biographies and probes of people who do not exist.", Knowledge.from_spec, "knowledge:people=2000")


if __name__ == "__main__":
    main()
