"""Hugging Face folders: config.json to and from our Config's fields, and weights in (sharded) safetensors files.

A checkpoint of nanothink *is* such a folder, so this file is all of import and export. It knows the Llama, Qwen2, Qwen3, SmolLM3,
OLMo 2, OLMo 3 and Granite SWA (attention sinks) architectures (SmolLM and SmolLM2 call themselves Llama). Weight names are the
same on both sides, except for the prefix "model." of Hugging Face.

Simpler than transformers:
- weights only in safetensors files, not quantised;
- no biases except those of q, k and v;
- no dropout (attention_dropout, which only matters in training, is ignored).
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from formats.files import read_json, remove, write_atomically, write_json

KINDS = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
         "smollm3": "SmolLM3ForCausalLM", "granite_swa": "GraniteSWAForCausalLM",
         "olmo2": "Olmo2ForCausalLM", "olmo3": "Olmo3ForCausalLM", "nanothink": "NanothinkForCausalLM"}
# The defaults of transformers for fields that config.json lacks: those of all families, then those of single families.
COMMON = {"num_key_value_heads": None, "head_dim": None, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
          "max_position_embeddings": 2048, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
          "layer_types": None, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28,
          "no_rope_layers": None, "no_rope_layer_interval": 4, "layer_rope_theta": None}
QWEN = {"num_key_value_heads": 32, "max_position_embeddings": 32_768, "sliding_window": 4096}
DEFAULTS = {"llama": {}, "qwen2": QWEN, "qwen3": QWEN | {"head_dim": 128},
            "smollm3": {"num_key_value_heads": 4, "max_position_embeddings": 32_768, "tie_word_embeddings": True,
                        "rope_theta": 2_000_000.0},
            "granite_swa": {"num_key_value_heads": 4, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192,
                            "tie_word_embeddings": True, "sliding_window": 128, "attention_multiplier": 1.0},
            "olmo2": {"rms_norm_eps": 1e-5},
            "olmo3": {"rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "sliding_window": 4096}}
WHOLE = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")       # no defaults
# No model has a larger size, so a larger one in config.json is an error. (Three of this size make 2 ** 60 elements of a tensor,
# a number that still fits into torch's 64-bit integers.)
LARGEST_SIZE = 2 ** 20
OPTIONAL = ("num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window", "no_rope_layer_interval")
SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window")


# Fields of our Config that Hugging Face's architectures can express. If any other field is set, model_type is "nanothink", which
# keeps every field.
EXPRESSED = {"vocab_size", "layers", "width", "heads", "kv_heads", "head_size", "ff", "attention", "window", "qk_norm",
             "qkv_bias", "tied", "norm_after", "eps", "rope_theta", "rope_scaling", "scale_windows", "context", "sinks"}
# Fields of config.json with the one value that is supported; our own kind has no others of these, and says the rest in `fields`.
ONLY = {"hidden_act": "silu", "mlp_bias": False, "quantization_config": None, "partial_rotary_factor": 1.0, "is_causal": True}
UNSAID = "layer_types", "sliding_window", "use_sliding_window", "no_rope_layers", "layer_rope_theta"
# what config.json of our own kind says twice: {its field: ours}
TWICE = {"vocab_size": "vocab_size", "hidden_size": "width", "intermediate_size": "ff", "num_hidden_layers": "layers",
         "num_attention_heads": "heads", "num_key_value_heads": "kv_heads", "head_dim": "head_size",
         "max_position_embeddings": "context", "rms_norm_eps": "eps", "tie_word_embeddings": "tied", "attention_bias": "qkv_bias",
         "rope_theta": "rope_theta", "rope_scaling": "rope_scaling"}
FACTORS = "embedding_multiplier", "residual_multiplier", "logits_scaling"     # of Granite; ours are all 1


def fields_from(hf: dict, where: str | Path = "config.json") -> dict:
    """config.json of any known kind (dict) -> the fields of our Config (dict). ValueError names what cannot be read.

    A field that changes the result in transformers is used or refused; tests/formats/test_folders.py tries each one."""
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{where}: model_type {kind!r} is not one of {', '.join(KINDS)}")
    if kind == "nanothink":
        return _own_fields(hf, where)
    silent = COMMON | DEFAULTS[kind]
    hf = silent | hf
    for key in WHOLE + OPTIONAL:
        if key not in hf:
            raise ValueError(f"{where}: field {key!r} is missing")
        if (type(hf[key]) is not int or hf[key] < 1) and not (key in OPTIONAL and hf[key] is None):
            raise ValueError(f"{where}: {key}={hf[key]!r} must be a whole number above 0")
        if key != "max_position_embeddings" and hf[key] is not None and hf[key] > LARGEST_SIZE:
            raise ValueError(f"{where}: {key}={hf[key]} is larger than in any model; fetch or write config.json again")
    for key in SWITCHES:
        if type(hf[key]) is not bool:
            raise ValueError(f"{where}: {key}={hf[key]!r} must be true or false")
    if type(hf["max_window_layers"]) is not int:
        raise ValueError(f"{where}: max_window_layers={hf['max_window_layers']!r} must be a whole number")
    _refuse_others(hf, ONLY | (dict.fromkeys(FACTORS, 1.0) if kind == "granite_swa" else {}), where)
    if kind != "qwen2" and hf["attention_bias"]:
        raise ValueError(f"{where}: attention_bias is supported for qwen2 only")
    layers, width, heads = hf["num_hidden_layers"], hf["hidden_size"], hf["num_attention_heads"]
    context = hf["max_position_embeddings"] or silent["max_position_embeddings"]
    fields = {
        "vocab_size": hf["vocab_size"], "layers": layers, "width": width, "heads": heads,
        "kv_heads": hf["num_key_value_heads"] or heads, "head_size": hf["head_dim"] or width // heads,
        "ff": hf["intermediate_size"], "tied": hf["tie_word_embeddings"], "eps": hf["rms_norm_eps"], "context": context,
        "qkv_bias": kind == "qwen2", "qk_norm": {"qwen3": "head", "olmo2": "full", "olmo3": "full"}.get(kind, ""),
        "norm_after": kind in ("olmo2", "olmo3"), "scale_windows": kind != "olmo3", "sinks": kind == "granite_swa",
    }
    thetas = _thetas(hf, layers, where) if kind == "granite_swa" else []
    if kind == "granite_swa" and hf["attention_multiplier"] != fields["head_size"] ** -0.5:
        raise ValueError(f"{where}: attention_multiplier={hf['attention_multiplier']!r} is not supported, only "
                         f"{fields['head_size'] ** -0.5!r}, 1 / sqrt(head size)")
    fields["attention"], fields["window"] = _attention(hf, kind, layers, thetas, where)
    fields["rope_theta"], fields["rope_scaling"] = _rope(hf, kind, context, "window" in fields["attention"], where)
    fields["rope_theta"] = max(thetas, default=0) or fields["rope_theta"]     # a list of them wins
    return fields


def _own_fields(hf, where):
    """The fields in a config.json of our own kind, which says many of them a second time, for people and tools."""
    fields = hf.get("fields")
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: field 'fields' is missing")
    for theirs, ours in TWICE.items():
        if theirs in hf and ours in fields and hf[theirs] != fields[ours]:
            raise ValueError(f"{where}: {theirs}={hf[theirs]!r}, yet {ours}={fields[ours]!r} in 'fields'; make them the same")
    if said := [key for key in UNSAID if hf.get(key)]:
        raise ValueError(f"{where}: {said[0]}={hf[said[0]]!r} is not read; change 'fields', which says it in this kind of model")
    _refuse_others(hf, ONLY, where)
    return dict(fields)


def _refuse_others(hf, only, where):
    for key, wanted in only.items():
        if hf.get(key, wanted) != wanted:
            raise ValueError(f"{where}: {key}={hf[key]!r} is not supported, only {wanted!r}")


def _thetas(hf, layers, where):
    """Granite's base of the rotary embedding of each layer, 0 for none; empty where it gives none."""
    thetas = hf["layer_rope_theta"]
    if thetas is None:
        return []
    if not isinstance(thetas, list) or len(thetas) != layers or any(type(x) not in (int, float) or x < 0 for x in thetas):
        raise ValueError(f"{where}: layer_rope_theta={thetas!r} must be a list with a number for each of {layers} layers")
    if len({x for x in thetas if x}) > 1:
        raise ValueError(f"{where}: layer_rope_theta={thetas!r} is not supported, only one base for all layers with RoPE")
    return thetas


