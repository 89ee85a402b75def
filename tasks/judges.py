r"""Judges: does a predicted segment say what the text goes on with? (RLPT's reward, arXiv 2509.19249)

    judge = TextJudge()
    judge.right(["It rained. All day."], ["it rained .", "All day.", "Nobody came."], strict=False)             [True]

A judge is given predictions, and the segments with which the text goes on. There are two questions:

    strict     does the prediction say what the next segment says, and nothing else?
    prefix     does it say what the next segment says, or the next two, three, ...? (The paper keeps this one: models often say
               several segments at once, and that is no error.)

There are three judges. `TextJudge` compares words. `StepsJudge` compares what is stated: in the reasoning world the steps, in
whatever spelling, and in other solutions the equations. `ModelJudge` asks a checkpoint: the verdict is what it finds more likely,
yes or no. A judge may be wrong; this measures how often, on pairs whose label is known because they were made:

    python -m tasks.judges --data text:world:tiny,ops=2,kind=rlpt --pairs 40
    python -m tasks.judges --data text:corpus.txt,kind=rlpt,judge=runs/sft --pairs 20
"""

import random
import re
from collections.abc import Sequence
from typing import Any

from model import load_both
from tasks.equations import equations
from tasks.segments import words
from tasks.task import Task
from tasks.verify import ANSWER, steps_of
from training import cli
from training.ledger import Costs
from training.likelihood import continuation_logprobs

MEMORY = 10_000                      # verdicts of a model that are remembered
ASKED = {False: "Does the continuation begin with what the guess says, even if in other words?",
         True: "Do the guess and the continuation say exactly the same?"}


def begins(said: list, parts: list[list], strict: bool) -> bool:
    """Whether a list is the first of the parts, or the first few of them joined. An empty one is not."""
    whole, ends = [], []
    for part in parts[:1] if strict else parts:
        whole += part
        ends.append(len(whole))
    return bool(said) and len(said) in ends and whole[:len(said)] == said


class TextJudge:
    """By words, in one spelling (tasks/segments.py).

    enough: a prediction that breaks off in the middle of a segment is right (but not by `strict`) from so many words on; 0: it
    never is."""

    def __init__(self, enough: int = 0):
        self.enough = enough

    def judges(self, segment: str) -> bool:
        """Whether a prediction of this segment can be right."""
        return bool(words(segment))

    def right(self, predicted: Sequence[str], references: Sequence[str], strict: bool) -> list[bool]:
        """A verdict on each prediction. references: the segments with which the text goes on."""
        parts = [words(segment) for segment in references]
        return [begins(said, parts, strict) or self._begun(said, parts, strict) for said in map(words, predicted)]

    def _begun(self, said: list[str], parts: list[list[str]], strict: bool) -> bool:
        return bool(self.enough and not strict and len(said) >= self.enough and parts[0][:len(said)] == said)


class StepsJudge:
    """By what is stated, as the task of the documents reads it: the steps of the world with its answers, or equations."""

    def __init__(self, task: Task):
        self.task = task

    def judges(self, segment: str) -> bool:
        return bool(self.stated(segment))

    def right(self, predicted: Sequence[str], references: Sequence[str], strict: bool) -> list[bool]:
        parts = [self.stated(segment) for segment in references]
        return [begins(self.stated(text), parts, strict) for text in predicted]

    def stated(self, text: str) -> list:
        """What a text states, in order. In the world there may be nothing else: a line that cannot be read makes the whole of it
        empty, and so wrong."""
        if not self.task.has_steps:
            said = [str(equation) for equation in equations(text)]
            marked = re.findall(r"^#### *(.+?)\s*$", text, re.M)
            return said + [f"answer {answer}" for answer in marked]
        found = []
        for line in filter(str.strip, text.split("\n")):
            steps, answer = [s for lines in steps_of(line).values() for s in lines], ANSWER.search(line)
            if len(steps) != 1 and not answer:
                return []
            found.append(("answer", int(answer[1])) if answer else
                         (steps[0][0].target, steps[0][0].normal(), steps[0][0].value, tuple(sorted(steps[0][1].items()))))
        return found


