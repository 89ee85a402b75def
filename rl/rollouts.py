"""Rollouts for reinforcement learning: prompts in their order, completions in groups, rewards, and packed batches.

`Prompts` gives out problems from weighted sources, the same for any number of ranks and resumable; `Rollouts.collect`
samples G completions for each of P prompts with our own sampler, has them scored, and, where it was asked to, replaces
groups that can teach nothing; `pack` lays completions into the packed rows that training takes.

Here sampling and training take turns, and ranks share the prompts of a step; rl/asynchronous.py lets them overlap. Every rank
goes through the prompts alike, so the place in them is one, whatever the number of ranks: a group has a number, which keys
its randomness, and the groups of a step, in the order of their numbers, are cut into equal parts, one for each rank.
"""

import argparse
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist

from data import Batch, batch_from, rounded_up, split_spec
from sampler import Completion, Sampler
from tasks.problems import NEED_STEPS, Problem, Reply, Score, answer_of, load_problems, score_group
from tasks.world import World
from tokenizer import thinking_mode
from training import cli


@dataclass
class Rollout:
    problem: Problem
    completion: Completion
    reply: Reply                     # its text as rewards see it
    score: Score                     # the rewards, as the task gives them, and the verdict
    overlong_penalty: float = 0.0    # DAPO's, at most 0; what this and the next say is added to the reward
    kl_penalty: float = 0.0          # of all its tokens, with --kl-in reward
    advantage: float = 0.0
    batch: int = -1                  # where `pack` put it: micro-batch, row and document number
    row: int = -1
    document: int = -1

    @property
    def earned(self):
        """The reward before the KL divergence: what makes a group worth its place in a batch."""
        return self.score.reward + self.overlong_penalty

    @property
    def reward(self):
        """What the policy is trained on."""
        return self.earned + self.kl_penalty

    @property
    def cut_off(self):
        return self.completion.finish == "length"

    @property
    def right(self):
        """The answer is right and, where the steps can be checked, so are they."""
        return self.score.answer_ok and self.score.process_ok is not False

    @property
    def drawn(self):
        """Tokens that the model chose, without those that a thinking budget forced."""
        return len(self.completion.tokens) - sum(self.completion.forced)

    def slots(self, micro):
        """The micro-batch in which it lies, and the index of its slots there."""
        b = micro[self.batch]
        return b, (self.row, b.documents[self.row] == self.document)


FLAGS = {"chat": "", "think": " /think", "no_think": " /no_think"}           # behind a question, by --mode


def question_ids(tokenizer, problem, mode):
    """The prompt of a problem. plain: question and newline, as in pre-training; chat: a user turn; think and no_think: a
    user turn with that flag (Qwen3's soft switch), the latter answered behind an empty think block."""
    if mode == "plain":
        return tokenizer.encode_document(problem.question + "\n")
    messages = [{"role": "user", "content": problem.question + FLAGS[mode]}]
    return tokenizer.encode_chat(messages, add_generation_prompt=True, think=thinking_mode(messages))[0]


