"""Finds pivotal tokens: those of an answer after which success becomes much more, or less, likely (phi-4, arXiv 2412.08905).

    python augment.py pivotal --init runs/sft --data world:ops=3-5,split=sft --count 500 --temperature 1 --out pivots.jsonl

The success rate of a beginning of an answer is the share of --samples continuations that end right. An answer is halved again
and again, at the middle of its tokens' summed log-probability, and only where the success rate differs by at least --gap
between the two ends of a part; a part of one token is pivotal. So each pivotal token of an answer of T tokens takes about
log2(T) rates, and rates are never measured twice. Jumps that cancel each other inside a part are not seen.

Each row is a pair for dpo.py (--init runs/sft --data pivots.jsonl) of one token against another behind the same beginning:
"chosen" raises the rate and "rejected" lowers it. The pivotal token is one of them; the other is the token with which the
continuations that were drawn anyway fared worst (or best), and its own rate is measured as well. Questions whose rate is below
--low or above --high teach little and are left out. Rows hold token ids ("ids"), since text cut in the middle of an answer
would not always be tokenised again in the same way.

The paper does not say which gap and how many rollouts it used; its figure has a gap of 0.2. Here --gap is 0.2 and --samples 16,
with a standard error of up to 0.125 for a rate, so that some of the pivotal tokens are chance: take more samples where that
matters.
"""

import random
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence

from tasks.task import Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import turns


def flags(parser: cli.Parser) -> None:
    parser.set_defaults(temperature=1.0)
    turns.mode_flag(parser)
    parser.add_argument("--samples", type=cli.positive_int, default=16, help="continuations by which a success rate is measured")
    parser.add_argument("--gap", type=cli.positive_fraction, default=0.2,
                        help="change of the success rate that makes a token pivotal")
    parser.add_argument("--low", type=cli.fraction, default=0.2, help="success rate of a question, at least")
    parser.add_argument("--high", type=cli.fraction, default=0.8, help="success rate of a question, at most")
    parser.add_argument("--paths", type=cli.positive_int, default=2, help="answers of each question that are searched, at most")


def check(args: Namespace) -> None:
    turns.check_mode(args, [args.plain])
    if not args.temperature:
        raise ValueError("--temperature 0: all continuations would be the same; a success rate needs draws")
    if args.low > args.high:
        raise ValueError(f"--low {args.low} is above --high {args.high}; lower it")
    if args.paths > args.samples:
        raise ValueError(f"--paths {args.paths}: only {args.samples} answers are drawn (--samples)")
    if args.init.startswith("oracle:"):
        raise ValueError(f"--init {args.init}: an oracle draws no tokens; give a checkpoint")


# the search: pure functions

def halves(logprobs: list[float], start: int, end: int) -> int:
    """Where to cut the tokens start, ..., end - 1 (at least two) in two parts whose summed log-probabilities are as equal as
    can be; in the middle where all tokens were certain."""
    weights = [-x for x in logprobs[start:end]]
    total, best, cut, so_far = sum(weights), None, (start + end) // 2, 0.0
    if total <= 1e-6:
        return cut
    for at in range(start + 1, end):
        so_far += weights[at - start - 1]
        if best is None or abs(2 * so_far - total) < best:
            best, cut = abs(2 * so_far - total), at
    return cut


def search(logprobs: list[float], rate: Callable[[int], float | None], gap: float) -> tuple[list[int], list[int]]:
    """(pivotal, wanted) of an answer: the numbers of its pivotal tokens, and the beginnings, as numbers of tokens, whose rates
    must still be measured before more can be said. rate(n) is the success rate behind the first n tokens, None where it is not
    known."""
    pivotal, wanted = [], []

    def look(start, end):
        missing = [n for n in (start, end) if rate(n) is None]
        wanted.extend(n for n in missing if n not in wanted)
        if missing or abs(rate(end) - rate(start)) < gap:
            return
        if end - start == 1:
            pivotal.append(start)
            return
        middle = halves(logprobs, start, end)
        look(start, middle)
        look(middle, end)
    look(0, len(logprobs))
    return pivotal, wanted


# the transform: every round asks for the rates that the search still wants

def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    return [turns.ask_problem(item, args, plain=args.plain, n=args.samples)]


