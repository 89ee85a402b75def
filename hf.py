"""Hugging Face folders: config.json to and from our Config's fields, and weights in (sharded) safetensors files.

A checkpoint of nanothink *is* such a folder, so this file is the whole of import and export. It knows the Llama, Qwen2,
Qwen3, SmolLM3, OLMo 2 and OLMo 3 kinds (SmolLM and SmolLM2 call themselves Llama). Weight names are the same on both
sides except for the prefix "model.", which theirs have and ours lack.

Simpler than transformers: no weights other than safetensors, no quantised weights, no biases but q, k and v.
"""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

KINDS = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
         "smollm3": "SmolLM3ForCausalLM",
         "olmo2": "Olmo2ForCausalLM", "olmo3": "Olmo3ForCausalLM", "nanothink": "NanothinkForCausalLM"}
THETA = {"smollm3": 2_000_000.0, "olmo3": 500_000.0}      # where config.json is silent; 10,000 for the others


def fields_from(hf, where="config.json"):
    """config.json of any known kind (dict) -> the fields of our Config (dict). ValueError names what cannot be read."""
    kind = hf.get("model_type")
    if kind not in KINDS:
        raise ValueError(f"{where}: model_type {kind!r} is not one of {', '.join(KINDS)}")
    if kind == "nanothink":
        return dict(hf["fields"])
    for key, wanted in (("hidden_act", "silu"), ("mlp_bias", False), ("quantization_config", None),
                        ("partial_rotary_factor", 1.0)):
        if hf.get(key, wanted) != wanted:
            raise ValueError(f"{where}: {key}={hf[key]!r} is not supported, only {wanted!r}")
    if kind != "qwen2" and hf.get("attention_bias"):
        raise ValueError(f"{where}: attention_bias is supported for qwen2 only")
    try:
        layers, width, heads = hf["num_hidden_layers"], hf["hidden_size"], hf["num_attention_heads"]
        fields = {
            "vocab_size": hf["vocab_size"], "layers": layers, "width": width, "heads": heads,
            "kv_heads": hf.get("num_key_value_heads") or heads, "head_size": hf.get("head_dim") or width // heads,
            "ff": hf["intermediate_size"], "tied": bool(hf.get("tie_word_embeddings", kind == "smollm3")),
            "eps": hf.get("rms_norm_eps", 1e-5 if kind in ("olmo2", "olmo3") else 1e-6),
            "context": hf.get("max_position_embeddings", 2048), "qkv_bias": kind == "qwen2",
            "qk_norm": {"qwen3": "head", "olmo2": "full", "olmo3": "full"}.get(kind, ""),
            "norm_after": kind in ("olmo2", "olmo3"),
        }
    except KeyError as missing:
        raise ValueError(f"{where}: field {missing} is missing") from None
    fields["attention"], fields["window"] = _attention(hf, kind, layers)
    fields["rope_theta"], fields["rope_scaling"] = _rope(hf, kind)
    return fields


def _attention(hf, kind, layers):
    """The kind of each layer ("rope", "nope", "window"), and the window."""
    types = hf.get("layer_types")
    if types is None and kind == "olmo3":
        types = ["full_attention" if (i + 1) % 4 == 0 else "sliding_attention" for i in range(layers)]
    if types is None and hf.get("use_sliding_window") and kind in ("qwen2", "qwen3"):
        types = ["sliding_attention" if i >= hf.get("max_window_layers", 28) else "full_attention" for i
                 in range(layers)]
    kinds = ["window" if t == "sliding_attention" else "rope" for t in types] if types else ["rope"] * layers
    if kind == "smollm3":
        step = hf.get("no_rope_layer_interval", 4)
        has_rope = hf.get("no_rope_layers") or [(i + 1) % step != 0 for i in range(layers)]
        if any(k == "window" and not r for k, r in zip(kinds, has_rope)):
            raise ValueError("config.json: a sliding window without RoPE is not supported")
        kinds = [k if r else "nope" for k, r in zip(kinds, has_rope)]
    return tuple(kinds), (hf.get("sliding_window") or 0) if "window" in kinds else 0


