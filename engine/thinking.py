"""A thinking budget: closes a think block that is too long, and makes sure that an answer follows."""

from tokenizer import Tokenizer

HAND_OVER = "\nTime to answer.\n"      # the last words of a think block that is closed by force


class ThinkBudget:
    """Keeps one completion within its thinking budget.

    The think block (left open by the prompt, or opened by the first token) is closed by force when one of these holds:
    - it has `budget` tokens,
    - only answer_tokens (at most half of `limit`) are left for the answer,
    - the model samples an end token inside the block.

    The forced tokens are HAND_OVER, </think> and an empty line (Qwen3, arXiv 2505.09388). In an empty block HAND_OVER is left
    out, so a budget of 0 gives the empty block of no-think mode. Outside of the block an end token is not allowed until the
    answer has some text."""

    def __init__(self, tokenizer: Tokenizer | None, prompt: list[int], budget: int, limit: int, answer_tokens: int):
        if tokenizer is None or tokenizer.think is None or tokenizer.end_think is None:
            raise ValueError("a think budget needs a tokenizer with the special tokens <think> and </think>")
        self.tokenizer, self.budget = tokenizer, budget
        close = [tokenizer.end_think, *tokenizer.encode("\n\n")]
        self.hand_over, self.at_once = tokenizer.encode(HAND_OVER) + close, tokenizer.encode("\n") + close
        if budget < 0 or limit <= len(self.hand_over):
            raise ValueError(f"a think budget is at least 0 and needs max_new_tokens above {len(self.hand_over)}, the "
                             f"tokens of its hand-over; got {budget} and {limit}")
        self.last = limit - min(answer_tokens, limit // 2) - len(self.hand_over)
        self.size, self.blank, self.queue = 0, True, []   # tokens so far; True: no answer yet; the forced tokens that are left
        self.thought = 0 if tokenizer.thinking_in(prompt) else None           # tokens in the block; None outside of one

    def must(self, drawn: int, stop: set[int]) -> int | None:
        """The forced token that replaces the sampled one, or None."""
        if self.thought is not None and not self.queue and drawn != self.tokenizer.end_think and (
                self.thought >= self.budget or self.size >= self.last or drawn in stop):
            self.queue = list(self.hand_over if self.thought else self.at_once)
        return self.queue[0] if self.queue else None

    def take(self, token: int) -> None:
        """Notes the token that was added, forced or sampled."""
        if self.queue:
            del self.queue[0]
            if not self.queue:
                self.thought = None
        elif self.thought is not None:
            self.thought = None if token == self.tokenizer.end_think else self.thought + 1
        elif self.size == 0 and token == self.tokenizer.think:
            self.thought = 0
        elif self.tokenizer.token_bytes(token).decode(errors="replace").strip():
            self.blank = False
        self.size += 1


def parse_think(text: str) -> tuple[bool | None, int | None]:
    """--think on|off|auto|N -> (`think` for Tokenizer.chat_prompt, the budget of a think block in tokens, or None)."""
    modes = {"on": True, "off": False, "auto": None}
    if text not in modes and not text.isdecimal():
        raise ValueError(f"--think {text}: use on, off, auto or a number of tokens")
    return (modes[text], None) if text in modes else (True, int(text))
