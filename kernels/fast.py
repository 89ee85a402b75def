"""The blocks of the transformer as fast as PyTorch alone has them: on a CPU, and on a GPU without Triton.

Letters as in model.py: B rows, T tokens in a row, H query heads, K key/value heads, hd head size, D width, V vocabulary.
"""

import functools

import torch
import torch.nn.functional as F


class Packing:
    """Where each document of a batch lies, worked out once per forward pass and used by every layer.

    documents (B, T) numbers the packed documents of each row, or is None when a row is one document. A run of equal
    numbers is one document (a run of negative numbers is padding: it attends to itself, and nobody looks at it).

    On a CPU attention runs on *buckets*: documents of like length are laid side by side as (n, longest) and given to
    the causal SDPA kernel. Causal attention never looks to the right, so the filler behind a shorter document is never
    seen and no mask is needed at all; the work is then the sum of the squared document lengths, not the squared row.
    On a GPU Triton's attention goes by `documents` itself; where there is no Triton, a dense mask says which pairs of a row
    lie in one document.
    """

    def __init__(self, B, T, device, documents=None):
        self.B, self.T, self.documents, self.buckets, self.spans, self._new = B, T, documents, None, None, None
        index = torch.arange(T, device=device).expand(B, T)
        self.positions = index                                                # (B, T), restart at each document
        if documents is None:
            return
        new = torch.ones_like(documents, dtype=torch.bool)                    # does a document start here?
        new[:, 1:] = documents[:, 1:] != documents[:, :-1]
        self.positions = index - torch.where(new, index, 0).cummax(dim=1).values
        if device.type == "cpu":
            self._fill_buckets(new)
        self._new = new

    @functools.cached_property
    def mask(self):
        """(B, 1, T, T) of bool: True where the row may see the column; None when a row is one document."""
        if self._new is None:
            return None
        run = self._new.cumsum(dim=1)
        return (run[:, None, :, None] == run[:, None, None, :]) & _band(self.T, 0, run.device)

    def _fill_buckets(self, new):
        """Sorts the documents by length and cuts the list where the next one is less than three quarters as long."""
        starts = new.flatten().nonzero().flatten()                            # row ends are document ends as well
        lengths = torch.diff(starts, append=torch.tensor([self.B * self.T]))
        order = lengths.argsort(descending=True, stable=True)
        sizes = lengths[order].tolist()
        self.buckets, index, real, first = [], [], [], 0                      # buckets: (documents, longest)
        for i in range(1, len(sizes) + 1):
            if i == len(sizes) or sizes[i] < 0.75 * sizes[first] - 8:
                within = torch.arange(sizes[first])
                chosen = order[first:i]
                index.append(starts[chosen, None] + torch.minimum(within, lengths[chosen, None] - 1))
                real.append(within < lengths[chosen, None])
                self.buckets.append((i - first, sizes[first]))
                first = i
        self.gather = torch.cat([i.flatten() for i in index])                 # bucket slot -> token; fillers repeat one
        self.real = torch.cat([r.flatten() for r in real])[:, None]           # not a filler: (slots, 1)
        slots = self.real.flatten().nonzero().flatten()
        self.scatter = torch.empty(self.B * self.T, dtype=torch.long)         # token -> its bucket slot, which fillers are not:
        self.scatter[self.gather[slots]] = slots                              # they see the last token more than once


class _Rows(torch.autograd.Function):
    """x[index] whose backward is also one plain look-up: g[inverse], then zero where `keep` is False.

    True for a gather into slots and back because fillers get no gradient; an ordinary index would scatter-add."""

    @staticmethod
    def forward(ctx, x, index, inverse, keep):
        ctx.inverse, ctx.keep = inverse, keep
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, g):
        g = g.index_select(0, ctx.inverse)
        return (g if ctx.keep is None else g * ctx.keep), None, None, None


