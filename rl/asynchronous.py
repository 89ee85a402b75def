"""Rollouts that run ahead of training, in one process or on ranks of their own.

With --async-steps K a completion may have been drawn by weights up to K updates old (OLMo 3's "async steps", arXiv
2512.13961). The engine keeps (K + 1) steps' worth of groups in flight, so its slots stay in use while long answers end, and new
weights reach it between two tokens. A step still waits for the slowest of its own groups, which was begun up to K steps earlier.
Where a few answers are far longer than the mean, K = 1 may hide too little of that: `python bench.py async` measures it.

- Every group has a number, and groups are consumed in this order and no other. Whoever takes what is finished first fills the
  batches with short answers, and the policy is trained on lengths that it did not choose.
- A group with a token more than K versions old is dropped, and another one takes its place in the batch: the number of
  groups that may be begun counts from those that were consumed, the dropped ones included.
- K = 0 is on-policy: no group begins before the weights that it is meant for are there.

Resume. Without ranks that only sample, learners share the groups by their numbers, and drop and replace them alike, so there is
one place in the prompts. A resumed run goes on from there: no prompt is lost and none comes twice. Groups that were in flight
are begun again, by newer weights. So with K = 0 a resumed run goes on bit for bit; with K > 0 it draws other completions.

With `torchrun --nproc_per_node=N grpo.py --rollout-ranks R` the last R ranks sample and the others learn. A rollout rank
knows by itself which problems are its own (every R-th). Finished groups travel through torchrun's TCPStore, as JSON. Weights
travel by broadcast from rank 0. They are announced in the store, where a rollout rank looks between two steps of its engine.
A rank that dies makes torchrun end the others; the learner then saves what it has and says so.

Simpler than OlmoRL: whole weights go to every rollout rank, in one piece.
"""

import argparse
import copy
import json
import time

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from model import Transformer
from rl.lengths import cap_at, longest_cap
from rl.rollouts import Collected, Rollouts, has_spread
from sampler import Completion, Sampler
from tasks.task import prompt_ids
from training.ledger import Costs
from training.ranks import Ranks

FIELDS = ("prompt", "tokens", "logprobs", "finish", "versions", "forced")
PATIENCE = 20.0                       # seconds that a rank which must stop waits for the others


class Maker:
    """Makes groups with an engine of its own: of every `every` blocks of `block` groups the one at `place`.

    in_flight: {number: [cap, requests, numbers of the unfinished requests]}; ready: {number: (cap, completions)}."""

    def __init__(self, rollouts: Rollouts, model: Transformer, version: int, place: int, every: int, block: int = 1):
        self.rollouts, self.place, self.every, self.block = rollouts, place, every, block
        self.prompts = copy.copy(rollouts.prompts)
        self.prompts.given = list(rollouts.prompts.given)
        self.next, self.in_flight, self.ready = sum(self.prompts.given), {}, {}
        self.sampler = Sampler(model, rollouts.tokenizer, rows=rollouts.rows, dtype=rollouts.dtype, version=version)
        longest = rollouts.window or 256 + longest_cap(rollouts.caps)
        self.sampler.start(longest, rollouts.temperature, seed=rollouts.seed * 1_000_003)
        self.busy = self.slots = 0

    def makes(self, g: int) -> bool:
        """Is the group of this number one of its own?"""
        return g // self.block % self.every == self.place

    def feed(self, allowed: int) -> None:
        """Begins its groups with numbers below `allowed`."""
        r = self.rollouts
        while self.next < allowed:
            g, self.next, problem = self.next, self.next + 1, self.prompts.next()
            if not self.makes(g):
                continue
            cap, ids = cap_at(r.caps, self.sampler.version), prompt_ids(r.tokenizer, problem, r.mode)
            r.check_window(problem, ids, cap)
            requests = self.sampler.submit(ids, cap, r.G, g * r.G, r.think_budget)
            self.in_flight[g] = [cap, requests, {request.number for request in requests}]

    def work(self) -> bool:
        """One step of the engine; finished groups go to `ready`, {number: (cap, completions)}. False with nothing to do."""
        if not self.in_flight:
            return False
        done = {request.number for request in self.sampler.step()}
        self.busy, self.slots = self.busy + len(self.sampler.running) + len(done), self.slots + self.sampler.runner.rows.count
        for g in list(self.in_flight) if done else ():
            cap, requests, left = self.in_flight[g]
            left -= done
            if not left:
                self.ready[g] = cap, [request.completion for request in requests]
                del self.in_flight[g]
        return True

    def take_slots(self) -> tuple[int, int]:
        """Decode slots that were busy, and that there were, since the last call."""
        found, self.busy, self.slots = (self.busy, self.slots), 0, 0
        return found


