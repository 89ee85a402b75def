"""The update of distill.py: packs what the student has written, and computes the loss of a micro-batch.

    batches = lessons.of_rollouts(found.groups)           or .of_given(stream.next(...))
    run.backward(wrapped, batches, lessons.loss)

The losses are one entry each of a table, LOSSES: `opd`, a policy loss whose advantages come from the teacher, and the divergences
over the whole vocabulary (rl/full_divergence.py).
"""

from argparse import Namespace
from typing import Any

import torch
from torch import Tensor, nn

from model import Transformer
from rl.advantages import Advantages
from rl.alignment import piece_sums
from rl.batches import Minibatch, TaughtBatch, pack_alike
from rl.correction import compare_with_sampler
from rl.full_divergence import DIVERGENCES, Comparison, token_divergences
from rl.groups import Group
from rl.losses import Clip, PolicyLoss, clipped_weight
from training.batch import Batch
from training.run import Run


def above_the_student(teacher_logprobs: Tensor, logprobs: Tensor) -> Tensor:
    """The advantage of a token: how much more likely it is under the teacher. All (B, T). Its mean over what the student draws is
    minus the reverse KL divergence, and the policy gradient with it is that divergence's, token by token."""
    return teacher_logprobs - logprobs.detach()


# On-policy distillation as a policy loss (Thinking Machines, "On-Policy Distillation", 2025): the reward of each token is its
# log-ratio, which no later token changes (a discount of 0), and pi / pi_sampler is a weight of at most 2.
OPD = PolicyLoss(surrogate=clipped_weight, mean="token", advantages=Advantages(above_the_student, by_token=True), scale=None,
                 clip_low=1.0, clip_high=1.0, reads=())
LOSSES = {"opd": OPD, **DIVERGENCES}


class Lessons:
    """The computations of an update. wrapped: the student as training calls it. teacher: a rl.teacher.Teacher."""

    def __init__(self, run: Run, args: Namespace, wrapped: nn.Module, student: Transformer, teacher: Any):
        self.run, self.args, self.wrapped, self.teacher = run, args, wrapped, teacher
        self.policy_loss = OPD if args.loss == "opd" else None
        self.clip = Clip(OPD.clip_low, OPD.clip_high)
        self.how = Comparison(args.loss, args.beta, args.top_k, args.temperature, args.exact, student.unused_ids)
        self.most = args.clip_divergence or float("inf")  # nats of a token

    def of_rollouts(self, groups: list[Group]) -> Minibatch:
        """Completions of the student as micro-batches, the same number on each rank. The divisor is that of this rank."""
        rollouts = [r for group in groups for r in group]
        micro = pack_alike(self.run, rollouts, self.args.seq_len, self.args.micro_tokens)
        with self.run.bad_input():                        # of a file in which some problems have no solution for the hint
            taught = [self.teacher.reads(b, [r for r in rollouts if r.batch == i]) for i, b in enumerate(micro)]
        return self._minibatch(taught, sampled=True)

    def of_given(self, batches: list[Batch]) -> Minibatch:
        """Given documents, whose text the student and the teacher read alike."""
        return self._minibatch([self.teacher.reads(b, []) for b in batches], sampled=False)

    def _minibatch(self, taught, sampled):
        self.sampled = sampled                            # whether the student has written it
        return Minibatch(taught, sum(float(b.loss_mask.double().sum()) for b in taught),
                         sum(b.filled for b in taught))

    def loss(self, b: TaughtBatch) -> tuple[Tensor, dict]:
        """The loss summed over the tokens of a micro-batch, and its metrics {name: (sum, divisor)}."""
        loss, divergences, logprobs, entropies = self._by_advantage(b) if self.policy_loss else self._by_divergence(b)
        mask = b.loss_mask.to(loss.dtype)
        with torch.no_grad():
            found = {"divergence": divergences, "entropy": entropies, "nll": -logprobs}
            if self.args.clip_divergence:
                found["clipped"] = (divergences > self.most).to(loss.dtype)
            metrics = {name: (float((x * mask).sum()), float(mask.sum())) for name, x in found.items()}
        if self.sampled:
            metrics |= compare_with_sampler(self.run, self.args, logprobs.detach(), b)
        return (loss * mask).sum(), metrics

    def _by_advantage(self, b):
        with self.run.autocast():
            logprobs, entropies = self.wrapped(b.tokens, b.documents, b.targets, self.args.temperature, True)
        own, lengths = logprobs.detach(), 1
        if not self.teacher.same:
            own, lengths = piece_sums(own, b.pieces)
        advantages = self.policy_loss.advantages.function(self.teacher.logprobs(b), own)
        loss, _ = self.policy_loss.of_tokens(logprobs, b.sampler_logprobs, advantages.clamp(min=-self.most),
                                             b.loss_mask.to(own.dtype), b.documents, self.clip)
        return loss, -advantages / lengths, logprobs, entropies                # a piece counts once, not for each of its tokens

    def _by_divergence(self, b):
        hidden = self.teacher.hidden(b)

        def read(student, x):
            return token_divergences(self.how, x, student.head, hidden, self.teacher.model.head, b.targets)
        with self.run.autocast():
            divergences, logprobs, entropies = self.wrapped(b.tokens, b.documents, read=read)
        return divergences.clamp(max=self.most), divergences.detach(), logprobs, entropies
