"""Conversations as ids, in ChatML: <|im_start|>role, content, <|im_end|>; reasoning is between <think> and </think>.

There is one chat format. It uses the default system message of the checkpoint, if that has one. A checkpoint whose template
writes anything else is refused (formats/templates.py). Earlier reasoning stays in the history (Qwen3's template drops it). A
saved checkpoint has the template of exactly this format.
"""

import itertools
import re
from typing import Any

from formats import templates

IM_START, IM_END, THINK, END_THINK = "<|im_start|>", "<|im_end|>", "<think>", "</think>"
KEYS = {"role", "content", "reasoning", "reasoning_content", "unfinished"}    # of a message
CALL, END_CALL = "<tool_call>", "</tool_call>"            # around a call at the end of an assistant's turn (tasks/tools.py)


class ChatFormat:
    """How a tokenizer writes conversations.

    head       ids at the start of every conversation
    system     the system message for a conversation that has none, or None
    template   the chat template to save
    refusal    why this tokenizer cannot write conversations, or "" """

    def __init__(self, tokenizer: Any, template: str | None, names: dict[str, str]):
        """template: that of the checkpoint, or None. names: {"bos_token": text, ...}, which a template may use."""
        self.tokenizer, self.template, self.refusal, self.head, self.system = tokenizer, template, "", [], None
        if tokenizer.im_start is None or tokenizer.im_end is None:
            self.refusal = f"the tokenizer lacks {IM_START} or {IM_END}; use one made by tokenizer.py train, or one of Qwen"
            return
        bos = ""
        if template is None:
            bos = "".join(tokenizer.decode([i]) for i in tokenizer.prefix)
        elif template != templates.chat_template():
            try:
                bos, self.system = templates.head_of(template, names)
            except ValueError as error:
                self.refusal = (f"its chat template is not ChatML as it is written here: {error}; to use ChatML anyway, remove "
                                "the template from tokenizer_config.json or chat_template.jinja")
        self.head = tokenizer.prefix if template is None else [tokenizer.special[bos]] if bos else []
        if not self.refusal:
            self.template = templates.chat_template(bos, self.system)

    def encode(self, messages: list[dict], add_generation_prompt: bool = False,
               think: bool | None = None) -> tuple[list[int], list[float]]:
        """As Tokenizer.encode_chat."""
        if self.refusal:
            raise ValueError(self.refusal)
        start, end, encode = self.tokenizer.im_start, self.tokenizer.im_end, self.tokenizer.encode
        opening = THINK if self.tokenizer.think is None else self.tokenizer.think
        closing = END_THINK if self.tokenizer.end_think is None else self.tokenizer.end_think
        empty_block = (opening, "\n\n", closing, "\n\n")
        ids, mask = list(self.head), [0.0] * len(self.head)

        def put(weight: float, *parts: int | str) -> None:
            """Adds special tokens (int) and ordinary text (str; neighbours are encoded as one text)."""
            for is_text, group in itertools.groupby(parts, key=lambda part: isinstance(part, str)):
                ids.extend(encode("".join(group)) if is_text else group)  # noqa: B031 (used once)
            mask.extend([weight] * (len(ids) - len(mask)))

        if self.system is not None and (not messages or messages[0].get("role") != "system"):
            put(0.0, start, f"system\n{self.system}", end, "\n")
        for number, message in enumerate(messages):
            role, content, reasoning = (message.get(key) for key in ("role", "content", "reasoning"))
            reasoning = message.get("reasoning_content") if reasoning is None else reasoning                 # as others call it
            if unknown := [key for key in message if key not in KEYS and message[key] not in (None, "", [], {})]:
                raise ValueError(f"message {number} has {unknown[0]!r}, which cannot be written; use {', '.join(sorted(KEYS))}")
            content = plain_content(content)
            if not (isinstance(role, str) and isinstance(content, str) and isinstance(reasoning, str | None)):
                raise ValueError(f"message {number} must have 'role' and 'content', both text; got {str(message):.100}")
            if role != "assistant":
                put(0.0, start, f"{role}\n{content}", end, "\n")
                continue
            put(0.0, start, "assistant\n")
            unfinished = message.get("unfinished")         # cut off: no mark closes what was being said, and no turn follows
            if unfinished and number + 1 < len(messages):
                raise ValueError(f"message {number} is unfinished, and only the last message may be")
            if reasoning:
                put(0.0 if think else 1.0, opening, "\n")
                inside = unfinished and not content        # cut off while it thinks
                put(1.0, *([reasoning] if inside else [f"{reasoning}\n", closing, "\n\n", *self._with_marks(content)]))
            else:
                put(0.0, *(() if reasoning is None else empty_block))
                put(1.0, *self._with_marks(content))
            if not unfinished:
                put(1.0, end)
                put(0.0, "\n")
        if add_generation_prompt:
            put(0.0, start, "assistant\n")
            put(0.0, *{None: (), True: (opening, "\n"), False: empty_block}[think])
        return ids, mask

    def _with_marks(self, content: str) -> list[int | str]:
        """What an assistant says, in parts: the marks of calls are tokens of their own where the checkpoint has them (as Qwen's
        has), and text where it does not."""
        special = {mark: self.tokenizer.special[mark] for mark in (CALL, END_CALL) if mark in self.tokenizer.special}
        cut = re.split(f"({'|'.join(special)})", content) if special else [content]
        return [special.get(part, part) for part in cut]

    def tool_turn(self, text: str) -> list[int]:
        """As Tokenizer.tool_turn."""
        start, end, encode = self.tokenizer.im_start, self.tokenizer.im_end, self.tokenizer.encode
        return [*encode("\n"), start, *encode(f"tool\n{text}"), end, *encode("\n"), start, *encode("assistant\n")]

    def thinking_in(self, ids: list[int]) -> bool | None:
        """As Tokenizer.thinking_in."""
        start = max((at for at, i in enumerate(ids) if i == self.tokenizer.im_start), default=0)
        if self.tokenizer.think is not None and self.tokenizer.end_think is not None:
            marks = [i == self.tokenizer.think for i in ids[start:] if i in (self.tokenizer.think, self.tokenizer.end_think)]
            return marks[-1] if marks else None
        turn = self.tokenizer.decode(ids[start:])
        opened, closed = turn.rfind(THINK), turn.rfind(END_THINK)
        return None if opened == closed else opened > closed


