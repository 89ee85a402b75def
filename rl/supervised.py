"""Fine-tuning beside reinforcement: in each update the gradients of both are added up (RL Excursions, arXiv 2606.04272).

    loss = loss of the policy + W * mean over tokens of -log pi(token)

The tokens of the mean are those with a loss in one batch of given documents, over all its micro-batches and ranks, as in sft.py.
Each update takes the next batch. Both gradients go through the same clip and the same optimisers.

Simpler than it could be: with several ranks the two gradients are summed over the ranks one after the other.
"""

from argparse import Namespace

import torch

from data import Stream
from rl.batches import MICRO_TOKENS
from rl.given import ROW, open_given
from tokenizer import Tokenizer
from training.batch import Batch
from training.run import Run

ROWS = 8                             # of a batch, if --sft-tokens does not say


def resolve(args: Namespace) -> None:
    """Sets --sft-weight and --sft-tokens if they were not given. Without --sft-data they stay None, as in runs of versions that
    did not have them."""
    if args.sft_data:
        args.sft_weight = 1.0 if args.sft_weight is None else args.sft_weight
        args.sft_tokens = args.sft_tokens or ROWS * (args.seq_len or ROW)


def open_lessons(run: Run, args: Namespace, tokenizer: Tokenizer) -> Stream | None:
    """The documents of --sft-data, or None. ValueError if their rows cannot be divided among the ranks."""
    if not args.sft_data:
        return None
    T = args.seq_len or ROW
    if args.sft_tokens % (T * run.ranks):
        raise ValueError(f"--sft-tokens {args.sft_tokens} must be a multiple of the tokens in a row x ranks (= {T * run.ranks}); "
                         f"a row has --seq-len tokens, or {ROW}")
    return open_given(args.sft_data, tokenizer, args.mode, T, args.sft_tokens, args.seed)


class Supervised:
    """Adds the gradient of given documents to that of an update.

    policy: as PolicyUpdate calls it. stream: what open_lessons returned; with None nothing is added.
    slots: slots with tokens on this rank, since `take_slots`."""

    def __init__(self, run: Run, args: Namespace, policy: torch.nn.Module, stream: Stream | None):
        self.run, self.policy, self.stream, self.weight, self.slots = run, policy, stream, args.sft_weight, 0
        self.micro_rows = stream and max(1, (args.micro_tokens or MICRO_TOKENS[run.device.type]) // stream.T)

    def backward(self) -> float:
        """Adds the gradient of W times the mean loss of the next batch; returns this loss."""
        if self.stream is None:
            return 0.0
        try:
            batches = self.stream.next(self.run.rank, self.run.ranks, self.micro_rows)
        except (ValueError, OSError) as e:                # from a source that reads its rows only now
            self.run.give_up(e)
        self.slots += sum(b.filled for b in batches)
        return self.run.backward(self.policy, batches, self.loss)

    def loss(self, b: Batch) -> tuple[torch.Tensor, dict]:
        """W times the negative log-likelihood, summed over the tokens of a micro-batch, and its metrics {name: (sum, divisor)}.
        The temperature of the rollouts has no place here."""
        logprobs, _, *values = self.policy(b.tokens, b.documents, b.targets, 1.0, True)                     # (B, T)
        nll = -(logprobs * b.loss_mask.to(logprobs.dtype)).sum()
        metrics = {"sft_loss": (nll, b.loss_mask.double().sum())}
        for unused in values:                             # of ppo: DDP waits for the gradient of every weight
            nll = nll + 0 * unused.sum()
        return self.weight * nll, metrics

    def take_slots(self) -> int:
        """The slots with tokens since the last call."""
        found, self.slots = self.slots, 0
        return found
