"""What attention looks at: the share of it that falls on each part of a text, and its entropy, for each layer and head.

Where does a model look when it is asked for a fact from far back? On the first tokens (a place to put attention that is not
needed), on the sentence that says it (the needle), on everything else, or on the question? "RoPE to NoPE and back" (arXiv
2501.18795, section 3) measures these four shares. Attention that is spread evenly has a high entropy and finds nothing.

    found = attention_mass(model, tokens, parts, rows, count=4)       # one LayerMass for each layer
    found[0].mass                                                     # (H, 4): shares of the keys in part 0, 1, 2, 3

The queries and keys are the model's own: `hidden(watch=...)` hands them over as attention gets them, behind QK-norm, rotation and
scaling. So windows, grouped heads, layers without positions and packed documents are measured as they are. Where the model has
attention sinks (Config.sinks), they take part in the softmax: what goes there is a share of its own.

A block of rows is computed at one time, so the memory is bounded however long the text is: there never is a T x T matrix for all
heads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from kernels import Packing
from model import Attention, Transformer

CELLS = 2 ** 22                      # scores that are held at one time: heads x rows of a block x keys


@dataclass
class LayerMass:
    """What one layer looks at, as means over the rows that were asked for.

    layer, kind    its number, and its kind in Config.attention
    mass           (H, parts): the share of each head's attention that falls on each part
    entropy        (H,): of a row of attention, in bits; log2(n) where n keys get the same
    sink           (H,): the share of the learned sink; None where the model has none
    """
    layer: int
    kind: str
    mass: Tensor
    entropy: Tensor
    sink: Tensor | None = None


@torch.no_grad()
def attention_mass(model: Transformer, tokens: Tensor, parts: Tensor, rows: Tensor, count: int,
                   documents: Tensor | None = None) -> list[LayerMass]:
    """The LayerMass of each layer on tokens (B, T).

    parts       (B, T) of whole numbers: the part that each token belongs to, below `count`; a negative number is no part
    rows        (B, T) of bool: the queries that are measured; ValueError where there is none
    documents   (B, T): packed documents, as in Transformer.forward
    """
    if not rows.any():
        raise ValueError("attention needs at least one row to measure")
    if documents is None:                                 # without numbers a GPU takes torch's attention, which may make T x T
        documents = torch.zeros_like(tokens)
    positions, found = Packing(*tokens.shape, tokens.device, documents).positions, []

    def watch(attention: Attention, q: Tensor, k: Tensor) -> None:
        found.append(LayerMass(attention.layer, attention.kind,
                               *of_rows(q, k, positions, parts, rows, count, attention.window, attention.sinks)))
    with model.uncompiled():
        model.hidden(tokens, documents, watch=watch)
    return found


def of_rows(q: Tensor, k: Tensor, positions: Tensor, parts: Tensor, rows: Tensor, count: int,
            window: int = 0, sinks: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """(mass (H, count), entropy (H,), sink (H,) or None) of queries q (B, T, H, hd) and keys k (B, T, K, hd), as means over the
    chosen rows.

    positions (B, T): of each token in its document. A row sees the tokens of its document up to itself, the last `window` of
    them if that is not 0. sinks (H,): one more score of each head, with no key.
    """
    B, T, H, hd = q.shape
    K = k.shape[2]
    dtype = torch.promote_types(q.dtype, torch.float32)
    mass, entropy, sink = q.new_zeros(H, count, dtype=dtype), q.new_zeros(H, dtype=dtype), q.new_zeros(H, dtype=dtype)
    for b in range(B):
        inside = (parts[b] >= 0).to(dtype)                                    # (T,)
        for block in rows[b].nonzero().flatten().split(max(1, CELLS // (H * T))):
            first = block - positions[b, block]                               # (n,): where the document of each row starts
            if window:
                first = torch.maximum(first, block - window + 1)
            low, high = int(first.min()), int(block.max()) + 1
            keys = k[b, low:high].to(dtype).transpose(0, 1)                   # (K, S, hd)
            queries = q[b, block].to(dtype).view(-1, K, H // K, hd).permute(1, 2, 0, 3)      # (K, H/K, n, hd)
            scores = queries.flatten(1, 2) @ keys.transpose(1, 2) * hd ** -0.5               # (K, H/K n, S)
            at = torch.arange(low, high, device=q.device)
            hidden = (at < first[:, None]) | (at > block[:, None])                           # (n, S)
            scores = scores.view(H, -1, high - low).masked_fill_(hidden, -torch.inf)         # (H, n, S)
            if sinks is not None:
                scores = torch.cat([scores, sinks.to(dtype)[:, None, None].expand(H, len(block), 1)], dim=2)
            weights = scores.softmax(dim=-1)
            entropy += torch.special.entr(weights).sum(dim=(1, 2))
            weights = weights.sum(dim=1)                                                     # (H, S), or (H, S + 1)
            if sinks is not None:
                sink += weights[:, -1]
            weights = weights[:, :high - low] * inside[low:high]
            mass.index_add_(1, parts[b, low:high].clamp(min=0), weights)
    n = int(rows.sum())
    return mass / n, entropy / (n * math.log(2)), None if sinks is None else sink / n


def by_layer(texts: Sequence[list[LayerMass]], names: Sequence[str]) -> list[dict]:
    """The means over texts and heads, one dict for each layer: {"layer", "kind", "entropy", and the share of each part}, with
    "sink" where the model has sinks."""
    found = []
    for same in zip(*texts, strict=True):                                     # one layer, of every text
        mass = torch.stack([one.mass for one in same]).double().mean(dim=(0, 1))             # (parts,)
        found.append({"layer": same[0].layer, "kind": same[0].kind,
                      "entropy": round(mean(float(one.entropy.mean()) for one in same), 4),
                      **{name: round(float(share), 5) for name, share in zip(names, mass, strict=True)},
                      **({"sink": round(mean(float(one.sink.mean()) for one in same), 5)} if same[0].sink is not None else {})})
    return found


def by_kind(layers: Sequence[dict]) -> list[dict]:
    """The means over the layers of each kind: {"kind", "layers": how many, "entropy", and the share of each part}."""
    kinds = {}
    for layer in layers:
        kinds.setdefault(layer["kind"], []).append(layer)
    return [{"kind": kind, "layers": len(same)} | {
        name: round(mean(layer[name] for layer in same), 5) for name in same[0] if name not in ("layer", "kind")}
        for kind, same in kinds.items()]
