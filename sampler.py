"""Generation with a KV cache: many ragged prompts at once, and the log-probability of every token that is drawn.

    python sampler.py --init runs/base --prompt "Zoo, mod 10. The lions number 3. How many lions?"
    python sampler.py --init smollm2/ --chat
    python sampler.py --init smollm2/ --chat --prompt "Why is the sky blue?" --colors
    python sampler.py --init smollm2/ --chat --think off

A fixed number of rows decode together. A prompt is prefilled once, packed with others into one row of documents (so
there is no padding), and its keys and values are copied to each of its n samples. A row that finishes is taken over by
the last one, so the running rows stay together at the front of the cache; a waiting request starts in the next step.

Randomness is keyed by (seed, request, position), so a request's text does not depend on its neighbours.

Simpler than an engine: the host looks at every token, and the cache has one stretch per row, sized for the longest.
"""

import itertools
import sys
from collections import deque
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

import cli
from kernels import row_logprobs
from kernels.reference import KEYS
from model import KVCache, load
from tokenizer import split_thinking

PREFILL_TOKENS = 8192                 # prompts are prefilled in packs of about this many tokens
HAND_OVER = "\nTime to answer.\n"      # the last words of a think block that a budget closes


@dataclass
class Completion:
    prompt: list                      # token ids
    tokens: list = field(default_factory=list)      # what was drawn, the end token included when it was drawn
    logprobs: list = field(default_factory=list)    # one per token, under the distribution that it was drawn from
    finish: str = ""                  # "stop" (an end token) or "length"
    versions: list = field(default_factory=list)    # which weights drew each token
    forced: list = field(default_factory=list)      # whether each token was put there by a thinking budget, not drawn


def uniform(seed, requests, positions):
    """One number in [0, 1) for each (seed, request, position): int tensors (B,), (B,) -> (B,) float64.

    SplitMix64 on a counter, in wrapping int64 arithmetic, the same on every device. Its step is added before it is
    mixed, since the mixer alone leaves zero at zero, and u = 0 would draw token 0 whatever its probability."""
    step = -0x61c8864680b583eb
    def mix(x):
        for shift, factor in ((30, -0x40a7b892e31b1a47), (27, -0x6b2fb644ecceee15)):
            x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
        return x ^ ((x >> 31) & ((1 << 33) - 1))
    x = mix(torch.full_like(requests, seed) * step + requests + step)
    x = mix(x * step + positions + step)
    return ((x >> 11) & ((1 << 53) - 1)).double() / 2 ** 53


def _wide(logits):
    return logits if logits.dtype == torch.float64 else logits.float()


def truncate(logits, top_k=0, top_p=1.0):
    """Sets to -inf what top-k, then top-p (arXiv 1904.09751), leave out: logits (B, V) -> (B, V).

    top_k 0 keeps all; top_p keeps the fewest most likely tokens that reach this probability together, one or more."""
    if top_k and top_k < logits.shape[1]:
        values, index = logits.topk(top_k)
        logits = torch.full_like(logits, float("-inf")).scatter(1, index, values)
    if top_p < 1.0:
        values, index = logits.sort(dim=1, descending=True)
        p = values.softmax(dim=1)
        values = values.masked_fill(p.cumsum(dim=1) - p >= top_p, float("-inf"))
        logits = torch.empty_like(logits).scatter(1, index, values)
    return logits


def draw(logits, u, temperature=1.0, top_k=0, top_p=1.0, exact=False):
    """Draws a token per row by inverting the cumulative distribution at u: logits (B, V), u (B,) -> tokens (B,) and
    logprobs (B,). Temperature 0 takes the most likely token and reports its log-probability at temperature 1."""
    logits = _wide(logits)
    if temperature == 0:
        tokens = logits.argmax(dim=1)
        return tokens, row_logprobs(logits, tokens, 1.0, exact)
    scaled = logits / temperature
    kept = truncate(scaled, top_k, top_p)
    cumulative = kept.softmax(dim=1, dtype=torch.float64).cumsum(dim=1)                       # (B, V)
    at = (u * cumulative[:, -1])[:, None]
    tokens = torch.searchsorted(cumulative, at, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)
    if kept is scaled:                                    # the temperature once more in there, where training has it
        return tokens, row_logprobs(logits, tokens, temperature, exact)
    return tokens, row_logprobs(kept, tokens, 1.0, exact)