class Prompts:
    """Problems from SOURCE[@WEIGHT] specs, in an order that depends on the seed alone. A world goes on for ever; a file
    is gone through in a fresh permutation for each epoch. `pool` (after `keep`) replaces the sources by a fixed list."""

    def __init__(self, specs, seed=0):
        named = [split_spec(s) for s in specs]
        self.specs, self.seed = [n for n, _ in named], seed
        self.weights = np.array([w for _, w in named]) / sum(w for _, w in named)
        self.sources = [World.from_spec(n) if n.startswith("world:") else load_problems(n) for n in self.specs]
        self.given, self.pool = [0] * len(named), []

    def problem(self, source, i):
        """Problem i of a source; of a file, i counts through all epochs."""
        found = self.sources[source]
        if isinstance(found, World):
            p = found.problem(i)
            return Problem(p.question, p.answer, p.solution, self.specs[source], p.ops, p.context, found, p)
        epoch, at = divmod(i, len(found))
        return found[int(np.random.default_rng([self.seed, source, epoch]).permutation(len(found))[at])]

    def next(self):
        """The next problem, from the source that lags furthest behind its share; of a pool, the next in its order."""
        total = sum(self.given)
        if self.pool:
            source, i = self.pool[total % len(self.pool)]
            self.given[source] += 1
            return self.problem(source, i)
        source = int(np.argmax(self.weights * (total + 1) - np.array(self.given)))
        self.given[source] += 1
        return self.problem(source, self.given[source] - 1)

    def candidates(self, count):
        """The keys (source, i) of the next problems, each question once: `count` of them, or fewer if the files have no more."""
        keys, asked = [], set()
        for _ in range(4 * count):                        # the first epoch of a file, or a world's problems, may repeat some
            before = list(self.given)
            question = self.next().question
            if question not in asked and len(keys) < count:
                asked.add(question)
                keys.append(next((s, before[s]) for s, n in enumerate(self.given) if n != before[s]))
        return keys

    def keep(self, rates, low, high, easy_first=False):
        """Makes the pool from measured pass rates {(source, i): rate}: those within [low, high] (OlmoRL, OctoThinker: the
        edge of competence). easy_first orders it as a curriculum, by falling rate; else the order stays."""
        self.pool = [key for key, rate in rates.items() if low <= rate <= high]
        if easy_first:
            self.pool.sort(key=lambda key: -rates[key])
        self.given = [0] * len(self.sources)
        if not self.pool:
            raise ValueError(f"--keep-rate {low:g} {high:g}: none of {len(rates)} prompts has such a pass rate; widen it, or "
                             "take other prompts")

    def state(self):
        return {"given": list(self.given), "pool": [list(key) for key in self.pool]}

    def restore(self, state):
        self.given, self.pool = list(state["given"]), [tuple(key) for key in state["pool"]]


def has_spread(group):
    """Are there two different rewards in it, before the KL divergence? Else it teaches nothing."""
    return len({r.earned for r in group}) > 1


def overlong_penalty(length, limit, buffer):
    """DAPO's soft penalty (arXiv 2503.14476, equation 13): 0 up to limit - buffer tokens, falling to -1 at the limit."""
    return min(0.0, (limit - buffer - length) / buffer) if buffer else 0.0


def stages(caps):
    """["64", "128@200"] -> [(0, 64), (200, 128)]."""
    found = []
    for text in caps:
        cap, at, step = text.partition("@")
        try:
            found.append((cli.whole(step) if at else 0, cli.count(cap)))
        except argparse.ArgumentTypeError:
            raise ValueError(f"--max-new-tokens {text}: give tokens, or tokens@step, as in 64 128@200") from None
    if min(found)[0]:
        raise ValueError(f"--max-new-tokens {' '.join(caps)}: none of them begins at step 0")
    if len(dict(found)) < len(found):
        raise ValueError(f"--max-new-tokens {' '.join(caps)}: two of them begin at the same step")
    return found


def cap_at(caps, step):
    """The response cap in force at a step: caps is [(first step, tokens)], as in OctoThinker's staged lengths."""
    return [tokens for first, tokens in sorted(caps) if first <= step][-1]


