"""Questions with checkable answers, and the rewards that answers to them earn.

    load_problems("world:ops=1-4,split=test", limit=100)    problems of the reasoning world
    load_problems("gsm8k/test.jsonl")                       GSM8K-style, MATH-style or any question/answer JSONL(.gz)
    check_answer(completion, gold)                          does a completion end in the right answer? (tasks/answers.py)
    mix = parse_rewards("strict:1+length:0.1", spec)        rewards by name, with weights
    score_group(problem, replies, mix, seed)                a Score for each of the G completions of one prompt

A reward is a pure function reward(problem, reply, group) -> float; a new one needs an entry in REWARDS and no more.
Three of them are wrong on purpose, as controls (arXiv 2506.10947): where random, incorrect or majority rewards teach as
much as true ones, it was not the reward that taught. They differ from the paper's: there, majority is the mode of 64
samples of the initial model, fixed before training, and incorrect rewards agreeing with that mode on the prompts where
it is wrong. Here majority is the mode of the group itself, and incorrect takes any wrong answer to any prompt.
"""
import hashlib
import itertools
import math
import random
import re
from dataclasses import dataclass, field
from functools import cached_property

from sources.texts import given, read_rows, read_texts, refuse_unknown, text_at
from tasks.answers import boxed, check_answer, count_answers, extract_answer, same_answer
from tasks.verify import ANSWER, LINE, Verdict, final_answer
from tasks.world import World
from tokenizer import END_THINK, THINK, split_thinking


@dataclass
class Problem:
    question: str
    answer: str                 # the gold answer, without the working
    solution: str = ""          # the working that leads to it
    source: str = ""            # the spec it was loaded from
    ops: int | None = None      # world only: number of operations, the difficulty
    context: str | None = None  # world only: the story it is told in
    world: object = field(default=None, repr=False, compare=False)          # world.verify(world_problem, text)
    world_problem: object = field(default=None, repr=False, compare=False)  # checks a completion step by step


def load_problems(spec: str, limit: int | None = None, seed: int = 0) -> list[Problem]:
    """Problems of `world:...` or of a .jsonl(.gz) file. `limit` draws that many of a file without replacement; of a
    world it takes the first ones, since a world is endless and its spec has a seed of its own (world:seed=1,...)."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1; got {limit}")
    if spec.startswith("world:"):
        if limit is None:
            raise ValueError(f"{spec}: a world is endless; set a limit")
        world = World.from_spec(spec.removeprefix("world:"))
        return [Problem(p.question, p.answer, p.solution, spec, p.ops, p.context, world, p)
                for p in itertools.islice(world, limit)]
    problems = [_problem(record, where, spec) for where, record in read_rows(spec)]
    return problems if limit is None or limit >= len(problems) else random.Random(seed).sample(problems, limit)


def kind_of(spec: str) -> str:
    """What a SPEC holds: "world", "questions" (with answers to check), "conversations", or "text". A file's first row tells."""
    if spec.startswith("world:"):
        return "world"
    if spec.endswith(".txt"):
        next(read_texts(spec))
        return "text"
    _, row = next(read_rows(spec), (None, {}))
    there = {key for key, value in row.items() if given(value)} if isinstance(row, dict) else set()
    if "text" in there:
        return "text"
    return "conversations" if "messages" in there else "questions" if {"question", "problem"} & there else "text"


def _problem(record, where: str, source: str) -> Problem:
    """One record of a file in the GSM8K, the MATH or the plain question/answer form."""
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(record).__name__}")
    question, other, solution = (text_at(record, key, where) for key in ("question", "problem", "solution"))
    answer, solution = text_at(record, "answer", where, numbers=True), solution or ""
    if question is None and other is None:
        raise ValueError(f"{where}: no field 'question' or 'problem'")
    if question is not None and other is not None and question != other:
        raise ValueError(f"{where}: \"question\" and \"problem\" differ; keep the one to ask")
    question = other if question is None else question
    if not question.strip():
        raise ValueError(f"{where}: the question is empty")
    if answer is None and "\\boxed" in solution:
        answer = boxed(solution)
    if answer is None:
        raise ValueError(f"{where}: no field 'answer', and no \\boxed answer in a field 'solution'")
    refuse_unknown(record, ("question", "problem", "answer", "solution"), where, "a row with a question")
    if "####" in answer:  # GSM8K keeps working and gold in one field, with calculator annotations like <<2*3=6>>
        working, _, gold = answer.rpartition("####")
        if "\n" in gold.strip():
            raise ValueError(f"{where}: behind #### must stand the answer alone, on one line, as in GSM8K")
        if working.strip() and solution.strip():
            raise ValueError(f"{where}: \"solution\" and \"answer\" (before ####) both hold the working; keep one")
        solution = solution or re.sub(r"<<[^<>]*>>", "", answer).strip()
        answer = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", gold)
    if not answer.strip():
        raise ValueError(f"{where}: the answer is empty")
    return Problem(question, answer.strip(), solution, source)


