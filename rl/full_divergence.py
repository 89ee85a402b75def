"""Divergences of a teacher's and a student's next-token distributions, over the whole vocabulary.

Each divergence is one entry of a table, DIVERGENCES. With p of the student, q of the teacher and d = log p - log q of each word
of the vocabulary, all of them are sums over words of p f(d):

    forward   KL(q || p)                                    the student covers all that the teacher does
    reverse   KL(p || q)                                    the student does nothing that the teacher would not do
    jsd       beta KL(q || m) + (1 - beta) KL(p || m)       m = beta q + (1 - beta) p; GKD, arXiv 2306.13649, equation 1

Where p = q to the last bit, d is 0, and so are f(0), the divergence and its gradient: exactly 0.0, without rounding.

Logits of all tokens, (N, V), are the largest tensor of training, and here there would be two. So only hidden states are kept.
The logits of a chunk of tokens are made, used and dropped, and the backward pass makes them again (as in kernels/gpu/logprob.py).

With top_k, only the teacher's K likeliest words are compared one by one; all others together are one more word, the tail.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import kernels
from kernels.fast import NEVER

CHUNK = {"cpu": 2 ** 20, "cuda": 2 ** 25}                # logits of a chunk
FAR = 80.0                                               # exp of it is finite in float32, and exp(-FAR) is nothing beside 1


@dataclass(frozen=True)
class Divergence:
    """One divergence, as the sum over words of p f(d).

    - terms(logp, d, beta): p f(d) of each word
    - slopes(logp, d, beta): p times the derivative of the sum by p. (Terms that are the same for all words are left out: the
      gradient by the logits does not change.)
    - total: the sum of the slopes, where it is known to be a constant; None: it is computed
    - reads: the flags of distill.py that it uses and others do not
    """
    terms: Callable
    slopes: Callable
    total: float | None = None
    reads: tuple[str, ...] = ("top_k",)


def jsd_terms(logp: Tensor, d: Tensor, beta: float) -> Tensor:
    """log(m / q) = log1p((1 - beta) expm1(d)) and log(m / p) = log1p(beta expm1(-d)) are exactly 0 where d is."""
    to_teacher, to_student = (1 - beta) * torch.expm1(d.clamp(max=FAR)), beta * torch.expm1((-d).clamp(max=FAR))
    return -beta * (logp - d).exp() * to_teacher.log1p() - (1 - beta) * logp.exp() * to_student.log1p()


def jsd_slopes(logp: Tensor, d: Tensor, beta: float) -> Tensor:
    """(1 - beta) p log(p / m)."""
    return -(1 - beta) * logp.exp() * (beta * torch.expm1((-d).clamp(max=FAR))).log1p()


DIVERGENCES = {
    "forward": Divergence(lambda logp, d, beta: -(logp - d).exp() * d, lambda logp, d, beta: -(logp - d).exp(), total=-1.0),
    "reverse": Divergence(lambda logp, d, beta: logp.exp() * d, lambda logp, d, beta: logp.exp() * d),
    "jsd": Divergence(jsd_terms, jsd_slopes, reads=("top_k", "beta")),
}


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how. unused_ids: ranges of ids that do not exist and have probability 0 (kernels.exclude). top_k: 0
    compares all words."""
    kind: str
    beta: float = 0.5
    top_k: int = 0
    temperature: float = 1.0
    exact: bool = False
    unused_ids: tuple = ()

    def logits(self, hidden: Tensor, weight: Tensor, words: int) -> Tensor:
        """(n, D), (V, D) -> logits (n, words), float32 or better. A head with more or fewer rows than `words` has rows, or lacks
        rows, of ids that no token has."""
        logits = kernels.head_logits(hidden, weight, self.exact)
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        if (more := words - logits.shape[1]) > 0:
            logits = torch.cat([logits, logits.new_full((len(logits), more), NEVER)], dim=1)
        return kernels.exclude(logits[:, :words].contiguous(), self.unused_ids)

    def log_softmax(self, logits: Tensor) -> Tensor:
        return (logits if self.temperature == 1.0 else logits / self.temperature).log_softmax(dim=-1)

    def differences(self, logp: Tensor, logq: Tensor) -> Tensor:
        """d of each word, (n, V). With top_k all words of the tail have the d of the tail, so that sums over words are sums over
        K + 1 words."""
        if not 0 < self.top_k < logp.shape[1]:
            return logp - logq
        first = logq.topk(self.top_k, dim=-1).indices                         # (n, K)
        tail_p, tail_q = (x.scatter(1, first, float("-inf")).logsumexp(dim=-1, keepdim=True) for x in (logp, logq))
        d = (tail_p - tail_q).expand(logp.shape).contiguous()
        return d.scatter_(1, first, logp.gather(1, first) - logq.gather(1, first))