class Rollouts:
    """Samples and scores groups. `problems_failed` collects what a reward function tripped over: (name, text, error)."""

    def __init__(self, prompts, tokenizer, rewards, *, P, G, mode="chat", caps=((0, 256),), temperature=1.0, seed=0,
                 rows=64, dtype=None, window=0, think_budget=None, overlong_buffer=0, replace=0, rank=0, ranks=1, group=None):
        self.prompts, self.tokenizer, self.rewards, self.P, self.G, self.mode = prompts, tokenizer, rewards, P, G, mode
        self.caps, self.temperature, self.seed, self.rows, self.dtype = caps, temperature, seed, rows, dtype
        self.window, self.think_budget, self.overlong_buffer = window, think_budget, overlong_buffer
        self.replace, self.rank, self.ranks, self.group = replace, rank, ranks, group
        self.failures, self.sampler = [], None

    def sample(self, model, problems, numbers, G, cap, seed, version=0):
        """G scored completions of each problem, and how full the decode steps were. numbers: what keys the randomness of
        each problem, so that it does not depend on which rank draws it."""
        ids = [question_ids(self.tokenizer, p, self.mode) for p in problems]
        for problem, prompt in zip(problems, ids):
            self.check_window(problem, prompt, cap)
        sampler = self.sampler
        if sampler is None or sampler.model is not model:
            sampler = Sampler(model, self.tokenizer, rows=self.rows, dtype=self.dtype)
        if sampler.graphs:                                # kept, with its memory, for the sake of them
            self.sampler = sampler
        sampler.version, before = version, sampler.steps
        drawn = sampler.generate(ids, n=G, max_new_tokens=cap, temperature=self.temperature, seed=seed, numbers=numbers,
                                 think_budget=self.think_budget)
        groups = [self.score(*group, cap, seed) for group in zip(problems, numbers, drawn, strict=True)]
        busy = sum(len(c.tokens) for cs in drawn for c in cs)
        return groups, busy, (sampler.steps - before + 1) * min(self.rows, len(ids) * G)

    def check_window(self, problem, prompt, cap):
        if self.window and len(prompt) + cap > self.window:
            raise ValueError(f"a prompt of {problem.source} has {len(prompt)} tokens and with {cap} new ones is longer than "
                             f"the window of {self.window}; shorten it, lower --max-new-tokens, or raise --seq-len")

    def score(self, problem, number, completions, cap, seed):
        """A group of completions with their rewards: list of Rollout."""
        replies = [Reply.of(c, self.tokenizer, limit=cap, sample=i) for i, c in enumerate(completions)]
        scores = score_group(problem, replies, self.rewards, seed=seed + number,
                             on_error=lambda *what: self.failures.append(what))
        return [Rollout(problem, c, reply, s, overlong_penalty(len(c.tokens), cap, self.overlong_buffer))
                for c, reply, s in zip(completions, replies, scores, strict=True)]

    def collect(self, model, step):
        """This rank's groups of one step: (those to train on, all that it sampled, decode slots in use and at hand).

        Where `replace` > 0, groups whose rewards are all equal, which teach nothing, are dropped and others are sampled in
        their place, at most that many times over (DAPO's dynamic sampling, section 3.2); the last ones stay as they are. Each
        time as many candidates are taken as are missing on all ranks together, and shared out among them."""
        made, owners, problems, sampled, busy, slots = {}, {}, {}, [], 0, 0
        cap = cap_at(self.caps, step)
        for attempt in range(1 + self.replace):
            missing = self.P - len(owners)
            numbers = range(attempt * self.P, attempt * self.P + missing)
            problems |= {n: self.prompts.next() for n in numbers}
            parts = [numbers[missing * r // self.ranks:missing * (r + 1) // self.ranks] for r in range(self.ranks)]
            if mine := parts[self.rank]:
                groups, used, offered = self.sample(model, [problems[n] for n in mine], mine, self.G, cap,
                                                    self.seed * 1_000_003 + step, step)
                busy, slots, sampled = busy + used, slots + offered, sampled + groups
                made |= zip(mine, groups, strict=True)
            if attempt == self.replace:
                owners |= {n: r for r, part in enumerate(parts) for n in part}
            else:
                owners |= self.joined({n: self.rank for n in mine if has_spread(made[n])})
        return self.share_out(owners, made, problems), sampled, busy, slots

    def joined(self, mine):
        """The dicts of all ranks, which must call this together, as one."""
        if self.ranks == 1:
            return mine
        found = [None] * self.ranks
        dist.all_gather_object(found, mine, group=self.group)
        return {key: value for part in found for key, value in part.items()}

    def share_out(self, owners, made, problems):
        """This rank's share of a step. owners: {number: rank that made it} of the groups that are kept; made: {number: group} of
        this rank's; problems: {number: problem}. A group whose place is on another rank than its maker is sent there."""
        share, order = self.P // self.ranks, sorted(owners)
        goal = {n: place // share for place, n in enumerate(order)}
        if goal != owners:
            sent = self.joined({n: [replace(r, problem=None) for r in made[n]]
                                for n, rank in owners.items() if rank == self.rank != goal[n]})
            made = made | {n: [replace(r, problem=problems[n]) for r in group] for n, group in sent.items()}
        return [made[n] for n in order if goal[n] == self.rank]

    def places(self, count):
        """Where this rank's groups stand in the whole batch of P."""
        return range(self.rank * (self.P // self.ranks), self.rank * (self.P // self.ranks) + count)

    # places where rl/asynchronous.py has something to do, and taking turns has not

    def begin(self, model, version):
        """Before the first step."""

    def updated(self, model, step):
        """After each update of the weights."""

    def notes(self):
        """What to add to the record of a step."""
        return {}

    def finish(self):
        """After the last step."""

    def pass_rates(self, model, count, samples):
        """Share of right completions of the next `count` prompts (fewer, if there are no more questions), {(source, i): rate}:
        what the difficulty filter needs. Ranks share the work."""
        keys, step, rates = self.prompts.candidates(count), 64, {}
        mine = range(len(keys) * self.rank // self.ranks, len(keys) * (self.rank + 1) // self.ranks)
        for at in range(0, len(mine), step):
            numbers = mine[at:at + step]
            groups, *_ = self.sample(model, [self.prompts.problem(*keys[n]) for n in numbers], numbers, samples,
                                     cap_at(self.caps, 0), self.seed * 1_000_003 - 1)
            rates |= {keys[n]: sum(r.right for r in g) / samples for n, g in zip(numbers, groups, strict=True)}
        return self.joined(rates)


@dataclass
class RolloutBatch(Batch):
    """Packed completions behind their prompts, all (B, T). loss_mask is 1 on the tokens that are to be learned from."""
    sampler_logprobs: torch.Tensor   # as reported by the sampler
    rewards: torch.Tensor            # the reward, on the last token of its completion that was drawn and not forced
    advantages: torch.Tensor         # filled in by the trainer, as are the following
    old_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    returns: torch.Tensor


def deal(groups, places, P, parts, seed):
    """Shuffles the completions of a batch of P groups and cuts them into that many parts; returns what this rank has of each.
    places: the number of each of its groups in the whole batch, so that the parts are the same for any number of ranks."""
    G = max(map(len, groups), default=0)
    mine = {place * G + i: r for place, group in zip(places, groups, strict=True) for i, r in enumerate(group)}
    order = np.random.default_rng(seed).permutation(P * G).tolist()
    return [[mine[i] for i in order[m::parts] if i in mine] for m in range(parts)]


def pack(rollouts, T=0, micro_tokens=16384, dtype=torch.float32):
    """Completions with their prompts, first fit, the longest first, in rows of T slots -> list of RolloutBatch of at most
    micro_tokens. T = 0: at least 512, as long as the longest, and a multiple of 256, for oneDNN keeps some code for each shape.
    Notes in each rollout where it went. With no rollouts at all one row of padding, so that every rank has a batch."""
    def slots(r):
        return len(r.completion.prompt) + len(r.completion.tokens) - 1
    T = T or rounded_up(max([slots(r) for r in rollouts] + [512]), 256)
    rows, space, height = [], [], max(1, micro_tokens // T)
    for r in sorted(rollouts, key=slots, reverse=True):
        b = next((b for b, left in enumerate(space) if left >= slots(r)), len(rows))
        if b == len(rows):
            rows.append([])
            space.append(T)
        (r.batch, r.row), r.document = divmod(b, height), len(rows[b])
        rows[b].append(r)
        space[b] -= slots(r)
    rows = rows or [[]]
    return [_batch(rows[i:i + height], T, dtype) for i in range(0, len(rows), height)]


def _batch(rows, T, dtype):
    def document(c):
        return np.array(c.prompt + c.tokens), np.array([0.0] * len(c.prompt) + [1.0 - f for f in c.forced], np.float32)
    base = batch_from([[document(r.completion) for r in row] for row in rows], T)
    logprobs, rewards = torch.zeros(len(rows), T, dtype=dtype), torch.zeros(len(rows), T, dtype=dtype)
    for b, row in enumerate(rows):
        end = 0
        for r in row:
            end += len(r.completion.prompt) + len(r.completion.tokens) - 1
            logprobs[b, end - len(r.completion.tokens):end] = torch.tensor(r.completion.logprobs, dtype=dtype)
            drawn = base.loss_mask[b, end - len(r.completion.tokens):end].nonzero()
            if len(drawn):                                # a reward on a forced token would teach nothing
                rewards[b, end - len(r.completion.tokens) + int(drawn[-1])] = r.reward
    return RolloutBatch(*vars(base).values(), logprobs, rewards, *(torch.zeros(len(rows), T, dtype=dtype) for _ in range(5)))


def fill(rollouts, micro):
    """Puts the advantage of each completion on its tokens."""
    for r in rollouts:
        if r.batch >= 0:
            b, here = r.slots(micro)
            b.advantages[here] = r.advantage


def hide(rollouts, micro):
    """Takes completions out of the loss that are packed already."""
    for r in rollouts:
        b, here = r.slots(micro)
        b.loss_mask[here] = 0


def nothing_to_learn(run, groups, over_batch, masked=False):
    """Why there is nothing to learn from a batch, with shares of all completions and groups; "" if rewards differ within a group
    (with over_batch: anywhere in the batch). masked: completions that were cut off have no loss. All ranks must call this
    together."""
    def right(r):                                         # checks the steps only if a reward does
        return r.right if NEED_STEPS & r.score.parts.keys() else r.score.answer_ok
    flat = [r for g in groups for r in g]
    earned, alike = [r.earned for r in flat], sum(not has_spread(g) for g in groups)
    teach = run.sum(sum(not (masked and r.cut_off) for r in flat))[0]
    if over_batch:
        spread = run.most(max(earned, default=-math.inf)) > -run.most(max((-e for e in earned), default=-math.inf))
    else:
        spread = run.sum(len(groups) - alike)[0] > 0
    if spread and teach:
        return ""
    why = ("every completion was cut off and has no loss" if not teach else
           "all rewards of the batch were alike" if over_batch else "no group had two different rewards")
    answered = [answer_of(r.problem, r.reply.text) is not None for r in flat]
    n, cut, endless, silent, count, solved, failed, same = run.sum(
        len(flat), sum(r.cut_off for r in flat), sum(r.cut_off and a for r, a in zip(flat, answered, strict=True)),
        answered.count(False), len(groups), sum(all(map(right, g)) for g in groups),
        sum(not any(map(right, g)) for g in groups), alike)
    return (f"{why}; of {n:.0f} completions {cut / n:.0%} cut off at the cap ({endless / n:.0%} with an answer but no end "
            f"token), {silent / n:.0%} no answer found; of {count:.0f} groups {solved / count:.0%} all right, "
            f"{failed / count:.0%} all wrong, {same / count:.0%} no spread")


def summary(run, groups, seen, busy, slots, rollout_seconds, train_seconds):
    """The figures of a step for the log, over all ranks. groups: all that were sampled; seen: sums over the tokens trained on.

    reward is what the task gave; the penalties, which training adds to it, stand beside it. zero_spread is the share of
    groups of which no completion earned more than another (the penalty for length included)."""
    flat = [r for g in groups for r in g]
    lengths, several = [len(r.completion.tokens) for r in flat], [g for g in groups if len(g) > 1]
    of_completions = {
        "reward": [r.score.reward for r in flat], "overlong_penalty": [r.overlong_penalty for r in flat],
        "kl_penalty": [r.kl_penalty for r in flat], "answer": [r.score.answer_ok for r in flat],
        "process": [bool(r.score.process_ok) for r in flat], "steps_right": [r.score.steps_ok or 0 for r in flat],
        "length_mean": lengths, "cut_off": [r.cut_off for r in flat]}
    of_groups = {"reward_std": [float(np.std([r.score.reward for r in g], ddof=1)) for g in several],
                 "zero_spread": [not has_spread(g) for g in several]}
    of_tokens = ("entropy", "clip_low", "clip_high", "kl")
    sums = {k: sum(v) for k, v in (of_completions | of_groups).items()} | {k: seen[k] for k in (
        *of_tokens, "tokens", "packed", "diff", "compared")}
    sums |= {"completions": len(flat), "groups": len(groups), "busy": busy, "slots": slots, "train": train_seconds}
    sums = dict(zip(sums, run.sum(*sums.values()), strict=True))

    def per(what, *names):
        return {k: sums[k] / max(1, sums[what]) for k in names}
    found = per("completions", *of_completions) | per("groups", *of_groups) | per("tokens", *of_tokens)
    found |= {"length_max": run.most(max(lengths, default=0)), "logprob_diff_mean": sums["diff"] / max(1, sums["compared"]),
              "logprob_diff_max": run.most(seen["diff_max"]),
              "rollout_tokens_per_second": sums["busy"] / max(rollout_seconds, 1e-9),
              "train_tokens_per_second": sums["packed"] / max(sums["train"] / run.ranks, 1e-9),
              "rollout_share": rollout_seconds / (rollout_seconds + train_seconds),
              "wasted_slots": 1 - sums["busy"] / max(1, sums["slots"])}
    return {k: float(f"{v:.6g}") for k, v in found.items()}
