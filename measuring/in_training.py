"""What training scripts measure on their --eval-data, on the way and at the end."""

from contextlib import AbstractContextManager

import torch

from data import print_table
from formats.texts import read_texts
from measuring.questions import file_accuracy, open_graded, world_accuracy
from measuring.text import bits_per_byte, check_text, heldout_loss
from model import Transformer
from sources.kinds import kind_of
from sources.open import open_source
from tasks.accuracy import print_evaluation, without_problems
from tasks.world import World
from tokenizer import Tokenizer


def check_specs(specs: list[str], tokenizer: Tokenizer) -> None:
    """ValueError for an --eval-data that cannot be measured; called before training, which may take days."""
    for spec in specs:
        kind = kind_of(spec)
        if kind == "conversations":
            raise ValueError(f"--eval-data {spec}: no answer to a conversation can be checked; give world:..., a file of "
                             "questions with answers, or text")
        if kind == "world":
            World.from_spec(spec)
        elif kind == "loss":
            open_source(spec.removeprefix("loss:"), tokenizer)
        elif kind == "questions":
            open_graded(spec, tokenizer)
        elif kind == "text":
            check_text(spec, tokenizer)


CHAT = dict(chat=True)
PLAIN = {"": dict(chat=False)}


def evaluate_all(model: Transformer, tokenizer: Tokenizer, specs: list[str], modes: dict, problems: int = 100, T: int = 256,
                 autocast: AbstractContextManager | None = None, max_new_tokens: int = 400) -> dict:
    """The measurements of training scripts on --eval-data: {spec: result}.

    - of a world: its accuracy table, greedy, on `problems` problems for each number of operations;
    - of a file of questions: the accuracy of the answers, greedy, on `problems` questions;
    - of text: bits per byte, in pieces of T tokens;
    - of loss:SPEC: the loss of pre-training on the SPEC.

    modes: how questions are asked, as in training: {name: options of `replies_to`}. The first mode is named "", and its result
    has the key spec; a second one has the key spec + name.
    """
    half = model.head.is_cuda and isinstance(autocast, torch.autocast)        # on a GPU replies are sampled in training's dtype
    found, dtype = {}, autocast.fast_dtype if half else None
    for spec in specs:
        kind = kind_of(spec)
        if kind == "text":
            found[spec] = bits_per_byte(model, tokenizer, read_texts(spec), T, max_tokens=500_000, autocast=autocast)
            continue
        if kind == "loss":
            found[spec] = heldout_loss(model, tokenizer, spec.removeprefix("loss:"), T, autocast=autocast)
            continue
        for name, how in modes.items():
            if kind == "world":
                found[spec + name] = without_problems(world_accuracy(model, tokenizer, spec, problems, dtype=dtype, **how))
            else:
                found[spec + name] = file_accuracy(model, tokenizer, spec, problems, None, max_new_tokens=max_new_tokens,
                                                   dtype=dtype, **how)
    return found


def modes_of(think: str | None, no_think: str | None) -> dict:
    """Modes for evaluate_all: chats whose questions end in `think`, and in `no_think`. "": without a flag; None: not this
    mode."""
    flags = [flag for flag in (think, no_think) if flag is not None]
    return {flag if i else "": CHAT | {"user_suffix": flag} for i, flag in enumerate(flags)}


# when flags of the training scripts about --eval-data have an effect (see cli.Parser)
EVAL_NEEDS = (
    ("--eval-problems", lambda a: any(kind_of(spec) not in ("text", "loss") for spec in a.eval_data),
     "on text, which has no problems"),
    ("--until-accuracy", lambda a: a.eval_every and any(kind_of(spec) not in ("text", "loss") for spec in a.eval_data),
     "without --eval-every, and a world or questions in --eval-data"),
)


def print_results(result: dict) -> None:
    """Prints the tables in the result of a training script: its mixture, and the result of evaluate_all."""
    if "mixture" in result:
        print_table(result["mixture"])
    for row in result.get("prompts", []):
        print(f"{row['source'][:60]:<60} {row['share']:>7.1%} {row['prompts']:>13,} of {row['unique_prompts']:,} prompts, "
              f"{row['epochs']:.2f} epochs")
    print_evaluation(result.get("eval", {}))