def attend(q, k, v, packing, window=0):
    """Causal attention inside each document: q (B, T, H, hd), k and v (B, T, K, hd) -> (B, T, H, hd).

    window > 0: a token sees itself and the window - 1 tokens before it.
    """
    B, T, H, hd = q.shape
    if packing.buckets is None:
        mask = packing.mask
        if window and window < T:
            mask = _band(T, window, q.device) if mask is None else mask & _band(T, window, q.device)
        return _sdpa(q, k, v, mask)
    K = k.shape[2]
    to_slots = (packing.gather, packing.scatter, None)
    q = _Rows.apply(q.reshape(B * T, H * hd), *to_slots)                      # (slots, H*hd)
    k = _Rows.apply(k.reshape(B * T, K * hd), *to_slots)
    v = _Rows.apply(v.reshape(B * T, K * hd), *to_slots)
    out, first = [], 0
    for n, L in packing.buckets:
        part = slice(first, first + n * L)
        mask = _band(L, window, q.device) if window and window < L else None
        o = _sdpa(q[part].view(n, L, H, hd), k[part].view(n, L, K, hd), v[part].view(n, L, K, hd), mask)
        out.append(o.reshape(n * L, H * hd))
        first += n * L
    out = _Rows.apply(torch.cat(out), packing.scatter, packing.gather, packing.real)   # (B*T, H*hd)
    return out.view(B, T, H, hd)


def attend_cached(q, cache, layer, window=0):
    """New tokens of each row against its pages (cache.py), where their keys are written already: q (B, R, H, hd) -> (B, R,
    H, hd). Row b held cache.lengths[b] tokens before them.

    A single token per row is asked of all pages in use at once, in the order of the pool, so no key is copied; maxima, sums
    and results of a row's pages are then joined.
    """
    B, R, H, hd = q.shape
    K, G = cache.k.shape[2], H // cache.k.shape[2]
    if R > 1:
        return _attend_gathered(q, cache, layer, window)
    if ("pages", window) not in cache.memo:                                   # the same for all layers of a step
        cache.memo["pages", window] = _pages_in_use(cache, B, q.dtype, window)
    owner, at, veil = cache.memo["pages", window]
    k, v = cache.k[layer][:len(owner)], cache.v[layer][:len(owner)]           # (P, K, page, hd)
    scores = (q.view(B, K, G, hd) * hd ** -0.5)[owner].to(k.dtype) @ k.transpose(2, 3)        # (P, K, G, page)
    if scores.dtype in (torch.bfloat16, torch.float16):
        scores = scores.float()
    top = scores.add_(veil).amax(dim=-1, keepdim=True)                        # of each page, then of each row
    best = top.new_full((B, K, G, 1), -1e30).scatter_reduce_(0, at.expand_as(top), top, "amax")
    p = scores.sub_(best[owner]).exp_()
    total = torch.zeros_like(best).index_add_(0, owner, p.sum(dim=-1, keepdim=True))
    out = p.new_zeros(B, K, G, hd).index_add_(0, owner, (p.to(v.dtype) @ v).to(p.dtype))
    return out.div_(total).to(q.dtype).view(B, 1, H, hd)


def _pages_in_use(cache, B, dtype, window):
    """The row of each page (P,), the same as (P, 1, 1, 1), and what is added to scores (P, 1, 1, page): 0 for keys that the
    row's next token sees, -inf for the others."""
    owner, start = cache.owner[:cache.used], cache.start[:cache.used]
    start, owner = torch.where(owner < B, start, 2 ** 30), owner.clamp(max=B - 1)     # other rows' pages show nothing
    behind = cache.lengths[owner, None] - start[:, None] - torch.arange(cache.k.shape[3], device=owner.device)      # (P, page)
    hidden = behind < 0 if not window else (behind < 0) | (behind >= window)
    veil = torch.zeros(hidden.shape, dtype=torch.promote_types(dtype, torch.float32), device=owner.device)
    return owner, owner[:, None, None, None], veil.masked_fill_(hidden, float("-inf"))[:, None, None]