def _attention(hf, kind, layers, thetas, where):
    """The kind of each layer ("rope", "nope", "window"), and the window."""
    slides = kind in ("olmo3", "granite_swa") or (kind in ("qwen2", "qwen3", "smollm3") and hf["use_sliding_window"])
    window, types = hf["sliding_window"] if slides else None, hf["layer_types"]
    has_rope = [bool(x) for x in thetas] or [True] * layers
    if kind == "smollm3":
        has_rope = hf["no_rope_layers"]
        if has_rope is None:
            has_rope = [(i + 1) % (hf["no_rope_layer_interval"] or 4) != 0 for i in range(layers)]
        if not isinstance(has_rope, list) or len(has_rope) < layers or any(r not in (0, 1) for r in has_rope):
            raise ValueError(f"{where}: no_rope_layers={has_rope!r} must be a list with a 0 or 1 for each of {layers} layers")
    if types is None:
        slide = {"olmo3": lambda i: (i + 1) % 4 != 0, "granite_swa": lambda i: i % 4 != 0,
                 "smollm3": lambda i: window and not has_rope[i],
                 "qwen2": lambda i: window and i >= hf["max_window_layers"]}
        slide = slide.get("qwen2" if kind == "qwen3" else kind, lambda i: False)
        types = ["sliding_attention" if slide(i) else "full_attention" for i in range(layers)]
    if not isinstance(types, list) or len(types) != layers or any(
            t not in ("full_attention", "sliding_attention") for t in types):
        raise ValueError(f"{where}: layer_types={types!r} must be a list of full_attention or sliding_attention for each of "
                         f"{layers} layers")
    if "sliding_attention" in types and not window:
        raise ValueError(f"{where}: layer_types has sliding_attention, yet " + ("there is no sliding_window" if slides else
                         f"{kind} has none" if kind in ("llama", "olmo2") else "use_sliding_window is false"))
    kinds = []
    for sliding, rope in zip([t == "sliding_attention" for t in types], has_rope):
        if sliding and not rope:
            raise ValueError(f"{where}: a sliding window without RoPE is not supported")
        kinds.append("window" if sliding else "rope" if rope else "nope")
    return tuple(kinds), window if "window" in kinds else 0


