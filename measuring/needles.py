"""Accuracy on needles by length and depth, and what a model looks at where it is asked for one."""

from collections.abc import Sequence

import torch

from engine.attention_mass import attention_mass, by_kind, by_layer
from measuring.questions import ids_of, open_graded, replies_to
from model import Transformer
from tasks.accuracy import rates
from tasks.needle_tables import PARTS, check_grid, needle_table, prompt_parts
from tasks.tables import Graded, reply_style
from tasks.task import Problem
from tasks.tools import Toolbox
from tokenizer import Tokenizer


def needle_accuracy(model: Transformer, tokenizer: Tokenizer, spec: str, count: int = 100, chat: bool = False,
                    ks: Sequence[int] = (1,), attention: int = 0, window: int = 0, progress: bool = False,
                    tools: Toolbox | None = None, **how) -> dict:
    """Accuracy on needles by length and depth: {"lengths", "cells", "window"} of `needle_table`, and what `file_accuracy` finds.

    count      problems for each length and depth
    attention  problems of each length whose attention is measured: {"attention": [{"length", "beyond", "problems", "layers",
               "kinds"}]}, the last two being lists of `by_layer` and `by_kind` (engine/attention_mass.py)
    window     the longest rows that the model was trained on; 0: what its config says
    how        the other options of `replies_to`
    """
    task, mode = open_graded(spec, tokenizer, model.head.device), "chat" if chat else "plain"
    check_grid(task)
    todo, graded, masses = [task.problem(i) for i in range(count * task.cells)], [], []
    window = window or model.config.context
    for length in dict.fromkeys(p.length for p in todo):
        part = [p for p in todo if p.length == length]
        limits = [2 * len(tokenizer.encode(p.solution)) + (40 if chat else 8) for p in part]
        drawn = replies_to(model, tokenizer, [task.prompt(p, mode) for p in part], limits, ks=ks,
                           progress=f"{length:,} tokens" if progress else "", tools=tools, **how)
        graded += [Graded(p, replies, [task.grade(p, r) for r in replies]) for p, replies in zip(part, drawn)]
        if measured := part[:attention]:
            asked = [ids_of(tokenizer, task.prompt(p, mode), how.get("think"), how.get("user_suffix", "")) for p in measured]
            layers = by_layer([needle_attention(model, tokenizer, p, ids) for p, ids in zip(measured, asked)], PARTS)
            masses.append({"length": length, "beyond": length > window, "problems": len(measured), "layers": layers,
                           "kinds": by_kind(layers)})
    right = [[verdict.right for verdict in a.verdicts] for a in graded]
    return {"data": spec, "problems": len(graded), "accuracy": rates(right, ks), **needle_table(graded, ks, window),
            **({"attention": masses} if masses else {}), **reply_style([a.replies for a in graded]),
            "right": [[sum(each), len(each)] for each in right]}


def needle_attention(model: Transformer, tokenizer: Tokenizer, problem: Problem, ids: list[int]) -> list:
    """What the question of a needle looks at, layer by layer: the LayerMass of its tokens, up to that which predicts the first
    token of the reply. ids: the prompt."""
    parts = torch.tensor([prompt_parts(tokenizer, ids, problem)], device=model.head.device)
    return attention_mass(model, torch.tensor([ids], device=model.head.device), parts, parts == PARTS.index("question"),
                          len(PARTS))
