"""Predictions in replies: their form, and whether one is, byte for byte, how a text goes on (RPT, arXiv 2506.08007).

    said, fault = predicted(Reply("<think>Hm.</think><answer> cat</answer>", thinking=True))          " cat", ""
    matches(b" cat", [b" cat", b"ch"])                     True: the next token
    matches(b" catch", [b" cat", b"ch"])                   True: the next two
    matches(b" ca", [b" cat", b"ch"])                      False: it ends inside of a token
"""

import re
from collections.abc import Sequence

from formats.chat import END_THINK, THINK, split_thinking
from tasks.task import Reply

OPEN, CLOSE = "<answer>", "</answer>"
ANSWER = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL)


def answer_in(text: str) -> str | None:
    """What stands between the marks, exactly as it stands there; None if there is not just one such place behind the thinking, or
    if a think block is not closed."""
    said = split_thinking(text)[1]
    found = ANSWER.findall(said)
    return found[0] if len(found) == said.count(OPEN) == said.count(CLOSE) == 1 else None


def predicted(reply: Reply) -> tuple[str | None, str]:
    """(the prediction, ""), or (None, what is wrong with the form of the reply).

    A reply that should think begins with its only think block, which is closed and not empty; another one may have a block or
    none. Behind it there is one answer, which is not empty either. (It may be a space: that can be a token.)"""
    reasoning, marks = split_thinking(reply.text)[0], (reply.text.count(THINK), reply.text.count(END_THINK))
    if reply.thinking and (not (reasoning or "").strip() or not reply.text.lstrip().startswith(THINK) or marks != (1, 1)):
        return None, "no think block at the beginning, or none that is closed"
    if not reply.thinking and marks not in ((0, 0), (1, 1)):
        return None, "a thinking mark without the other one"
    said = answer_in(reply.text)
    return (said, "") if said else (None, "no answer, or more than one")


def matches(said: bytes, tokens: Sequence[bytes]) -> bool:
    """Whether the bytes are those of the first token, or of the first few: r = 1 if Y = X[:l] and l is one of the cumulative
    lengths of the tokens (equation 3 of the paper). An empty prediction is not right."""
    whole, ends = b"".join(tokens), set()
    for token in tokens:
        ends.add(len(token) + max(ends, default=0))
    return len(said) > 0 and said == whole[:len(said)] and len(said) in ends