def format_question(problem: Problem, shots: list[Problem] = ()) -> str:
    """The prompt for a base model: worked examples, then the question, up to where the answer begins."""
    text = ""
    for shot in shots:
        solution = shot.solution.rstrip()
        if not re.search(r"####|\\boxed|^Answer: ", solution, re.MULTILINE):
            solution = f"{solution}\n#### {shot.answer}".lstrip()
        text += f"Question: {shot.question.strip()}\nAnswer: {solution}\n\n"
    return f"{text}Question: {problem.question.strip()}\nAnswer:"


# rewards

@dataclass
class Reply:
    """One completion, as rewards see it."""
    text: str               # decoded, with thinking marks; begins with <think> also where the prompt opened the block
    tokens: int = 0         # how many it has
    limit: int = 0          # how many it could have had
    finish: str = "stop"    # "stop" or "length"
    thinking: bool = False  # whether it should think: True in a chat, False in plain text and in no-think mode
    sample: int = 0         # its number in the group

    @classmethod
    def of(cls, completion, tokenizer, limit, sample=0):
        """From a sampler.Completion."""
        c, chat = completion, tokenizer.im_start is not None and tokenizer.im_start in completion.prompt
        return cls(tokenizer.decode_reply(c.prompt, c.tokens), len(c.tokens), limit, c.finish,
                   chat and tokenizer.thinking_in(c.prompt) is not False, sample)


@dataclass
class Group:
    """What a reward may look at beside its own reply."""
    problem: Problem
    replies: list[Reply]
    seed: int = 0

    @cached_property
    def majority(self) -> str | None:
        """The answer that most replies give, the earlier one of equals; None where nobody answers."""
        given, votes = [], []
        for answer in (answer_of(self.problem, reply.text) for reply in self.replies):
            if answer is not None:
                at = next((i for i, other in enumerate(given) if same_answer(answer, other)), len(given))
                if at == len(given):
                    given.append(answer)
                    votes.append(0)
                votes[at] += 1
        return given[votes.index(max(votes))] if given else None


@dataclass
class Score:
    reward: float           # the weighted sum of the parts
    parts: dict             # each reward by name, without its weight
    answer_ok: bool
    process_ok: bool | None  # None where a problem has no steps to check: only the world has
    steps_ok: float | None
    reason: str             # "ok", or the first thing that is wrong


def answer_of(problem: Problem, text: str) -> str | None:
    """The final answer: in the world the last "Answer:" line. Inside an unclosed think block nothing is an answer."""
    return final_answer(text) if problem.world else extract_answer(text)


def grade(problem: Problem, text: str) -> Verdict:
    """Answer and steps of a completion; process_ok and steps_ok are None where the problem has no steps."""
    if problem.world:
        return problem.world.verify(problem.world_problem, text)
    ok = check_answer(text, problem.answer)
    return Verdict(ok, None, None, "ok" if ok else f"answer {str(extract_answer(text))[:80]}, it is {problem.answer}")


def answer_reward(problem, reply, group):
    """1 for a right final answer."""
    return float(grade(problem, reply.text).answer_ok)


def process_reward(problem, reply, group):
    """The share of the gold steps that are right."""
    return grade(problem, reply.text).steps_ok


def strict_reward(problem, reply, group):
    """1 for a right answer by right steps: R = R_out if R_pv = 1, else 0 (arXiv 2512.07783)."""
    return float(grade(problem, reply.text).ok)


