"""Samples completions in groups, and scores them.

`Rollouts.collect` samples G completions for each of P prompts and computes their rewards. With --replace it replaces groups from
which nothing can be learned.

Here sampling and training take turns, and ranks share the prompts of a step. (In rl/asynchronous.py the two overlap.) Every rank
goes through all prompts, so there is one position in them for any number of ranks. A group has a number, on which its random
numbers depend. The groups of a step, in the order of their numbers, are split into equal parts, one for each rank.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist

from formats import plugins
from formats.chat import END_THINK
from model import Transformer
from rl.groups import Collected, Group, Rollout, differs_by_task
from rl.lengths import Caps, cap_at, longest_cap, overlong_penalty
from rl.mismatch import Mismatch
from rl.prompts import Prompts
from rl.scoring import InformationGain
from sampler import Completion, Sampler
from tasks.rewards import Weighted, score_group
from tasks.task import Problem, Reply, prompt_ids
from tasks.tools import Toolbox, needless_calls
from tokenizer import Tokenizer
from training import cli
from training.ledger import Costs, Ledger

CHECKED = 10_000                     # prompts of a source that are looked at before the first step, at most


class Rollouts:
    """Samples and scores groups.

    - P, G: prompts in a step over all ranks, completions of each
    - mode: how a question is asked (MODES in tasks/task.py); caps: the most tokens of a completion (rl/lengths.py)
    - temperature: of sampling; rows: completions that decode at once; dtype: of the sampler's matrix products
    - window: the most tokens of a prompt with its completion; 0: no limit
    - think_budget: the most tokens of thinking, then the block is closed; None: no limit
    - tools: what completions may call; None: what the task of a problem has
    - overlong_buffer: DAPO's penalty over the last tokens before the cap; replace: rounds of dynamic sampling
    - mismatch: what is put in between sampler and trainer, for a study
    - rank, ranks, group: of the ranks that share the prompts
    - ledger: where the cost of all that is sampled is entered; None: nowhere
    - gain: what scores thoughts by the text behind them; None: there are no tasks of that kind
    - give_up: ends the program with an error of the user's; in training it saves first, on all ranks together

    failures: the completions on which a reward failed: (name, text, error)."""

    def __init__(self, prompts: Prompts, tokenizer: Tokenizer, rewards: list[Weighted], *, P: int, G: int, mode: str = "chat",
                 caps: Caps = ((0, 256),), temperature: float = 1.0, seed: int = 0, rows: int = 64,
                 dtype: torch.dtype | None = None, window: int = 0, think_budget: int | None = None, overlong_buffer: int = 0,
                 replace: int = 0, mismatch: Mismatch | None = None, rank: int = 0, ranks: int = 1,
                 group: dist.ProcessGroup | None = None, ledger: Ledger | None = None, tools: Toolbox | None = None,
                 gain: InformationGain | None = None, give_up: Callable = cli.fail):
        self.prompts, self.tokenizer, self.rewards, self.P, self.G, self.mode = prompts, tokenizer, rewards, P, G, mode
        self.caps, self.temperature, self.seed, self.rows, self.dtype = caps, temperature, seed, rows, dtype
        self.window, self.think_budget, self.overlong_buffer = window, think_budget, overlong_buffer
        self.replace, self.rank, self.ranks, self.group = replace, rank, ranks, group
        self.failures, self.sampler, self.first_step = [], None, True
        self.ledger, self.mismatch, self.tools, self.gain, self.give_up = ledger, mismatch or Mismatch(), tools, gain, give_up
        self.use_tools = tools is not None or any(task.tools for task in prompts.sources)

    def sample(self, model: Transformer, problems: list[Problem], numbers: Sequence[int], G: int, cap: int, seed: int,
               version: int = 0) -> tuple[list[Group], int, int]:
        """G scored completions of each problem, decode slots in use, and all decode slots. numbers: one per problem; the random
        numbers depend on it, so they do not depend on the rank that samples."""
        ids = [prompt_ids(self.tokenizer, p, self.mode) for p in problems]
        for problem, prompt in zip(problems, ids):
            self.check_window(problem, prompt, cap)
        sampler = self.sampler
        if sampler is None or sampler.model is not model:
            sampler = Sampler(model, self.tokenizer, rows=self.rows, dtype=self.dtype)
        if sampler.graphs:                                # keep the sampler for its CUDA graphs, though it keeps memory
            self.sampler = sampler
        sampler.version, before = version, sampler.steps
        drawn = sampler.generate(ids, n=G, max_new_tokens=cap, temperature=self.temperature, seed=seed, numbers=numbers,
                                 think_budget=self.think_budget, tools=[self.tools_of(p) for p in problems],
                                 stop_texts=[end_of(p) for p in problems], **self.mismatch.of_draws())
        if self.gain:
            self.gain.policy = model
        costs = Costs.of(model)
        for completions in drawn:
            self.pay(costs, completions)
        groups = [self.score(*group, cap, seed) for group in zip(problems, numbers, drawn, strict=True)]
        busy = sum(c.decoded for cs in drawn for c in cs)
        return groups, busy, (sampler.steps - before + 1) * min(self.rows, len(ids) * G)

    def tools_of(self, problem: Problem) -> Toolbox | None:
        """What a completion of this problem may call."""
        return self.tools or problem.task.tools

    def pay(self, costs: Costs, completions: list[Completion]) -> None:
        """Enters what the completions of one prompt have cost into the ledger."""
        if self.ledger is not None and completions:
            lengths = [len(c.tokens) for c in completions]
            self.ledger.add("rollouts", costs.sampling(len(completions[0].prompt), lengths), sum(lengths))

    def check_window(self, problem: Problem, prompt: list[int], cap: int) -> None:
        if self.window and len(prompt) + cap > self.window:
            raise ValueError(f"a prompt of {problem.source} has {len(prompt)} tokens and with {cap} new ones is longer than "
                             f"the window of {self.window}; shorten it, lower --max-new-tokens, or raise --seq-len")

    def check_prompts(self) -> None:
        """Checks the window before the first step, so that no run is lost to one long prompt: the first CHECKED prompts of each
        source that ends. Those of an endless one are checked when it is their turn."""
        for task in self.prompts.sources if self.window else ():
            for i in range(min(task.count or 0, CHECKED)):
                problem = task.problem(i)
                self.check_window(problem, prompt_ids(self.tokenizer, problem, self.mode), longest_cap(self.caps))

    def score(self, problem: Problem, number: int, completions: list[Completion], cap: int, seed: int) -> Group:
        """Scores the completions of a problem."""
        tools = self.tools_of(problem)
        replies = [Reply.of(c, self.tokenizer, limit=cap, sample=i, tools=tools) for i, c in enumerate(completions)]
        if problem.task.by_gain:
            self.gain.measure(problem, completions, replies, self.ledger)
        problem.task.examine(problem, replies)
        scores = score_group(problem, replies, self.rewards, seed=seed + number, on_error=self.reward_failed)
        for bill in problem.task.take_bills():
            if self.ledger is not None:
                self.ledger.add(*bill)
        useful = problem.task.useful_calls(problem) if tools else None
        return [Rollout(problem, c, reply, s, overlong_penalty(len(c.tokens), cap, self.overlong_buffer),
                        needless=needless_calls(c.calls, useful) if tools else 0)
                for c, reply, s in zip(completions, replies, scores, strict=True)]

    def reward_failed(self, name: str, text: str, error: Exception) -> None:
        """Notes a failed reward. In the first step it ends the run, with file and line: it would probably fail in every step."""
        if self.first_step:
            raise error if isinstance(error, plugins.PluginError) else ValueError(
                f"reward {name}: {plugins.describe(error, name)}") from error
        self.failures.append((name, text, error))

    def collect(self, model: Transformer, step: int) -> Collected | None:
        """This rank's groups of one step. None if the run must stop meanwhile (rl/asynchronous.py)."""
        began, before = time.perf_counter(), list(self.prompts.given)
        try:
            found = self._collect(model, step)
        except (ValueError, OSError) as e:                # of a file with questions, a task or a reward of the user's
            self.prompts.given = before                   # the step is not made: where it is saved, it begins again
            self.give_up(e)
        if found is not None:
            found.began, found.seconds = began, time.perf_counter() - began
        return found

    def _collect(self, model, step):
        """Samples now, on all ranks together.

        With `replace` > 0, groups to which the task gave equal rewards are dropped, since little can be learned from them. Others
        are sampled in their place, at most `replace` times (DAPO's dynamic sampling, section 3.2); the last ones are kept in any
        case. Each time as many groups are sampled as are missing on all ranks together, and the ranks share this work."""
        made, owners, problems, sampled, busy, slots = {}, {}, {}, [], 0, 0
        cap = cap_at(self.caps, step)
        for attempt in range(1 + self.replace):
            missing = self.P - len(owners)
            numbers = range(attempt * self.P, attempt * self.P + missing)
            parts = [numbers[missing * r // self.ranks:missing * (r + 1) // self.ranks] for r in range(self.ranks)]
            mine = parts[self.rank]
            with self.together():
                problems |= {n: self.prompts.next() for n in numbers}
                if mine:
                    groups, used, offered = self.sample(model, [problems[n] for n in mine], mine, self.G, cap,
                                                        self.seed * 1_000_003 + step, max(0, step - self.mismatch.stale))
                    busy, slots, sampled = busy + used, slots + offered, sampled + groups
                    made |= zip(mine, groups, strict=True)
            if attempt == self.replace:
                owners |= {n: r for r, part in enumerate(parts) for n in part}
            else:
                owners |= self.joined({n: self.rank for n in mine if differs_by_task(made[n])})
        return Collected(self.share_out(owners, made, problems), sampled, busy, slots)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around what each rank does alone: an error on one is raised on all of them, so that none waits for it."""
        error = None
        try:
            yield
        except (ValueError, OSError) as e:
            error = e
        if errors := self.joined({} if error is None else {self.rank: str(error)}):
            raise error or ValueError(next(iter(errors.values())))

    def joined(self, mine: dict) -> dict:
        """Joins the dicts of all ranks into one; all ranks must call this together."""
        if self.ranks == 1:
            return mine
        found = [None] * self.ranks
        dist.all_gather_object(found, mine, group=self.group)
        return {key: value for part in found for key, value in part.items()}

    def share_out(self, owners: dict[int, int], made: dict[int, Group], problems: dict[int, Problem]) -> list[Group]:
        """This rank's part of a step. A group is sent if its place is on another rank than the one that made it.

        owners: {number: rank that made it} of all groups that are kept. made: {number: group} of this rank. problems: {number:
        problem}."""
        share, order = self.P // self.ranks, sorted(owners)
        goal = {n: place // share for place, n in enumerate(order)}
        if goal != owners:
            sent = self.joined({n: [replace(r, problem=None) for r in made[n]]
                                for n, rank in owners.items() if rank == self.rank != goal[n]})
            made = made | {n: [replace(r, problem=problems[n]) for r in group] for n, group in sent.items()}
        return [made[n] for n in order if goal[n] == self.rank]

    def places(self, count: int) -> range:
        """The positions of this rank's groups in the batch of P groups."""
        return range(self.rank * (self.P // self.ranks), self.rank * (self.P // self.ranks) + count)

    def pass_rates(self, model: Transformer, count: int, samples: int) -> dict[tuple[int, int], float]:
        """The share of completions that solve each of the next `count` prompts (or fewer, if there are not so many questions),
        by what the rewards look at: {(source, i): rate}. The difficulty filter needs it. Ranks share the work."""
        keys, step, rates = self.prompts.candidates(count), 64, {}
        mine = range(len(keys) * self.rank // self.ranks, len(keys) * (self.rank + 1) // self.ranks)
        for at in range(0, len(mine), step):
            numbers = mine[at:at + step]
            groups, *_ = self.sample(model, [self.prompts.problem(*keys[n]) for n in numbers], numbers, samples,
                                     cap_at(self.caps, 0), self.seed * 1_000_003 - 1)
            rates |= {keys[n]: sum(r.score.solved for r in g) / samples for n, g in zip(numbers, groups, strict=True)}
        return self.joined(rates)

    # These methods do nearly nothing if sampling and training take turns; rl/asynchronous.py overrides them.

    def begin(self, model: Transformer, version: int) -> None:
        """Called before the first step of this program; version: the steps that were made before."""
        self.first_step = version == 0

    def publish(self, model: Transformer, step: int) -> None:
        """Called after each update, with the new weights for sampling."""
        self.first_step = False

    def notes(self) -> dict:
        """Fields for the record of a step."""
        return {}

    def finish(self) -> None:
        """Called after the last step."""


def end_of(problem: Problem) -> tuple[str, ...]:
    """The texts that end a reply to a problem: a thought ends where its block does."""
    return (END_THINK,) if problem.task.by_gain else ()