def _attend_gathered(q, cache, layer, window):
    """The same for several tokens of few rows, against a copy of their pages in order."""
    B, R, H, hd = q.shape
    K = cache.k.shape[2]
    pages = -(-(int(cache.lengths[:B].max()) + R) // cache.k.shape[3])
    k, v = (x[layer][cache.table[:B, :pages]].transpose(1, 2).flatten(2, 3) for x in (cache.k, cache.v))      # (B, K, S, hd)
    q = q.view(B, R, K, H // K, hd).transpose(1, 2).reshape(B, K, R * (H // K), hd)   # the heads that share a key head
    last = cache.lengths[:B, None] + torch.arange(R, device=q.device)         # (B, R)
    behind = last.repeat_interleave(H // K, dim=1)[..., None] - torch.arange(k.shape[2], device=q.device)     # (B, R G, S)
    hidden = behind < 0 if not window else (behind < 0) | (behind >= window)
    scores = (q.to(k.dtype) @ k.transpose(2, 3)).mul_(hd ** -0.5).masked_fill_(hidden[:, None], float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32 if scores.dtype in (torch.bfloat16, torch.float16) else None)
    out = (weights.to(v.dtype) @ v).to(q.dtype)                               # (B, K, R G, hd)
    return out.view(B, K, R, H // K, hd).transpose(1, 2).reshape(B, R, H, hd)


def _sdpa(q, k, v, mask):
    """torch's fused attention on (B, T, heads, hd) tensors; causal where there is no mask."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask,
                                         is_causal=mask is None, enable_gqa=q.shape[2] != k.shape[2])
    return out.transpose(1, 2)                                                # (B, T, H, hd)


def _band(T, window, device):
    """(T, T) of bool: True where the row may see the column."""
    i = torch.arange(T, device=device)
    distance = i[:, None] - i[None, :]
    return (distance >= 0) & (distance < window) if window else distance >= 0


def linear(x, weight, bias=None):
    """x (..., D) @ weight (N, D).T + bias -> (..., N).

    For the few rows of a decode step on a CPU, oneDNN has a faster product than the one that F.linear takes. It keeps some
    compiled code for each number of rows that it has seen, so that number is rounded up.
    """
    few = x.numel() <= 512 * x.shape[-1] and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if few and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available():
        rows = x.reshape(-1, x.shape[-1])
        short = -rows.shape[0] % 16 if rows.shape[0] > 1 else 0
        y = torch.ops.mkldnn._linear_pointwise(F.pad(rows, (0, 0, 0, short)) if short else rows, weight, bias, "none", [], "")
        return y[:rows.shape[0]].view(*x.shape[:-1], weight.shape[0])
    return F.linear(x, weight, bias)


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


def rms_norm(x, weight, eps):
    """x (..., D) / root mean square * weight, in float32 for the half types and rounded once before the weight,
    as Hugging Face's Llama does (arXiv 1910.07467)."""
    if x.dtype in (torch.bfloat16, torch.float16):
        return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype) * weight
    if x.is_cuda:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    return _RMSNorm.apply(x, weight, eps) if torch.is_grad_enabled() else _normed(x, weight, eps)[0]


def _rotated(x, cos, sin):
    """The rotation without temporaries, which are most of its time on a CPU."""
    out = torch.empty_like(x)
    (a, b), (to_a, to_b) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(a, cos, out=to_a).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=to_b).addcmul_(a, sin)
    return out


class _Rotate(torch.autograd.Function):
    """A rotation's gradient is the rotation back."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, g):
        cos, sin = ctx.saved_tensors
        return _rotated(g, cos, -sin), None, None


def rotate(x, cos, sin):
    """Rotary position embedding (arXiv 2104.09864), the two halves of a head being the pairs, as in Llama's checkpoints:
    x (B, T, heads, hd), cos and sin (B, T, 1, hd/2) -> like x."""
    if x.dtype == cos.dtype and not x.is_cuda:
        return _Rotate.apply(x, cos, sin) if torch.is_grad_enabled() else _rotated(x, cos, sin)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def swiglu(gate, up):
    """silu(gate) * up, arXiv 2002.05202."""
    return F.silu(gate) * up


def row_logprobs(logits, targets, spend=False):
    """Log-softmax of each row at its target: logits (N, V), targets (N,) -> log-probabilities (N,), and what they were made
    of: the logits minus their row's maximum, the exponentials of that (spend=True: both take the logits' own memory) and
    their sums (N, 1). The sampler reports these very numbers."""
    if logits.shape[0] == 1:                              # torch splits a sum to one number over threads, others not
        return tuple(x[:1] for x in row_logprobs(logits.expand(2, -1).contiguous(), targets.expand(2), spend))
    shift, chosen = logits.amax(dim=-1, keepdim=True), logits.gather(1, targets[:, None])
    shifted = logits.sub_(shift) if spend else logits - shift
    p = shifted.exp_() if spend else shifted.exp()
    total = p.sum(dim=-1, keepdim=True)
    return (chosen - shift - total.log()).squeeze(1), shifted, p, total


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature) at the targets, and on request the entropy of the same distribution,
    with as few passes over the logits as possible.

    Rows go through in chunks that stay in a cache. The forward turns a chunk's logits into probabilities in place, and
    keeps them if all of them together are small; the backward turns probabilities into the logits' gradient in place."""

    KEEP = 2 ** 26                                       # floats of probabilities to keep between the passes (256 MB)
    CHUNK = 2 ** 20                                      # logits in a chunk (on a GPU 2^26: fewer, larger products)

    @staticmethod
    def logits(ctx, hidden, weight):
        """(rows, D) -> logits (rows, V), float32 or better."""
        logits = ctx.product(hidden, weight)                                  # (rows, V)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        return logits if ctx.temperature == 1.0 else logits.div_(ctx.temperature)

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, entropy, product):
        N, V = hidden.shape[0], weight.shape[0]
        ctx.product = product
        ctx.rows = max(1, (2 ** 26 if hidden.is_cuda else _TokenLogprobs.CHUNK) // V)
        ctx.set_materialize_grads(False)                                      # an output that nobody used gives None
        ctx.temperature, ctx.kept = temperature, [] if N * V <= _TokenLogprobs.KEEP and any(ctx.needs_input_grad) else None
        chosen_logprobs, entropies = [], []
        for h, t in zip(hidden.split(ctx.rows), targets.split(ctx.rows), strict=True):
            logits = _TokenLogprobs.logits(ctx, h, weight)
            logprobs, shifted, p, total = row_logprobs(logits, t, spend=not entropy)
            chosen_logprobs.append(logprobs)
            if entropy:                                                       # H = log Z - sum p log(p Z)
                entropies.append((total.log() - shifted.mul_(p).sum(dim=-1, keepdim=True) / total).squeeze(1))
            if ctx.kept is not None:
                ctx.kept.append(p.div_(total))
        entropies = torch.cat(entropies) if entropy else None
        ctx.save_for_backward(hidden, weight, targets, entropies)
        return torch.cat(chosen_logprobs), entropies

    @staticmethod
    def backward(ctx, grad, grad_entropy):
        hidden, weight, targets, entropies = ctx.saved_tensors
        grad = torch.zeros_like(targets, dtype=grad_entropy.dtype) if grad is None else grad
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        # spent below, in place; a second backward computes again
        kept, ctx.kept = ctx.kept, None
        for i, at in enumerate(range(0, hidden.shape[0], ctx.rows)):
            part = slice(at, at + ctx.rows)
            h, g, t = hidden[part], grad[part], targets[part]
            if kept is None:
                p = _TokenLogprobs.logits(ctx, h, weight).softmax(dim=-1)
            else:
                p = kept[i]
            g = g.to(p.dtype) / ctx.temperature
            along = g[:, None]                                                # d logits = g (onehot - p)
            if grad_entropy is not None:                                      # and of the entropy: -p (log p + H)
                tiny = torch.finfo(p.dtype).tiny
                e = grad_entropy[part, None].to(p.dtype) / ctx.temperature
                along = along + e * (p.clamp(min=tiny).log() + entropies[part, None])
            p.mul_(-along).scatter_add_(1, t[:, None], g[:, None])
            p = p.to(h.dtype)
            torch.mm(p, weight, out=d_hidden[part])
            d_weight.addmm_(p.T, h)
        return d_hidden, d_weight, None, None, None, None


def token_logprobs(hidden, weight, targets, temperature=1.0, entropy=False, product=F.linear):
    """Log-probability of each target: hidden (..., D), weight (V, D), targets (...) -> (...), float32 or better.
    With entropy=True a pair: also the entropy of the distribution at each place (...), in nats.

    The full (tokens, V) logits live at most once, and not at all where they would be large. Under autocast the product
    is taken in autocast's type, like every other one. product(hidden, weight) makes the logits.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    logprobs, entropies = _TokenLogprobs.apply(hidden.reshape(-1, hidden.shape[-1]), weight.to(hidden.dtype),
                                               targets.reshape(-1), temperature, entropy, product)
    return (logprobs.view(targets.shape), entropies.view(targets.shape)) if entropy else logprobs.view(targets.shape)
