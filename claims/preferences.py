"""A student that chats, pairs of answers, and preference training, which the claims on preferences share.

The student is a mid-trained base, fine-tuned on chats about one to three operations. All are tested on the same problems, of two
and three operations, every step of the think block counting. DPO on right over wrong answers of oracles is no oracle arm: it
may make the student worse, because wrong answers that it would never give are pushed down further, and others with them (Ren and
Sutherland, arXiv 2407.10490; results/tried.jsonl). SFT on right answers is. Pairs come from two places:

    contrasts     the policy's own answers: a right one is chosen, a wrong one rejected (augment.py contrast)
    pairs         a stronger and a weaker teacher, without a judge (augment.py pairs); oracle:errors=0.4 errs at 40% of its steps
"""

from claims import midtraining, tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command, make

OPS = "2-3"
QUESTIONS, SAMPLES = 640, 8                                # of a round of pairs; answers to each question
STEPS, BATCH = 60, 4096                                    # of preference training; tokens of a step, both answers of a pair
CHAT = {"mode": "chat", "max_new_tokens": 64}
RIGHT, WEAK, WRONG = "oracle:errors=0", "oracle:errors=0.4", "oracle:errors=0.9"


def student(s: Setting) -> Command:
    return tiny.sft(s, midtraining.branch(s, "short"), tiny.world(s, tiny.SKILLS, "sft"), steps=150)


def solves(s: Setting, checkpoint: Command, ops: str = OPS) -> Command:
    return tiny.evaluate(s, checkpoint, ops, chat=True)


def questions(s: Setting, part: int = 0, ops: str = OPS) -> str:
    """New questions in each part, whose problems are those of reinforcement."""
    return f"world:tiny,ops={ops},split=rl,seed={1000 * (s.seed + 1) + part}"


def pairs(s: Setting, strong: str | Command, weak: str | Command, ops: str = OPS) -> Command:
    """At budget toy, where models write nothing that is usable, an oracle stands for each model."""
    sides = [side if isinstance(side, str) else s.unless_toy((side,), (oracle,))[0]
             for side, oracle in ((strong, RIGHT), (weak, WRONG))]
    return make("augment.py", "pairs", "--strong", sides[0], "--weak", sides[1], "--data", questions(s, ops=ops), "--count",
                s.count(QUESTIONS), "--max-new-tokens", 80, *sampling(s))


def written(s: Setting, teacher: str, ops: str = OPS) -> Command:
    """One side of pairs alone, as conversations."""
    return make("augment.py", "distill", "--init", teacher, "--data", questions(s, ops=ops), "--count", s.count(QUESTIONS),
                "--seed", s.seed, "--device", s.device)


def tuned(s: Setting, init: Command, rows: Command) -> Command:
    """SFT on one side. It sees about as many answers of it as DPO does, so its batches have half of the tokens."""
    return tiny.sft(s, init, rows, steps=STEPS)


def contrasts(s: Setting, policy: Command, part: int = 0, count: int = QUESTIONS) -> Command:
    if s.budget == "toy":
        return pairs(s, RIGHT, WRONG)
    return make("augment.py", "contrast", "--init", policy, "--data", questions(s, part), "--count", s.count(count), "--samples",
                SAMPLES, "--max-new-tokens", CHAT["max_new_tokens"], *sampling(s))


def sampling(s: Setting) -> list:
    return ["--rows", 256, "--temperature", 1, "--seed", s.seed, "--device", s.device]


def dpo(s: Setting, init: Command, rows: Command, steps: int = STEPS, **flags) -> Command:
    """Preference training at the rate of dpo.py's own examples; the reference is where it starts."""
    return make("dpo.py", "--init", init, "--data", rows, "--seq-len", 512, "--batch-tokens", BATCH, "--steps", s.steps(steps),
                *tiny.common(s), *tiny.as_flags({"lr": 1e-4} | flags))


def online(s: Setting, init: Command, ops: str = OPS, **flags) -> Command:
    """Reinforcement in a chat, as in the other claims."""
    return tiny.grpo(s, init, ops, **CHAT | flags)
