"""Claim 11b: on-policy distillation lifts a small student at the edge more than fine-tuning on as many tokens of the teacher.

The teacher has three times the weights of the student (2.7M and 0.9M), and is fine-tuned on the edge. The student has seen half
as much, and then answers of the teacher, several times: as in Qwen3's comparison the question is what comes behind this, where
more answers add little. (A student that has seen none writes what the teacher has no opinion of.) The two ways then have one
optimiser, and as many tokens of the teacher on new questions: those that it judges in on-policy distillation, and those that it
has written in fine-tuning, which reads them once, or several times. What they are is read from the logs: the tokens with a loss.

Each way has the best of the rates that were tried (results/tried.jsonl). Fine-tuning that reads the answers once does less harm
the lower its rate is, so "on-policy - student", which is against a rate of 0, stands beside. At three times its rate, and without
a bound on what one token counts, distillation can ruin the student: a few tokens behind its errors then have most of the
divergence.
"""

from claims import chats, tiny
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command, make
from claims.runner.measures import Result

TEACHER, STUDENT = {"width": 320, "ff": 1024}, {"width": 192}
STEPS, PROMPTS, GROUP = 48, 16, 4                          # of on-policy distillation
ONCE, PASSES = 128, 3                                      # steps of fine-tuning that read all answers once; and how often else
RATE_ONCE = {"lr": 1e-4}                                   # of fine-tuning that reads the answers once
RATES = {"lr": 1e-3, "schedule": "wsd", "decay": 0.5}
BOUND = {"clip_divergence": 3}                             # nats of a token
LIFTS, BOUNDED = "on-policy - student", "bounded - not bounded"
ARMS = {"SFT": "on-policy - SFT", f"SFT, {PASSES} passes": f"on-policy - SFT, {PASSES} passes"}


def teacher(s: Setting) -> Command:
    return tiny.sft(s, chats.base(s, 320, **tiny.STEADY, **TEACHER), chats.lessons(s), steps=160)


def student(s: Setting) -> Command:
    return fine_tuned(s, chats.base(s, 160, **tiny.STEADY, **STUDENT), "sft", PASSES * ONCE)


def on_policy(s: Setting, **flags) -> Command:
    """Distillation of the student on its own answers."""
    usual = {"lr": 3e-4, "prompts": PROMPTS, "group": GROUP, "loss": "reverse", "show_every": 0}
    return make("distill.py", "--init", student(s), "--teacher", teacher(s), "--data", tiny.world(s, tiny.EDGE, "rl"), "--steps",
                s.steps(STEPS), *tiny.common(s), *tiny.as_flags(chats.CHAT | RATES | BOUND | usual | flags))


def fine_tuned(s: Setting, init: Command, split: str, steps: int, **more) -> Command:
    """A model fine-tuned on answers of the teacher, as many as the teacher judges in on-policy distillation."""
    count = s.steps(STEPS) * PROMPTS * GROUP
    answers = make("augment.py", "distill", "--init", teacher(s), "--data", tiny.world(s, tiny.EDGE, split), "--count", count,
                   "--seed", s.seed, "--device", s.device)
    flags = RATES | {"optimizer": "adamw", "batch_tokens": 2048, "log_every": 1} | more
    return make("sft.py", "--init", init, "--data", answers, "--steps", s.steps(steps), *tiny.common(s), *tiny.as_flags(flags))


def arms(s: Setting) -> dict[str, Command]:
    """"NAME, run" is the run that the arm NAME measures."""
    runs = {"on-policy": on_policy(s), "SFT": fine_tuned(s, student(s), "rl", ONCE, **RATE_ONCE),
            f"SFT, {PASSES} passes": fine_tuned(s, student(s), "rl", PASSES * ONCE)}
    found = {"teacher": teacher(s), "student": student(s), "on-policy again": on_policy(s, seed=s.seed + 100),
             "by advantages": on_policy(s, loss="opd"), "not bounded": on_policy(s, clip_divergence=0)} | runs
    return {name: chats.solves(s, run) for name, run in found.items()} | {f"{name}, run": run for name, run in runs.items()}


def tokens(run: Result) -> float:
    """The tokens with a loss, in all steps."""
    return sum(record["weight"] for record in run.records if "weight" in record)


def statistic(r: dict[str, Result]) -> dict[str, float]:
    found = {name: r["on-policy"].rate() - r[other].rate() for other, name in ARMS.items()}
    found |= {f"pass@8, {name}": r["on-policy"].rate(8) - r[other].rate(8) for other, name in ARMS.items()}
    found["whole divergence - by advantages"] = r["on-policy"].rate() - r["by advantages"].rate()
    found[BOUNDED] = r["on-policy"].rate() - r["not bounded"].rate()
    return found | {LIFTS: r["on-policy"].rate() - r["student"].rate(), "SFT - student": r["SFT"].rate() - r["student"].rate(),
                    "teacher tokens, SFT / on-policy": tokens(r["SFT, run"]) / tokens(r["on-policy, run"]),
                    "other draws": r["on-policy again"].rate() - r["on-policy"].rate(),
                    "teacher - student": r["teacher"].rate() - r["student"].rate()}


CLAIM = Claim(
    number="11b", says="On-policy distillation lifts a small student at the edge more than SFT on as many teacher tokens.",
    source="Thinking Machines, On-Policy Distillation (2025); Qwen3, arXiv 2505.09388",
    theirs="Qwen3-8B, AIME24: 55.0 after SFT on a teacher's answers, 74.4 after on-policy distillation on top",
    would_show="All above 0: distillation lifts the student, and is ahead of SFT on as many tokens, read once or several times",
    arms=arms, statistic=statistic, headline=ARMS["SFT"], also=(LIFTS, *list(ARMS.values())[1:], BOUNDED),
    verdict=lambda n: both(positive(n[LIFTS]), *(positive(n[name]) for name in ARMS.values())),
    null="other draws", oracle="teacher - student")