def ask_again(item: Item, answers: list[list[Reply]], args: Namespace, rng: random.Random) -> list[Ask]:
    first = turns.ask_problem(item, args, plain=args.plain)
    _, wanted = explore(item, answers, args)
    return [Ask(first.prompt, n=args.samples, begins=prefix, max_new_tokens=max(1, args.max_new_tokens - len(prefix)))
            for prefix in wanted]


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    pairs, _ = explore(item, answers, args)
    rates = Rates(item, answers[0])
    if not args.low <= rates.of(()) <= args.high:
        return [], Counter(too_easy=1) if rates.of(()) > args.high else Counter(too_hard=1)
    rows, dropped = [], Counter()
    for before, token, other, rate, rate_token, rate_other in pairs:
        sign = 1 if rate_token > rate else -1
        if rate_other is None or sign * (rate - rate_other) < 0 or sign * (rate_token - rate_other) < args.gap:
            dropped["no_counterpart"] += 1
            continue
        chosen, rejected = (token, other) if sign > 0 else (other, token)
        known = answers[0][0]
        prompt = [*known.completion.prompt, *before]
        rows.append({"prompt": known.decode(prompt), "chosen": known.decode([chosen]), "rejected": known.decode([rejected]),
                     "ids": {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]},
                     "meta": {"position": len(before), "rate": rate, "pivotal": "chosen" if sign > 0 else "rejected",
                              "chosen_rate": rate_token if sign > 0 else rate_other,
                              "rejected_rate": rate_other if sign > 0 else rate_token}})
    return rows, dropped


class Rates:
    """Success rates of beginnings of answers to one problem, a beginning being a tuple of token ids."""

    def __init__(self, item: Item, replies: list[Reply]):
        self.item, self.replies, self.known = item, {}, {}
        self.learn((), replies)

    def right(self, reply: Reply) -> bool:
        return reply.finish != "length" and self.item.problem.task.grade(self.item.problem, reply).right

    def learn(self, prefix: tuple[int, ...], replies: list[Reply]) -> None:
        """Continuations of a beginning; an answer that ended is its own beginning, whose rate is 0 or 1."""
        right = [self.right(reply) for reply in replies]
        self.replies[prefix], self.known[prefix] = list(zip(replies, right)), sum(right) / len(right)
        for reply, ok in zip(replies, right):
            self.known.setdefault(tuple(reply.completion.tokens), float(ok))

    def of(self, prefix: Sequence[int]) -> float | None:
        return self.known.get(tuple(prefix))

    def counterpart(self, before: Sequence[int], token: int, up: bool) -> int | None:
        """Another token behind this beginning: that of the worst continuations that were drawn where `token` raises the rate
        (up), else of the best; of equals the one drawn more often. None where all went on with `token`."""
        tried = {}
        for reply, ok in self.replies[before]:
            if len(reply.completion.tokens) > len(before):
                tried.setdefault(reply.completion.tokens[len(before)], []).append(ok)
        tried.pop(token, None)
        return min(tried, key=lambda t: ((1 if up else -1) * sum(tried[t]) / len(tried[t]), -len(tried[t]), t), default=None)


def explore(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list, list]:
    """(pairs, wanted): what the answers so far tell, and the beginnings whose continuations are wanted next. A pair is
    (beginning, pivotal token, other token or None, rate of the beginning, rate with the pivotal token, rate with the other)."""
    rates, used = Rates(item, answers[0]), 1
    if not args.low <= rates.of(()) <= args.high:
        return [], []
    paths = list(dict.fromkeys(tuple(reply.completion.tokens) for reply in answers[0]))[:args.paths]
    logprobs = {tuple(reply.completion.tokens): reply.completion.logprobs for reply in answers[0]}
    while True:
        pairs, wanted = [], []
        for path in paths:
            pivotal, lengths = search(logprobs[path], lambda n, path=path: rates.of(path[:n]), args.gap)
            wanted += [path[:n] for n in lengths]
            for at in pivotal:
                before, token = path[:at], path[at]
                rate, rate_token = rates.of(before), rates.of(path[:at + 1])
                other = rates.counterpart(before, token, rate_token > rate)
                rate_other = None if other is None else rates.of((*before, other))
                pairs.append((before, token, other, rate, rate_token, rate_other))
                if other is not None and rate_other is None:
                    wanted.append((*before, other))
        wanted = list(dict.fromkeys(wanted))
        if used + len(wanted) > len(answers) or not wanted:
            return list(dict.fromkeys(pairs)), wanted
        for prefix, replies in zip(wanted, answers[used:]):
            rates.learn(prefix, replies)
        used += len(wanted)


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    pairs, _ = explore(item, answers, args)
    return Counter(problems=1, searched=len(answers) > 1, pivotal=len(pairs), rollouts=sum(map(len, answers)))


def summary(counts: Counter, args: Namespace) -> dict:
    return {"gap": args.gap, "samples": args.samples, "searched": counts["searched"], "pivotal": counts["pivotal"],
            "rollouts": counts["rollouts"], "too_easy": counts["too_easy"], "too_hard": counts["too_hard"]}
