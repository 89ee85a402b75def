"""The rollout engine: samples completions for many requests at once, with the log-probability of each token.

    python sampler.py --init runs/base --prompt "Zoo, mod 10. The lions number 3. How many lions?"
    python sampler.py --init smollm2/ --prompt "The sky is" --max-new-tokens 40 --temperature 0.8 --colors

`Sampler.generate` completes a list of prompts. It is built on an engine with four methods:

- `submit` queues a prompt, at any time;
- `step` samples one token for every running request;
- `update_weights` sets new weights between two steps;
- `abort` ends requests early.

Requests of any length share one pool of memory for keys and values. Each step

1. schedules: every running row gets a page for its next token (engine/cache.py). If the pool is full, the newest rows are
   preempted: they keep their tokens, wait at the front of the queue and are prefilled again (engine/scheduler.py).
2. runs (engine/runner.py): it decodes the last token of every row. Then waiting requests get free rows, and their prompts are
   prefilled: once for all n samples, and several prompts packed together. A long prompt can be prefilled in pieces, one per step,
   so that it does not delay the rows that decode. At last the next token of every row is sampled (engine/draws.py).
3. reads the sampled tokens, and removes the requests that are finished. One that calls a tool leaves its row until the tool has
   answered (engine/calls.py); then it waits at the front, as if it had been preempted.

When a row is freed, the last row moves into its place, so running rows stay together. Random numbers depend on (seed, request,
position), so the text of a request does not depend on its neighbours or on when it is computed.

On a GPU decoding and sampling are CUDA graphs (engine/graphs.py), and the host is one step late: it reads the tokens of a step
while the next step is computed. So a row that has sampled an end token samples one more token, which is ignored.

Simpler than vLLM: one process, no prefix cache between prompts, and prefill and decode are two passes of a step.
"""

import dataclasses
import functools
import math
import sys
from collections import deque
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from engine import conversation
from engine.cache import PAGE, KVCache, download, pages_of
from engine.calls import Calls
from engine.draws import Distortion, SamplingParams, keep_budgets
from engine.requests import Completion, Drawn, Prefill, Request
from engine.runner import PREFILL_TOKENS, Runner
from engine.scheduler import Scheduler
from engine.thinking import ThinkBudget, parse_think
from formats.tokenizer_file import unused_settings
from model import Transformer
from tasks.tools import Toolbox
from tokenizer import Tokenizer
from training import cli

TOGETHER = 8                          # with graphs, prompts enter when at least one row in so many is free
PATIENCE = 0.1                        # seconds that a step waits for a tool if it has nothing else to do