def plain_content(content: Any) -> Any:
    """The content of a message as text: a list of {"type": "text", "text": ...} is joined, anything else is returned as it is."""
    def is_text(part):
        return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    if isinstance(content, list) and all(map(is_text, content)):
        return "".join(part["text"] for part in content)
    return content


def thinking_mode(messages: list[dict]) -> bool | None:
    """Qwen3's soft switch, for `think` of encode_chat: the last user turn that ends in a flag decides.

    "/no_think" gives False: the prompt ends with an empty think block, which a model is never trained to write. "/think", or no
    flag, gives None: the model opens a block itself."""
    turns = [str(plain_content(message.get("content"))).rstrip() for message in messages if message.get("role") == "user"]
    flagged = [turn for turn in turns if turn.endswith(("/no_think", "/think"))]
    return False if flagged and flagged[-1].endswith("/no_think") else None


def after_thinking(text: str) -> str | None:
    """The text of a completion after its last </think>; None if a <think> is still open."""
    rest = text.rpartition("</think>")[2]
    return None if "<think>" in rest else rest


def split_thinking(text: str) -> tuple[str | None, str]:
    """(reasoning, answer) of a decoded completion. reasoning is None without a think block, and "" for an empty block.

    If the block is never closed, everything is reasoning, and answer is "". If the prompt opened the block, put <think> before
    the completion; otherwise an unfinished block would be taken for an answer.
    """
    before, closed, after = text.partition(END_THINK)
    if not closed and not before.lstrip().startswith(THINK):
        return None, text
    return before.lstrip().removeprefix(THINK).strip("\n"), after.lstrip("\n")
