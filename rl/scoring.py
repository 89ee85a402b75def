"""The worth of a thought: by how much it makes the next tokens of a text likelier (RLP, arXiv 2510.01265).

    r(c) = log p(x | before, c) - log q(x | before)

p is the policy that thought c. q reads the text without thinking, and is a slow copy of the policy: after each update q moves by
1 - tau towards p (an exponential moving average, EMA). So a policy that only became worse without thoughts would gain nothing. x
are the next tokens of the text, one in the paper. No gradient goes through either number: the loss of the policy is that of any
other reward, on the tokens of the thought alone (--loss rlp has the paper's advantage, G / (G - 1) times what is above the mean).

A thought that was cut off, or that ended without closing its block, is closed before it is scored. In a chat x stands behind the
block as an answer would. q sees plain text: nobody has asked it for anything.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from engine.requests import Completion
from formats.chat import END_THINK
from model import Transformer
from tasks.task import Problem, Reply
from tokenizer import Tokenizer
from training.ledger import Costs, Ledger
from training.likelihood import continuation_logprobs
from training.weights import complete, restore_weights


class InformationGain:
    """Measures thoughts.

    - tokenizer: of the policy
    - policy: p, with complete weights: the model that samples
    - average: q, at first a copy of the policy
    - tau: how much of q stays at an update
    - autocast: makes the context of a forward pass"""

    def __init__(self, policy: Transformer, tokenizer: Tokenizer, tau: float = 0.999,
                 autocast: Callable[[], AbstractContextManager] = nullcontext):
        self.tokenizer, self.tau, self.autocast = tokenizer, tau, autocast
        self.policy, self.average = policy, copy.deepcopy(policy).requires_grad_(False)

    def measure(self, problem: Problem, completions: Sequence[Completion], replies: Sequence[Reply],
                ledger: Ledger | None = None) -> None:
        """Sets `gain` of each reply to a problem (tasks/text.py, kind=rlp). ledger: where the cost is entered."""
        after, plain = list(problem.next_ids), self.tokenizer.prefix + list(problem.before_ids)
        thoughts = [(self.closed(c), after) for c in completions]
        with self.autocast():
            without = continuation_logprobs(self.average, [(plain, after)])[0]
            found = continuation_logprobs(self.policy, thoughts)
        for reply, logprob in zip(replies, found, strict=True):
            reply.gain = logprob - without
        if ledger is not None:
            lengths = [len(before) + len(after) - 1 for before, _ in [*thoughts, (plain, after)]]
            ledger.add("scoring", Costs.of(self.policy).forward(lengths), sum(lengths))

    def closed(self, c: Completion) -> list[int]:
        """The ids of a prompt with its thought, up to where the text goes on."""
        thought = c.tokens[:-1] if c.tokens and c.tokens[-1] in self.tokenizer.stop_ids else list(c.tokens)
        if END_THINK not in self.tokenizer.decode(thought):
            thought += self.tokenizer.encode(END_THINK) if self.tokenizer.end_think is None else [self.tokenizer.end_think]
        chat = self.tokenizer.im_start is not None and self.tokenizer.im_start in c.prompt
        return [*c.prompt, *thought, *(self.tokenizer.encode("\n\n") if chat else [])]

    @torch.no_grad()
    def follow(self, policy: Transformer) -> None:
        """Moves q towards the policy: q <- tau q + (1 - tau) p. With --shard all ranks must call this together."""
        new = {name: complete(w) for name, w in policy.state_dict().items()}
        for name, w in self.average.state_dict().items():
            w.lerp_(new[name].to(w), 1 - self.tau)

    def state(self) -> dict:
        """The weights of q, for the checkpoint; not a copy."""
        return self.average.state_dict()

    def restore(self, state: dict) -> None:
        restore_weights(self.average, state)
