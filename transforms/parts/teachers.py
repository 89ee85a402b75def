"""Who answers: a checkpoint, by the sampler and in bulk, or an oracle."""

import dataclasses
import hashlib
import random
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence

import torch

from model import load_both
from sampler import Sampler
from tasks.task import Reply
from training import cli
from training.ledger import Costs
from transforms import Ask, Item
from transforms.parts.oracle import Oracle

Asked = tuple[Item, int, Ask]                             # an item, the number of the ask among those to its teacher, and the ask


class Checkpoint:
    """A folder, ours or Hugging Face's. ValueError for one that cannot answer."""

    def __init__(self, side: str, folder: str, plain: bool, args: Namespace):
        self.name, self.args = folder, args
        self.model, self.tokenizer = load_both(folder, args.device, getattr(torch, args.dtype))
        if not plain:
            self.tokenizer.encode_chat([])                # refused here where the tokenizer lacks ChatML's tokens
        self.costs = Costs.of(self.model)
        self.sampler = Sampler(self.model, self.tokenizer, args.rows)

    def length(self, text: str) -> int:
        """Tokens of a piece of a document."""
        return len(self.tokenizer.encode(text))

    def answer(self, asked: Sequence[Asked], round: int) -> tuple[list[list[Reply]], Counter]:
        """The replies to each ask, and what they cost. Asks that are sampled alike are sampled together; the draws of each
        depend on --seed, the item's number, the round and the ask's own number alone."""
        replies, cost, alike = [None] * len(asked), Counter(), {}
        for at, (_, number, ask) in enumerate(asked):
            alike.setdefault((number, ask.n, self._temperature(ask)), []).append(at)
        for (number, n, temperature), places in alike.items():
            items, asks = [asked[at][0] for at in places], [asked[at][2] for at in places]
            prompts, limits = [self._ids(ask) for ask in asks], [ask.max_new_tokens or self.args.max_new_tokens for ask in asks]
            top_p, top_k = (self.args.top_p, self.args.top_k) if temperature else (1.0, 0)
            drawn = self.sampler.generate(prompts, n, limits, temperature, top_p, top_k, seed_of(self.args.seed, round, number),
                                          progress=self.name, numbers=[item.number for item in items],
                                          stop_texts=[ask.stop for ask in asks])
            for at, ask, limit, completions in zip(places, asks, limits, drawn):
                replies[at] = [self._reply(ask, c, limit, sample) for sample, c in enumerate(completions)]
                cost += self._cost(len(completions[0].prompt), [len(c.tokens) for c in completions])
        return replies, cost

    def _cost(self, prompt: int, drawn: list[int]) -> Counter:
        """Tokens and FLOPs of a prompt, which is computed once, and of completions of `drawn` tokens each."""
        prefill = self.costs.sampling(prompt, [])
        return Counter(prompt_tokens=prompt, drawn_tokens=sum(drawn), prefill_flops=prefill,
                       decode_flops=self.costs.sampling(prompt, drawn) - prefill)

    def _temperature(self, ask: Ask) -> float:
        return self.args.temperature if ask.temperature is None else ask.temperature

    def _ids(self, ask: Ask) -> list[int]:
        if isinstance(ask.prompt, str):
            return [*self.tokenizer.encode_document(ask.prompt), *ask.begins]
        return [*self.tokenizer.chat_prompt(ask.prompt, ask.think), *ask.begins]

    def _reply(self, ask: Ask, completion, limit: int, sample: int) -> Reply:
        if begun := len(ask.begins):
            prompt, tokens = completion.prompt[:-begun], [*ask.begins, *completion.tokens]
            completion, limit = dataclasses.replace(completion, prompt=prompt, tokens=tokens), limit + begun
        reply = Reply.of(completion, self.tokenizer, limit, sample)
        reply.completion, reply.decode = completion, self.tokenizer.decode
        for stop in ask.stop:
            reply.text = reply.text.partition(stop)[0]
        return reply


def open_teacher(side: str, args: Namespace) -> Checkpoint | Oracle:
    """The teacher that the flag --SIDE names."""
    spec, plain = getattr(args, side), getattr(args, plain_flag(side))
    return Oracle(spec, args.seed) if spec.startswith("oracle:") else Checkpoint(side, spec, plain, args)


def plain_flag(side: str) -> str:
    """The attribute that says whether a teacher is asked in plain text."""
    return "plain" if side == "init" else f"{side}_plain"


def ask_all(teachers: dict, asks: Sequence[tuple[Item, list[Ask]]], round: int = 0) -> tuple[list[list[list[Reply]]], dict]:
    """Puts the asks of many items to their teachers. Returns, for each item, for each of its asks, the replies; and for each
    teacher what this cost: {side: Counter}."""
    asked, places, costs = {side: [] for side in teachers}, {side: [] for side in teachers}, {}
    answers = [[None] * len(of_item) for _, of_item in asks]
    for i, (item, of_item) in enumerate(asks):
        number = Counter()
        for k, ask in enumerate(of_item):
            asked[ask.teacher].append((item, number[ask.teacher], ask))
            places[ask.teacher].append((i, k))
            number[ask.teacher] += 1
    for side, teacher in teachers.items():
        with cli.bad_input():
            replies, costs[side] = teacher.answer(asked[side], round)
        costs[side]["answers"] = sum(map(len, replies))
        for (i, k), found in zip(places[side], replies, strict=True):
            answers[i][k] = found
    return answers, costs


def seed_of(seed: int, round: int, number: int) -> int:
    """The seed of the draws of ask `number` in a round: that of --seed for the first, another for each of the others."""
    if not round and not number:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{round}/{number}".encode(), digest_size=4).digest(), "big")


def rng_of(seed: int, item: Item, name: str = "") -> random.Random:
    """The random numbers of an item in a transform's `ask`."""
    return random.Random(f"{seed}/{name}/{item.number}")
