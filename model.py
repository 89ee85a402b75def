"""The transformer: one file that every stage trains, samples and evaluates.

It has pre-norm RMSNorm, grouped-query attention, SwiGLU and rotary embedding. The differences between well-known families are
plain options: QK-norm, q/k/v bias, tied head, norm after the block (OLMo 2), layers without positions (NoPE) or with a sliding
window, attention sinks, a gate for each head, Llama 3 and YaRN scaling. Weights have their Hugging Face names, and a checkpoint
is a Hugging Face folder:

    model, tokenizer = load("some/folder")          # Llama 3.x, Qwen2/2.5, Qwen3, SmolLM 1-3, OLMo 2/3, Granite SWA, ours
    logits = model(tokens)                          # (B, T) -> (B, T, V)

The letters used everywhere:
    B rows   T tokens in a row   D model width   H query heads   K key/value heads   hd head size
    F feed-forward width   V vocabulary   L layers   (P prompts, G completions per prompt in RL)
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import kernels
from formats import huggingface as hf
from kernels import Packing
from tokenizer import Tokenizer
from training.ledger import Costs


def option(default: object, text: str, **more) -> Any:
    """A field of Config that is also a flag of pretrain.py, with this help text (training/flags.py makes the flags). more:
    `choices`, and `flag` if the name of the flag is not the name of the field."""
    return field(default=default, metadata={"help": text} | more)


@dataclass(frozen=True)
class LayerKind:
    """What one kind of attention layer does.

    - rope: its queries and keys carry their position by rotary embedding
    - window: a token sees the last Config.window tokens of its document, itself included, and not all of them
    """
    rope: bool = True
    window: bool = False


# What Config.attention may name. For a new kind add an entry, and a field of LayerKind for what is new about it. A model with a
# kind that Hugging Face's classes do not know is saved as one of our own (formats/huggingface.py, kind_of).
LAYER_KINDS = {"rope": LayerKind(), "nope": LayerKind(rope=False), "window": LayerKind(window=True)}


@dataclass
class Config:
    """The shape of a model. Model options are declared only here: an `option` becomes a flag of pretrain.py, and every field a
    key of config.json (formats/huggingface.py). To add an option, add a line here and use it below."""
    vocab_size: int = 4096
    layers: int = option(4, "layers of a new model")
    width: int = option(128, "model width")
    heads: int = option(4, "query heads")
    kv_heads: int = option(2, "key/value heads")
    head_size: int = 0                   # 0: width / heads
    ff: int = option(0, "feed-forward width; 0: 8/3 of the width")            # rounded up to a multiple of 64
    # the kind of each layer, repeated to fill L; a window layer has RoPE
    attention: tuple = option(("rope",), f"kinds of layers, repeated: {', '.join(LAYER_KINDS)}, as in rope+rope+nope")
    window: int = option(0, "tokens that a window layer sees")                # itself included
    # "head": each head by itself (Qwen3); "full": all heads together (OLMo 2)
    qk_norm: str = option("", "norm of queries and keys", choices=["", "head", "full"])
    # A norm bounds the scores q k. A learnable factor for each head lets them grow as large as without the norm
    qk_scale: bool = option(False, "a learnable factor for each query head, behind the norm of --qk-norm")
    head_gate: bool = option(False, "a sigmoid gate for each head, after attention")                 # arXiv 2505.06708
    # A sink is a learnable score that takes part in the softmax of a head, with a value of 0 (gpt-oss)
    sinks: bool = option(False, "an attention sink for each head")
    qkv_bias: bool = option(False, "bias on q, k and v")                      # Qwen2
    # the output of attention and feed-forward is normed, not their input (OLMo 2)
    norm_after: bool = option(False, "OLMo's placement of the norms")
    # tied: the head is the embedding. Its flag is --untied, and the help is the flag's
    tied: bool = option(True, "a head apart from the embedding", flag="untied")
    eps: float = 1e-6
    rope_theta: float = option(10_000.0, "base of the rotary embedding; none: 10000, or that of --init")
    rope_scaling: dict | None = None     # {"rope_type": "llama3" or "yarn", "factor": ..., ...} as in config.json
    scale_windows: bool = True           # does rope_scaling hold for window layers as well? Not in OLMo 3
    context: int = 2048                  # the length that the model is made for; not enforced

    def __post_init__(self):
        for f in fields(self):
            value, least = getattr(self, f.name), 0 if f.default == 0 else 1
            if f.type is int and (type(value) is not int or value < least):
                raise ValueError(f"{f.name}={value!r} must be a whole number of at least {least}")
            if f.type is int and f.name != "context" and value > hf.LARGEST_SIZE:
                raise ValueError(f"{f.name}={value} is larger than in any model; use {hf.LARGEST_SIZE} at most")
            if f.type is bool and type(value) is not bool:
                raise ValueError(f"{f.name}={value!r} must be true or false")
        if not _number(self.eps) or self.eps < 0:
            raise ValueError(f"eps={self.eps!r} must be a number of at least 0")
        if not _number(self.rope_theta) or self.rope_theta <= 1:
            raise ValueError(f"rope_theta={self.rope_theta!r} must be a number above 1")
        _check_scaling(self.rope_scaling)
        self.eps, self.rope_theta = float(self.eps), float(self.rope_theta)
        self.head_size = self.head_size or self.width // self.heads
        self.ff = self.ff or 64 * math.ceil(8 * self.width / 3 / 64)
        if isinstance(self.attention, str):
            self.attention = self.attention.replace("+", ",").split(",")
        if not self.attention:
            raise ValueError(f"attention is empty: use {', '.join(LAYER_KINDS)}")
        self.attention = tuple(self.attention[i % len(self.attention)] for i in range(self.layers))
        self.scale_windows = self.scale_windows or not (self.rope_scaling and self.window)    # True where it has no effect
        for wrong, message in (
            (set(self.attention) - set(LAYER_KINDS), f"attention={','.join(self.attention)}: use {', '.join(LAYER_KINDS)}"),
            (any(LAYER_KINDS[kind].window for kind in self.attention if kind in LAYER_KINDS) != (self.window > 0),
             f"window={self.window}: layers with a window need its size, and other layers have none (--window N)"),
            (self.heads % self.kv_heads, f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}"),
            (self.head_size < 2 or self.head_size % 2, f"head size {self.head_size} must be even and at least 2 (width / heads)"),
            (self.qk_norm not in ("", "head", "full"), f"qk_norm={self.qk_norm}: use head, full or nothing"),
            (self.qk_scale and not self.qk_norm, "qk_scale is a factor behind a norm, so it needs qk_norm=head or qk_norm=full"),
        ):
            if wrong:
                raise ValueError(message)

    @property
    def windows(self) -> tuple[int, ...]:
        """How many tokens each layer sees, itself included: (L,); 0: all of its document."""
        return tuple(self.window if LAYER_KINDS[kind].window else 0 for kind in self.attention)


def _number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _check_scaling(s):
    """ValueError for a rope_scaling that `rope_frequencies` cannot read."""
    if s is None:
        return
    if not isinstance(s, dict) or s.get("rope_type") not in ("llama3", "yarn"):
        raise ValueError(f"rope_scaling={s!r}: rope_type must be llama3 or yarn")
    needed = ["factor", "original_max_position_embeddings"]
    needed += ["low_freq_factor", "high_freq_factor"] if s["rope_type"] == "llama3" else []
    for key in needed + ["beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"]:
        value = s.get(key)
        if key in needed and (not _number(value) or value <= 0) or value is not None and (not _number(value) or value < 0):
            raise ValueError(f"rope_scaling: {key}={value!r} must be a number above 0")
    if s["rope_type"] == "llama3" and s["high_freq_factor"] <= s["low_freq_factor"]:
        raise ValueError("rope_scaling: high_freq_factor must be above low_freq_factor")


def rope_frequencies(config: Config, scaled: bool = True) -> tuple[Tensor, float]:
    """Angle per position of each pair of a head: (hd/2,) of float32, and YaRN's factor on cos and sin.

    Llama 3 keeps waves that turn at least high_freq_factor times within the old context, slows down those that turn at most
    low_freq_factor times, and interpolates between them. YaRN (arXiv 2309.00071, section 3.2) does the same with other bounds,
    and interpolates linearly in the index of the pair.
    """
    hd, theta, s = config.head_size, config.rope_theta, config.rope_scaling if scaled else None
    frequencies = 1.0 / theta ** (torch.arange(0, hd, 2, dtype=torch.float32) / hd)
    if s is None:
        return frequencies, 1.0
    old, factor = s["original_max_position_embeddings"], s["factor"]
    if s["rope_type"] == "llama3":
        turns = old * frequencies / (2 * math.pi)                             # full turns within the old context
        low, high = s["low_freq_factor"], s["high_freq_factor"]
        # 1: short wave, unchanged; 0: long wave, slowed
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        return frequencies * keep + frequencies / factor * (1 - keep), 1.0

    # the index (a fraction) of the pair with this number of turns
    def pair_with(turns):
        return hd * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(theta))
    low, high = pair_with(s.get("beta_fast") or 32), pair_with(s.get("beta_slow") or 1)
    if s.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, hd - 1)
    slow = ((torch.arange(hd // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    growth = s.get("attention_factor")
    if growth is None:
        def magnitude(m):
            return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0
        both = s.get("mscale") and s.get("mscale_all_dim")
        growth = magnitude(s["mscale"]) / magnitude(s["mscale_all_dim"]) if both else magnitude(1.0)
    return frequencies / factor * slow + frequencies * (1 - slow), growth


@dataclass
class Shared:
    """What all layers of one forward pass share. It is made once, before the first layer."""
    exact: bool                              # True: kernels of exact mode, False: of fast mode
    angles: dict                             # {kind of layer: (cos, sin), or (None, None)}, see Transformer.angles
    packing: Packing | None = None           # the positions of the documents; None if there is a cache
    cache: Any = None                        # engine.cache.KVCache: keys and values of past tokens
    plan: Any = None                         # from kernels.plan_attention or kernels.plan_decoding
    keys_values: list | None = None          # if it is a list, each layer appends its keys and values (k, v)
    watch: Callable | None = None            # called by each layer: watch(its Attention, q, k), as attention gets q and k


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor, exact: bool) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.eps, exact)


class Linear(nn.Linear):
    """A matrix product, in exact or in fast mode.

    role: what the output is. "hidden": a hidden vector; such a matrix can be trained by Muon (training/optim.py). Set another
    role if each output is a separate number: "head", or the scores of a router or a gate."""
    role = "hidden"
    reordered = None                         # the weight by kernels.reorder, in a copy for sampling (engine/weights.py)

    def forward(self, x: Tensor, exact: bool) -> Tensor:
        return kernels.project(x, self.weight, self.bias, exact, self.reordered)


class Attention(nn.Module):
    def __init__(self, c: Config, layer: int):
        super().__init__()
        self.layer, self.kind, self.window = layer, c.attention[layer], c.windows[layer]
        self.heads, self.kv_heads, self.head_size = c.heads, c.kv_heads, c.head_size
        self.q_proj = Linear(c.width, c.heads * c.head_size, bias=c.qkv_bias)
        self.k_proj = Linear(c.width, c.kv_heads * c.head_size, bias=c.qkv_bias)
        self.v_proj = Linear(c.width, c.kv_heads * c.head_size, bias=c.qkv_bias)
        self.o_proj = Linear(c.heads * c.head_size, c.width, bias=False)
        self.qk_norm, self.eps = c.qk_norm, c.eps
        if c.qk_norm:
            full = c.qk_norm == "full"
            self.q_norm = RMSNorm(c.head_size * (c.heads if full else 1), c.eps)
            self.k_norm = RMSNorm(c.head_size * (c.kv_heads if full else 1), c.eps)
        self.qk_scale = nn.Parameter(torch.ones(c.heads)) if c.qk_scale else None
        self.sinks = nn.Parameter(torch.zeros(c.heads)) if c.sinks else None
        self.gate_proj = Linear(c.width, c.heads, bias=False) if c.head_gate else None
        if c.head_gate:
            self.gate_proj.role = "gate"

    def forward(self, x: Tensor, shared: Shared) -> Tensor:                   # (B, T, D) -> (B, T, D)
        B, T, _ = x.shape
        exact, cache = shared.exact, shared.cache
        q, k, v = self.q_proj(x, exact), self.k_proj(x, exact), self.v_proj(x, exact)
        if self.qk_norm == "full":
            q, k = self.q_norm(q, exact), self.k_norm(k, exact)
        q = q.view(B, T, self.heads, self.head_size)                          # (B, T, H, hd)
        k = k.view(B, T, self.kv_heads, self.head_size)                       # (B, T, K, hd)
        v = v.view(B, T, self.kv_heads, self.head_size)                       # (B, T, K, hd)
        q_weight, k_weight = (self.q_norm.weight, self.k_norm.weight) if self.qk_norm == "head" else (None, None)
        cos, sin = shared.angles[self.kind]
        q = kernels.norm_rotate(q, q_weight, cos, sin, self.eps, exact)       # (B, T, H, hd)
        k = kernels.norm_rotate(k, k_weight, cos, sin, self.eps, exact)       # (B, T, K, hd)
        if self.qk_scale is not None:                                         # a rotation and a factor may change places
            q = (q * self.qk_scale[:, None]).to(q.dtype)
        if shared.keys_values is not None:
            shared.keys_values.append((k, v))
        if shared.watch is not None:
            shared.watch(self, q, k)
        how = dict(window=self.window, exact=exact, plan=shared.plan, lse=self.sinks is not None)
        if cache is None:
            y = kernels.attend(q, k, v, shared.packing, **how)                # (B, T, H, hd)
        else:
            cache.write(self.layer, k, v)
            y = kernels.attend_cached(q, *cache.of_layer[self.layer], **how)  # (B, T, H, hd)
        if self.sinks is not None:
            y, lse = y                                                        # lse (B, T, H)
            y = kernels.gate(y, lse - self.sinks, exact)
        if self.gate_proj is not None:
            y = kernels.gate(y, self.gate_proj(x, exact), exact)
        return self.o_proj(y.reshape(B, T, self.heads * self.head_size), exact)


class MLP(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.gate_proj = Linear(c.width, c.ff, bias=False)
        self.up_proj = Linear(c.width, c.ff, bias=False)
        self.down_proj = Linear(c.ff, c.width, bias=False)

    def forward(self, x: Tensor, exact: bool) -> Tensor:                      # (B, T, D) -> (B, T, D)
        return self.down_proj(kernels.swiglu(self.gate_proj(x, exact), self.up_proj(x, exact), exact), exact)


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream. The names of the norms are those in checkpoints.
    `post_attention_layernorm` is before the feed-forward in a pre-norm model; with norm_after it is after attention."""

    def __init__(self, c: Config, layer: int):
        super().__init__()
        self.norm_after = c.norm_after
        self.self_attn, self.mlp = Attention(c, layer), MLP(c)
        self.post_attention_layernorm = RMSNorm(c.width, c.eps)
        if c.norm_after:
            self.post_feedforward_layernorm = RMSNorm(c.width, c.eps)
        else:
            self.input_layernorm = RMSNorm(c.width, c.eps)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:                   # (B, T, D) -> (B, T, D)
        exact = shared.exact
        if self.norm_after:
            x = x + self.post_attention_layernorm(self.self_attn(x, shared), exact)
            return x + self.post_feedforward_layernorm(self.mlp(x, exact), exact)
        x = x + self.self_attn(self.input_layernorm(x, exact), shared)
        return x + self.mlp(self.post_attention_layernorm(x, exact), exact)


