"""Answers of teachers as conversations, and students that are fine-tuned on them, which the claims on distillation share.

Students start from the bases of mid-training (midtraining.py), which have never seen a chat, and all are fine-tuned for as many
steps; where there are fewer answers they are repeated. The tests are the same for all: problems of two and three operations,
asked in a chat, every step of the think block counting.
"""

from claims import midtraining, tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command, make

OPS = "2-3"
QUESTIONS = 3200
KNOWS = "oracle:errors=0"                                  # a teacher that makes no error


def taught(s: Setting, teacher: str | Command, *flags, questions: int = QUESTIONS) -> Command:
    """Its answers to so many questions. teacher: "oracle:..." or a checkpoint."""
    return make("augment.py", "distill", "--init", teacher, "--data", tiny.world(s, OPS, "sft"), "--count", s.count(questions),
                "--seed", s.seed, "--device", s.device, *flags)


def student(s: Setting, rows: Command, style: str = "short", **flags) -> Command:
    """Fine-tuned on the answers, from the base that has met that style."""
    return tiny.sft(s, midtraining.pretrained(s, style), rows, **{"steps": 300, "lr": 0.02, "adam_lr": 0.004} | flags)


def solves(s: Setting, start: Command, style: str = "short") -> Command:
    """Test problems; the style makes room for an answer."""
    return tiny.evaluate(s, start, OPS, chat=True, style=style)


def measured(s: Setting, rows: dict[str, Command], style: str = "short", again: str = "") -> dict[str, Command]:
    """{name: what a student of these answers solves}, and what the base solves as "untaught". again: the answers of the null
    arm, on which a second student is trained with another seed."""
    found = {name: solves(s, student(s, answers, style), style) for name, answers in rows.items()}
    found["untaught"] = solves(s, midtraining.pretrained(s, style), style)
    return found | {f"{again}, again": solves(s, student(s, rows[again], style, seed=s.seed + 100), style)}