def _rope(hf, kind):
    """(theta, scaling or None) from the new spelling (rope_parameters) or the old one (rope_theta, rope_scaling)."""
    new = hf.get("rope_parameters") or {}
    # one set for each kind of layer: only the full ones may scale
    if "full_attention" in new:
        window = new.get("sliding_attention") or {}
        if window.get("rope_type", "default") != "default" or window.get("rope_theta") not in (None,
                new["full_attention"].get("rope_theta")):
            raise ValueError("config.json: windowed layers with a RoPE of their own are not supported")
        new = new["full_attention"]
    scaling = {**new, **(hf.get("rope_scaling") or {})}
    theta = scaling.pop("rope_theta", None) or hf.get("rope_theta") or THETA.get(kind, 10_000.0)
    scaling["rope_type"] = scaling.pop("type", None) or scaling.get("rope_type", "default")
    if scaling.pop("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("config.json: partial_rotary_factor is not supported")
    if scaling["rope_type"] == "default":
        return float(theta), None
    if scaling["rope_type"] not in ("llama3", "yarn"):
        raise ValueError(f"config.json: RoPE scaling {scaling['rope_type']!r} is not supported, only llama3 and yarn")
    scaling.setdefault("original_max_position_embeddings", hf.get("max_position_embeddings", 2048))
    return float(theta), scaling


def config_for(c, eos=None, bos=None, dtype="float32"):
    """Our Config -> config.json (dict) of the kind that has the same architecture, or of our own kind if none has."""
    scaled = {"rope_type": "default", **(c.rope_scaling or {}), "rope_theta": c.rope_theta}
    hf = {"model_type": kind_of(c), "vocab_size": c.vocab_size, "hidden_size": c.width, "intermediate_size": c.ff,
          "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
          "head_dim": c.head_size,
          "hidden_act": "silu", "max_position_embeddings": c.context, "rms_norm_eps": c.eps,
          "tie_word_embeddings": c.tied,
          "attention_bias": c.qkv_bias, "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
          "torch_dtype": dtype,
          "rope_theta": c.rope_theta, "rope_parameters": scaled,
          "eos_token_id": eos, "bos_token_id": bos, "pad_token_id": None}
    if c.rope_scaling:
        hf["rope_scaling"] = c.rope_scaling
    if c.norm_after:
        del hf["head_dim"]                                 # these classes always take width / heads
    if hf["model_type"] in ("qwen2", "qwen3", "smollm3", "olmo3"):
        hf["layer_types"] = ["sliding_attention" if a == "window" else "full_attention" for a in c.attention]
        hf["sliding_window"] = c.window or None
        hf["use_sliding_window"] = bool(c.window)
    if hf["model_type"] == "smollm3":
        hf["no_rope_layers"] = [int(a != "nope") for a in c.attention]
    if hf["model_type"] == "olmo3":
        hf["rope_parameters"] = {"full_attention": scaled,
                                 "sliding_attention": {"rope_type": "default", "rope_theta": c.rope_theta}}
    if hf["model_type"] == "nanothink":
        hf["fields"] = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(c).items()}
    hf["architectures"] = [KINDS[hf["model_type"]]]
    return hf


def kind_of(c):
    """The simplest Hugging Face kind with exactly this architecture; "nanothink" where there is none."""
    plain_heads = c.head_size * c.heads == c.width         # some classes cannot take another head size
    kinds = set(c.attention)
    if c.norm_after:
        if c.qk_norm == "full" and plain_heads and not c.qkv_bias and "nope" not in kinds:
            if "window" in kinds:
                return "olmo3"
            return "olmo2"
        return "nanothink"
    if c.qk_norm == "full" or (c.qkv_bias and (c.qk_norm or "nope" in kinds)) or (c.qk_norm and "nope" in kinds):
        return "nanothink"
    if c.qk_norm == "head":
        return "qwen3"
    if c.qkv_bias:
        return "qwen2" if plain_heads else "nanothink"
    if kinds == {"rope"}:
        return "llama"
    return "smollm3" if plain_heads else "nanothink"


def read_config(folder):
    """folder/config.json -> dict. FileNotFoundError or ValueError in one line that names the file."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a folder that holds config.json and model.safetensors")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: not valid JSON ({e})") from None


def read_weights(folder, expected, device="cpu", dtype=torch.float32):
    """Reads the weights that a model of ours expects.

    expected: {our name: shape}. Returns {our name: tensor}. Every name that is missing, unknown or of another shape is
    listed in one ValueError; nothing is skipped in silence. With tied embeddings a file may repeat the embedding as
    the head if it is the same.
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    files = [folder / name for name in sorted(names)]
    weights, wrong = {}, []
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; the folder must hold model.safetensors or all files of its index")
        try:
            with safe_open(file, framework="pt", device=str(device)) as f:
                for name in f.keys():
                    if name.endswith("rotary_emb.inv_freq"):
                        continue                           # old checkpoints store it; it follows from the config
                    ours = name.removeprefix("model.")
                    shape = tuple(f.get_slice(name).get_shape())
                    if ours == "lm_head.weight" and ours not in expected:
                        if not torch.equal(f.get_tensor(name), _embedding(files, device)):
                            wrong.append("lm_head.weight differs from the embedding, yet config.json ties them")
                    elif ours not in expected:
                        wrong.append(f"{name} {shape} is not part of this architecture")
                    elif shape != tuple(expected[ours]):
                        wrong.append(f"{name} has shape {shape}, config.json says {tuple(expected[ours])}")
                    else:
                        weights[ours] = f.get_tensor(name).to(dtype)
                        if not bool(torch.isfinite(weights[ours]).all()):
                            wrong.append(f"{name} holds NaN or infinity" + f" as {dtype}".replace("torch.", ""))
        except SafetensorError as e:
            raise ValueError(f"{file}: not a whole safetensors file ({e}); fetch or save it again") from None
    seen = {w.split(" ")[0].removeprefix("model.") for w in wrong}
    wrong += [f"{name} is missing" for name in expected if name not in weights and name not in seen]
    if wrong:
        raise ValueError(f"{folder}: {len(wrong)} weights do not fit config.json: " + "; ".join(wrong[:20])
                         + ("; ..." if len(wrong) > 20 else ""))
    return weights


def _embedding(files, device):
    for file in files:
        with safe_open(file, framework="pt", device=str(device)) as f:
            if "model.embed_tokens.weight" in f.keys():
                return f.get_tensor("model.embed_tokens.weight")
    return torch.empty(0)


def write_folder(folder, config, weights):
    """Writes config.json (dict) and model.safetensors ({our name: tensor}), each under a temporary name, then renamed."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    named = {name if name.startswith("lm_head") else f"model.{name}": w.detach().cpu().contiguous() for name,
             w in weights.items()}
    write_atomically(folder / "model.safetensors", lambda path: save_file(named, path, metadata={"format": "pt"}))
    write_atomically(folder / "config.json", lambda path: Path(path).write_text(json.dumps(config, indent=1) + "\n"))


def write_atomically(path, write):
    """Calls write(temporary path), flushes it to disk and renames it over `path`; on failure the old file stays."""
    temporary = Path(f"{path}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
