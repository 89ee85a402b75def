"""The fastest blocks of the transformer in plain PyTorch: for a CPU, and for a GPU without Triton.

Letters as in model.py: B rows, T tokens in a row, H query heads, K key/value heads, hd head size, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import processor
from .fast_attention import Packing, attend, attend_cached, find_pages  # noqa: F401


def has_onednn(*tensors: Tensor) -> bool:
    """Whether oneDNN can multiply these tensors: in float32, on a CPU, not under torch.compile."""
    return (all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors) and not torch.compiler.is_compiling()
            and processor.able(processor.linear, torch.float32))


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., D) @ weight (N, D).T + bias by oneDNN. It was faster than F.linear (results/tried.jsonl), most of all with a
    transposed weight, as in the gradient of x. For the gradient of the weight it was slower."""
    return processor.linear(x, weight, bias)


def reorder(weight: Tensor) -> Tensor | None:
    """A weight (N, D) in oneDNN's layout, for many products with it. Without this each product reorders it again, which takes
    much of the time if there are few rows (results/tried.jsonl). None if oneDNN cannot use it."""
    wanted = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    return processor.reorder(weight) if wanted and processor.able(processor.reorder, weight.dtype) else None


def input_gradient(g: Tensor, weight: Tensor) -> Tensor:
    """g (rows, N) @ weight (N, D)."""
    return onednn(g, weight.T) if has_onednn(g, weight) else g @ weight


def in_parts(multiply: Callable, x: Tensor, weight: Tensor, sizes: Sequence[int]) -> Tensor:
    """multiply(rows, weight) for x (M, D), in parts of sizes[-1] rows; the last part is padded to one of `sizes`. There should be
    few sizes: oneDNN keeps some compiled code for each shape."""
    parts = []
    for rows in x.split(sizes[-1]) if x.shape[0] > sizes[-1] else [x]:
        short = next(size for size in sizes if size >= rows.shape[0]) - rows.shape[0]
        parts.append(multiply(F.pad(rows, (0, 0, 0, short)) if short else rows, weight)[:rows.shape[0]])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Linear(torch.autograd.Function):
    """oneDNN's product, and its gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        rows = g.reshape(-1, g.shape[-1]).contiguous()
        d_x = input_gradient(rows, weight).view(x.shape) if ctx.needs_input_grad[0] else None
        d_weight = rows.T @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        return d_x, d_weight, rows.sum(dim=0) if ctx.needs_input_grad[2] else None


SIZES = 1, *range(16, 513, 16)                           # rows of a product without a gradient: prompts have any length
SMALL = 2 ** 21                                          # multiplications up to which F.linear is faster, since it starts sooner


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, reordered: Tensor | None = None) -> Tensor:
    """x (..., D) @ weight (N, D).T + bias -> (..., N). reordered: the weight by `reorder`; then there is no gradient."""
    if reordered is None and (not has_onednn(x, weight) or torch.is_autocast_enabled("cpu")):
        return F.linear(x, weight, bias)
    if reordered is None and torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
    if rows.shape[0] * weight.numel() <= SMALL:
        return F.linear(x, weight, bias)
    bias = bias if bias is None else bias.to(weight.dtype)
    y = in_parts(lambda rows, weight: onednn(rows, weight, bias), rows, weight if reordered is None else reordered, SIZES)
    return y.view(*x.shape[:-1], weight.shape[0])


def _normed(x, weight, eps):
    """x r w and r (..., 1), where r = 1 / sqrt(mean(x^2) + eps)."""
    r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * r).mul_(weight), r


class _RMSNorm(torch.autograd.Function):
    """The gradient of y = x r w: dx = r (g w) - x r^3 mean(g w x), dw = sum of g x r."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        y, r = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    def backward(ctx, g):
        x, weight, r = ctx.saved_tensors
        gx = (g * x).reshape(-1, x.shape[-1])                                 # (rows, D)
        d_weight = r.view(1, -1) @ gx                                         # (1, D)
        along = (gx @ weight).view(r.shape) * r.pow(3).div_(-x.shape[-1])     # (..., 1)
        return (g * weight).mul_(r).addcmul_(x, along), d_weight[0], None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D) / root mean square * weight, in float32 for the half types and rounded once before the weight,
    as Hugging Face's Llama does (arXiv 1910.07467)."""
    if x.dtype in (torch.bfloat16, torch.float16):
        return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype) * weight
    if x.is_cuda:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    return _RMSNorm.apply(x, weight, eps) if torch.is_grad_enabled() else _normed(x, weight, eps)[0]