def format_reward(problem, reply, group):
    """1 for a finished text of the right form, whatever it says.

    A reply that should think: one <think> at the very start, some reasoning, one </think>, and behind it exactly one
    final answer (in the world one "Answer: N" line, else one \\boxed{} or another form that count_answers knows).
    Any other: no thinking mark, and exactly one final answer; in the world, steps alone may stand before its line.
    """
    text = reply.text
    if reply.thinking:
        reasoning, said = split_thinking(text)
        good = bool((reasoning or "").strip()) and text.lstrip().startswith(THINK)
        good = good and text.count(THINK) == text.count(END_THINK) == 1
    else:
        said, good = text, THINK not in text and END_THINK not in text
    if problem.world is None:
        return float(good and reply.finish == "stop" and count_answers(said) == 1)
    *before, last = [line for line in said.split("\n") if line.strip()] or [""]
    good = good and ANSWER.search(last) and (reply.thinking or all(LINE.search(line) for line in before))
    return float(bool(good) and reply.finish == "stop" and len(ANSWER.findall(said)) == 1)


def length_reward(problem, reply, group):
    """1 for no tokens, falling in a straight line to 0 at the limit: short is better, right or wrong."""
    if reply.limit < 1:
        raise ValueError("the length reward needs Reply.limit, the most tokens that a completion may have")
    return max(0.0, 1 - reply.tokens / reply.limit)


def random_reward(problem, reply, group):
    """A fair coin for each (seed, question, sample), blind to the text; a resumed run throws the same ones."""
    key = f"{group.seed}|{reply.sample}|{problem.question}"
    return float(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=1).digest()[0] & 1)


def incorrect_reward(problem, reply, group):
    """1 for a final answer that is there and wrong."""
    return float(answer_of(problem, reply.text) is not None and not grade(problem, reply.text).answer_ok)


def majority_reward(problem, reply, group):
    """1 for the answer that most of the group give."""
    return float(group.majority is not None and same_answer(answer_of(problem, reply.text), group.majority))


REWARDS = {"answer": answer_reward, "process": process_reward, "strict": strict_reward, "format": format_reward,
           "length": length_reward, "random": random_reward, "incorrect": incorrect_reward, "majority": majority_reward}
NEED_STEPS = {"process", "strict"}


def parse_rewards(mix: str, *specs: str) -> list[tuple]:
    """"strict:1+length:0.1" -> [(name, function, weight), ...]; a name alone weighs 1.

    specs: where the problems come from, to refuse rewards that need steps where there are none."""
    rewards = []
    for part in mix.split("+"):
        name, colon, weight = part.strip().partition(":")
        if name not in REWARDS:
            raise ValueError(f"reward {name!r} is not known: use {', '.join(REWARDS)}, as in strict:1+length:0.1")
        if name in [seen for seen, _, _ in rewards]:
            raise ValueError(f"reward {name!r} is given twice")
        without = [spec for spec in specs if not spec.startswith("world:")]
        if name in NEED_STEPS and without:
            raise ValueError(f"reward {name!r} checks steps, and {without[0]} has none: use answer, or world:...")
        try:
            rewards.append((name, REWARDS[name], float(weight) if colon else 1.0))
        except ValueError:
            raise ValueError(f"reward {part!r}: {weight!r} is not a number") from None
        if not math.isfinite(rewards[-1][2]):
            raise ValueError(f"reward {part!r}: use a finite weight")
    return rewards


def score_group(problem: Problem, replies: list[Reply], rewards: list[tuple], seed: int = 0,
                on_error=None) -> list[Score]:
    """Scores the G completions of one prompt; `rewards` is what parse_rewards gives.

    Texts come from models and rewards from users, so a reward that raises, or is not a finite number, counts as zero,
    and on_error(name, text, exception) is called."""
    group, scores = Group(problem, replies, seed), []

    def guarded(name, reply, function, *arguments, otherwise):
        try:
            return function(*arguments)
        except Exception as error:
            if on_error:
                on_error(name, reply.text, error)
            return otherwise

    def value(function, reply):
        number = float(function(problem, reply, group))
        if not math.isfinite(number):
            raise ValueError(f"the reward is {number}")
        return number

    for reply in replies:
        parts = {name: guarded(name, reply, value, function, reply, otherwise=0.0) for name, function, _ in rewards}
        verdict = guarded("grade", reply, grade, problem, reply.text,
                          otherwise=Verdict(False, False, 0.0, "cannot be graded"))
        total = sum(weight * parts[name] for name, _, weight in rewards)
        scores.append(Score(total, parts, verdict.answer_ok, verdict.process_ok, verdict.steps_ok, verdict.reason))
    return scores
