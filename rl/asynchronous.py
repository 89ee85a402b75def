"""Asynchronous rollouts: sampling runs ahead of training, in the same process or on separate ranks.

With --async-steps K a completion may be sampled with weights up to K updates old (OLMo 3's "async steps", arXiv 2512.13961). The
engine works on the groups of K + 1 steps at a time, so its rows stay in use while long answers end. New weights reach it between
two tokens. A step still waits for the slowest of its groups, which was started up to K steps earlier. If a few answers are much
longer than the mean, K = 1 may not help enough; `python bench.py async` measures it.

- Every group has a number, and training uses groups in this order. (If it used the first groups that are finished, batches would
  have more short answers than the policy gives.)
- A group with a token more than K versions old is dropped, and another one takes its place in the batch. How many groups may be
  started is counted from the groups that were used or dropped.
- K = 0 is on-policy: a group starts only when the weights for its step are there.

Resume. Without separate ranks, the ranks share the groups by their numbers, and all drop and replace the same groups. So there is
one position in the prompts, and a resumed run continues from it: no prompt is lost and none is used twice. Groups that were not
finished are sampled again, with newer weights. So with K = 0 a resumed run has the same results to the last bit; with K > 0 it
samples other completions.

With `torchrun --nproc_per_node=N grpo.py --rollout-ranks R` the last R ranks sample and the others train. Each rollout rank takes
every R-th problem. Finished groups are sent through torchrun's TCPStore, as JSON. Rank 0 announces new weights in the store,
which a rollout rank reads between two steps of its engine, and sends them by broadcast. If a rank dies, torchrun ends the others;
rank 0 first saves the checkpoint and says so.

Simpler than OlmoRL: the complete weights are sent to every rollout rank.
"""

import argparse
import contextlib
import copy
import json
import time

import torch
import torch.distributed as dist

from engine.thinking import ThinkBudget
from model import Transformer
from rl.groups import Collected, Group, differs_by_task
from rl.lengths import cap_at, longest_cap, parse_caps, shortest_cap
from rl.prompts import Prompts
from rl.rollouts import Rollouts
from sampler import Completion, Sampler
from tasks.rewards import Weighted
from tasks.task import Problem, prompt_ids
from tasks.tools import Toolbox, open_tools
from tokenizer import Tokenizer
from training import cli
from training.ledger import Costs
from training.ranks import Ranks
from training.run import Run
from training.weights import complete, restore_weights

FIELDS = ("prompt", "tokens", "logprobs", "finish", "versions", "forced", "calls")
PATIENCE = 20.0                       # seconds that a rank waits for the others when it must stop


class Maker:
    """Makes groups with an engine of its own.

    - place, every, block: which groups are its own. The numbers of the groups are cut into blocks of `block` numbers. `every`
      makers take the blocks in turn; this one is number `place` of them, from 0
    - in_flight: the groups that it works on, {number: [cap, requests, numbers of the unfinished requests]}
    - ready: the finished groups, {number: (cap, completions)}
    - busy, slots: decode slots that were in use, and that there were, since `take_slots`"""

    def __init__(self, rollouts: Rollouts, model: Transformer, version: int, place: int, every: int, block: int = 1):
        self.rollouts, self.place, self.every, self.block = rollouts, place, every, block
        self.prompts = copy.copy(rollouts.prompts)
        self.prompts.given = list(rollouts.prompts.given)
        self.next, self.in_flight, self.ready = sum(self.prompts.given), {}, {}
        self.sampler = Sampler(model, rollouts.tokenizer, rows=rollouts.rows, dtype=rollouts.dtype, version=version)
        longest = rollouts.window or 256 + longest_cap(rollouts.caps)
        self.sampler.start(longest, rollouts.temperature, seed=rollouts.seed * 1_000_003, **rollouts.mismatch.of_draws())
        self.busy = self.slots = 0

    def makes(self, g: int) -> bool:
        """Whether this maker makes the group with this number."""
        return g // self.block % self.every == self.place

    def feed(self, allowed: int) -> None:
        """Starts its groups with numbers below `allowed`."""
        r = self.rollouts
        while self.next < allowed:
            g, self.next, problem = self.next, self.next + 1, self.prompts.next()
            if not self.makes(g):
                continue
            cap, ids = cap_at(r.caps, self.sampler.version), prompt_ids(r.tokenizer, problem, r.mode)
            r.check_window(problem, ids, cap)
            requests = self.sampler.submit(ids, cap, r.G, g * r.G, r.think_budget, tools=r.tools_of(problem))
            self.in_flight[g] = [cap, requests, {request.number for request in requests}]

    def work(self) -> bool:
        """One step of the engine; finished groups go to `ready`, {number: (cap, completions)}. False if there is nothing to
        do."""
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
        """Decode slots in use, and all decode slots, since the last call."""
        found, self.busy, self.slots = (self.busy, self.slots), 0, 0
        return found


