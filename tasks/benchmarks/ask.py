"""How a question of a benchmark is asked: with worked examples before it, as in pre-training, or as reinforcement learning asks.

    few_shot_prompt(problem, "gsm")     "Question: ...\\nAnswer: ... The answer is 17.\\n\\nQuestion: ...\\nAnswer:"
    chat_prompt(problem, "chat")        [{"role": "user", "content": "...\\n\\nThink step by step, ... \\\\boxed{}."}]
    dialogue_prompt(problem)            the same as plain text, for a tokenizer that has no chat

The two differ in what they measure: a base model that has seen few chats may solve with examples what it does not solve as
reinforcement learning asks, and learning starts from there (OctoThinker, arXiv 2506.20512).
"""

from collections.abc import Sequence

from tasks.benchmarks.shots import SHOTS, Shot
from tasks.task import SWITCHES, Problem

TEMPLATES = ("few-shot", "rl")
LETTERS = "ABCDEFGHIJ"
# what ends an answer: a base model goes on with a question of its own
FEW_SHOT_STOP = ("\nQuestion:",)
DIALOGUE_STOP = ("\nUser:",)
BOXED = "Think step by step, and put the final answer in \\boxed{}."
BOXED_LETTER = "Think step by step, and put the letter of the right choice in \\boxed{}."


def asked(question: str, choices: Sequence[str]) -> str:
    """The question, with a line for each choice: (A) ..."""
    return "\n".join([question.strip(), *(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices))])


def few_shot_prompt(problem: Problem, shots: str) -> str:
    """Worked examples (a name in SHOTS, or "" for none) and the question, up to the start of the answer."""
    text = "".join(worked(shot) for shot in SHOTS[shots]) if shots else ""
    return f"{text}Question: {asked(problem.question, problem.choices)}\nAnswer:"


def worked(shot: Shot) -> str:
    return f"Question: {asked(shot.question, shot.choices)}\nAnswer: {shot.working} The answer is {shot.answer}.\n\n"


def chat_prompt(problem: Problem, mode: str = "chat") -> list[dict]:
    """The question as a user's turn; mode: one of SWITCHES."""
    return [{"role": "user", "content": instructed(problem) + SWITCHES[mode]}]


def dialogue_prompt(problem: Problem) -> str:
    """The same for a tokenizer without chats."""
    return f"User: {instructed(problem)}\n\nAssistant:"


def instructed(problem: Problem) -> str:
    return f"{asked(problem.question, problem.choices)}\n\n{BOXED_LETTER if problem.choices else BOXED}"


def before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop texts."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
