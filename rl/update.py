"""Turns scored groups into minibatches, and computes the loss of a minibatch.

    minibatches = update.prepare(groups, places, step)
    for minibatch, policy_loss in update.passes(minibatches):
        run.backward(policy, minibatch.micro, policy_loss, minibatch.divisor)

`prepare` splits the completions into minibatches and packs them. If needed, a forward pass without gradient computes pi_old, the
log-probabilities under the reference, and the values, all with the weights that sampled. Then it computes the advantages.
`policy_loss` adds up the terms: surrogate, correction, KL, entropy, value loss.
"""

import argparse
import functools
from collections.abc import Callable, Iterator

import torch

from model import Transformer
from rl.batches import (
    Minibatch,
    RolloutBatch,
    compare_groups,
    compare_tokens,
    deal,
    fill_advantages,
    find,
    mask_out,
    pack_alike,
    subtract_baselines,
)
from rl.correction import compare_with_sampler, correction, sequence_mask
from rl.critic import value_loss
from rl.divergence import kl_estimate
from rl.groups import Group, Rollout
from rl.lengths import longest_cap, parse_caps
from rl.losses import LOSSES, Clip
from rl.mismatch import agree
from training.run import Run


class PolicyUpdate:
    """The computations of an update, with the flags `args` of grpo.py.

    policy: the module that training calls: (tokens, documents, targets, temperature, True) -> log-probabilities of the targets
    and entropies (and values, with a value head), each (B, T). reference: the model for the KL divergence, or None."""

    def __init__(self, run: Run, args: argparse.Namespace, policy: torch.nn.Module, reference: Transformer | None = None):
        self.run, self.args, self.policy, self.reference = run, args, policy, reference
        self.loss = LOSSES[args.loss]
        self.clip = Clip(args.clip_low, args.clip_high, args.dual_clip, args.tau_pos, args.tau_neg)
        self.longest = longest_cap(parse_caps(args.max_new_tokens))
        self.kl_in_loss, self.kl_in_reward = (args.kl, 0.0) if args.kl_in == "loss" else (0.0, args.kl)
        self.agree = agree(args)
        # needs_first_pass: is there a pass without gradient before the updates? Where they agree pi_old comes from the sampler,
        # without one
        several = args.updates * args.minibatches > 1
        self.needs_first_pass = self.loss.advantages.by_token or args.kl > 0 or (several and not self.agree)

    # before the updates

    def prepare(self, groups: list[Group], places: range, step: int) -> list[Minibatch]:
        """The minibatches of a step, with advantages. places: see batches.deal."""
        args, by_token = self.args, self.loss.advantages.by_token
        if self.loss.advantages.baseline:
            subtract_baselines(groups)
        parts = deal(groups, places, args.prompts, args.minibatches, args.seed * 7919 + step)
        if self.kl_in_reward:                             # subtracted before rewards are compared, also for masked completions
            micros = [self.packed(part) for part in parts]
            for part, micro in zip(parts, micros, strict=True):
                self.pay_kl(part, micro)
                mask_out([r for r in part if not self.in_loss(r)], micro)
        if not by_token:
            with self.run.bad_input():                    # of rewards that --scale cannot take
                compare_groups(self.run, self.loss.advantages, groups, args.group, args.scale)
        parts = [[r for r in part if self.in_loss(r)] for part in parts]
        if not self.kl_in_reward:
            micros = [self.packed([r for r in part if self.has_gradient(r)]) for part in parts]
        if by_token:
            compare_tokens(self.run, self.loss.advantages, [b for micro in micros for b in micro], args.gamma, args.lam)
        else:
            for part, micro in zip(parts, micros, strict=True):
                fill_advantages(part, micro)
        return [Minibatch(micro, self.loss.divisor(part), sum(b.filled for b in micro))
                for part, micro in zip(parts, micros, strict=True)]

    def in_loss(self, r: Rollout) -> bool:
        """Whether the completion is in the loss."""
        return not (self.args.mask_truncated and r.cut_off)

    def has_gradient(self, r: Rollout) -> bool:
        """Whether the completion changes the gradient. With A = 0 it does not, unless the loss has another term."""
        return self.loss.advantages.by_token or self.args.kl > 0 or self.args.entropy > 0 or abs(r.advantage) > 1e-9

    def packed(self, chosen: list[Rollout]) -> list[RolloutBatch]:
        """Micro-batches of completions, the same number on each rank. If needed, pi_old, values and reference are filled in."""
        micro = pack_alike(self.run, chosen, self.args.seq_len, self.args.micro_tokens)
        if self.needs_first_pass:
            for b in micro:
                self.first_pass(b)
        return micro

    @torch.no_grad()
    def first_pass(self, b: RolloutBatch) -> None:
        """Fills in pi_old, the values, and the log-probabilities under the reference."""
        self.run.count("scoring", [b] * (1 if self.reference is None else 2))
        on_device = b.to(self.run.device)
        logprobs, _, values = self.forward(on_device)
        b.old_logprobs, b.values = logprobs.to(b.values).cpu(), values.to(b.values).cpu()
        if self.reference is not None:
            with self.run.autocast():
                ref_logprobs = self.reference(on_device.tokens, on_device.documents, on_device.targets, self.args.temperature)
            b.ref_logprobs = ref_logprobs.to(b.values).cpu()

    def pay_kl(self, part: list[Rollout], micro: list[RolloutBatch]) -> None:
        """Subtracts the KL penalty of each token from its reward, and the sum of them from the reward of the completion."""
        for r in part:
            b, here = find(r, micro)
            kl = kl_estimate(self.args.kl_kind, b.old_logprobs[here], b.ref_logprobs[here])
            penalty = self.kl_in_reward * kl * b.loss_mask[here]
            b.rewards[here] -= penalty
            r.kl_penalty = -float(penalty.sum())

    # in an update

    def passes(self, minibatches: list[Minibatch]) -> Iterator[tuple[Minibatch, Callable]]:
        """The minibatches one after the other, --updates times, each with its loss function."""
        for i in range(self.args.updates * len(minibatches)):
            same_weights = i < len(minibatches) if self.needs_first_pass else i == 0
            yield minibatches[i % len(minibatches)], functools.partial(self.policy_loss, same_weights=same_weights)

    def forward(self, b: RolloutBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities, entropies and values of the targets, each (B, T)."""
        with self.run.autocast():
            found = self.policy(b.tokens, b.documents, b.targets, self.args.temperature, True)
        return found if self.loss.advantages.value_head else (*found, b.values)

    def policy_loss(self, b: RolloutBatch, same_weights: bool) -> tuple[torch.Tensor, dict]:
        """The sum of the weighted token losses of a micro-batch, and its metrics {name: (sum, divisor)}. These are means over the
        tokens that are trained on: completions without a gradient (A = 0, see has_gradient) are not packed, so that entropy and
        clip shares leave them out.

        same_weights: the recomputed log-probabilities are still those of the weights that sampled."""
        args = self.args
        logprobs, entropies, values = self.forward(b)
        mask = b.loss_mask.to(logprobs.dtype)
        recomputed = b.old_logprobs if self.needs_first_pass else logprobs.detach()
        old = b.sampler_logprobs if args.old == "sampler" else recomputed
        loss, noted = self.loss.of_tokens(logprobs, old, b.advantages, mask, b.documents, self.clip)          # (B, T)
        weights = correction(args.correction, old, b.sampler_logprobs, mask, b.documents, args.cap, args.veto, args.cap_low)
        if args.sequence_mask:
            weights = weights * sequence_mask(logprobs, b.sampler_logprobs, b.advantages, mask, b.documents, args.sequence_mask)
        loss = loss * weights
        kl = kl_estimate(args.kl_kind, logprobs, b.ref_logprobs) if args.kl else torch.zeros_like(loss)
        loss = loss + self.kl_in_loss * kl - args.entropy * entropies
        if self.loss.advantages.value_head:
            loss = loss + args.value_weight * value_loss(values, b.values, b.returns)
        with torch.no_grad():
            noted = {"entropy": entropies, "kl": kl} | noted
            if args.correction != "none" or args.veto or args.sequence_mask:
                noted["dropped"] = weights == 0
            metrics = {name: (float((x * mask).sum()), float(mask.sum())) for name, x in noted.items()}
        if same_weights:
            metrics |= compare_with_sampler(self.run, self.args, recomputed, b)
        return (loss * self.loss.token_weights(mask, b.documents, self.longest)).sum(), metrics
