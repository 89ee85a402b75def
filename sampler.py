"""The rollout engine: many requests of any length share a pool of memory, come and go at any time, and each token's
log-probability is reported.

    python sampler.py --init runs/base --prompt "Zoo, mod 10. The lions number 3. How many lions?"
    python sampler.py --init smollm2/ --prompt "The sky is" --max-new-tokens 40 --temperature 0.8 --colors

`Sampler.generate` answers a list of prompts. Beneath it is an engine with four verbs: `submit` a prompt whenever there is
one, `step` to draw one token for every running request, `update_weights` between two steps, `abort`. Each step

1. sees that every running row has a page for its next token (engine/cache.py); if the pool is full, the newest rows give way:
   they keep their tokens, wait at the front of the queue and are prefilled again,
2. gives free rows to waiting requests; a prompt is prefilled once for its n samples, packed with others into one row of
   documents, or in pieces, one a step, so that a long one does not hold up those that decode,
3. decodes the pending token of every row, and draws the next one.

A row that finishes is taken over by the last one, so the running rows stay together. Randomness is keyed by (seed, request,
position), so what a request draws depends neither on its neighbours nor on when it is computed.

On a GPU decoding and drawing are CUDA graphs, and the host is a step behind: it reads the tokens of a step while the next one
is computed, so a row that drew an end token draws once more, for nothing. Simpler than vLLM: one process, no prefix cache
between prompts, prefill and decode are two passes of a step.
"""

import contextlib
import itertools
import math
import os
from collections import deque

import torch
from tqdm import tqdm

from engine import conversation
from engine.cache import PAGE, KVCache, pages_of, upload
from engine.draws import draw, uniform
from engine.requests import Completion, Drawn, Prefill, Request
from engine.thinking import ThinkBudget, keep_budgets, parse_think
from engine.weights import SamplingCopy
from kernels import HAS_TRITON, exclude
from tokenizer import Tokenizer
from training import cli

PREFILL_TOKENS = 8192                 # prompts are prefilled in packs of about this many tokens


def _for_each(option, prompts):
    return list(option) if isinstance(option, (list, tuple)) else [option] * len(prompts)


def download(*tensors):
    """The tensors on the host, and an event after which they have arrived there; from a CPU as they are."""
    if not tensors[0].is_cuda:
        return *tensors, None
    event, there = torch.cuda.Event(), [t.to("cpu", non_blocking=True) for t in tensors]
    event.record()
    return *there, event