class ThinkBudget:
    """Watches one completion on its way through a think block to an answer, and says where it must be corrected.

    A block that the prompt left open, or that the first token opens, may hold `budget` tokens. Then, or once no more
    than answer_tokens (at most half of `limit`) would be left for the answer, or where the model would end inside the
    block, the hand-over is forced: a sentence, </think> and an empty line (the budget of Qwen3, arXiv 2505.09388). With
    nothing thought there is no sentence: a budget of 0 makes the empty block of no-think mode. Behind the block, and
    where there was none, no end is accepted before something is said: no answer is empty."""

    def __init__(self, tokenizer, prompt, budget, limit, answer_tokens):
        if tokenizer is None or tokenizer.think is None or tokenizer.end_think is None:
            raise ValueError("a think budget needs a tokenizer with the special tokens <think> and </think>")
        self.tokenizer, self.budget = tokenizer, budget
        close = [tokenizer.end_think, *tokenizer.encode("\n\n")]
        self.hand_over, self.at_once = tokenizer.encode(HAND_OVER) + close, tokenizer.encode("\n") + close
        if budget < 0 or limit <= len(self.hand_over):
            raise ValueError(f"a think budget is at least 0 and needs max_new_tokens above {len(self.hand_over)}, the "
                             f"tokens of its hand-over; got {budget} and {limit}")
        self.last = limit - min(answer_tokens, limit // 2) - len(self.hand_over)
        self.size, self.blank, self.queue = 0, True, []   # tokens so far; no answer yet; the rest of the hand-over
        self.thought = 0 if tokenizer.thinking_in(prompt) else None           # tokens in the block; None outside of one

    def must(self, drawn, stop):
        """The token of the hand-over that must come instead of the drawn one, or None."""
        if self.thought is not None and not self.queue and drawn != self.tokenizer.end_think and (
                self.thought >= self.budget or self.size >= self.last or drawn in stop):
            self.queue = list(self.hand_over if self.thought else self.at_once)
        return self.queue[0] if self.queue else None

    def take(self, token):
        """Notes the token that came in the end."""
        if self.queue:
            del self.queue[0]
            if not self.queue:
                self.thought = None
        elif self.thought is not None:
            self.thought = None if token == self.tokenizer.end_think else self.thought + 1
        elif self.size == 0 and token == self.tokenizer.think:
            self.thought = 0
        elif self.tokenizer.token_bytes(token).decode(errors="replace").strip():
            self.blank = False
        self.size += 1


def keep_budgets(running, logits, tokens, logprobs, u, stop, how):
    """Puts other tokens in place of drawn ones (B,) that a budget does not allow; returns the set of their rows.

    A token of the hand-over gets its log-probability at the temperature. Where an answer would end before it has begun,
    the draw is repeated without the end tokens, at u (B,). Unlike a mask on every draw, that leaves the other tokens as
    the model's own: their log-probabilities are those that training computes.
    """
    drawn, forced, again = tokens.tolist(), {}, []
    for row, request in enumerate(running):
        watch = request.thinking
        if watch and (token := watch.must(drawn[row], stop)) is not None:
            forced[row] = token
        elif watch and watch.blank and drawn[row] in stop:
            again.append(row)
    if forced:
        rows = list(forced)
        tokens[rows] = torch.tensor(list(forced.values()), device=tokens.device)
        logprobs[rows] = row_logprobs(_wide(logits[rows]), tokens[rows], how[0] or 1.0, how[3])
    if again:
        others = logits[again]
        others[:, [i for i in stop if i < others.shape[1]]] = float("-inf")
        tokens[again], logprobs[again] = draw(others, u[again], *how)
    for request, token in zip(running, tokens.tolist()):
        if request.thinking:
            request.thinking.take(token)
    return {*forced, *again}


@dataclass
class Request:
    """One completion to make."""
    number: int                       # prompt index * n + sample index
    prompt: int
    key: int                          # of its randomness
    limit: int                        # tokens
    completion: Completion
    thinking: ThinkBudget | None


def _for_each(option, prompts):
    return list(option) if isinstance(option, (list, tuple)) else [option] * len(prompts)


class Sampler:
    """Generates with a model. rows: sequences that decode at once. dtype: of the cache and, where it is a half type on
    float32 weights, of the matrix products (autocast); None: that of the weights. version: stamped on every token.
    exact: whether the model computes in its exact form meanwhile; None: as model.exact says. prefill_chunk: prompts are
    prefilled one at a time in pieces of at most this many tokens, which takes less memory; 0: whole and packed."""

    def __init__(self, model, tokenizer=None, rows=64, dtype=None, version=0, exact=None, prefill_chunk=0):
        self.model, self.tokenizer, self.rows, self.version = model, tokenizer, rows, version
        self.exact, self.prefill_chunk = exact, prefill_chunk
        weight = model.head
        self.device, self.dtype = weight.device, dtype or weight.dtype
        self.half = self.dtype != weight.dtype
        self.steps = self.prefills = 0                    # decode steps run and prompts prefilled, ever

    def generate(self, prompts, n=1, max_new_tokens=256, temperature=1.0, top_p=1.0, top_k=0, seed=0, stop=None,
                 on_token=None, progress="", numbers=None, think_budget=None, answer_tokens=64):
        """n completions for each prompt: a list with, for each prompt, a list of n Completion.

        prompts: strings (encoded as ordinary text) or lists of token ids. stop: ids that end a completion (default: the
        tokenizer's). max_new_tokens: one number, or one per prompt. on_token(request, token, logprob) is called for
        each token, where request = prompt index * n + sample index. numbers: one per prompt, takes the place of its
        index in the key of the randomness, so that ranks which share the prompts of a batch draw what one rank would
        have drawn. think_budget: the most tokens of a think block, one number or one per prompt, None for no limit;
        see ThinkBudget, also for answer_tokens. ValueError for an empty prompt or a bad option.
        """
        prompts = [self.tokenizer.encode(p) if isinstance(p, str) else list(p) for p in prompts]
        limits = _for_each(max_new_tokens, prompts)
        if any(not p for p in prompts):
            raise ValueError(f"prompt {[bool(p) for p in prompts].index(False)} is empty; give at least one token")
        if temperature < 0 or not 0 < top_p <= 1 or top_k < 0 or n < 1 or min(limits, default=1) < 1:
            raise ValueError("use temperature >= 0, 0 < top_p <= 1, top_k >= 0, n >= 1 and max_new_tokens >= 1")
        stop = set(stop if stop is not None else self.tokenizer.stop_ids if self.tokenizer else ())
        budgets = _for_each(think_budget, prompts)
        requests = []
        for p, (prompt, limit, budget) in enumerate(zip(prompts, limits, budgets)):
            for i in range(n):
                thinking = None if budget is None else ThinkBudget(self.tokenizer, prompt, budget, limit, answer_tokens)
                key = (numbers[p] if numbers else p) * n + i
                requests.append(Request(p * n + i, p, key, limit, Completion(prompt), thinking))
        was_exact = self.model.exact
        self.model.exact = was_exact if self.exact is None else self.exact
        try:
            with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=self.half):
                self._run(requests, prompts, n, stop, seed, (temperature, top_k, top_p, self.model.exact), on_token, progress)
        finally:
            self.model.exact = was_exact
        done = [request.completion for request in requests]
        return [done[i:i + n] for i in range(0, len(done), n)]

    def _run(self, requests, prompts, n, stop, seed, how, on_token, progress):
        if not requests:
            return
        config, waiting = self.model.config, deque(requests)
        slots = max(len(prompts[r.prompt]) + r.limit for r in requests)
        rows = min(self.rows, len(requests))
        cache = self._cache(rows, slots)
        hidden = torch.zeros(rows, config.width, device=self.device, dtype=self.model.head.dtype)
        keys = torch.zeros(rows, dtype=torch.long, device=self.device)        # of each row's randomness
        positions = torch.zeros(rows, dtype=torch.long, device=self.device)   # of the token about to be drawn, from 0
        running, prefilled = [], {}                                           # Request of each row; prompt -> prefill
        budgeted = any(r.thinking for r in requests)
        bar = tqdm(total=len(requests), desc=progress, unit="completion", disable=not progress, leave=False)
        while running or waiting:
            first = len(running)
            while waiting and len(running) < rows:                            # waiting requests take the free rows
                if waiting[0].prompt not in prefilled:
                    prefill = self._prefill_chunks if self.prefill_chunk else self._prefill
                    prefill(prompts, n, waiting, rows - len(running), prefilled)
                request = waiting.popleft()
                entry = prefilled[request.prompt]
                cache.fill(len(running), entry["kv"])
                hidden[len(running)] = entry["hidden"]
                entry["left"] -= 1
                if not entry["left"]:
                    del prefilled[request.prompt]
                running.append(request)
            B = len(running)
            if B > first:
                keys[first:B] = torch.tensor([r.key for r in running[first:]], device=self.device)
                positions[first:B] = 0
            logits = self.model.logits(hidden[:B])                            # (B, V)
            tokens, logprobs = draw(logits, uniform(seed, keys[:B], positions[:B]), *how)
            forced = set()
            if budgeted:
                again = uniform(seed, keys[:B], positions[:B] + 2 ** 32)       # for a second draw at the same position
                forced = keep_budgets(running, logits, tokens, logprobs, again, stop, how)
            finished = []
            for row, (request, token, logprob) in enumerate(zip(running, tokens.tolist(), logprobs.tolist())):
                c = request.completion
                c.tokens.append(token)
                c.logprobs.append(logprob)
                c.versions.append(self.version)
                c.forced.append(row in forced)
                if on_token:
                    on_token(request.number, token, logprob)
                ends = token in stop and row not in forced
                if ends or len(c.tokens) == request.limit:
                    c.finish = "stop" if ends else "length"
                    finished.append(row)
                    bar.update()
            # the last row takes the place of a finished one
            for row in reversed(finished):
                last = len(running) - 1
                if row != last:
                    cache.move(last, row)
                    for t in (tokens, keys, positions):
                        t[row] = t[last]
                    running[row] = running[last]
                running.pop()
            B = len(running)
            if B:
                cache.longest = max(len(r.completion.prompt) + len(r.completion.tokens) for r in running) - 1
                hidden[:B] = self.model.decode(tokens[:B, None], cache)[:, 0]
                positions[:B] += 1
                self.steps += 1
        bar.close()

    def _cache(self, rows, slots):
        return KVCache(self.model.config, rows, slots, self.device, self.dtype, KEYS if self.model.exact else 1)

    def _prefill_chunks(self, prompts, n, waiting, free, prefilled):
        """Runs the next prompt, a piece at a time, each piece against the keys and values of those before it."""
        prompt = prompts[waiting[0].prompt]
        cache = self._cache(1, len(prompt))
        for piece in torch.tensor(prompt, device=self.device)[None].split(self.prefill_chunk, dim=1):         # (1, R)
            hidden = self.model.decode(piece, cache)
            cache.longest += piece.shape[1]
        kv = [(k[0, :, :len(prompt)].transpose(0, 1), v[0, :, :len(prompt)].transpose(0, 1)) for k, v in zip(cache.k, cache.v)]
        prefilled[waiting[0].prompt] = {"hidden": hidden[0, -1], "kv": kv, "left": n}
        self.prefills += 1

    def _prefill(self, prompts, n, waiting, free, prefilled):
        """Runs the next prompts that will find a row, packed into one row of documents, each exactly once."""
        chosen, total = [], 0
        for p in [request.prompt for request in itertools.islice(waiting, free)]:
            if p not in prefilled and p not in chosen:
                if chosen and total + len(prompts[p]) > PREFILL_TOKENS:
                    break
                chosen.append(p)
                total += len(prompts[p])
        tokens = torch.tensor([t for p in chosen for t in prompts[p]], device=self.device)[None]              # (1, T)
        lengths = torch.tensor([len(prompts[p]) for p in chosen], device=self.device)
        documents = torch.repeat_interleave(torch.arange(len(chosen), device=self.device), lengths)[None]     # (1, T)
        hidden, kv = self.model.prefill(tokens, documents)
        at = 0
        for p in chosen:
            end = at + len(prompts[p])
            prefilled[p] = {"hidden": hidden[0, end - 1], "kv": [(k[0, at:end], v[0, at:end]) for k, v in kv],
                            "left": n}
            at = end
        self.prefills += len(chosen)


