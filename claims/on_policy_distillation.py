"""Claim 11: on-policy distillation reaches what reinforcement reaches, at a tenth of the FLOPs, and solves more in 8 tries.

As in Qwen3's comparison all go on from one student, fine-tuned on answers of a teacher, which is larger and reinforced. What the
teacher has cost to make counts for none of them. Beside it stand what the literature argues about: the direction of the KL
divergence, a divergence of the first words alone, and fine-tuning on as many answers of the teacher as it judges here.
"""

from claims import tiny
from claims.runner.claim import HOLDS, OPEN, Claim, Setting, both, no_worse
from claims.runner.commands import Command, make
from claims.runner.measures import Result

STEPS, PROMPTS, GROUP = 14, 8, 4                           # of on-policy distillation
CHAT = {"mode": "chat", "max_new_tokens": 64}
LONG = {"steps": 300, "lr": 0.02, "adam_lr": 0.004}        # of fine-tuning: the bases have never seen a chat
REACHES, COST, PASS_8 = "on-policy - RL", "FLOPs, on-policy / RL", "pass@8, on-policy - RL"


def teacher(s: Setting) -> Command:
    """A base that has learned to chat, and reinforcement."""
    base = tiny.base(s, tiny.tokenizer())
    return tiny.grpo(s, tiny.sft(s, base, tiny.world(s, tiny.SKILLS, "sft"), **LONG), **CHAT)


def answers(s: Setting, split: str, count: int) -> Command:
    """The teacher's answers to so many questions."""
    return make("augment.py", "distill", "--init", teacher(s), "--data", tiny.world(s, tiny.EDGE, split), "--count",
                count, "--seed", s.seed, "--device", s.device)


def student(s: Setting) -> Command:
    """A smaller base, fine-tuned on answers of the teacher."""
    return tiny.sft(s, tiny.base(s, tiny.tokenizer(), width=96), answers(s, "sft", s.count(1600)), **LONG)


def on_policy(s: Setting, steps: int = STEPS, **flags) -> Command:
    """Distillation of the student on its own answers."""
    usual = CHAT | {"prompts": PROMPTS, "group": GROUP, "lr": 1e-3, "schedule": "wsd", "decay": 0.5, "show_every": 0}
    return make("distill.py", "--init", student(s), "--teacher", teacher(s), "--data", tiny.world(s, tiny.EDGE, "rl"), "--steps",
                s.steps(steps), *tiny.common(s), *tiny.as_flags(usual | flags))


def arms(s: Setting) -> dict[str, Command]:
    start, rl = student(s), tiny.grpo(s, student(s), **CHAT)
    made = {"teacher": teacher(s), "student": start, "RL": rl, "on-policy": on_policy(s),
            "4x": on_policy(s, 2 * STEPS, prompts=2 * PROMPTS), "again": on_policy(s, seed=s.seed + 100),
            "forward": on_policy(s, loss="forward"), "reverse": on_policy(s, loss="reverse"),
            "reverse, top 4": on_policy(s, loss="reverse", top_k=4),
            "more answers": tiny.sft(s, start, answers(s, "rl", s.steps(STEPS) * PROMPTS * GROUP), steps=STEPS)}
    found = {name: tiny.evaluate(s, command, chat=True) for name, command in made.items()}
    return found | {"cost of RL": rl, "cost of on-policy": made["on-policy"]}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items() if result.right}
    return {REACHES: rate["on-policy"] - rate["RL"], PASS_8: r["on-policy"].rate(8) - r["RL"].rate(8),
            COST: r["cost of on-policy"].own_flops() / r["cost of RL"].own_flops(), "4x - RL": rate["4x"] - rate["RL"],
            "pass@8, RL - student": r["RL"].rate(8) - r["student"].rate(8),
            "forward - reverse": rate["forward"] - rate["reverse"],
            "pass@8, forward - reverse": r["forward"].rate(8) - r["reverse"].rate(8),
            "whole reverse - by advantages": rate["reverse"] - rate["on-policy"],
            "top 4 - whole reverse": rate["reverse, top 4"] - rate["reverse"],
            "on-policy - as many answers": rate["on-policy"] - rate["more answers"],
            "other draws": rate["again"] - rate["on-policy"], "teacher - student": rate["teacher"] - rate["student"]}


CLAIM = Claim(
    number="11", says="On-policy distillation reaches the score of reinforcement at a tenth of the FLOPs.",
    source="Qwen3, arXiv 2505.09388, table 21; Thinking Machines, On-Policy Distillation (2025)",
    theirs="Qwen3-8B, AIME24 (pass@64): off-policy 55.0 (90.0), then RL 67.6 (90.0) in 17,920 GPU hours, or on-policy "
    "distillation 74.4 (93.3) in 1,800",
    would_show="Not below 0, with a tenth of the FLOPs; pass@8 above 0",
    arms=arms, statistic=statistic, headline=REACHES, also=(COST,),
    verdict=lambda n: both(no_worse(n[REACHES]), HOLDS if n[COST][2] < 0.15 else OPEN), matters=0.05,
    null="other draws", oracle="teacher - student")