class AsyncRollouts(Rollouts):
    """As Rollouts, for groups that were begun earlier.

    ahead: K. recompute: new weights compute the keys of unfinished completions again. run.rollout_ranks > 0: the groups are made
    on ranks of their own."""

    def __init__(self, run: Ranks, *args, ahead: int, recompute: bool = False, **options):
        super().__init__(*args, rank=run.rank, ranks=run.ranks, group=run.group, **options)
        self.run, self.ahead, self.recompute = run, ahead, recompute
        self.apart, self.maker, self.sending = run.rollout_ranks > 0, None, []
        self.ages, self.stale = [], 0

    def begin(self, model: Transformer, version: int) -> None:
        """Once the weights and the place in the prompts are those to start from."""
        self.costs = Costs.of(model)
        if not self.apart:
            self.maker = Maker(self, model, version, self.rank, self.ranks, self.P // self.ranks)
        elif self.run.main:
            self.version = version
            self._announce()
            post(self.run, "start", self.prompts.state() | {"version": version})

    def _collect(self, model, step):
        """Takes what was begun earlier. If the run must stop meanwhile, no prompts count as used."""
        self.ages, self.stale, self.version, before = [], 0, step, list(self.prompts.given)
        found = self._collect_from_others(step) if self.apart else self._collect_own(step)
        if found is None:
            self.prompts.given = before
        return found

    def _collect_own(self, step):
        """Takes groups in the order of their numbers, as many at a time as are missing on all ranks together."""
        owners, made, problems, sampled, spare = {}, {}, {}, [], self.P * self.replace
        while len(owners) < self.P:
            first = sum(self.prompts.given)
            numbers, states = range(first, first + self.P - len(owners)), {}
            problems |= {g: self.prompts.next() for g in numbers}
            for g in filter(self.maker.makes, numbers):
                while g not in self.maker.ready:
                    if self.run.stopping and self.ranks == 1:
                        return None
                    self.maker.feed(numbers.stop + self.P * self.ahead)
                    self.maker.work()
                cap, completions = self.maker.ready.pop(g)
                self.pay(self.costs, completions)         # also those that are too old
                group = self._take(problems[g], g, cap, completions, step)
                states[g] = self.rank, group and has_spread(group)
                if group:
                    made[g] = group
                    sampled.append(group)
            for g, (rank, spread) in sorted(self.joined(states).items()):
                if spread is False and spare:             # without spread it may be replaced
                    spare -= 1
                elif spread is not None:                  # not too old
                    owners[g] = rank
        return Collected(self.share_out(owners, made, problems), sampled, *self.maker.take_slots())

    def _take(self, problem, g, cap, completions, step):
        """The scored group, or None if it is too old."""
        age = step - min(v for c in completions for v in c.versions)
        if age > self.ahead:
            self.stale += 1
            return None
        self.ages.append(age)
        return self.score(problem, g, completions, cap, self.seed * 1_000_003)

    def publish(self, model: Transformer, step: int) -> None:
        """New weights for the engine, here or on the ranks that sample: `step` updates were made."""
        super().publish(model, step)
        if self.maker:
            state = None if self.maker.sampler.model is model else {n: whole(w) for n, w in model.state_dict().items()}
            self.maker.sampler.update_weights(state, step, self.recompute)
        elif self.apart:
            weights = []
            for w in model.state_dict().values():         # all learners gather a shard, rank 0 keeps what it will send
                w = whole(w)
                weights += [w] * self.run.main
            if self.run.main:
                for handle in self.sending:
                    handle.wait()
                self.version = step
                self._announce()
                self.sending = [dist.broadcast(w, 0, group=self.run.sync_group, async_op=True) for w in weights]

    def notes(self) -> dict:
        """How old the groups of this step were, in updates, and how many were too old."""
        ages, stale = self.run.sum(sum(self.ages), self.stale)
        count = max(1, self.run.sum(len(self.ages))[0])
        return {"staleness_mean": round(ages / count, 4), "staleness_max": self.run.max(max(self.ages, default=0)),
                "stale_groups": int(stale)}

    def finish(self) -> None:
        """Lets the rollout ranks go."""
        if self.apart and self.run.main:
            post(self.run, "news", {"version": self.version, "allowed": 0, "stop": True})

    # rollouts on ranks of their own

    def _announce(self, missing=0):
        """Lets the rollout ranks know which weights there are, and which groups may be begun."""
        allowed = sum(self.prompts.given) + missing + self.P * self.ahead
        post(self.run, "news", {"version": self.version, "allowed": allowed, "stop": False})

    def _collect_from_others(self, step):
        """Rank 0 takes the groups in order and gives every learner its share."""
        batch = [self._gather(step)] if self.run.main else [None]
        if self.ranks > 1:
            dist.broadcast_object_list(batch, 0, group=self.run.group)
        if batch[0] is None:
            return None
        numbers, busy, slots = batch[0]
        share, kept, sampled = self.P // self.ranks, [], []
        if not self.run.main:                             # rank 0 has gone through them already
            self.problems = {g: self.prompts.next() for g in range(sum(self.prompts.given), numbers["end"])}
        for place, (g, cap, completions) in enumerate(numbers["kept"]):
            if place // share == self.rank:
                group = self._take(self.problems[g], g, cap, [Completion(**c) for c in completions], step)
                kept.append(group)
                sampled.append(group)
        if self.run.main:
            sampled += self.dropped
        return Collected(kept, sampled, busy / self.ranks, slots / self.ranks)

    def _gather(self, step):
        """On rank 0: the groups of a step, in order; those too old or without spread are replaced. None if the run must stop."""
        kept, busy, slots, spare = [], 0, 0, self.P * self.replace
        self.problems, self.dropped, stale = {}, [], 0
        while len(kept) < self.P:
            self._announce(self.P - len(kept))
            g = sum(self.prompts.given)
            message = take(self.run, f"group/{g}")
            if message is None:
                return None
            problem, completions = self.prompts.next(), [Completion(**c) for c in message["completions"]]
            self.pay(self.costs, completions)
            busy, slots = busy + message["busy"], slots + message["slots"]
            if step - min(v for c in completions for v in c.versions) > self.ahead:
                stale += 1
                continue
            if spare:
                group = self.score(problem, g, completions, message["cap"], self.seed * 1_000_003)
                if not has_spread(group):
                    spare -= 1
                    self.dropped.append(group)
                    continue
            self.problems[g] = problem
            kept.append((g, message["cap"], message["completions"]))
        self._announce()
        self.stale = stale
        return {"kept": kept, "end": sum(self.prompts.given)}, busy, slots


def serve(run: Ranks, rollouts: AsyncRollouts, model: Transformer) -> None:
    """The life of a rollout rank: groups out, weights in, until the learners stop it."""
    start = take(run, "start", keep=True)
    if start is None:
        return
    version = start.pop("version")
    rollouts.prompts.restore(start)
    place = run.rank - run.ranks
    maker, stopped_at, news = Maker(rollouts, model, version, place, run.rollout_ranks), None, None
    while True:
        news = look(run, "news") or news
        if news and news["stop"]:
            break
        if run.stopping:                                  # the learners finish their step first, if they still can
            stopped_at = stopped_at or time.monotonic()
            if time.monotonic() - stopped_at > PATIENCE:
                break
        while news and maker.sampler.version < news["version"]:
            for weight in model.state_dict().values():
                dist.broadcast(weight.detach(), 0, group=run.sync_group)
            maker.sampler.update_weights(None, maker.sampler.version + 1, rollouts.recompute)
        if news:
            maker.feed(news["allowed"])
        if not maker.work():
            time.sleep(0.002)
        for g in sorted(maker.ready):
            cap, completions = maker.ready.pop(g)
            busy, slots = maker.take_slots()
            post(run, f"group/{g}", {"cap": cap, "busy": busy, "slots": slots,
                                     "completions": [{f: getattr(c, f) for f in FIELDS} for c in completions]})


# the store that torchrun brings along

def post(run: Ranks, key: str, value) -> None:
    run.store.set(key, json.dumps(value))


def look(run: Ranks, key: str):
    """The value of a key, or None."""
    return json.loads(run.store.get(key)) if run.store.check([key]) else None


def take(run: Ranks, key: str, keep: bool = False):
    """Waits for a key, and removes it; None when the run must stop meanwhile."""
    while not run.store.check([key]):
        if run.stopping:
            return None
        time.sleep(0.002)
    value = look(run, key)
    if not keep:
        run.store.delete_key(key)
    return value


def whole(weight: torch.Tensor) -> torch.Tensor:
    """A copy of a weight, gathered if it is sharded (all learners must call this together), on its own device."""
    weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return weight.detach().clone()


def check(args: argparse.Namespace, ranks: int) -> None:
    """ValueError for flags that do not go together; ranks: of the whole world."""
    if args.rollout_ranks >= max(1, ranks):
        raise ValueError(f"--rollout-ranks {args.rollout_ranks}: of {ranks} ranks one at least must learn; start more of them "
                         "with torchrun --nproc_per_node")