def free_bytes(device):
    """Memory that nobody uses at the moment; None where the system does not say. On a GPU torch keeps what was freed for itself,
    and hands it out again: after training that is most of the memory."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


class Sampler:
    """Generates with a model. rows: sequences that decode at once, at most. dtype: of the cache and, where it is a half
    type on float32 weights, of the matrix products (autocast); None: that of the weights. version: stamped on every token.
    exact: whether the model computes in its exact form meanwhile; None: as model.exact says. prefill_chunk: tokens of
    prompts to prefill in one step, longer prompts in pieces; 0: whole prompts, many at once. pool_tokens: size of the
    cache; 0: for all rows at their longest, if four fifths of the free memory hold that. graphs: decode in CUDA graphs, with
    rows that fill up a batch to one of few sizes, and read tokens a step late; None: on a GPU. The graphs are kept as long as
    the cache is, from one start to the next."""

    def __init__(self, model, tokenizer=None, rows=64, dtype=None, version=0, exact=None, prefill_chunk=0, pool_tokens=0,
                 graphs=None):
        self.model, self.tokenizer, self.rows, self.version = model, tokenizer, rows, version
        self.exact, self.prefill_chunk, self.pool_tokens = exact, prefill_chunk, pool_tokens
        if isinstance(tokenizer, Tokenizer) and not model.absent:             # a model not made by `load`: as it is drawn from
            model.absent = tokenizer.absent(model.config.vocab_size)
        weight = model.head
        self.device, self.dtype = weight.device, dtype or weight.dtype
        self.half = self.dtype != weight.dtype
        self.steps = self.prefills = self.preempted = 0   # decode steps, prompts prefilled, rows that gave way, ever
        self.busy = self.slots = 0                        # rows that drew and rows there were, in steps with a queue
        able = self.device.type == "cuda" and HAS_TRITON and self.dtype != torch.float64    # else the host sizes each step
        self.graphs = able if graphs is None else graphs
        self.captured, self.pool, self.cache, self.logits = {}, None, None, None
        self.running, self.waiting, self.unread, self.outdated = [], deque(), deque(), False
        self.copies = SamplingCopy(model, self.dtype if self.half else None)
        self.decoder = None                               # the copy that decodes, as of `start`

    def generate(self, prompts, n=1, max_new_tokens=256, temperature=1.0, top_p=1.0, top_k=0, seed=0, stop=None,
                 on_token=None, progress="", numbers=None, think_budget=None, answer_tokens=64):
        """n completions for each prompt: a list with, for each prompt, a list of n Completion.

        prompts: strings (ordinary text, read from its beginning) or lists of token ids. stop: ids that end a completion
        (default: the tokenizer's). max_new_tokens: one number, or one per prompt. on_token(request, token, logprob) is called for
        each token, where request = prompt index * n + sample index. numbers: one per prompt, takes the place of its
        index in the key of the randomness, so that ranks which share the prompts of a batch draw what one rank would
        have drawn. think_budget: the most tokens of a think block, one number or one per prompt, None for no limit;
        see ThinkBudget, also for answer_tokens. ValueError for an empty prompt or a bad option.
        """
        prompts = [self.tokenizer.encode_document(p) if isinstance(p, str) else list(p) for p in prompts]
        limits, budgets = _for_each(max_new_tokens, prompts), _for_each(think_budget, prompts)
        if any(not p for p in prompts):
            raise ValueError(f"prompt {[bool(p) for p in prompts].index(False)} is empty; give at least one token")
        longest = max((len(p) + limit for p, limit in zip(prompts, limits)), default=1)
        self.start(longest, temperature, top_p, top_k, seed, stop, on_token, min(self.rows, max(1, len(prompts) * n)))
        done = []
        for p, (prompt, limit, budget) in enumerate(zip(prompts, limits, budgets)):
            done += self.submit(prompt, limit, n, (numbers[p] if numbers else p) * n, budget, answer_tokens)
        with self._mode(), tqdm(total=len(done), desc=progress, unit="completion", disable=not progress, leave=False) as bar:
            while self.running or self.waiting:
                bar.update(len(self._step()))
        return [[r.completion for r in done[i:i + n]] for i in range(0, len(done), n)]

    # the engine

    def start(self, longest, temperature=1.0, top_p=1.0, top_k=0, seed=0, stop=None, on_token=None, rows=None):
        """Empties the engine, takes the weights as they are now (later changes need update_weights), and sets how it draws.
        longest: the most tokens of a prompt with its completion, as far as is known; the size of the cache follows from it."""
        if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
            raise ValueError("use temperature >= 0, 0 < top_p <= 1 and top_k >= 0")
        rows, each = rows or self.rows, KVCache.page_bytes(self.model.config, self.dtype)
        self.decoder = self.copies.refresh()
        pages, free, held = rows * pages_of(longest), free_bytes(self.device), self.cache.size * each if self.cache else 0
        if self.pool_tokens:
            pages = min(pages, pages_of(self.pool_tokens))
        elif free is not None:
            pages = min(pages, int(0.8 * (free + held)) // each)
        if pages < pages_of(longest):
            raise ValueError(f"the cache has room for {pages * PAGE} tokens and one completion with its prompt may take "
                             f"{longest}; lower the number of new tokens, or raise pool_tokens")
        self.longest, self.on_token, self.how = longest, on_token, (temperature, top_k, top_p)
        self.stop = set(stop if stop is not None else self.tokenizer.stop_ids if self.tokenizer else ())
        self.running, self.waiting, self.unread, self.outdated = [], deque(), deque(), False
        self.crowded, self.submitted = False, 0
        if self.graphs and self.cache and self.cache.holds(rows, pages, longest):
            self.seed.fill_(seed)
            return self.cache.clear()
        self.captured, self.pool, self.cache, self.logits = {}, None, None, None
        self.seed = torch.tensor(seed, device=self.device)
        self.cache = KVCache(self.model.config, rows, pages, longest, self.device, self.dtype)
        self.hidden = torch.zeros(rows, self.model.config.width, device=self.device, dtype=self.model.head.dtype)
        self.pending, self.keys, self.positions = (torch.zeros(rows, dtype=torch.long, device=self.device) for _ in range(3))

    def submit(self, prompt, limit, n=1, key=None, think_budget=None, answer_tokens=64):
        """Queues n completions of at most `limit` tokens of a prompt (ids); returns their n Requests, whose .completion
        fills as steps go by. key: of the first one's randomness; none: the number of the request."""
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
            if self.cache.widen(self.longest):
                self.captured = {}                        # they would read the old table
        prefill, requests = Prefill(prompt), []
        for i in range(n):
            thinking = None if think_budget is None else ThinkBudget(self.tokenizer, prompt, think_budget, limit, answer_tokens)
            requests.append(Request(self.submitted, self.submitted if key is None else key + i, limit, Completion(prompt),
                                    thinking, prefill))
            self.submitted += 1
        self.waiting += requests
        return requests

    def step(self):
        """Draws one token for every running request; returns the requests that finished with it."""
        with self._mode():
            return self._step()

    def update_weights(self, state=None, version=None, recompute=False):
        """New weights between two steps: {name: tensor}, or None where the model's own were changed in place. The keys of
        tokens that are there already stay those of the old weights, or with recompute=True are computed again."""
        if state is not None:
            with torch.no_grad():
                for name, weight in self.model.state_dict().items():
                    weight.copy_(state[name])
        self.decoder = self.copies.refresh()
        self.version = self.version + 1 if version is None else version
        self.outdated = self.outdated or recompute

    def abort(self, request=None):
        """Ends one request, or all of them; what they have drawn so far stays in their completions."""
        for r in [r for r in [*self.running, *self.waiting] if request is None or r is request]:
            r.completion.finish = "aborted"
            if r in self.waiting:
                self.waiting.remove(r)
            else:
                self._leave([self.running.index(r)])

    @contextlib.contextmanager
    def _mode(self):
        """How the model computes for the engine: without gradients, exact or not, in the engine's type."""
        # a graph must not keep autocast's copies of weights, which live as long as this block
        with (torch.no_grad(), self.model.uncompiled(),
              torch.autocast(self.device.type, self.dtype, enabled=self.half, cache_enabled=not self.graphs)):
            yield

    def _step(self):
        self.decoder.exact = self.model.exact if self.exact is None else self.exact
        done = []
        if self.outdated or not self._make_room():
            done = self._read(0)                          # what follows needs all tokens
            self._recompute()
            self._make_room(preempt=True)
        if self.running:
            self._decode(len(self.running))
            self.steps += 1
        self._admit()
        if B := len(self.running):
            how, forced, watched = (*self.how, self.decoder.exact), set(), any(r.thinking for r in self.running)
            logits, tokens, logprobs = self._draw(B, how, watched)            # (B, V), (B,), (B,)
            if watched:
                again = uniform(self.seed, self.keys[:B], self.positions[:B] + 2 ** 32)   # for a second draw at a position
                forced = keep_budgets(self.running, logits, tokens, logprobs, again, self.stop, how)
            self.pending[:B] = tokens
            self.positions[:B] += 1
            self.unread.append(Drawn(list(self.running), *download(tokens, logprobs), forced, self.version,
                                     bool(self.waiting)))
            self.slots += self.hidden.shape[0] * bool(self.waiting)
            for r in self.running:
                r.drawn += 1
            self._leave([row for row, r in enumerate(self.running) if r.drawn == r.limit])
            late = self.graphs and not watched and self.running
            done += self._read(1 if late else 0)
        return done

    def _read(self, late):
        """Hands the tokens of all steps but the last `late` ones to their requests; returns those that finished."""
        done = []
        while len(self.unread) > late:
            drawn = self.unread.popleft()
            if drawn.arrived:
                drawn.arrived.synchronize()
            for row, (r, token, logprob) in enumerate(zip(drawn.running, drawn.tokens.tolist(), drawn.logprobs.tolist())):
                c = r.completion
                if c.finish:                              # it ended a step earlier, or was aborted
                    continue
                if math.isnan(logprob):                   # what is drawn from such logits has no meaning
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
                if ends or len(c.tokens) == r.limit:
                    c.finish = "stop" if ends else "length"
                    done.append(r)
            if any(r.drawn < r.limit for r in done):      # the others have left already
                self._leave([row for row, r in enumerate(self.running) if r.completion.finish])
        return done

    # decoding and drawing: on a GPU as CUDA graphs, one for each of a few numbers of rows

    def _decode(self, B):
        """The pending token of each running row -> self.hidden."""
        rows = self._bucket(B)

        def work():
            self.hidden[:rows] = self.decoder.decode(self.pending[:rows, None], self.cache)[:, 0]
        self._replay(("decode", rows, self.decoder.exact), work)
        self.cache.lengths[B:rows] = 0                    # those that filled up the bucket

    def _draw(self, B, how, watched):
        """Logits (B, V) if somebody wants to see them, else (0, V), a token of each row (B,) and its log-probability (B,)."""
        rows = self._bucket(B) if self.graphs else B

        def work():
            logits = exclude(self.decoder.logits(self.hidden[:rows]), self.model.absent)
            drawn = draw(logits, uniform(self.seed, self.keys[:rows], self.positions[:rows]), *how)
            if self.graphs and watched:                   # one place for the graphs of all buckets: each would keep its own
                if self.logits is None:
                    self.logits = logits.new_empty(self.hidden.shape[0], logits.shape[1])
                logits = self.logits[:rows].copy_(logits)
            return logits if watched else logits.new_empty(0, logits.shape[1]), *drawn
        may = how[2] == 1.0                               # top-p looks at what it drew from, which a graph cannot
        return tuple(x[:B] for x in (self._replay(("draw", rows, watched, *how), work) if may else work()))

    def _bucket(self, B):
        """Rows to decode where B run: 1, or a multiple of 16. Few numbers are few graphs, and on a CPU few shapes of products."""
        return 1 if B == 1 else min(self.hidden.shape[0], -(-B // 16) * 16)

    def _replay(self, key, work):
        """work(), captured when its key first comes: a launch instead of hundreds. It reads and writes tensors that stay where
        they are, and those that it returns are overwritten by the next replay."""
        if not self.graphs or self.device.type != "cuda":
            return work()
        if key not in self.captured:
            lengths, aside = self.cache.lengths.clone(), torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):                # compiles what it needs; what it writes is written again below
                for _ in range(2):
                    work()
                    self.cache.lengths.copy_(lengths)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                made = work()
            self.pool = graph.pool()
            self.captured[key] = graph, made
        graph, made = self.captured[key]
        graph.replay()
        return made

    def _leave(self, rows):
        """Frees rows, in rising order; the last running row takes the place of each."""
        for row in reversed(rows):
            last = len(self.running) - 1
            self.cache.release(row)
            if row != last:
                self.cache.move(last, row)
                for t in (self.pending, self.keys, self.positions):
                    t[row] = t[last]
                self.running[row] = self.running[last]
            self.running.pop()
            self.crowded = False

    def _recompute(self):
        """With new weights, the keys of what is there already."""
        if self.outdated and self.running:
            again = [Prefill(r.completion.prompt + r.completion.tokens[:-1]) for r in self.running]
            self._whole(again)
            for row, prefill in enumerate(again):
                self.cache.fill(row, prefill.k, prefill.v)
        self.outdated = False

    def _make_room(self, preempt=False):
        """A place for each row's pending token; False where the pool has none for one of them. With preempt=True the newest
        request then gives its pages back and waits at the front of the queue with what it has drawn, and nobody comes in
        until somebody has finished."""
        order = sorted(range(len(self.running)), key=lambda row: self.running[row].number)
        gone = []
        while order:
            r = self.running[order[0]]
            if self.cache.reserve(order[0], len(r.completion.prompt) + r.drawn):
                order.pop(0)
                continue
            if not preempt:
                return False
            newest = order.pop()
            self.cache.release(newest)
            gone.append(newest)
        for row in sorted(gone, key=lambda row: -self.running[row].number):
            r = self.running[row]
            r.prefill = Prefill(r.completion.prompt + r.completion.tokens)
            self.waiting.appendleft(r)
        self._leave(sorted(gone))
        self.preempted, self.crowded = self.preempted + len(gone), self.crowded or bool(gone)
        return True

    def _admit(self):
        """Waiting requests take the free rows, in order, while there are pages for them."""
        spent, first = 0, len(self.running)
        while self.waiting and len(self.running) < self.hidden.shape[0] and not self.crowded:
            r, row = self.waiting[0], len(self.running)
            if r.prefill.hidden is None or r.prefill.version != self.version:
                if spent and self.prefill_chunk:
                    break
                spent = self._prefill(self.hidden.shape[0] - row)
                if r.prefill.hidden is None:              # a piece of it
                    break
            if not self.cache.reserve(row, len(r.prefill.ids) + 1):
                break
            self.waiting.popleft()
            self.cache.fill(row, r.prefill.k, r.prefill.v)
            self.hidden[row] = r.prefill.hidden
            r.prefill = None                              # gone when the last of its requests has taken it
            self.running.append(r)
        if new := self.running[first:]:
            part = slice(first, len(self.running))
            self.keys[part] = upload([r.key for r in new], self.device)
            self.positions[part] = upload([r.drawn for r in new], self.device)

    def _prefill(self, free):
        """Prefills the next prompts that will find a row, or a piece of the next one; returns the tokens it took."""
        budget, head = self.prefill_chunk or PREFILL_TOKENS, self.waiting[0].prefill
        if self.prefill_chunk and len(head.ids) > budget and (head.begun < 3 or head.version == self.version):
            return self._piece(head)                      # else whole, or weights that change often would start it for ever
        chosen, total = [], 0
        for p in [r.prefill for r in itertools.islice(self.waiting, free)]:
            if (p.hidden is None or p.version != self.version) and not any(p is c for c in chosen):
                if chosen and total + len(p.ids) > budget:
                    break
                chosen.append(p)
                total += len(p.ids)
        self._whole(chosen)
        self.prefills += len(chosen)
        return total

    def _whole(self, chosen):
        """Runs prompts packed into rows of documents."""
        at = 0
        while at < len(chosen):
            end, total = at + 1, len(chosen[at].ids)
            while end < len(chosen) and total + len(chosen[end].ids) <= PREFILL_TOKENS:
                total += len(chosen[end].ids)
                end += 1
            part, at = chosen[at:end], end
            tokens = upload([t for p in part for t in p.ids], self.device)[None]                              # (1, T)
            documents = upload([d for d, p in enumerate(part) for _ in p.ids], self.device)[None]             # (1, T)
            hidden, kv = self.decoder.prefill(tokens, documents)
            first = 0
            for p in part:
                here = slice(first, first + len(p.ids))
                p.k, p.v = (torch.stack([layer[i][0, here] for layer in kv]) for i in (0, 1))                 # (L, T, K, hd)
                p.hidden, p.version, p.scratch, first = hidden[0, here.stop - 1], self.version, None, here.stop

    def _piece(self, p):
        """Runs the next tokens of a long prompt against the pieces before them, in a small cache of its own."""
        if p.scratch is None or p.version != self.version:
            p.version, p.hidden, p.begun = self.version, None, p.begun + 1
            p.scratch = KVCache(self.model.config, 1, pages_of(len(p.ids)), len(p.ids), self.device, self.dtype)
            p.scratch.reserve(0, len(p.ids))
        done = int(p.scratch.lengths[0])
        piece = torch.tensor(p.ids[done:done + self.prefill_chunk], device=self.device)[None]                 # (1, R)
        hidden = self.decoder.decode(piece, p.scratch)
        if done + piece.shape[1] == len(p.ids):
            pages = p.scratch.pages[0]
            p.k, p.v = (x[:, pages].transpose(2, 3).flatten(1, 2)[:, :len(p.ids)] for x in (p.scratch.k, p.scratch.v))
            p.hidden, p.scratch = hidden[0, -1], None
            self.prefills += 1
        return piece.shape[1]


# the command

# when a flag has an effect (see cli.Parser)
NEEDS = (("--system --think", lambda a: a.chat, "without --chat"), *conversation.NEEDS)


def main():
    p = cli.Parser(__doc__, NEEDS)
    conversation.add_flags(p, "text to continue, or with --chat the user's question; answers once")
    p.add_argument("--chat", action="store_true",
                   help="turns of a chat, as chat.py; without --prompt a conversation (an empty line ends it)")
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