# the chat command

def color(text, logprob):
    """The text on a terminal background from green (certain) over yellow to red (a surprise)."""
    shade = 22 if logprob > -0.1 else 58 if logprob > -1 else 94 if logprob > -3 else 88
    return f"\x1b[48;5;{shade}m{text}\x1b[0m"


def answer(sampler, ids, args, think_budget=None, out=sys.stdout):
    """Streams one completion of the ids to `out`; returns it. A character cut over tokens is held until it is whole."""
    tokenizer, held = sampler.tokenizer, []
    opening = tokenizer.decode_reply(ids, [])             # <think>, where the prompt has it

    def show(_, token, logprob):
        nonlocal opening
        held.append(token)
        text = tokenizer.decode(held, skip_special=True)
        if not text.endswith("\ufffd"):
            out.write(opening + (color(text, logprob) if args.colors else text))
            out.flush()
            held.clear()
            opening = ""
    [[completion]] = sampler.generate([ids], max_new_tokens=args.max_new_tokens, temperature=args.temperature,
                                      top_p=args.top_p, top_k=args.top_k, seed=args.seed, on_token=show,
                                      think_budget=think_budget)
    out.write("\n")
    return completion


def parse_think(text):
    """--think on|off|auto|N -> (think as Tokenizer.chat_prompt takes it, think_budget)."""
    modes = {"on": True, "off": False, "auto": None}
    if text not in modes and not text.isdecimal():
        raise ValueError(f"--think {text}: use on, off, auto or a number of tokens")
    return (modes[text], None) if text in modes else (True, int(text))