def _rope(hf, kind, context, windows, where):
    """(theta, scaling or None) from the new field (rope_parameters) or the old fields (rope_theta, rope_scaling)."""
    new, old = hf.get("rope_parameters") or {}, hf.get("rope_scaling") or {}
    for key, value in (("rope_parameters", new), ("rope_scaling", old)):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {key}={value!r} must be an object")
    kinds = {"full_attention", "sliding_attention"}
    if (new and bool(set(new) & kinds) != (kind == "olmo3")) or set(old) & kinds:
        raise ValueError(f"{where}: rope_parameters must {'' if kind == 'olmo3' else 'not '}be given for each kind of layer, "
                         "full_attention and sliding_attention" + (", in OLMo 3" if kind == "olmo3" else ""))
    if kind == "olmo3":                                    # one set for each kind of layer; only the full one may have scaling
        full, window = new.get("full_attention") or {}, new.get("sliding_attention") or {}
        scaling = {**full, **old}
        theta = scaling.pop("rope_theta", hf["rope_theta"])
        own = window.get("rope_theta", DEFAULTS[kind]["rope_theta"])          # the theta of config.json is only for full layers
        if windows and (window.get("rope_type", "default") != "default" or own != theta):
            raise ValueError(f"{where}: a separate RoPE for windowed layers is not supported (theta {own!r} and {theta!r})")
    else:
        scaling = dict(old or new)
        theta = scaling.pop("rope_theta", hf["rope_theta"])
    scaling["rope_type"] = scaling.get("rope_type") or scaling.get("type") or "default"
    scaling.pop("type", None)
    if scaling.pop("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"{where}: partial_rotary_factor is not supported")
    if scaling["rope_type"] == "default":
        return theta, None
    if scaling["rope_type"] not in ("llama3", "yarn"):
        raise ValueError(f"{where}: RoPE scaling {scaling['rope_type']!r} is not supported, only llama3 and yarn")
    length = hf.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings") or context
    scaling["original_max_position_embeddings"] = length
    if "factor" in scaling and scaling["factor"] is None and scaling["rope_type"] == "yarn":
        scaling["factor"] = context / length
    return theta, scaling


def config_for(c: Any, eos: list[int] | None = None, bos: int | None = None, dtype: str = "float32") -> dict:
    """Our Config -> config.json (dict) of the Hugging Face kind with the same architecture, or of our own kind."""
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
        del hf["head_dim"]                                 # these classes always use width / heads
    if hf["model_type"] in ("qwen2", "qwen3", "smollm3", "olmo3", "granite_swa"):
        hf["layer_types"] = ["sliding_attention" if a == "window" else "full_attention" for a in c.attention]
        hf["sliding_window"] = c.window or None
        hf["use_sliding_window"] = bool(c.window)
    if hf["model_type"] == "granite_swa":
        hf |= {"attention_multiplier": c.head_size ** -0.5} | dict.fromkeys(FACTORS, 1.0)
        hf["sliding_window"] = c.window or 128             # transformers wants one, also where no layer has it
        hf["layer_rope_theta"] = [0.0 if a == "nope" else c.rope_theta for a in c.attention]
    if hf["model_type"] == "smollm3":
        hf["no_rope_layers"] = [int(a != "nope") for a in c.attention]
    if hf["model_type"] == "olmo3":
        hf["rope_parameters"] = {"full_attention": scaled,
                                 "sliding_attention": {"rope_type": "default", "rope_theta": c.rope_theta}}
    if hf["model_type"] == "nanothink":
        hf["fields"] = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(c).items()}
    hf["architectures"] = [KINDS[hf["model_type"]]]
    return hf