class _Divergences(torch.autograd.Function):
    """Divergence, log-probability of the target and entropy of each token; only the divergence has a gradient, by the student."""

    @staticmethod
    def forward(ctx, hidden, weight, teacher_hidden, teacher_weight, targets, how):
        ctx.how, ctx.rows = how, max(1, CHUNK[hidden.device.type] // len(weight))
        ctx.save_for_backward(hidden, weight, teacher_hidden, teacher_weight)
        found = []
        for h, t, target in zip(hidden.split(ctx.rows), teacher_hidden.split(ctx.rows), targets.split(ctx.rows), strict=True):
            logits = how.logits(h, weight, len(weight))                       # (n, V)
            logp = how.log_softmax(logits)
            d = how.differences(logp, how.log_softmax(how.logits(t, teacher_weight, len(weight))))
            found.append((DIVERGENCES[how.kind].terms(logp, d, how.beta).sum(dim=-1),
                          kernels.row_logprobs(logits, target, how.temperature, how.exact),   # by the sampler's own code
                          -(logp.exp() * logp).sum(dim=-1)))
        divergences, logprobs, entropies = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.mark_non_differentiable(logprobs, entropies)
        return divergences, logprobs, entropies

    @staticmethod
    def backward(ctx, g, *_):
        hidden, weight, teacher_hidden, teacher_weight = ctx.saved_tensors
        how, divergence = ctx.how, DIVERGENCES[ctx.how.kind]
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=g.dtype)
        for i, h in enumerate(hidden.split(ctx.rows)):
            part = slice(i * ctx.rows, i * ctx.rows + len(h))
            logp = how.log_softmax(how.logits(h, weight, len(weight)))        # (n, V)
            logq = how.log_softmax(how.logits(teacher_hidden[part], teacher_weight, len(weight)))
            slopes = divergence.slopes(logp, how.differences(logp, logq), how.beta)
            total = slopes.sum(dim=-1, keepdim=True) if divergence.total is None else divergence.total
            along = slopes - logp.exp() * total                               # the gradient by the logits / temperature
            along = (along * (g[part, None] / how.temperature)).to(h.dtype)
            d_hidden[part] = along @ weight
            d_weight += along.T @ h
        return d_hidden, d_weight.to(weight.dtype), None, None, None, None


def token_divergences(how: Comparison, hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor,
                      targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each token the divergence from the teacher, and without gradient the log-probability of its target and the entropy of
    the student, in nats: each (...).

    hidden (..., D) and weight (V, D): the last hidden states and the head of the student. teacher_hidden (..., D'),
    teacher_weight (V', D'): those of the teacher, with the same ids. targets (...)."""
    if torch.is_autocast_enabled(hidden.device.type):
        hidden, teacher_hidden = (x.to(torch.get_autocast_dtype(hidden.device.type)) for x in (hidden, teacher_hidden))
    found = _Divergences.apply(hidden.flatten(0, -2), weight.to(hidden.dtype), teacher_hidden.flatten(0, -2),
                               teacher_weight.to(teacher_hidden.dtype), targets.flatten(), how)
    return tuple(x.view(targets.shape) for x in found)
