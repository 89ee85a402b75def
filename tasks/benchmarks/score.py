"""Scores a model on a benchmark in both templates, few-shot and as reinforcement learning asks, and prints the table.

The model is a function: ask(prompts, stop texts) gives the replies to each prompt. `score_all` makes it of replies_to.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tasks.accuracy import interval, rate_text, rates
from tasks.benchmarks.ask import DIALOGUE_STOP, FEW_SHOT_STOP, TEMPLATES, before, dialogue_prompt
from tasks.benchmarks.read import BenchmarkProblem, BenchmarkTask
from tasks.benchmarks.shots import SHOTS
from tasks.problems import asked_of
from tasks.tables import reply_style
from tasks.task import Reply

Ask = Callable[[list[str | list[dict]], Sequence[str]], list[list[Reply]]]


def chosen(task: BenchmarkTask, limit: int = 0, seed: int = 0) -> list[BenchmarkProblem]:
    """`limit` questions, sampled without replacement, in the order of the file; 0: all."""
    return [task.problem(i) for i in asked_of(range(task.count), limit, seed)]


def prompts_for(task: BenchmarkTask, problems: list[BenchmarkProblem], template: str, chat: bool) -> tuple[list, Sequence[str]]:
    """The prompts in a template, and the texts that end a reply. chat: whether the tokenizer has chats."""
    if template == "few-shot":
        return [task.prompt(p, "plain") for p in problems], FEW_SHOT_STOP
    if chat:
        return [task.prompt(p, "chat") for p in problems], ()
    return [dialogue_prompt(p) for p in problems], DIALOGUE_STOP


def score(task: BenchmarkTask, ask: Ask, templates: Sequence[str] = TEMPLATES, chat: bool = True, limit: int = 0, seed: int = 0,
          ks: Sequence[int] = (1,), on_answer: Callable | None = None) -> dict:
    """The scores of a benchmark: {"benchmark", "data", "problems", "skipped", "shots", a result for each template, "gap",
    "right"}.

    The result of a template has "accuracy" (rates), "asked" (as chat, as dialogue, or with how many shots) and what
    `reply_style` finds. gap: few-shot minus rl in pass@1, paired by question. right: for each template [right samples, samples]
    of each question, in order. on_answer is called with (problem, text of the first reply, whether it is right).
    """
    problems, shots = chosen(task, limit, seed), len(SHOTS.get(task.benchmark.shots, ()))
    found = {"benchmark": task.benchmark.title, "data": task.source, "problems": len(problems), "skipped": task.skipped}
    right = {}
    for template in templates:
        prompts, stops = prompts_for(task, problems, template, chat)
        replies = ask(prompts, stops)
        right[template] = []
        for problem, each in zip(problems, replies, strict=True):
            said = [replace(reply, text=before(reply.text, stops)) for reply in each]
            right[template].append([task.grade(problem, reply).right for reply in said])
            if on_answer:
                on_answer(problem, said[0].text, right[template][-1][0])
        asked = f"{shots} shots" if template == "few-shot" else "chat" if chat else "dialogue"
        found[template] = {"asked": asked, "accuracy": rates(right[template], ks), **reply_style(replies)}
    if len(right) == 2:
        few, rl = ([np.mean(each) for each in right[template]] for template in TEMPLATES)
        found["gap"] = interval(np.subtract(few, rl))
    return found | {"right": {template: [[sum(each), len(each)] for each in found] for template, found in right.items()}}


def score_all(tasks: Sequence[BenchmarkTask], reply: Callable, how: dict, chat: bool, args: Namespace,
              printer: Callable) -> dict:
    """{"benchmark:NAME": what `score` finds}, and prints the table.

    reply      replies_to of a checkpoint: reply(prompts, limits, **options)
    how        its options in a chat
    chat       whether the tokenizer has chats
    args       the flags of evaluate.py
    printer    makes a function for on_answer that prints so many answers
    """
    chats = {key: value for key, value in how.items() if key != "chat"}
    plain = chats | {"think": None, "think_budget": None}
    templates, found = TEMPLATES if args.template == "both" else (args.template,), {}
    for task in tasks:
        def ask(prompts, stops, title=task.benchmark.title):
            options = (plain if isinstance(prompts[0], str) else chats) | {"progress": title, "stop_texts": stops}
            return reply(prompts, [args.max_new_tokens] * len(prompts), **options)
        found[f"benchmark:{task.name}"] = score(task, ask, templates, chat, args.limit, args.seed, args.k, printer(args.show))
    print_scores(list(found.values()), args.k)
    return found


def print_scores(results: list[dict], ks: Sequence[int] = (1,)) -> None:
    """The table of one checkpoint: a row for each benchmark, and the mean over benchmarks."""
    templates = [template for template in TEMPLATES if template in results[0]]
    head = "".join(f" {f'{template} pass@{k}':>24}" for template in templates for k in ks)
    print(f"{'benchmark':<15}{'questions':>9}{head}" + (f" {'few-shot minus rl':>24}" if len(templates) == 2 else "") +
          "".join(f" {f'tokens {template}':>15} {'cut off':>7}" for template in templates) + "  asked")
    for r in results:
        cells = "".join(f" {rate_text(r[template]['accuracy'][f'pass@{k}']):>24}" for template in templates for k in ks)
        print(f"{r['benchmark']:<15}{r['problems']:>9}{cells}" + (f" {rate_text(r['gap'], '+.3f'):>24}" if "gap" in r else "") +
              "".join(f" {r[template]['tokens']:>15.1f} {r[template]['cut_off']:>7.3f}" for template in templates) +
              "  " + ", ".join(r[template]["asked"] for template in templates))
    if len(results) > 1:
        means = "".join(f" {mean_of(results, template, k):>24.3f}" for template in templates for k in ks)
        gap = f" {np.mean([r['gap'][0] for r in results]):>+24.3f}" if "gap" in results[0] else ""
        print(f"{'mean':<15}{sum(r['problems'] for r in results):>9}{means}{gap}")


def mean_of(results: list[dict], template: str, k: int) -> float:
    """The mean over benchmarks, each of which counts the same."""
    return float(np.mean([r[template]["accuracy"][f"pass@{k}"][0] for r in results]))