def ask():
    """The next line of the conversation; "" at its end."""
    try:
        return input("> ")
    except EOFError:
        print()
        return ""


def main():
    p = cli.Parser(__doc__)
    p.add_argument("--init", metavar="FOLDER", required=True, help="checkpoint, ours or Hugging Face's")
    p.add_argument("--prompt", default="", help="text to continue, or with --chat the user's question; answers once")
    p.add_argument("--chat", action="store_true",
                   help="ChatML turns; without --prompt a conversation (an empty line ends it)")
    p.add_argument("--system", default="", help="system message of the chat")
    p.add_argument("--think", metavar="on|off|auto|N", default="auto",
                   help="thinking in a chat; N: on, for at most N tokens; auto: by /think or /no_think in your turn")
    p.add_argument("--max-new-tokens", type=int, default=256, help="tokens")
    p.add_argument("--temperature", type=float, default=0.0, help="0: always the most likely token")
    p.add_argument("--top-p", type=float, default=1.0, help="probability mass to draw from")
    p.add_argument("--top-k", type=int, default=0, help="tokens to draw from; 0: all")
    p.add_argument("--seed", type=int, default=0, help="of the draws")
    p.add_argument("--colors", action="store_true", help="colour each token by its log-probability")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and cache")
    args = p.parse_args()
    with cli.bad_input():
        if not (args.prompt or args.chat):
            raise ValueError("give --prompt TEXT, or --chat")
        think, budget = parse_think(args.think)
        if args.think != "auto" and not args.chat:
            raise ValueError("--think needs --chat")
        model, tokenizer = load(args.init, args.device, getattr(torch, args.dtype))
        if tokenizer is None:
            raise ValueError(f"--init {args.init}: the folder has no tokenizer.json")
        sampler = Sampler(model, tokenizer, rows=1)
        messages = [{"role": "system", "content": args.system}] if args.system else []
        turns = 0
        while True:
            if args.chat:
                text = args.prompt or ask()
                if not text:
                    break
                messages.append({"role": "user", "content": text})
                ids = tokenizer.chat_prompt(messages, think)
            else:
                ids = tokenizer.encode(args.prompt)
            completion = answer(sampler, ids, args, budget)
            turns += 1
            reasoning, said = split_thinking(tokenizer.decode_reply(ids, completion.tokens))
            empty = tokenizer.thinking_in(ids) is False                       # the block that the prompt has
            messages.append({"role": "assistant", "content": said, "reasoning": "" if empty else reasoning})
            if args.prompt:
                break
    if not turns:
        return cli.finish({"turns": 0})
    drawn = [logprob for logprob, forced in zip(completion.logprobs, completion.forced) if not forced]
    cli.finish({"turns": turns, "tokens": len(completion.tokens), "finish": completion.finish,
                "mean_logprob": round(sum(drawn) / max(1, len(drawn)), 4)})


if __name__ == "__main__":
    main()