def kind_of(c: Any) -> str:
    """The simplest Hugging Face kind with exactly this architecture; "nanothink" if there is none."""
    if any(getattr(c, f.name) != f.default for f in dataclasses.fields(c) if f.name not in EXPRESSED):
        return "nanothink"
    plain_heads = c.head_size * c.heads == c.width         # some classes do not support other head sizes
    kinds = set(c.attention)
    if kinds - {"rope", "nope", "window"}:                # a kind of layer that a user added
        return "nanothink"
    if c.rope_scaling and c.window and c.scale_windows == c.norm_after:       # only OLMo 3 has other positions in windows
        return "nanothink"
    if c.sinks:
        return "nanothink" if c.qk_norm or c.qkv_bias or c.norm_after else "granite_swa"
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


def read_config(folder: str | Path) -> dict:
    """folder/config.json -> dict. FileNotFoundError or ValueError in one line that names the file."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a folder that holds config.json and model.safetensors")
    return read_json(path)


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a folder. As in transformers, model.safetensors is preferred to an index of shards."""
    folder = Path(folder)
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        names = ["model.safetensors"]
    else:
        found = read_json(index).get("weight_map")
        names = sorted(set(found.values())) if isinstance(found, dict) and all(
            isinstance(name, str) and name == Path(name).name for name in found.values()) else []
        if not names:
            raise ValueError(f"{index}: has no weight_map from weights to files of this folder; fetch or save it again")
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; the folder must hold model.safetensors or all files of "
                                    "its index (other formats, such as pytorch_model.bin, are not read)")
    return [folder / name for name in names]


