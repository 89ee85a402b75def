"""Bases that have met chats in pre-training, which the claims on reinforcement with and without fine-tuning share.

Three tenths of what they read are solutions in the form of a chat. So reinforcement may begin at any checkpoint, fine-tuned or
not, and all are asked in the same way.
"""

from claims import tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command

CHAT = {"mode": "chat", "max_new_tokens": 64}


def base(s: Setting, steps: int = 240, **flags) -> Command:
    """Pre-training."""
    data = (tiny.world(s, tiny.SKILLS, "pretrain", 0.6), tiny.world(s, tiny.BEYOND, "pretrain", 0.1),
            tiny.world(s, tiny.SKILLS, "pretrain", 0.3, format="chat"))
    return tiny.base(s, tiny.tokenizer(), *data, steps=steps, **flags)


def lessons(s: Setting) -> str:
    """What fine-tuning reads: solutions on the edge."""
    return tiny.world(s, tiny.EDGE, "sft")


def reinforced(s: Setting, init: Command, **flags) -> Command:
    """The same for all: problems on the edge, paid where every step is right."""
    return tiny.grpo(s, init, **CHAT | flags)


def solves(s: Setting, init: Command) -> Command:
    """Test problems in a chat."""
    return tiny.evaluate(s, init, chat=True)
