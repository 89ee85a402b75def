"""Text of the tiny world, and models that learn from it by reinforcement, which the claims on RL from text share.

The text is worked solutions on the edge of what the base can do. Every model starts from the same cold start: it has learned to
answer in a chat with a think block, on problems that it can solve, and the form in which a prediction is given, on a little of
the text. Then it learns from the text, by reinforcement or as in pre-training, and at last all get the same RLVR.
"""

from claims import midtraining, tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command, make

EASY, EDGE = "1-2", "2-3"            # operations of the chats that are given, and of the text
DOCUMENTS, TOKENS = 1000, 65_000     # of the text
CAP = {"rpt": 48, "rlpt": 64, "rlp": 32}                   # tokens of a reply: a thought of a line, and a prediction
SHORT = "ask=short"                  # the words of the prompt are learned in the cold start


def text(s: Setting, split: str = "midtrain", documents: int = DOCUMENTS, **options) -> str:
    """A SPEC: text(s, kind="rlpt", reward="strict")."""
    more = "".join(f",{name}={value}" for name, value in options.items())
    return f"text:world:tiny,ops={EDGE},split={split},seed={s.seed},documents={documents},{SHORT}{more}"


def raw(s: Setting) -> Command:
    """The same documents, to be read as in pre-training."""
    return make("data.py", "prepare", "--data", tiny.world(s, EDGE, "midtrain"), "--tokenizer", words(), "--tokens", TOKENS)


def words() -> Command:
    """Each word of prompts and marks is a token."""
    return make("tokenizer.py", "train", "--data", "world:tiny,ops=1-6", f"text:world:tiny,ops=1-3,kind=rlpt,{SHORT}",
                "--vocab-size", 512)


def pretrained(s: Setting) -> Command:
    """The base of the claims on mid-training, with these words."""
    return tiny.base(s, words(), *midtraining.old(s, "pretrain", "short"), steps=midtraining.STEPS["short"])


def cold(s: Setting, **options) -> Command:
    """The cold start that all share: it can predict some lines, or reinforcement on text would have nothing to choose from.
    options: of the lessons of RLPT."""
    forms = [f"{text(s, documents=100, kind='rlpt', **options)}@0.3", f"{text(s, documents=100, kind='rpt')}@0.3"]
    return tiny.sft(s, pretrained(s), tiny.world(s, EASY, "sft", 0.4), *forms, steps=300, lr=0.02, adam_lr=0.004)


def reinforced(s: Setting, data: str | tuple, kind: str, steps: int = 60, start: Command | None = None, **flags) -> Command:
    """Reinforcement on the text, from the cold start, and beside it a little fine-tuning on chats, without which a model this
    small forgets how to answer in one. data: a SPEC, or a tuple in which a command stands for its checkpoint. start: in place of
    the cold start."""
    usual = {"mode": "chat", "reward": "score", "prompts": 16, "group": 8, "rows": 256, "max_new_tokens": CAP[kind], "lr": 1e-3,
             "schedule": "wsd", "decay": 0.5, "show_every": 0, "loss": "rlp" if kind == "rlp" else "grpo",
             "sft_data": tiny.world(s, EASY, "sft", format="chat"), "sft_tokens": 1024, "sft_weight": 0.1}
    return make("grpo.py", "--init", start or cold(s), "--data", data, "--steps", s.steps(steps), *tiny.common(s),
                *tiny.as_flags(usual | flags))


def rlvr(s: Setting, start: Command, **flags) -> Command:
    """The same for all: problems in a chat, paid where every step is right, and a little for each right step."""
    return tiny.grpo(s, start, EDGE, **{"mode": "chat", "max_new_tokens": 64, "reward": "strict+process:0.5"} | flags)


def solves(s: Setting, start: Command) -> Command:
    """Test problems in a chat."""
    return tiny.evaluate(s, start, EDGE, chat=True)


def predicts(s: Setting, start: Command, reward: str = "strict") -> Command:
    """The next and the masked lines of text that nobody has seen."""
    data = text(s, "test", s.count(200), kind="rlpt", reward=reward)
    return make("evaluate.py", "--init", start, "--data", data, "--limit", s.count(200), "--k", 1, 8, "--temperature", 1,
                "--rows", 256, "--seed", s.seed, "--device", s.device, "--chat", "--max-new-tokens", CAP["rlpt"])