def read_weights(folder: str | Path, expected: dict[str, tuple], device: str | torch.device = "cpu",
                 dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Reads the weights that a model of ours expects.

    expected: {our name: shape}. Returns {our name: tensor}.

    One ValueError lists every weight that is missing, unknown, of another shape, not a floating-point number or not finite. With
    tied embeddings a file may hold the embedding, the head, or both if they are equal.
    """
    weights, head, wrong, bad = {}, None, [], set()
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt", device=str(device)) as f:
                for name in f.keys():
                    if name.endswith("rotary_emb.inv_freq"):
                        continue                           # old checkpoints store it; it is computed from the config
                    ours = name.removeprefix("model.")
                    stored = f.get_slice(name)
                    shape, kind = tuple(stored.get_shape()), stored.get_dtype()
                    tied_head = ours == "lm_head.weight" and ours not in expected
                    wanted = expected.get("embed_tokens.weight" if tied_head else ours)
                    problem = ""
                    if wanted is None:
                        problem = f"{shape} is not part of this architecture"
                    elif shape != tuple(wanted):
                        problem = f"has shape {shape}, config.json says {tuple(wanted)}"
                    elif kind not in ("F64", "F32", "F16", "BF16"):
                        problem = f"is stored as {kind}; quantised weights are not read"
                    elif ours in weights:
                        problem = "is stored twice"
                    else:
                        w = f.get_tensor(name).to(dtype)
                        low, high = torch.aminmax(w)
                        if not (torch.isfinite(low) and torch.isfinite(high)):
                            problem = f"holds NaN or infinity as {dtype}".replace("torch.", "")
                        elif tied_head:
                            head = w
                        else:
                            weights[ours] = w
                    if problem:
                        wrong.append(f"{name} {problem}")
                        bad.add(ours)
        except SafetensorError as e:
            raise ValueError(f"{file}: not a whole safetensors file ({e}); fetch or save it again") from None
    if head is not None and not torch.equal(weights.setdefault("embed_tokens.weight", head), head):
        wrong.append("lm_head.weight differs from the embedding, yet config.json ties them")
    wrong += [f"{name} is missing" for name in expected if name not in weights and name not in bad]
    if wrong:
        raise ValueError(f"{folder}: {len(wrong)} weights do not fit config.json: " + "; ".join(wrong[:20])
                         + ("; ..." if len(wrong) > 20 else ""))
    return weights


# Files of an older checkpoint in the same folder that a reader would use in place of the new files, or together with them.
STALE = ("model.safetensors.index.json", "model-*-of-*.safetensors", "pytorch_model*.bin", "pytorch_model.bin.index.json",
         "adapter_config.json", "adapter_model.*")


def holds_weights(folder: str | Path) -> str:
    """The name of a file of weights, or of an adapter, in a folder; "" if there is none."""
    found = [path.name for pattern in ("model.safetensors", *STALE) for path in Path(folder).glob(pattern)]
    return min(found, default="")


def write_folder(folder: str | Path, config: dict, weights: dict[str, torch.Tensor], generation: dict | None = None) -> None:
    """Writes model.safetensors ({our name: tensor}), config.json and generation_config.json (dicts), and removes the files of an
    older checkpoint. Each file is written under a temporary name and then renamed. Old shards are removed last, so the folder has
    weights at every moment (model.safetensors is preferred to shards)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    named = {name if name.startswith("lm_head") else f"model.{name}": w.detach().cpu().contiguous() for name,
             w in weights.items()}
    write_atomically(folder / "model.safetensors", lambda path: save_file(named, path, metadata={"format": "pt"}))
    write_json(folder / "config.json", config)
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    remove(folder, *STALE, *(() if generation is not None else ("generation_config.json",)))