class ModelJudge:
    """A checkpoint. The verdict on a prediction is yes if that word is more likely than no behind the question.

    flops, tokens: of its passes so far; whoever enters them into a ledger sets them back."""

    def __init__(self, folder: str, device: str = "cpu"):
        self.model, self.tokenizer = load_both(folder, device)
        self.model.requires_grad_(False)
        self.costs, self.flops, self.tokens, self.known = Costs.of(self.model), 0, 0, {}

    def judges(self, segment: str) -> bool:
        return True

    def right(self, predicted: Sequence[str], references: Sequence[str], strict: bool) -> list[bool]:
        key, going_on = (tuple(references), strict), " ".join(references[:1] if strict else references)
        if len(self.known) > MEMORY:                      # before it is asked what is new: else what was known would be lost
            self.known.clear()
        new = list(dict.fromkeys(text for text in predicted if (key, text) not in self.known and text.strip()))
        for text, margin in zip(new, self.margins([(text, going_on) for text in new], strict), strict=True):
            self.known[key, text] = margin > 0
        return [bool(text.strip()) and self.known[key, text] for text in predicted]

    def margins(self, pairs: Sequence[tuple[str, str]], strict: bool) -> list[float]:
        """log p(yes) - log p(no) for each pair of a prediction and what it is compared with."""
        if not pairs:
            return []
        texts, chat = [], not self.tokenizer.chat.refusal
        for predicted, going_on in pairs:
            question = f"Guess: {predicted.strip()}\nContinuation: {going_on}\n{ASKED[strict]} Answer yes or no."
            if chat:                                      # a model that can think answers at once
                before = self.tokenizer.chat_prompt([{"role": "user", "content": question}],
                                                    None if self.tokenizer.think is None else False)
            else:
                before = self.tokenizer.encode_document(f"{question}\nAnswer:")
            texts += [(before, self.tokenizer.encode(word)) for word in (("Yes", "No") if chat else (" yes", " no"))]
        lengths = [len(before) + len(word) - 1 for before, word in texts]
        self.flops, self.tokens = self.flops + self.costs.forward(lengths), self.tokens + sum(lengths)
        found = continuation_logprobs(self.model, texts)
        return [yes - no for yes, no in zip(found[::2], found[1::2])]


# how good a judge is

def labelled_pairs(task: Any, count: int, seed: int = 0) -> list[tuple[str, list[str], bool]]:
    """(prediction, references, whether it is right): of a text task of kind rlpt, half of them right. Right ones are the segment
    itself; of wrong ones half are another segment, and half the segment with one word exchanged."""
    rng, found = random.Random(seed), []
    numbers = rng.sample(range(task.count), min(count, task.count))
    for place, (i, j) in enumerate(zip(numbers, numbers[1:] + numbers[:1])):
        problem, other, kind = task.problem(i), task.problem(j), place % 4
        said = problem.answer
        if kind == 1:
            said = other.answer
        elif kind == 3:
            parts, others = said.split(), [word for word in other.answer.split() if word not in said.split()]
            if others:
                parts[rng.randrange(len(parts))] = rng.choice(others)
                said = " ".join(parts)
        if kind % 2 and words(said) == words(problem.answer):                          # both segments say the same
            continue
        found.append((said, list(problem.references), kind % 2 == 0))
    return found


def accuracy(task: Any, pairs: Sequence[tuple[str, list[str], bool]]) -> dict:
    """How often the judge of a text task agrees with labels: of all pairs, of right ones and of wrong ones."""
    agrees = [(label, task.judge_of().right([said], references, task.reward == "strict")[0] == label)
              for said, references, label in pairs]
    def share(found):
        return round(sum(found) / len(found), 4) if found else None
    return {"pairs": len(pairs), "accuracy": share([ok for _, ok in agrees]),
            "on_right": share([ok for label, ok in agrees if label]),
            "on_wrong": share([ok for label, ok in agrees if not label])}


def main() -> None:
    from tasks.text import Text  # not at the top of the file: tasks/text.py imports this file

    parser = cli.Parser("Measure how often the judge of a text task is right, on pairs whose label is known.")
    parser.add_argument("--data", default="text:world:tiny,ops=1-3,kind=rlpt", help="text:...,kind=rlpt,judge=...")
    parser.add_argument("--pairs", type=cli.positive_int, default=200, help="pairs to judge")
    parser.add_argument("--seed", type=cli.non_negative_int, default=0, help="another one, other pairs")
    args = parser.parse_args()
    with cli.bad_input():
        task = Text.from_spec(args.data)
        if task.kind != "rlpt":
            raise ValueError(f"{args.data}: only kind=rlpt has a judge")
        found = accuracy(task, labelled_pairs(task, args.pairs, args.seed))
    cli.finish({"data": args.data, **found})


if __name__ == "__main__":
    main()
