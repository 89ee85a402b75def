"""Generation with a KV cache: many ragged prompts at once, and the log-probability of every token that is drawn.

    python sampler.py --init runs/base --prompt "Zoo, mod 10. The lions number 3. How many lions?"
    python sampler.py --init smollm2/ --chat
    python sampler.py --init smollm2/ --chat --prompt "Why is the sky blue?" --colors

A fixed number of rows decode together. A prompt is prefilled once, packed with others into one row of documents (so
there is no padding), and its keys and values are copied to each of its n samples. A row that finishes is taken over by
the last one, so the running rows stay together at the front of the cache, and a waiting request starts in the next step.

Randomness is keyed by (seed, request, position), so a request's text does not depend on its neighbours.

Simpler than an engine: the host looks at every token, and the cache has one stretch per row, sized for the longest.
"""

import sys
from collections import deque
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

import cli
from kernels import linear
from model import KVCache, load

PREFILL_TOKENS = 8192                 # prompts are prefilled in packs of about this many tokens


@dataclass
class Completion:
    prompt: list                      # token ids
    tokens: list = field(default_factory=list)      # what was drawn, the end token included when it was drawn
    logprobs: list = field(default_factory=list)    # one per token, under the distribution that it was drawn from
    finish: str = ""                  # "stop" (an end token) or "length"
    versions: list = field(default_factory=list)    # which weights drew each token


def uniform(seed, requests, positions):
    """One number in [0, 1) for each (seed, request, position): int tensors (B,), (B,) -> (B,) float64.

    SplitMix64's mixer on a counter, in wrapping int64 arithmetic, the same on every device."""
    def mix(x):
        for shift, factor in ((30, -0x40a7b892e31b1a47), (27, -0x6b2fb644ecceee15)):
            x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
        return x ^ ((x >> 31) & ((1 << 33) - 1))
    x = mix(torch.full_like(requests, seed) * -0x61c8864680b583eb + requests)
    x = mix(x * -0x61c8864680b583eb + positions)
    return ((x >> 11) & ((1 << 53) - 1)).double() / 2 ** 53


def truncate(logits, top_k=0, top_p=1.0):
    """Sets to -inf what top-k, then top-p (arXiv 1904.09751), leave out: logits (B, V) -> (B, V).

    top_k 0 keeps all; top_p keeps the fewest most likely tokens whose probabilities reach top_p together, at least one."""
    if top_k and top_k < logits.shape[1]:
        values, index = logits.topk(top_k)
        logits = torch.full_like(logits, float("-inf")).scatter(1, index, values)
    if top_p < 1.0:
        values, index = logits.sort(dim=1, descending=True)
        p = values.softmax(dim=1)
        values = values.masked_fill(p.cumsum(dim=1) - p >= top_p, float("-inf"))
        logits = torch.empty_like(logits).scatter(1, index, values)
    return logits