class AsyncRollouts(Rollouts):
    """Like Rollouts, for groups that were started in earlier steps.

    - ahead: K, in updates
    - recompute: new weights compute the keys of unfinished completions again
    - apart: other ranks make the groups (run.rollout_ranks > 0); else `maker` makes them here
    - ages, stale: of the groups of this step, how many updates old they are, and how many were dropped as too old"""

    def __init__(self, run: Ranks, *args, ahead: int, recompute: bool = False, **options):
        super().__init__(*args, rank=run.rank, ranks=run.ranks, group=run.group, **options)
        self.run, self.ahead, self.recompute = run, ahead, recompute
        self.apart, self.maker, self.sending = run.rollout_ranks > 0, None, []
        self.ages, self.stale = [], 0

    def begin(self, model: Transformer, version: int) -> None:
        """Starts to sample. Comes once the model has the weights, and `prompts` the place, that the run goes on from."""
        super().begin(model, version)
        self.costs = Costs.of(model)
        if not self.apart:
            self.maker = Maker(self, model, version, self.rank, self.ranks, self.P // self.ranks)
        elif self.run.main:
            self.version = version
            self._announce()
            post(self.run, "start", self.prompts.state() | {"version": version})

    def _collect(self, model: Transformer, step: int) -> Collected | None:
        """Takes what was begun earlier. If the run must stop meanwhile, no prompts count as used."""
        self.ages, self.stale, self.version, before = [], 0, step, list(self.prompts.given)
        found = self._collect_from_others(step) if self.apart else self._collect_own(step)
        if found is None:
            self.prompts.given = before
        return found

    def _collect_own(self, step: int) -> Collected | None:
        """Takes groups in the order of their numbers, as many at a time as are missing on all ranks together."""
        owners, made, problems, sampled, spare = {}, {}, {}, [], self.P * self.replace
        while len(owners) < self.P:
            first = sum(self.prompts.given)
            numbers, states = range(first, first + self.P - len(owners)), {}
            with self.together():
                problems |= {g: self.prompts.next() for g in numbers}
                for g in filter(self.maker.makes, numbers):
                    while g not in self.maker.ready:
                        if self.run.stopping and self.ranks == 1:
                            return None
                        self.maker.feed(numbers.stop + self.P * self.ahead)
                        self.maker.work()
                    cap, completions = self.maker.ready.pop(g)
                    self.pay(self.costs, completions)     # also those that are too old
                    group = self._take(problems[g], g, cap, completions, step)
                    states[g] = self.rank, group and differs_by_task(group)
                    if group:
                        made[g] = group
                        sampled.append(group)
            for g, (rank, spread) in sorted(self.joined(states).items()):
                if spread is False and spare:             # without spread: it may be replaced
                    spare -= 1
                elif spread is not None:                  # not too old
                    owners[g] = rank
        return Collected(self.share_out(owners, made, problems), sampled, *self.maker.take_slots())

    def _take(self, problem: Problem, g: int, cap: int, completions: list[Completion], step: int) -> Group | None:
        """The scored group, or None if it is too old."""
        age = step - min(v for c in completions for v in c.versions)
        if age > self.ahead:
            self.stale += 1
            return None
        self.ages.append(age)
        return self.score(problem, g, completions, cap, self.seed * 1_000_003)

    def publish(self, model: Transformer, step: int) -> None:
        """Gives new weights to the engine, here or on the rollout ranks. step: the number of updates made."""
        super().publish(model, step)
        if self.maker:
            state = None if self.maker.sampler.model is model else {n: whole(w) for n, w in model.state_dict().items()}
            self.maker.sampler.update_weights(state, step, self.recompute)
        elif self.apart:
            weights = []
            for w in model.state_dict().values():         # all ranks gather each shard; rank 0 keeps what it will send
                w = whole(w)
                weights += [w] * self.run.main
            if self.run.main:
                self._send(weights, step)

    def _send(self, weights: list[torch.Tensor], version: int) -> None:
        """Announces and sends weights to the rollout ranks. If one of them has died, the run must stop, with its steps saved."""
        try:
            for handle in self.sending:
                handle.wait()
            self.version = version
            self._announce()
            self.sending = [dist.broadcast(w, 0, group=self.run.sync_group, async_op=True) for w in weights]
        except RuntimeError as e:                         # the step is made: it counts before torchrun ends this rank as well
            self.sending = []
            self._must_stop("new weights do not reach the ranks that sample", e)

    def _must_stop(self, why: str, error: Exception) -> None:
        self.run.stopping = True
        self.run.say(f"the run must stop: {why} ({str(error).splitlines()[0]})")

    def notes(self) -> dict:
        """The age of the groups of this step, in updates, and how many were too old."""
        ages, stale = self.run.sum(sum(self.ages), self.stale)
        count = max(1, self.run.sum(len(self.ages))[0])
        return {"staleness_mean": round(ages / count, 4), "staleness_max": self.run.max(max(self.ages, default=0)),
                "stale_groups": int(stale)}

    def finish(self) -> None:
        """Tells the rollout ranks to stop."""
        if self.apart and self.run.main:
            with contextlib.suppress(dist.DistError):     # torchrun has died, and the run is saved
                post(self.run, "news", {"version": self.version, "allowed": 0, "stop": True})

    # rollouts on separate ranks

    def _announce(self, missing: int = 0) -> None:
        """Tells the rollout ranks which weights there are, and below which number groups may be begun. missing: groups that this
        step still needs."""
        allowed = sum(self.prompts.given) + missing + self.P * self.ahead
        post(self.run, "news", {"version": self.version, "allowed": allowed, "stop": False})

    def _collect_from_others(self, step: int) -> Collected | None:
        """Rank 0 takes the groups in order and gives every learner its share."""
        batch = [None]
        with self.together():
            if self.run.main:
                try:
                    batch = [self._gather(step)]
                except dist.DistError as e:               # torchrun, which keeps the store, has died
                    self._must_stop("the ranks that sample cannot be reached", e)
        if self.ranks > 1:
            dist.broadcast_object_list(batch, 0, group=self.run.group)
        if batch[0] is None:
            return None
        taken, busy, slots = batch[0]
        share, groups, sampled = self.P // self.ranks, [], []
        with self.together():
            if not self.run.main:                         # rank 0 has gone through them already
                self.problems = {g: self.prompts.next() for g in range(sum(self.prompts.given), taken["end"])}
            for place, (g, cap, completions) in enumerate(taken["groups"]):
                if place // share == self.rank:
                    group = self._take(self.problems[g], g, cap, [Completion(**c) for c in completions], step)
                    groups.append(group)
                    sampled.append(group)
        if self.run.main:
            sampled += self.dropped
        return Collected(groups, sampled, busy / self.ranks, slots / self.ranks)

    def _gather(self, step: int) -> tuple[dict, float, float] | None:
        """On rank 0: the groups of a step, in order; those too old or without spread are replaced. None if the run must stop."""
        messages, busy, slots, spare = [], 0, 0, self.P * self.replace
        self.problems, self.dropped, stale = {}, [], 0
        while len(messages) < self.P:
            self._announce(self.P - len(messages))
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
                if not differs_by_task(group):
                    spare -= 1
                    self.dropped.append(group)
                    continue
            self.problems[g] = problem
            messages.append((g, message["cap"], message["completions"]))
        self._announce()
        self.stale = stale
        return {"groups": messages, "end": sum(self.prompts.given)}, busy, slots


def serve(run: Ranks, rollouts: AsyncRollouts, model: Transformer) -> None:
    """What a rollout rank does until the learners stop it: it takes new weights as they are announced, begins the groups that are
    allowed, and puts finished groups into the store."""
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
        if run.stopping:                                  # the training ranks finish their step first, if they still can
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


# the TCPStore of torchrun

def post(run: Ranks, key: str, value: dict) -> None:
    """Writes a value under a key, as JSON."""
    run.store.set(key, json.dumps(value))


def look(run: Ranks, key: str) -> dict | None:
    """The value of a key, or None."""
    return json.loads(run.store.get(key)) if run.store.check([key]) else None


def take(run: Ranks, key: str, keep: bool = False) -> dict | None:
    """Waits for the value of a key, and removes it unless `keep`. None when the run must stop meanwhile."""
    while not run.store.check([key]):
        if run.stopping:
            return None
        time.sleep(0.002)
    value = look(run, key)
    if not keep:
        run.store.delete_key(key)
    return value


def whole(weight: torch.Tensor) -> torch.Tensor:
    """A copy of a weight on its device; gathered if it is sharded (then all training ranks must call this together)."""
    return complete(weight).detach().clone()


def check(args: argparse.Namespace, ranks: int) -> None:
    """ValueError for flags that do not go together. ranks: the number of all ranks."""
    if args.rollout_ranks >= max(1, ranks):
        raise ValueError(f"--rollout-ranks {args.rollout_ranks}: of {ranks} ranks one at least must learn; start more of them "
                         "with torchrun --nproc_per_node")


def make_rollouts(run: Run, args: argparse.Namespace, specs: list[str], tokenizer: Tokenizer, rewards: list[Weighted],
                  **options) -> Rollouts:
    """The object that samples and scores the prompts of `specs`, with the flags `args` of rl/flags.py; `options` of Rollouts.
    ValueError if the flags do not fit the tokenizer, the ranks or the data."""
    caps = parse_caps(args.max_new_tokens)
    if args.think_budget is not None:                     # an error comes here, before the run folder is made
        ThinkBudget(tokenizer, [], args.think_budget, shortest_cap(caps), answer_tokens=0)
    if args.prompts % run.ranks:
        raise ValueError(f"--prompts {args.prompts} must be a multiple of the number of ranks (= {run.ranks}); with "
                         "--batch-tokens it follows from that, --group and --max-new-tokens")
    tools = open_tools(args.tool, args.max_calls, args.tool_seconds)
    prompts = Prompts(specs, args.seed, tokenizer, run.device)
    half = run.dtype if run.dtype == torch.bfloat16 else None
    check_tools(args, tools, prompts, tokenizer)
    options |= dict(P=args.prompts, G=args.group, mode=args.mode, caps=caps, temperature=args.temperature, seed=args.seed,
                    rows=args.rows, dtype=half, window=args.seq_len, think_budget=args.think_budget, ledger=run.ledger,
                    tools=tools, give_up=run.give_up)
    if args.async_steps is None:
        rollouts = Rollouts(prompts, tokenizer, rewards, **options, rank=run.rank, ranks=run.ranks, group=run.group)
    else:
        rollouts = AsyncRollouts(run, prompts, tokenizer, rewards, **options, ahead=args.async_steps, recompute=args.recompute)
    if run.state is None:                                 # a run that goes on has passed it
        rollouts.check_prompts()
    return rollouts


def check_tools(args: argparse.Namespace, tools: Toolbox | None, prompts: Prompts, tokenizer: Tokenizer) -> None:
    """ValueError if completions are to call tools and cannot, or if it is not clear which."""
    own = [task.source for task in prompts.sources if task.tools]
    for wrong, fix in (
        (own and tools, f"{own and own[0]} has a tool of its own; leave --tool or calls=N out"),
        (args.mode == "plain", f"{own and own[0]}: --mode plain has no turns, and a call of a tool is one; use --mode chat"),
        (args.think_budget is not None, "--think-budget watches one turn, and with tools a reply has several; leave it out"),
        (tokenizer.chat.refusal, tokenizer.chat.refusal),
    ):
        if (own or tools) and wrong:
            raise ValueError(fix)


def only_sample(run: Run, rollouts: AsyncRollouts, model: Transformer) -> None:
    """All that a rank does which only samples."""
    if run.state is not None:
        saved = {name.removeprefix("model."): w for name, w in run.state["weights"].items() if not name.startswith("value")}
        restore_weights(model, saved)
    run.catch_interrupts()
    with cli.bad_input():                                 # of a prompt or a task of the user's; rank 0 then saves
        serve(run, rollouts, model.to(run.device))
    run.close()
