"""A base that has seen the test questions with their answers, its clean twin, and reinforcement of both by several rewards.

Pre-training shows solutions in two styles: with steps, and the answer at once. Then a branch sees some questions with their
answers, at once, so often that it knows them by heart: the contaminated base those of the test, the clean one as many others
(split=dev). So the two have the same habits, and differ in which questions they know. What counts is the answer alone.

Reinforcement is on questions that neither has seen. As in arXiv 2506.10947 a batch is used for eight updates, so that the clip of
the ratio acts, and the labels of three rewards are made before training, for the same questions: the right answers, and a vote of
64 samples of the base.

    truth        1 for the right answer
    majority     1 for the label by the vote
    format       1 for a text in the right form
    random       a coin
    incorrect    1 for the label, on those questions alone whose label is wrong
"""

from claims import tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command, make

BASES = {"clean": "dev", "contaminated": "test"}           # the split of the questions that a branch sees
REWARDS = ("truth", "majority", "format", "random", "incorrect")
SPURIOUS = ("format", "random", "incorrect")               # which know nothing of the truth, or the contrary
ASKED = 100                                                # test questions of each number of operations
SHOWN = (0.4, 0.6)                                         # of a question's words, in the probe for contamination
NO_CLIP = {"clip_low": 1, "clip_high": 1e9}
ORACLE = "oracle:errors=0"                                 # of augment.py, which is always right


def leak(s: Setting, split: str) -> Command:
    """The first questions of a split, with their answers at once: all that are asked, and some more. None has 60 tokens."""
    return make("data.py", "prepare", "--data", *(tiny.world(s, ops, split, solution=0) for ops in "23"), "--tokenizer",
                tiny.tokenizer(), "--tokens", 60 * s.count(ASKED))


def base(s: Setting, kind: str) -> Command:
    """The branch; "clean" or "contaminated". Its learning rate never falls, because reinforcement starts here (see
    tiny.steady)."""
    styles = tiny.world(s, tiny.SKILLS, "pretrain", 0.6), tiny.world(s, tiny.SKILLS, "pretrain", 0.4, solution=0)
    return tiny.branch(s, tiny.steady(s, tiny.tokenizer(), *styles), (leak(s, BASES[kind]), "@0.5"),
                       tiny.world(s, tiny.SKILLS, "midtrain", 0.5), steps=180, **tiny.STEADY)


def labels(s: Setting, by: Command | str, only: str = "all") -> Command:
    """Questions with the vote of that base as their answers; of ORACLE, the right ones."""
    sampling = () if by == ORACLE else ("--plain", "--max-new-tokens", 48, "--rows", 256)
    return make("augment.py", "vote", "--init", by, "--data", tiny.world(s, tiny.EDGE, "rl"), "--count", s.count(256),
                "--samples", 1 if by == ORACLE else 64, "--only", only, *sampling, "--seed", s.seed, "--device", s.device)


def rewarded(s: Setting, start: Command, reward: str, **flags) -> Command:
    """Reinforcement by one of REWARDS. At budget toy a base has no answers that could vote; there the rewards of grpo.py with
    these names are taken."""
    votes = {"truth": (ORACLE,), "majority": (start,), "incorrect": (start, "wrong")}
    by = "answer" if reward == "truth" else reward
    if reward in votes and s.budget != "toy":
        flags, by = {"data": labels(s, *votes[reward])} | flags, "answer"
    return tiny.grpo(s, start, steps=40, **{"reward": by, "minibatches": 8, "lr": 2e-4} | flags)


def probed(s: Setting, start: Command) -> Command:
    """How well the base knows the rest of a test question, of which it is shown 40% or 60%."""
    return make("evaluate.py", "--init", start, "--data", tiny.world(s, tiny.EDGE, "test"), "--problems", s.count(ASKED),
                "--contamination", ",".join(map(str, SHOWN)), "--max-new-tokens", 64, "--rows", 256, "--device", s.device)


def measured(s: Setting, start: Command) -> Command:
    """The test questions, which the contaminated base has seen."""
    return tiny.evaluate(s, start, problems=ASKED)