def _rotated(x, cos, sin):
    """The rotation without temporary tensors, which would take most of the time on a CPU."""
    out = torch.empty_like(x)
    (a, b), (to_a, to_b) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(a, cos, out=to_a).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=to_b).addcmul_(a, sin)
    return out


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the inverse rotation."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, g):
        cos, sin = ctx.saved_tensors
        return _rotated(g, cos, -sin), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864): x (B, T, heads, hd), cos and sin (B, T, 1, hd/2) -> like x. A pair has one
    number from each half of a head, as in Llama's checkpoints."""
    if x.dtype == cos.dtype and not x.is_cuda:
        return _Rotate.apply(x, cos, sin) if torch.is_grad_enabled() else _rotated(x, cos, sin)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, arXiv 2002.05202."""
    return F.silu(gate) * up


def gate(y: Tensor, score: Tensor) -> Tensor:
    """sigmoid(score) * y, a factor for each head: y (B, T, H, hd), score (B, T, H) -> like y."""
    return (y * score.sigmoid()[..., None]).to(y.dtype)


NEVER = -1e20                            # a logit with probability 0; -inf would give NaN in 0 * inf and inf - inf


def exclude(logits: Tensor, unused_ids: Sequence[tuple[int, int]], first: int = 0) -> Tensor:
    """Gives ids that do not exist a logit with probability 0, in place. logits (N, W): of the ids from `first` on. unused_ids:
    ranges (start, end) of ids. Sampler and trainer both do this, between the product and the softmax."""
    for start, end in unused_ids:
        logits[:, max(start - first, 0):max(end - first, 0)] = NEVER
    return logits


def row_logprobs(logits: Tensor, targets: Tensor, in_place: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-softmax of each row at its target: logits (N, V), targets (N,) -> four tensors:

    - the log-probabilities (N,), which the sampler also reports;
    - the logits minus the maximum of their row, and the exponentials of these, both (N, V) (in_place=True: in the memory of
      logits);
    - the sums of the exponentials (N, 1)."""
    if logits.shape[0] == 1:                              # torch splits a sum to a single number over threads
        return tuple(x[:1] for x in row_logprobs(logits.expand(2, -1).contiguous(), targets.expand(2), in_place))
    shift, chosen = logits.amax(dim=-1, keepdim=True), logits.gather(1, targets[:, None])
    shifted = logits.sub_(shift) if in_place else logits - shift
    p = shifted.exp_() if in_place else shifted.exp()
    total = p.sum(dim=-1, keepdim=True)
    return (chosen - shift - total.log()).squeeze(1), shifted, p, total


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature) at the targets, and if asked for the entropy of the same distribution, with as
    few passes over the logits as possible.

    Rows are computed in chunks that fit into a processor cache. The forward pass turns the logits of a chunk into probabilities
    in place, and keeps them if all of them are small. The backward pass turns probabilities into the gradient of the logits in
    place."""

    KEEP = 2 ** 26                                       # floats of probabilities to keep between the passes (256 MB)
    CHUNK = 2 ** 20                                      # logits in a chunk (on a GPU 2^26: fewer, larger products)

    @staticmethod
    def logits(ctx, hidden, weight):
        """(rows, D) -> logits (rows, V), float32 or better."""
        logits = ctx.product(hidden, weight)                                  # (rows, V)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        exclude(logits, ctx.unused_ids)
        return logits if ctx.temperature == 1.0 else logits.div_(ctx.temperature)

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, entropy, product, unused_ids):
        N, V = hidden.shape[0], weight.shape[0]
        ctx.product, ctx.unused_ids = product, unused_ids
        ctx.rows = max(1, (2 ** 26 if hidden.is_cuda else _TokenLogprobs.CHUNK) // V)
        ctx.set_materialize_grads(False)                                      # the gradient of an unused output is None
        ctx.temperature = temperature
        ctx.probabilities = [] if N * V <= _TokenLogprobs.KEEP and any(ctx.needs_input_grad) else None
        chosen_logprobs, entropies = [], []
        for h, t in zip(hidden.split(ctx.rows), targets.split(ctx.rows), strict=True):
            logits = _TokenLogprobs.logits(ctx, h, weight)
            logprobs, shifted, p, total = row_logprobs(logits, t, in_place=not entropy)
            chosen_logprobs.append(logprobs)
            if entropy:                                                       # H = log Z - sum p log(p Z)
                entropies.append((total.log() - shifted.mul_(p).sum(dim=-1, keepdim=True) / total).squeeze(1))
            if ctx.probabilities is not None:
                ctx.probabilities.append(p.div_(total))
        entropies = torch.cat(entropies) if entropy else None
        ctx.save_for_backward(hidden, weight, targets, entropies)
        return torch.cat(chosen_logprobs), entropies

    @staticmethod
    def backward(ctx, grad, grad_entropy):
        hidden, weight, targets, entropies = ctx.saved_tensors
        grad = torch.zeros_like(targets, dtype=grad_entropy.dtype) if grad is None else grad
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        # overwritten below, in place; a second backward pass computes them again
        probabilities, ctx.probabilities = ctx.probabilities, None
        for i, at in enumerate(range(0, hidden.shape[0], ctx.rows)):
            part = slice(at, at + ctx.rows)
            h, g, t = hidden[part], grad[part], targets[part]
            if probabilities is None:
                p = _TokenLogprobs.logits(ctx, h, weight).softmax(dim=-1)
            else:
                p = probabilities[i]
            g = g.to(p.dtype) / ctx.temperature
            along = g[:, None]                                                # d logits = g (onehot - p)
            if grad_entropy is not None:                                      # and of the entropy: -p (log p + H)
                tiny = torch.finfo(p.dtype).tiny
                e = grad_entropy[part, None].to(p.dtype) / ctx.temperature
                along = along + e * (p.clamp(min=tiny).log() + entropies[part, None])
            p.mul_(-along).scatter_add_(1, t[:, None], g[:, None])
            p = p.to(h.dtype)
            d_hidden[part] = input_gradient(p, weight)
            d_weight.addmm_(p.T, h)
        return d_hidden, d_weight, None, None, None, None, None


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, entropy: bool = False,
                   unused_ids: Sequence[tuple[int, int]] = (), product: Callable = linear) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probability of each target: hidden (..., D), weight (V, D), targets (...) -> (...), float32 or better.
    With entropy=True a pair: also the entropy of the distribution at each position (...), in nats.

    The complete (tokens, V) logits exist at most once, and not at all if they would be large. Under autocast the product has
    autocast's dtype, like every other one. product(hidden, weight) makes the logits.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    logprobs, entropies = _TokenLogprobs.apply(hidden.reshape(-1, hidden.shape[-1]), weight.to(hidden.dtype),
                                               targets.reshape(-1), temperature, entropy, product, unused_ids)
    return (logprobs.view(targets.shape), entropies.view(targets.shape)) if entropy else logprobs.view(targets.shape)