class Transformer(nn.Module):
    compiled = False                              # True after compile_layers

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        # True: exact mode; a token gets the same bits in any batch, packing, prefill or decode (kernels/)
        self.exact = False
        self.unused_ids = ()                          # ranges of ids that the tokenizer does not have; their probability is 0
        self.checkpointing = False                # recompute activations in the backward pass, to save memory
        self._frequencies = {}                    # of the rotary embedding, one entry per device
        if torch.get_default_device().type == "meta":       # `load`; random numbers there would import the compiler (seconds)
            self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.width), freeze=False)
        else:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList([Block(config, i) for i in range(config.layers)])
        self.norm = RMSNorm(config.width, config.eps)
        self.lm_head = None if config.tied else Linear(config.width, config.vocab_size, bias=False)
        if self.lm_head is not None:
            self.lm_head.role = "head"
        if not self.embed_tokens.weight.is_meta:  # `load` sets the weights later
            self.apply(self._init)

    def compile_layers(self, **options) -> None:
        """Calls torch.compile for each layer. All layers have the same code, of which the compiler keeps at most 8 graphs. Each
        kind of layer needs its own graphs, with and without gradient, so the limit is raised to 8 for each kind."""
        for layer in self.layers:
            layer.compile(**options)
        torch._dynamo.config.recompile_limit = 8 * len(set(self.config.attention))
        self.compiled = True

    def uncompiled(self) -> contextlib.AbstractContextManager[None]:
        """A context in which layers run without their compiled code. It is for sampling and evaluation: there almost every shape
        is new, and each would use up one of the few graphs that training needs."""
        return torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()

    def _init(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Block):             # what is added to the stream starts small (GPT-2, section 2.3)
            for out in (module.self_attn.o_proj, module.mlp.down_proj):
                nn.init.normal_(out.weight, std=0.02 / math.sqrt(2 * self.config.layers))

    @property
    def head(self) -> Tensor:
        """The output weights (V, D)."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def angles(self, positions: Tensor) -> dict:
        """positions (B, T) -> {kind of layer: (cos, sin)}, each (B, T, 1, hd/2) of float32, shared by all layers of this kind;
        (None, None) for a kind without RoPE.

        Frequencies are no buffers, so that no cast of the model can round them.
        """
        made = {}
        for kind in dict.fromkeys(self.config.attention):
            if not LAYER_KINDS[kind].rope:
                made[kind] = None, None
                continue
            scaled = self.config.scale_windows or not LAYER_KINDS[kind].window
            if (scaled, positions.device) not in self._frequencies:
                frequencies, growth = rope_frequencies(self.config, scaled)
                self._frequencies[scaled, positions.device] = frequencies.to(positions.device), growth
            frequencies, growth = self._frequencies[scaled, positions.device]
            angle = positions[..., None, None].float() * frequencies          # (B, T, 1, hd/2)
            made[kind] = angle.cos() * growth, angle.sin() * growth
            if self.embed_tokens.weight.dtype == torch.float64:
                made[kind] = made[kind][0].double(), made[kind][1].double()
        return made

    def hidden(self, tokens: Tensor, documents: Tensor | None = None, keys_values: list | None = None,
               watch: Callable | None = None) -> Tensor:
        """The last hidden states, after the final norm: tokens (B, T) -> (B, T, D). Each layer appends (k, v) to `keys_values`,
        and calls watch(attention, q, k), for measurements such as engine/attention_mass.py."""
        packing = Packing(*tokens.shape, tokens.device, documents)
        x = self.embed_tokens(tokens)                                         # (B, T, D)
        plan = kernels.plan_attention(packing, x, self.config, self.exact)
        shared = Shared(self.exact, self.angles(packing.positions), packing, plan=plan, keys_values=keys_values,
                        watch=watch)
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, shared, use_reentrant=False)
            else:
                x = layer(x, shared)
        return self.norm(x, self.exact)

    def forward(self, tokens: Tensor, documents: Tensor | None = None, targets: Tensor | None = None, temperature: float = 1.0,
                entropy: bool = False, read: Callable | None = None) -> Tensor | tuple[Tensor, ...]:
        """Logits (B, T, V); or, with targets (B, T), the log-probability of each target (B, T), which needs no logits. With
        entropy=True a pair: the log-probabilities, and the entropy of the distribution at each position (B, T).

        documents (B, T) numbers the packed documents of a row. Positions restart at each new document, and a token attends only
        inside its document. A negative number is padding. None: each row is one document. Training calls this method and not
        the others, because DDP and FSDP act on `forward`. So what else it needs of the last hidden states (B, T, D) and of the
        weights is a function `read(model, hidden)`, whose result is then returned.
        """
        x = self.hidden(tokens, documents)
        if read is not None:
            return read(self, x)
        if targets is None:
            return self.logits(x)                                             # (B, T, V), those of unused ids too
        return self.target_logprobs(x, targets, temperature, entropy)         # (B, T), or two of them

    def target_logprobs(self, hidden: Tensor, targets: Tensor, temperature: float = 1.0,
               entropy: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Log-probabilities of targets (..., ) from hidden states (..., D), as in `forward`. Ids that the tokenizer does not have
        get probability 0, as in sampling."""
        return kernels.token_logprobs(hidden, self.head, targets, temperature, entropy, self.exact, self.unused_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> (..., V)."""
        return kernels.head_logits(hidden, self.head, self.exact, None if self.lm_head is None else self.lm_head.reordered)

    def logprobs(self, tokens: Tensor, documents: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Log-probability of each next token, by the code path that training uses: (B, T) -> (B, T-1)."""
        return self(tokens[:, :-1], None if documents is None else documents[:, :-1], tokens[:, 1:], temperature)

    def prefill(self, tokens: Tensor, documents: Tensor) -> tuple[Tensor, list]:
        """Hidden states of packed prompts (1, T, D), and each layer's keys and values [(k, v)], each (1, T, K, hd)."""
        keys_values = []
        return self.hidden(tokens, documents, keys_values), keys_values

    def decode(self, tokens: Tensor, cache: Any) -> Tensor:
        """Appends R tokens to each of the first B rows of the cache: tokens (B, R) -> hidden states (B, R, D). The pages must be
        reserved already."""
        B, R = tokens.shape
        angles = self.angles(cache.lengths[:B, None] + torch.arange(R, device=tokens.device))
        x = self.embed_tokens(tokens)                                         # (B, R, D)
        shared = Shared(self.exact, angles, cache=cache, plan=kernels.plan_decoding(cache, x, self.config, self.exact))
        for layer in self.layers:
            x = layer(x, shared)
        cache.lengths[:B] += R
        return self.norm(x, self.exact)                                       # (B, R, D)

    def flops_per_token(self, T: int) -> float:
        """Training FLOPs per token by the usual convention: 6 N + 12 L H hd T. It counts all T^2 pairs, though causal attention
        needs only half of them. N: all weights that multiply, so without the embedding table unless it is also the head."""
        return Costs.of(self).usual(T)

    def save(self, folder: str | Path, tokenizer: Tokenizer | None = None, weights: dict | None = None) -> None:
        """Writes a Hugging Face folder: config.json, model.safetensors and the tokenizer's files, each atomically.
        weights: {name: tensor} to write in place of the model's (for example gathered shards)."""
        weights = dict(weights if weights is not None else self.state_dict())
        dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
        eos, bos = (sorted(tokenizer.stop_ids), tokenizer.bos) if tokenizer else (None, None)
        hf.write_folder(folder, hf.config_for(self.config, eos, bos, dtype), weights,
                        tokenizer.generation_config() if tokenizer else None)
        if tokenizer:
            tokenizer.save(folder)


def read_config(folder: str | Path) -> Config:
    """The Config of a Hugging Face folder. FileNotFoundError, or ValueError in one line that names the file and the field."""
    where = Path(folder) / "config.json"
    values = hf.fields_from(hf.read_config(folder), where)
    try:
        return Config(**values)
    except (TypeError, ValueError) as e:                  # TypeError: "fields" has keys that Config does not have
        raise ValueError(f"{where}: {e}") from None


def load(folder: str | Path, device: str | torch.device = "cpu",
         dtype: torch.dtype = torch.float32) -> tuple[Transformer, Tokenizer | None]:
    """Reads a Hugging Face folder, ours or another: (model, tokenizer). The tokenizer is None if the folder has none.

    Raises FileNotFoundError or ValueError, in one line that names the file and what does not fit.
    """
    folder = Path(folder)
    with torch.device("meta"):                                                # no memory until the weights are loaded
        model = Transformer(read_config(folder))
    expected = {name: tuple(w.shape) for name, w in model.state_dict().items()}
    weights, rows = hf.read_weights(folder, expected, device, dtype), model.config.vocab_size
    tokenizer = Tokenizer.load(folder) if (folder / "tokenizer.json").is_file() else None
    if tokenizer is not None and len(tokenizer) > rows:
        raise ValueError(f"{folder}: tokenizer.json has ids up to {len(tokenizer) - 1}, and config.json a vocab_size of {rows}, "
                         f"so {len(tokenizer) - rows} ids have no row in the embedding; use the tokenizer that the model was "
                         "trained with, or enlarge the embedding")
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(True)
    if tokenizer is not None:
        model.unused_ids = tokenizer.unused_ids(rows)
    return model, tokenizer


def load_both(folder: str | Path, device: str | torch.device = "cpu",
              dtype: torch.dtype = torch.float32) -> tuple[Transformer, Tokenizer]:
    """As `load`, where there must be a tokenizer: ValueError without one."""
    check_folder(folder)
    return load(folder, device, dtype)


def check_folder(folder: str | Path) -> None:
    """What load_both would refuse, as far as it shows without reading weights."""
    read_config(folder)
    if not (Path(folder) / "tokenizer.json").is_file():
        raise ValueError(f"{folder}: the folder has no tokenizer.json; copy the model's tokenizer there")
