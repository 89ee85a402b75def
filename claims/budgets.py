"""A chat model that thinks in either style, or not at all, and reinforcement of it, for the claims on how long it thinks.

It starts from the base of mid-training that has met both styles, and learns two modes (Qwen3's): questions that end in " /think",
and some that end in " /no_think". A thinking budget closes the think block, and then the model must answer.
"""

from claims import midtraining, tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command

BUDGETS = (0, 16, 32, 64, "on")                            # the most tokens of thinking; on: without a bound
STYLE = {"style": "hybrid"}                                # half of the thoughts are short, half are long


def thinker(s: Setting) -> Command:
    """Fine-tuned on both modes."""
    return tiny.sft(s, midtraining.pretrained(s, "hybrid"), tiny.world(s, "1-3", "sft", **STYLE), steps=200, no_think=0.25)


def reinforced(s: Setting, **flags) -> Command:
    """Reinforcement in thinking mode, without a budget."""
    usual = {"data": tiny.world(s, tiny.EDGE, "rl", **STYLE), "mode": "think", "max_new_tokens": 200, "prompts": 16}
    return tiny.grpo(s, thinker(s), **usual | flags)


def measured(s: Setting, start: Command, budget: str | int = "on", **flags) -> Command:
    """Test problems with so much thinking. Without any, it is asked not to, as it was taught."""
    asked = {"suffix": " /no_think", "think": "off"} if budget == 0 else {"suffix": " /think", "think": budget}
    return tiny.evaluate(s, start, problems=150, chat=True, **asked, **STYLE | flags)
