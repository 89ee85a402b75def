"""The blocks of the transformer in plain PyTorch: the CPU path, the fallback on a GPU, and the form to read first.

Letters as in model.py: B rows, T tokens in a row, H query heads, K key/value heads, hd head size, D width, V vocabulary.
"""

import torch
import torch.nn.functional as F


class Packing:
    """Where each document of a batch lies, worked out once per forward pass and used by every layer.

    documents (B, T) numbers the packed documents of each row, or is None when a row is one document. A run of equal
    numbers is one document (a run of negative numbers is padding: it attends to itself, and nobody looks at it).

    On a CPU attention runs on *buckets*: documents of like length are laid side by side as (n, longest) and given to
    the causal SDPA kernel. Causal attention never looks to the right, so the filler behind a shorter document is never
    seen and no mask is needed at all; the work is then the sum of the squared document lengths, not the squared row.
    On a GPU the shapes must not depend on the data (torch.compile, no waiting for the device), so there a dense mask
    says which pairs of a row lie in one document.
    """

    def __init__(self, B, T, device, documents=None):
        self.B, self.T, self.buckets, self.mask = B, T, None, None
        index = torch.arange(T, device=device).expand(B, T)
        self.positions = index                                                # (B, T), restart at each document
        if documents is None:
            return
        new = torch.ones_like(documents, dtype=torch.bool)                    # does a document start here?
        new[:, 1:] = documents[:, 1:] != documents[:, :-1]
        self.positions = index - torch.where(new, index, 0).cummax(dim=1).values
        if device.type == "cpu":
            self._fill_buckets(new)
        else:
            run = new.cumsum(dim=1)
            self.mask = (run[:, None, :, None] == run[:, None, None, :]) & _band(T, 0, device)   # (B, 1, T, T)

    def _fill_buckets(self, new):
        """Sorts the documents by length and cuts the list where the next one is less than three quarters as long."""
        starts = new.flatten().nonzero().flatten()                            # row ends are document ends as well
        lengths = torch.diff(starts, append=torch.tensor([self.B * self.T]))
        order = lengths.argsort(descending=True, stable=True)
        sizes = lengths[order].tolist()
        self.buckets, index, first = [], [], 0                                # buckets: (documents, longest)
        for i in range(1, len(sizes) + 1):
            if i == len(sizes) or sizes[i] < 0.75 * sizes[first] - 8:
                within = torch.arange(sizes[first])
                chosen = order[first:i]
                index.append(starts[chosen, None] + torch.minimum(within, lengths[chosen, None] - 1))
                self.buckets.append((i - first, sizes[first]))
                first = i
        self.gather = torch.cat([i.flatten() for i in index])                 # bucket slot -> token; fillers repeat one
        slots = torch.arange(self.gather.numel())
        self.scatter = torch.empty(self.B * self.T, dtype=torch.long)         # token -> its bucket slot
        self.scatter[self.gather.flip(0)] = slots.flip(0)                     # of repeated slots the first one counts
        self.real = torch.zeros(slots.numel(), 1, dtype=torch.bool)
        self.real[self.scatter] = True


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


def attend_cached(q, k, v, lengths, window=0):
    """One new token per row against its cache: q (B, 1, H, hd), k and v (B, K, S, hd), lengths (B,) -> (B, 1, H, hd).

    Row b sees its first lengths[b] cache slots, the new token's own included.
    """
    B, _, H, hd = q.shape
    K, S = k.shape[1], k.shape[2]
    q = q.view(B, K, H // K, hd)                                              # the heads that share a key head
    slot = torch.arange(S, device=q.device)
    hidden = slot >= lengths[:, None]                                         # (B, S)
    if window:
        hidden = hidden | (slot < lengths[:, None] - window)
    scores = (q @ k.transpose(2, 3)).mul_(hd ** -0.5)                         # (B, K, H/K, S)
    scores = scores.masked_fill_(hidden[:, None, None, :], float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32 if scores.dtype in (torch.bfloat16, torch.float16) else None)
    return (weights.to(v.dtype) @ v).view(B, 1, H, hd)


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


def rms_norm(x, weight, eps):
    """x (..., D) / root mean square * weight, in float32 for the half types and rounded once before the weight,
    as Hugging Face's Llama does (arXiv 1910.07467)."""
    if x.dtype in (torch.bfloat16, torch.float16):
        return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype) * weight
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def rotate(x, cos, sin):
    """Rotary position embedding (arXiv 2104.09864), the two halves of a head being the pairs, as in Llama's checkpoints:
    x (B, T, heads, hd), cos and sin (B, T, 1, hd/2) -> like x."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature) at the targets, with as few passes over the logits as possible.

    The forward turns the logits into probabilities in place; the backward turns those into the logits' gradient in
    place. Where (N, V) is too big to keep, rows go through in chunks and the backward computes them again."""

    KEEP = 2 ** 26                                       # floats of probabilities to keep between the passes (256 MB)

    @staticmethod
    def probabilities(hidden, weight, temperature):
        """(rows, D) -> their probabilities (rows, V) and log normalisers (rows,), float32 or better."""
        logits = hidden @ weight.T                                            # (rows, V)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        if temperature != 1.0:
            logits /= temperature
        norm = logits.logsumexp(dim=-1)
        return logits, norm

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        N, V = hidden.shape[0], weight.shape[0]
        keep = N * V <= _TokenLogprobs.KEEP
        rows = N if keep else max(1, _TokenLogprobs.KEEP // 4 // V)
        out, kept = [], None
        for i in range(0, N, rows):
            logits, norm = _TokenLogprobs.probabilities(hidden[i:i + rows], weight, temperature)
            out.append(logits.gather(1, targets[i:i + rows, None]).squeeze(1) - norm)
            if keep and any(ctx.needs_input_grad):
                kept = logits.sub_(norm[:, None]).exp_()
        ctx.save_for_backward(hidden, weight, targets, kept)
        ctx.temperature, ctx.rows = temperature, rows
        return torch.cat(out)

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, targets, kept = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), None
        for i in range(0, hidden.shape[0], ctx.rows):
            h, g, t = hidden[i:i + ctx.rows], grad[i:i + ctx.rows], targets[i:i + ctx.rows]
            if kept is None:
                logits, norm = _TokenLogprobs.probabilities(h, weight, ctx.temperature)
                p = logits.sub_(norm[:, None]).exp_()
            else:
                p = kept                                                      # spent here: a second backward must fail
            g = g.to(p.dtype) / ctx.temperature
            p.mul_(-g[:, None]).scatter_add_(1, t[:, None], g[:, None])       # d logits = g (onehot - p)
            p = p.to(h.dtype)
            d_hidden[i:i + ctx.rows] = p @ weight
            part = p.T @ h                                                    # (V, D)
            d_weight = part if d_weight is None else d_weight.add_(part)
        return d_hidden, d_weight, None, None


def token_logprobs(hidden, weight, targets, temperature=1.0):
    """Log-probability of each target: hidden (..., D), weight (V, D), targets (...) -> (...), float32 or better.

    The full (tokens, V) logits live at most once, and not at all where they would be large.
    """
    flat = _TokenLogprobs.apply(hidden.reshape(-1, hidden.shape[-1]), weight.to(hidden.dtype), targets.reshape(-1), temperature)
    return flat.view(targets.shape)