class Sampler:
    """Generates with a model.

    - rows: the most sequences that decode at once.
    - dtype: of the cache. With float32 weights and a half-precision dtype the matrix products have it too (autocast). None: the
      dtype of the weights.
    - version: of the weights; every token is marked with it.
    - exact: whether the sampler computes in exact mode. None: as model.exact.
    - prefill_chunk: the most prompt tokens to prefill in one step; longer prompts are prefilled in pieces. 0: complete prompts,
      many at once.
    - pool_tokens: the size of the cache. 0: enough for all rows at their longest, but at most four fifths of the free memory.
    - graphs: decode with CUDA graphs. Batches are padded to one of few sizes, and tokens are read one step late. None: only on a
      GPU. The graphs are kept together with the cache, from one `start` to the next.

    Counters since the beginning: decode `steps`, `prefills` of prompts, rows `preempted`. Counted only in steps while some
    request waits: the rows that exist (`slots`), and the rows whose token is used (`busy`).
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer | None = None, rows: int = 64, dtype: torch.dtype | None = None,
                 version: int = 0, exact: bool | None = None, prefill_chunk: int = 0, pool_tokens: int = 0,
                 graphs: bool | None = None):
        self.model, self.tokenizer, self.rows, self.version = model, tokenizer, rows, version
        self.prefill_chunk, self.pool_tokens = prefill_chunk, pool_tokens
        if isinstance(tokenizer, Tokenizer) and not model.unused_ids:         # a model not made by `load`: as it is drawn from
            model.unused_ids = tokenizer.unused_ids(model.config.vocab_size)
        if isinstance(tokenizer, Tokenizer) and (unused := unused_settings(tokenizer.generation)):
            _tell_once(f"generation_config.json has {', '.join(unused)}: not used here")
        self.runner = Runner(model, dtype, exact, graphs)
        self.graphs, self.scheduler = self.runner.fixed_sizes, None           # `start` makes the scheduler
        # unread: tokens that the host has not read yet; outdated: the keys of running rows must be computed with new weights
        self.unread: deque[Drawn] = deque()
        self.outdated = False
        self.steps = self.prefills = self.preempted = self.busy = self.slots = 0

    def generate(self, prompts: list, n: int = 1, max_new_tokens: int | list[int] = 256, temperature: float = 1.0,
                 top_p: float = 1.0, top_k: int = 0, seed: int = 0, stop: set[int] | None = None,
                 on_token: Callable | None = None, progress: str = "", numbers: list[int] | None = None,
                 think_budget: int | list | None = None, answer_tokens: int = 64,
                 stop_texts: list[Sequence[str]] | None = None,
                 tools: Toolbox | list[Toolbox | None] | None = None,
                 distortion: Distortion | None = None) -> list[list[Completion]]:
        """n completions for each prompt: a list with, for each prompt, a list of n Completion.

        - prompts: strings (as the start of a document) or lists of token ids.
        - max_new_tokens: one number, or one per prompt.
        - stop: ids that end a completion (default: those of the tokenizer).
        - on_token(request, token, logprob) is called for each token, where request = prompt index * n + sample index. (Tokens of
          tools have the logprob 0.)
        - progress: the text of a progress bar; "": no bar.
        - numbers: one per prompt, used in place of its index for random numbers. With it, ranks that share the prompts of a batch
          sample the same as one rank would.
        - think_budget: the most tokens of a think block, one number or one per prompt; None: no limit. See ThinkBudget, also for
          answer_tokens.
        - stop_texts: for each prompt the texts that end a completion, as end tokens do. The token that completes one is its last.
        - tools: what a completion may call (tasks/tools.py), one toolbox or one per prompt. The turns of tools count in
          max_new_tokens.
        - distortion: what a study changes about draws (rl/mismatch.py).

        ValueError for an empty prompt or a bad option.
        """
        prompts = [self.tokenizer.encode_document(p) if isinstance(p, str) else list(p) for p in prompts]
        limits, budgets = _for_each(prompts, max_new_tokens=max_new_tokens), _for_each(prompts, think_budget=think_budget)
        boxes, keys = _for_each(prompts, tools=tools), _for_each(prompts, numbers=numbers or list(range(len(prompts))))
        ends = _for_each(prompts, stop_texts=stop_texts or [()] * len(prompts))
        if any(not p for p in prompts):
            raise ValueError(f"prompt {[bool(p) for p in prompts].index(False)} is empty; give at least one token")
        longest = max((len(p) + limit for p, limit in zip(prompts, limits)), default=1)
        self.start(longest, temperature, top_p, top_k, seed, stop, on_token, min(self.rows, max(1, len(prompts) * n)),
                   distortion)
        done = []
        for prompt, limit, budget, key, texts, box in zip(prompts, limits, budgets, keys, ends, boxes, strict=True):
            done += self.submit(prompt, limit, n, key * n, budget, answer_tokens, texts, box)
        with self.runner.mode(), tqdm(total=len(done), desc=progress, unit="completion", disable=not progress,
                                      leave=False) as bar:
            while self.unfinished:
                bar.update(len(self._step()))
        return [[r.completion for r in done[i:i + n]] for i in range(0, len(done), n)]

    # the engine

    def start(self, longest: int, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, seed: int = 0,
              stop: set[int] | None = None, on_token: Callable | None = None, rows: int | None = None,
              distortion: Distortion | None = None) -> None:
        """Empties the engine, takes the current weights (call update_weights after later changes), and sets how it samples.
        longest: the most tokens of a prompt with its completion, as far as it is known; it sets the size of the cache."""
        self.params = SamplingParams(temperature, top_k, top_p, distortion=distortion)
        self.runner.take_weights()
        self.scheduler = None                             # it refers to the old cache
        self.runner.allocate(rows or self.rows, longest, seed, self.pool_tokens)
        self.scheduler = Scheduler(self.runner.cache, self.runner.rows)
        self.longest, self.on_token = longest, on_token
        self.stop = set(stop if stop is not None else self.tokenizer.stop_ids if self.tokenizer else ())
        self.unread, self.outdated = deque(), False
        self.calls = Calls(self.tokenizer)

    @property
    def running(self) -> list[Request]:
        return self.scheduler.running

    @property
    def waiting(self) -> deque[Request]:
        return self.scheduler.waiting

    @property
    def unfinished(self) -> list[Request]:
        """All requests that will get more tokens: those that run, wait, or have called a tool."""
        return [*self.running, *self.waiting, *self.calls.open]

    @property
    def cache(self) -> KVCache:
        return self.runner.cache

    def submit(self, prompt: list[int], limit: int, n: int = 1, key: int | None = None, think_budget: int | None = None,
               answer_tokens: int = 64, stop_texts: Sequence[str] = (), tools: Toolbox | None = None) -> list[Request]:
        """Queues n completions, of at most `limit` tokens, of a prompt (ids). Returns n Requests; each step adds tokens to their
        .completion. key: for the random numbers of the first one; None: the number of the request. stop_texts: texts that end
        them. tools: what they may call. ValueError for a prompt or a limit that does not fit."""
        if not prompt or limit < 1 or n < 1:
            raise ValueError("a request needs a prompt of at least one token, n >= 1 and a limit (max_new_tokens) >= 1")
        if min(prompt) < 0 or max(prompt) >= self.model.config.vocab_size:
            raise ValueError(f"a prompt has the id {min(prompt) if min(prompt) < 0 else max(prompt)}, which the model does not "
                             f"have; its ids are below {self.model.config.vocab_size}")
        if len(prompt) + limit > self.longest:
            if pages_of(len(prompt) + limit) > self.cache.size:
                raise ValueError(f"a prompt of {len(prompt)} tokens with {limit} new ones is more than the cache has room for "
                                 f"({self.cache.size * PAGE} tokens); lower the limit, or raise pool_tokens")
            self.longest = len(prompt) + limit
            self.runner.widen(self.longest)
        if tools and think_budget is not None:
            raise ValueError("a thinking budget watches one turn, and with tools a reply has several; leave one of them out")
        if tools and (self.tokenizer is None or self.tokenizer.chat.refusal):
            raise ValueError(f"tools need a chat: {self.tokenizer.chat.refusal if self.tokenizer else 'there is no tokenizer'}")
        prefill, first, requests = Prefill(prompt), self.scheduler.submitted, []
        stops = tuple(text.encode() for text in stop_texts)
        for i in range(n):
            thinking = None if think_budget is None else ThinkBudget(self.tokenizer, prompt, think_budget, limit, answer_tokens)
            requests.append(Request(first + i, (first if key is None else key) + i, limit, Completion(prompt), thinking, prefill,
                                    stops, tools=tools))
        self.scheduler.submitted += n
        self.waiting.extend(requests)
        return requests

    def step(self) -> list[Request]:
        """Samples one token for every running request; returns the requests that finished."""
        with self.runner.mode():
            return self._step()

    def update_weights(self, state: dict | None = None, version: int | None = None, recompute: bool = False) -> None:
        """Sets new weights between two steps: {name: tensor}, or None if the model was changed in place. With recompute=True the
        keys of existing tokens are computed again; otherwise they stay those of the old weights."""
        if state is not None:
            with torch.no_grad():
                for name, weight in self.model.state_dict().items():
                    weight.copy_(state[name])
        self.runner.take_weights()
        self.version = self.version + 1 if version is None else version
        self.outdated = self.outdated or recompute

    def abort(self, request: Request | None = None) -> None:
        """Ends one request, or all; the tokens so far stay in their completions."""
        for r in [r for r in self.unfinished if request is None or r is request]:
            r.completion.finish = "aborted"
            (self.calls if r in self.calls.open else self.scheduler).remove(r)

    # one step

    def _step(self):
        finished = self._answers() + self._schedule()
        watched = self._run()
        # with graphs the host reads a step late; a thinking budget must see each token at once
        return finished + self._read(1 if self.graphs and not watched and self.running else 0)

    def _answers(self):
        """Lets requests go on whose tool has answered. Returns those for which the answer was too long. If there is nothing else
        to do, it waits for a tool."""
        answered = self.calls.ended(self.version, 0.0 if self.running or self.waiting else PATIENCE)
        for r in answered if self.on_token else ():
            for token in r.completion.tokens[r.completion.calls[-1].start:]:
                self.on_token(r.number, token, 0.0)
        self.scheduler.put_back([r for r in answered if not r.completion.finish])
        return [r for r in answered if r.completion.finish]

    def _schedule(self):
        """Reserves a page for the next token of every running row. Returns the requests that have finished meanwhile."""
        if not self.outdated and self.scheduler.reserve():
            return []
        finished = self._read(0)                          # the code below needs all tokens
        if self.outdated and self.running:
            self.runner.recompute([r.completion.prompt + r.completion.tokens[:-1] for r in self.running], self.version)
        self.outdated = False
        self.preempted += self.scheduler.preempt()
        return finished

    def _run(self):
        """Decodes, admits requests, and samples. Returns whether a thinking budget watches a row."""
        if self.running:
            self.runner.decode(len(self.running))
            self.steps += 1
        self._admit()
        B, rows, watched = len(self.running), self.runner.rows, any(r.thinking for r in self.running)
        if not B:
            return False
        params, forced = dataclasses.replace(self.params, exact=self.runner.copy.exact), set()
        logits, tokens, logprobs = self.runner.draw(B, params, watched)       # (B, V), (B,), (B,)
        if watched:
            again = self.runner.uniform(B, later=2 ** 32)                     # to sample a second time at a position
            forced = keep_budgets(self.running, logits, tokens, logprobs, again, self.stop, params)
        rows.advance(tokens)
        self.unread.append(Drawn(list(self.running), *download(tokens, logprobs), forced, self.version, bool(self.waiting)))
        self.slots += rows.count * bool(self.waiting)
        for r in self.running:
            r.drawn += 1
        self.scheduler.leave([row for row, r in enumerate(self.running) if r.drawn == r.limit])
        return watched

    def _admit(self):
        """Gives free rows to waiting requests, in order, while there are pages for them."""
        if self._too_few():
            return
        prefilled, first = 0, len(self.running)
        while r := self.scheduler.next():
            if not r.prefill.ready(self.version):
                if prefilled and self.prefill_chunk:
                    break
                prefilled = self._prefill()
                if not r.prefill.ready(self.version):     # only a piece was prefilled
                    break
            row = self.scheduler.admit()
            if row is None:
                break
            self.runner.enter(row, r.prefill)
            r.prefill = None                              # freed when all of its requests have done this
        if first < len(self.running):
            self.runner.rows.enter(first, self.running[first:])

    def _too_few(self):
        """Whether new prompts wait a little. With graphs a decoding step costs a few launches, and a prefill hundreds, however
        few its prompts are. So they wait until one row in TOGETHER is free, or as many rows as there are requests."""
        p = self.waiting[0].prefill if self.waiting else None
        if not (self.graphs and p and self.running) or p.ready(self.version) or p.scratch:
            return False
        return self.scheduler.free_rows() < min(len(self.waiting), self.runner.rows.count // TOGETHER)

    def _prefill(self):
        """Prefills the next prompts for which there are rows, or a piece of the next prompt; returns the number of tokens."""
        budget, p = self.prefill_chunk or PREFILL_TOKENS, self.waiting[0].prefill
        # new weights make finished pieces useless; after three starts a prompt is prefilled at once, or it might never finish
        if self.prefill_chunk and len(p.ids) - p.kept(self.version) > budget and (p.begun < 3 or p.version == self.version):
            tokens = self.runner.prefill_piece(p, self.version, budget)
            self.prefills += p.ready(self.version)
            return tokens
        prompts = self.scheduler.prompts(self.version, budget)
        computed = sum(len(p.ids) - p.kept(self.version) for p in prompts)
        self.runner.prefill(prompts, self.version)
        self.prefills += len(prompts)
        return computed

    def _read(self, late):
        """Gives the tokens of all steps except the last `late` ones to their requests; returns the requests that finished."""
        done, called = [], []
        while len(self.unread) > late:
            drawn = self.unread.popleft()
            if drawn.arrived:
                drawn.arrived.synchronize()
            for row, (r, token, logprob) in enumerate(zip(drawn.running, drawn.tokens.tolist(), drawn.logprobs.tolist())):
                if r is None or r.completion.finish:      # it called a tool or ended a step earlier, or was aborted
                    continue
                c = r.completion
                if math.isnan(logprob):                   # a token sampled from such logits has no meaning
                    raise ValueError("the model's logits are not numbers (NaN); its weights are damaged, or too large "
                                     "for this dtype")
                c.tokens.append(token)
                c.logprobs.append(logprob)
                c.versions.append(drawn.version)
                c.forced.append(row in drawn.forced)
                self.busy += drawn.queue
                if self.on_token:
                    self.on_token(r.number, token, logprob)
                ends = token in self.stop and row not in drawn.forced
                ends = ends or self._says_stop(r)
                if ends and self.calls.begin(r):
                    called.append(r)
                    for later in self.unread:             # what was sampled behind the call meanwhile
                        later.running = [None if x is r else x for x in later.running]
                elif ends or len(c.tokens) == r.limit:
                    c.finish = "stop" if ends else "length"
                    done.append(r)
            if any(r.drawn < r.limit for r in done + called):                 # requests at their limit have left already
                self._let_go([row for row, r in enumerate(self.running) if r.completion.finish or r.call])
        return done

    def _let_go(self, rows):
        """Frees the rows of requests that are finished, or have called a tool; the keys of the latter are kept."""
        for row in rows:
            r = self.running[row]
            if r.call and not self.outdated:              # the last token is not decoded yet
                r.prefill = self.runner.keep(row, r.completion.prompt + r.completion.tokens[:-1], self.version)
        self.scheduler.leave(rows)

    def _says_stop(self, r):
        """Whether the newest token completes one of the request's stop texts."""
        if not r.stops:
            return False
        newest = r.completion.tokens[-max(map(len, r.stops)):]                # a token has at least one byte
        said = self.tokenizer.decode_bytes(newest)
        return any(stop in said for stop in r.stops)