def draw(logits, u, temperature=1.0, top_k=0, top_p=1.0):
    """Draws a token per row by inverting the cumulative distribution at u: logits (B, V), u (B,) -> tokens (B,), logprobs (B,).

    Temperature 0 takes the most likely token and reports its log-probability at temperature 1."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if temperature == 0:
        tokens = logits.argmax(dim=1)
    else:
        logits = truncate(logits / temperature, top_k, top_p)
        cumulative = logits.softmax(dim=1, dtype=torch.float64).cumsum(dim=1)                 # (B, V)
        at = (u * cumulative[:, -1])[:, None]
        tokens = torch.searchsorted(cumulative, at, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)
    chosen = logits.gather(1, tokens[:, None]).squeeze(1)
    return tokens, chosen - logits.logsumexp(dim=1)


class Sampler:
    """Generates with a model. rows: sequences that decode at once. dtype: of the cache and, where it is a half type on
    float32 weights, of the matrix products (autocast); None: that of the weights. version: stamped on every token."""

    def __init__(self, model, tokenizer=None, rows=64, dtype=None, version=0):
        self.model, self.tokenizer, self.rows, self.version = model, tokenizer, rows, version
        weight = model.head
        self.device, self.dtype = weight.device, dtype or weight.dtype
        self.half = self.dtype != weight.dtype
        self.steps = self.prefills = 0                    # decode steps run and prompts prefilled, ever

    def generate(self, prompts, n=1, max_new_tokens=256, temperature=1.0, top_p=1.0, top_k=0, seed=0, stop=None,
                 on_token=None, progress=""):
        """n completions for each prompt: a list with, for each prompt, a list of n Completion.

        prompts: strings (encoded as ordinary text) or lists of token ids. stop: ids that end a completion (default: the
        tokenizer's). max_new_tokens: one number, or one per prompt. on_token(request, token, logprob) is called for each
        token, where request = prompt index * n + sample index. ValueError for an empty prompt or a bad option.
        """
        prompts = [self.tokenizer.encode(p) if isinstance(p, str) else list(p) for p in prompts]
        limits = max_new_tokens if isinstance(max_new_tokens, (list, tuple)) else [max_new_tokens] * len(prompts)
        if any(not p for p in prompts):
            raise ValueError(f"prompt {[bool(p) for p in prompts].index(False)} is empty; give at least one token")
        if temperature < 0 or not 0 < top_p <= 1 or top_k < 0 or n < 1 or min(limits, default=1) < 1:
            raise ValueError("use temperature >= 0, 0 < top_p <= 1, top_k >= 0, n >= 1 and max_new_tokens >= 1")
        stop = set(stop if stop is not None else self.tokenizer.stop_ids if self.tokenizer else ())
        done = [Completion(prompts[i // n]) for i in range(len(prompts) * n)]
        if done:
            with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=self.half):
                self._run(prompts, n, limits, done, stop, seed, on_token, progress, (temperature, top_k, top_p))
        return [done[i:i + n] for i in range(0, len(done), n)]

    def _run(self, prompts, n, limits, done, stop, seed, on_token, progress, how):
        config, waiting = self.model.config, deque(range(len(done)))
        slots = max(len(p) + m for p, m in zip(prompts, limits))
        rows = min(self.rows, len(done))
        cache = KVCache(config, rows, slots, self.device, self.dtype)
        hidden = torch.zeros(rows, config.width, device=self.device, dtype=self.model.head.dtype)
        requests = torch.zeros(rows, dtype=torch.long, device=self.device)
        positions = torch.zeros(rows, dtype=torch.long, device=self.device)   # of the token about to be drawn, from 0
        # request of each row; prompt -> its prefill
        running, prefilled = [], {}
        bar = tqdm(total=len(done), desc=progress, unit="completion", disable=not progress, leave=False)
        while running or waiting:
            first = len(running)
            while waiting and len(running) < rows:                            # waiting requests take the free rows
                if waiting[0] // n not in prefilled:
                    self._prefill(prompts, n, waiting, rows - len(running), prefilled)
                request = waiting.popleft()
                entry = prefilled[request // n]
                cache.fill(len(running), entry["kv"])
                hidden[len(running)] = entry["hidden"]
                entry["left"] -= 1
                if not entry["left"]:
                    del prefilled[request // n]
                running.append(request)
            B = len(running)
            if B > first:
                requests[first:B] = torch.tensor(running[first:], device=self.device)
                positions[first:B] = 0
            tokens, logprobs = draw(linear(hidden[:B], self.model.head), uniform(seed, requests[:B], positions[:B]),
                                    *how)
            finished = []
            for row, (request, token, logprob) in enumerate(zip(running, tokens.tolist(), logprobs.tolist())):
                c = done[request]
                c.tokens.append(token)
                c.logprobs.append(logprob)
                c.versions.append(self.version)
                if on_token:
                    on_token(request, token, logprob)
                if token in stop or len(c.tokens) == limits[request // n]:
                    c.finish = "stop" if token in stop else "length"
                    finished.append(row)
                    bar.update()
            # the last row takes the place of a finished one
            for row in reversed(finished):
                last = len(running) - 1
                if row != last:
                    cache.move(last, row)
                    for t in (tokens, requests, positions):
                        t[row] = t[last]
                    running[row] = running[last]
                running.pop()
            B = len(running)
            if B:
                cache.longest = max(len(done[r].prompt) + len(done[r].tokens) for r in running) - 1
                hidden[:B] = self.model.decode(tokens[:B], cache)
                positions[:B] += 1
                self.steps += 1
        bar.close()

    def _prefill(self, prompts, n, waiting, free, prefilled):
        """Runs the next prompts that will find a row, packed into one row of documents, each exactly once."""
        chosen, total = [], 0
        for request in list(waiting)[:free]:
            p = request // n
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


def answer(sampler, ids, args, out=sys.stdout):
    """Streams one completion of the ids to `out`; returns it. A character split over tokens is held until it is whole."""
    tokenizer, held = sampler.tokenizer, []

    def show(_, token, logprob):
        held.append(token)
        text = tokenizer.decode(held, skip_special=True)
        if not text.endswith("\ufffd"):
            out.write(color(text, logprob) if args.colors else text)
            out.flush()
            held.clear()
    [[completion]] = sampler.generate([ids], max_new_tokens=args.max_new_tokens, temperature=args.temperature,
                                      top_p=args.top_p,
                                      top_k=args.top_k, seed=args.seed, on_token=show)
    out.write("\n")
    return completion


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
                ids = tokenizer.encode_chat(messages, add_generation_prompt=True)[0]
            else:
                ids = tokenizer.encode(args.prompt)
            completion = answer(sampler, ids, args)
            turns += 1
            messages.append({"role": "assistant", "content": tokenizer.decode(completion.tokens, skip_special=True)})
            if args.prompt:
                break
    cli.finish({"turns": turns, "tokens": len(completion.tokens), "finish": completion.finish,
                "mean_logprob": round(sum(completion.logprobs) / len(completion.logprobs), 4)} if turns
                else {"turns": 0})


if __name__ == "__main__":
    main()
