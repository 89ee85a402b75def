"""Given documents, which are read and not sampled: how distill.py and grpo.py open them, and where a run is in its data."""

import os

from data import Stream
from rl.prompts import Prompts
from sources.conversations import open_conversations
from sources.kinds import kind_of
from sources.open import open_source
from tokenizer import Tokenizer

ROW = 512                            # tokens in a row of them, if --seq-len does not say


class Sources:
    """Where a run is in its data: prompts to answer, and a Stream of given documents; either may be None."""

    def __init__(self, prompts: Prompts | None, given: Stream | None):
        self.parts = {"prompts": prompts, "documents": given}
        self.next = given and given.next

    def state(self) -> dict:
        return {name: part.state() for name, part in self.parts.items() if part}

    def restore(self, state: dict) -> None:
        for name, saved in state.items():
            self.parts[name].restore(saved)

    def report(self) -> dict:
        """Fields for the last line of the run."""
        return self.parts["documents"].report() if self.parts["documents"] else {}


def is_text(name: str) -> bool:
    """Whether a source is text: a file of it, shards, or a data set of the hub."""
    return os.path.isdir(name) or name.startswith("hf:") or kind_of(name) == "text"


def open_given(specs: list[str], tokenizer: Tokenizer, mode: str, T: int, batch_tokens: int, seed: int) -> Stream:
    """Given documents: text; conversations; and questions with their solutions, in the form of --mode. T: tokens in a row."""
    no_think = {"think": -1.0, "no_think": 1.0}.get(mode, 0.0)                 # -1: none, but each question has its flag

    def opener(name, tokenizer):
        if is_text(name) or (mode == "plain" and kind_of(name) != "conversations"):
            return open_source(name, tokenizer)
        return open_conversations(name, tokenizer, T, no_think)
    return Stream(specs, tokenizer, T, batch_tokens, seed, opener=opener)