@functools.cache
def _tell_once(text):
    tqdm.write(text, file=sys.stderr)


def _for_each(prompts, **named):
    """An option as a list with one value per prompt. ValueError for a list of another length."""
    [(name, option)] = named.items()
    if not isinstance(option, (list, tuple, range)):
        return [option] * len(prompts)
    if len(option) != len(prompts):
        raise ValueError(f"{name} has {len(option)} values for {len(prompts)} prompts; give one per prompt")
    return list(option)


# the command

# when a flag has an effect (see cli.Parser)
NEEDS = (("--system --think --tool", lambda a: a.chat, "without --chat"), *conversation.NEEDS)


def main() -> None:
    p = cli.Parser(__doc__, NEEDS)
    conversation.add_flags(p, "text to continue, or with --chat the user's question; answers once")
    p.add_argument("--chat", action="store_true",
                   help="turns of a chat, as in chat.py; without --prompt a conversation (an empty line ends it)")
    args = p.parse_args()
    with cli.bad_input():
        if not (args.prompt or args.chat):
            raise ValueError("give --prompt TEXT, or --chat")
        parse_think(args.think)                           # a bad value is refused before the checkpoint is read
        model, tokenizer = conversation.open_checkpoint(args)
        sampler = Sampler(model, tokenizer, rows=1)
        if args.chat:
            result = conversation.converse(sampler, args)
        else:
            ids = tokenizer.encode_document(args.prompt)
            result = conversation.summary(1, conversation.stream(sampler, ids, args))
    cli.finish(result)


if __name__ == "__main__":
    main()
