"""Asks a model questions: its replies, greedy or drawn, and accuracy on problems of the world and on files of questions."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from formats.chat import plain_content
from model import Transformer
from sampler import Sampler
from tasks.accuracy import rates
from tasks.problems import asked_of, open_task, problems_of
from tasks.questions import Questions, format_question
from tasks.tables import Graded, reply_style, world_table
from tasks.task import Reply, Task
from tasks.tools import Toolbox
from tasks.world import World
from tokenizer import Tokenizer


def replies_to(model: Transformer, tokenizer: Tokenizer, prompts: list[str | list[dict]], limits: list[int],
               think: bool | None = None, think_budget: int | None = None, user_suffix: str = "", ks: Sequence[int] = (1,),
               samples: int = 0, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, rows: int = 64, seed: int = 0,
               dtype: torch.dtype | None = None, progress: str = "", tools: Toolbox | None = None,
               stop_texts: Sequence[str] = ()) -> list[list[Reply]]:
    """The model's replies to each prompt.

    prompts        from a task: plain text, or the messages of a chat (tasks/task.py)
    limits         the most tokens of a reply, for each prompt
    think          in a chat: True, False, or None, which lets a flag in the question decide (Tokenizer.chat_prompt)
    think_budget   the most tokens of a think block
    user_suffix    in a chat: added at the end of the user's last turn
    ks, samples    ks of (1,) decodes greedily; else there are `samples` draws for a prompt, or as many as the largest k
    temperature    of the draws; top_p, top_k: what they are limited to (engine/draws.py)
    rows           how many replies are decoded at once
    tools          what a reply may call in a chat
    stop_texts     texts that end a reply; the one that did is a part of it
    """
    sampled, tools = tuple(ks) != (1,), [None if isinstance(prompt, str) else tools for prompt in prompts]
    ids = [ids_of(tokenizer, prompt, think, user_suffix) for prompt in prompts]
    done = Sampler(model, tokenizer, rows, dtype).generate(
        ids, max(samples, *ks) if sampled else 1, limits, temperature if sampled else 0.0, top_p=top_p, top_k=top_k, seed=seed,
        progress=progress, think_budget=think_budget, tools=tools, stop_texts=[stop_texts] * len(prompts))
    return [[Reply.of(c, tokenizer, limit, tools=box) for c in completions]
            for completions, limit, box in zip(done, limits, tools)]


def ids_of(tokenizer: Tokenizer, prompt: str | list[dict], think: bool | None = None, user_suffix: str = "") -> list[int]:
    """The tokens of a prompt, as `replies_to` takes it."""
    if isinstance(prompt, str):
        return tokenizer.encode_document(prompt)
    *before, last = prompt
    return tokenizer.chat_prompt([*before, last | {"content": plain_content(last["content"]) + user_suffix}], think)


def open_graded(spec: str, tokenizer: Tokenizer | None, device: torch.device | str = "cpu") -> Task:
    """The task of a SPEC. ValueError if its replies cannot be graded without the model that is trained."""
    task = open_task(spec, tokenizer, device)
    if task.by_gain:
        raise ValueError(f"{spec}: a thought has no answer that could be checked; ask with kind=rpt or kind=rlpt, or give "
                         "the text itself, for bits per byte")
    return task


def grade_world(model: Transformer, tokenizer: Tokenizer, spec: str, count: int = 100, chat: bool = False,
                progress: bool = False, tools: Toolbox | None = None, **how) -> list[Graded]:
    """Asks the model the first `count` problems of each number of operations in the spec, and grades its replies. tools: None:
    those of the world. how: the other options of `replies_to`."""
    found = []
    for ops in World.from_spec(spec).ops:
        world = World.from_spec(spec)
        world.ops = [ops]
        todo = [world.problem(i) for i in range(count)]
        prompts = [world.prompt(p, "chat" if chat else "plain") for p in todo]
        # twice the gold solution; in a chat there are thinking marks as well, and maybe a hand-over to the answer
        longest = [tokenizer.encode_chat(world.messages(replace(p, solution=world.longest(p))))[0] if chat and world.tools
                   else tokenizer.encode(world.longest(p)) for p in todo]
        limits = [2 * len(ids) + (40 if chat else 8) for ids in longest]
        drawn = replies_to(model, tokenizer, prompts, limits, progress=f"{ops} operations" if progress else "",
                           tools=tools or world.tools, **how)
        found += [Graded(p, replies, [world.grade(p, r) for r in replies]) for p, replies in zip(todo, drawn)]
    return found


def world_accuracy(model: Transformer, tokenizer: Tokenizer, spec: str, count: int = 100, ks: Sequence[int] = (1,),
                   **how) -> list[dict]:
    """The table of accuracy on problems of the world; how: the options of `replies_to`."""
    return world_table(grade_world(model, tokenizer, spec, count, ks=ks, **how), ks)


def file_accuracy(model: Transformer, tokenizer: Tokenizer, spec: str, limit: int = 0, shots: int | None = 0, chat: bool = False,
                  ks: Sequence[int] = (1,), max_new_tokens: int = 400, seed: int = 0, progress: bool = False,
                  on_answer: Callable | None = None, by_problem: bool = False, tools: Toolbox | None = None, **how) -> dict:
    """Accuracy of the answers to a file of questions, or to another task: {"problems", "accuracy": rates, and the fields of
    `reply_style`}. If the task's problems are of several kinds, "kinds" has the rates of each.

    limit      how many questions to sample from the file; 0: all. An endless task gives its first ones
    shots      for a file, without chat: the number of solved questions of the file before each question. They are not asked
               themselves. None: only the question, on its own line, as in pre-training
    on_answer  called with (problem, text of the first reply, whether it is right)
    by_problem also {"right": [right samples, samples] of each question, in order}
    how        the other options of `replies_to`
    """
    task = open_graded(str(spec), tokenizer, model.head.device)
    everything = problems_of(task, (limit or None) if task.count is None else None)
    shown, todo = everything[:shots or 0], everything[shots or 0:]
    if not todo:
        raise ValueError(f"{spec}: has {len(everything)} questions, and --shots {shots} shows them all, so none is left to ask; "
                         "lower --shots")
    todo = asked_of(todo, limit, seed)
    if chat or shots is None or not isinstance(task, Questions):
        prompts = [task.prompt(p, "chat" if chat else "plain") for p in todo]
    else:
        prompts = [format_question(p, shown) for p in todo]
    drawn = replies_to(model, tokenizer, prompts, [max_new_tokens] * len(todo), ks=ks, seed=seed,
                       progress=str(spec) if progress else "", tools=tools or task.tools, **how)
    right = []
    for problem, replies in zip(todo, drawn):
        # a base model goes on with a question of its own; what comes before that is its answer
        said = [replace(reply, text=reply.text.split("\nQuestion:")[0]) for reply in replies]
        right.append([task.grade(problem, reply).right for reply in said])
        if on_answer:
            on_answer(problem, said[0].text, right[-1][0])
    kinds = {}
    for problem, each in zip(todo, right):
        kinds.setdefault(getattr(problem, "kind", ""), []).append(each)
    by_kind = {"kinds": {kind: rates(kinds[kind], ks) for kind in sorted(kinds)}} if set(kinds) != {""} else {}
    return {"data": str(spec), "problems": len(todo), "accuracy": rates(right, ks), **by_kind, **reply_style(drawn),
            **({"right": [[sum(each), len(each)] for each in right]} if by_problem else {})}
