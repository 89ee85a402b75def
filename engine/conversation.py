"""A conversation with a checkpoint in a terminal, for chat.py and `sampler.py --chat`: shows each reply while it is sampled."""

import argparse
import sys
from typing import Any, TextIO

import torch

from engine.draws import sampling_flags
from engine.requests import Completion
from engine.thinking import parse_think
from formats.chat import split_thinking
from model import Transformer, load_both
from tasks.tools import TOOL_NEEDS, Toolbox, add_tool_flags, open_tools
from tokenizer import Tokenizer
from training import cli

# when a flag has an effect (see cli.Parser)
NEEDS = (*TOOL_NEEDS, ("--top-p --top-k --seed", lambda a: a.temperature, "without --temperature above 0"),)


def add_flags(p: cli.Parser, prompt_help: str) -> None:
    """The flags of both commands."""
    p.add_argument("--init", metavar="FOLDER", required=True, help="checkpoint, ours or Hugging Face's")
    p.add_argument("--prompt", default="", help=prompt_help)
    p.add_argument("--system", default="", help="system message of the chat")
    p.add_argument("--think", metavar="on|off|auto|N", default="auto",
                   help="thinking in a chat; N: on, for at most N tokens; auto: by /think or /no_think in your turn")
    p.add_argument("--max-new-tokens", type=cli.positive_int, default=256, help="tokens")
    add_tool_flags(p)
    sampling_flags(p, temperature=0.0)
    p.add_argument("--colors", action="store_true", help="colour each token by its log-probability")
    p.add_argument("--device", type=cli.device, default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and cache")


def open_checkpoint(args: argparse.Namespace) -> tuple[Transformer, Tokenizer]:
    """The model and the tokenizer of --init. ValueError if it has no tokenizer."""
    return load_both(args.init, args.device, getattr(torch, args.dtype))


def converse(sampler: Any, args: argparse.Namespace) -> dict:
    """A chat in the terminal: one turn with args.prompt, or as many turns as the user wants. Returns the JSON object for the
    last line of standard output."""
    tokenizer, (think, budget) = sampler.tokenizer, parse_think(args.think)
    tools = open_tools(args.tool, args.max_calls, args.tool_seconds)
    messages = [{"role": "system", "content": args.system}] if args.system else []
    turns, completion = 0, None
    while text := args.prompt or read_turn():
        messages.append({"role": "user", "content": text})
        ids = tokenizer.chat_prompt(messages, think)
        completion = stream(sampler, ids, args, budget, tools=tools)
        turns += 1
        messages += reply_messages(tokenizer, completion)
        if args.prompt:
            break
    return summary(turns, completion)


def reply_messages(tokenizer: Tokenizer, completion: Completion) -> list[dict]:
    """A reply as messages: the assistant's turn, or several with those of tools between them."""
    prompt, begin, messages = completion.prompt, 0, []
    empty = tokenizer.thinking_in(prompt) is False        # the prompt has an empty think block
    for call in [*completion.calls, None]:
        end = call.start if call else len(completion.tokens)
        reasoning, said = split_thinking(tokenizer.decode_reply([] if begin else prompt, completion.tokens[begin:end]))
        messages.append({"role": "assistant", "content": said, "reasoning": "" if empty and not begin else reasoning})
        if call is None or call.end == call.start:        # the answer of the tool found no room
            return messages
        messages.append({"role": "tool", "content": call.answer})
        begin = call.end


def read_turn() -> str:
    """The user's next turn; "" ends the conversation."""
    try:
        return input("> ")
    except EOFError:
        print()
        return ""


def stream(sampler: Any, ids: list[int], args: argparse.Namespace, think_budget: int | None = None,
           out: TextIO | None = None, tools: Toolbox | None = None) -> Completion:
    """Shows one completion of the ids while it is sampled, on standard output or `out`, and returns it. A character whose bytes
    are in several tokens is shown when it is complete."""
    out = out or sys.stdout
    tokenizer, held = sampler.tokenizer, []
    opening = tokenizer.decode_reply(ids, [])             # <think>, where the prompt ends with it

    def show(_, token, logprob):
        nonlocal opening
        held.append(token)
        text = tokenizer.decode(held, skip_special=True)
        if not text.endswith("\ufffd"):
            out.write(opening + (color(text, logprob) if args.colors else text))
            out.flush()
            held.clear()
            opening = ""
    [[completion]] = sampler.generate([ids], max_new_tokens=args.max_new_tokens, temperature=args.temperature,
                                      top_p=args.top_p, top_k=args.top_k, seed=args.seed, on_token=show,
                                      think_budget=think_budget, tools=tools)
    out.write("\n")
    return completion


def color(text: str, logprob: float) -> str:
    """The text on a background from green (likely) over yellow to red (unlikely)."""
    shade = 22 if logprob > -0.1 else 58 if logprob > -1 else 94 if logprob > -3 else 88
    return f"\x1b[48;5;{shade}m{text}\x1b[0m"


def summary(turns: int, completion: Completion | None) -> dict:
    """The report at the end: number of tokens and finish of the last reply, and the mean log-probability of sampled tokens."""
    if completion is None:
        return {"turns": turns}
    drawn = [logprob for logprob, forced in zip(completion.logprobs, completion.forced) if not forced]
    return {"turns": turns, "tokens": len(completion.tokens), "finish": completion.finish,
            "mean_logprob": round(sum(drawn) / max(1, len(drawn)), 4)}
