"""Hugging Face folders: every field of every family's config.json is used as transformers uses it, or refused; damaged
folders are refused in one line; a save leaves nothing of an older checkpoint."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

import model as ours
from model import Config, Transformer

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()

SMALL = dict(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=None, bos_token_id=None,
             eos_token_id=None)
CLASSES = {"llama": "LlamaConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config", "smollm3": "SmolLM3Config",
           "olmo2": "Olmo2Config", "olmo3": "Olmo3Config", "granite_swa": "GraniteSWAConfig"}
GRANITE = {"attention_multiplier": 8 ** -0.5}             # that of all others
TOKENS = torch.randint(0, 60, (1, 48), generator=torch.Generator().manual_seed(0))
SLIDE, FULL = "sliding_attention", "full_attention"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500.0,
          "original_max_position_embeddings": 16}
ROPES = [None, {}, [], "yarn", {"rope_type": "default"}, {"rope_type": "default", "rope_theta": 5000.0}, {"rope_theta": 0},
         {"rope_theta": "10"}, LLAMA3, {k: v for k, v in LLAMA3.items() if k != "rope_theta"}, YARN, YARN | {"factor": None},
         YARN | {"attention_factor": 0.7}, YARN | {"beta_fast": 8, "beta_slow": 2}, YARN | {"mscale": 2.0, "mscale_all_dim": 0.5},
         YARN | {"truncate": False}, YARN | {"original_max_position_embeddings": None},
         {"type": "yarn", "factor": 2.0}, {"type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0},
         {"rope_type": "longrope", "factor": 2.0}, {"rope_type": "yarn"}, {"rope_type": "llama3", "factor": 8.0},
         LLAMA3 | {"high_freq_factor": 1.0}, YARN | {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 0.5},
         {FULL: YARN, SLIDE: {"rope_type": "default", "rope_theta": 10000.0}},
         {FULL: {"rope_type": "default", "rope_theta": 1000.0}, SLIDE: {"rope_type": "default", "rope_theta": 1000.0}},
         {FULL: {"rope_type": "default", "rope_theta": 1000.0}, SLIDE: {"rope_type": "default", "rope_theta": 50.0}},
         {FULL: {"rope_type": "default"}}, {SLIDE: YARN}, {FULL: None, SLIDE: None}]
CHANGES = [
    *({"rope_parameters": value} for value in ROPES), *({"rope_scaling": value} for value in ROPES),
    {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 700.0}},
    {"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_theta": 300.0}, {"rope_theta": 2000.0}, {"rope_theta": "2000"},
    {"rope_theta": 500000.0}, {"rope_parameters": YARN, "original_max_position_embeddings": 8}, {"partial_rotary_factor": 0.5},
    {"sliding_window": 8}, {"use_sliding_window": True}, {"use_sliding_window": True, "sliding_window": 8},
    {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 9},
    {"use_sliding_window": True, "sliding_window": None}, {"use_sliding_window": True, "sliding_window": 0},
    {"use_sliding_window": True, "sliding_window": 8, "layer_types": None},
    {"use_sliding_window": True, "sliding_window": 8, "layer_types": None, "max_window_layers": 1},
    {"use_sliding_window": True, "sliding_window": 8, "layer_types": None, "no_rope_layers": [1, 1, 1, 1]},
    {"use_sliding_window": True, "sliding_window": 8, "layer_types": [SLIDE, FULL, SLIDE, FULL]},
    {"use_sliding_window": False, "sliding_window": 8, "layer_types": [SLIDE, FULL, SLIDE, FULL]},
    {"layer_types": [SLIDE] * 4, "sliding_window": 8}, {"layer_types": [SLIDE] * 4, "sliding_window": None},
    {"layer_types": None}, {"layer_types": [FULL] * 4}, {"layer_types": [FULL] * 3}, {"layer_types": [FULL] * 5},
    {"layer_types": ["chunked_attention"] * 4}, {"layer_types": FULL}, {"no_rope_layers": None},
    {"no_rope_layers": [1, 0, 0, 1]}, {"no_rope_layers": [0, 1]}, {"no_rope_layers": []}, {"no_rope_layers": [1, 1, 0, 0, 1, 1]},
    {"no_rope_layers": None, "no_rope_layer_interval": 2}, {"no_rope_layers": None, "no_rope_layer_interval": 0},
    {"layer_rope_theta": [0, 300, 300.0, 0], "layer_types": [FULL, SLIDE, FULL, FULL]}, {"layer_rope_theta": [0, 0, 0, 0]},
    {"layer_rope_theta": [0] * 4, "layer_types": [FULL] * 4}, {"layer_rope_theta": [10, 20, 10, 20]}, {"layer_rope_theta": [10]},
    {"layer_rope_theta": 10}, {"layer_rope_theta": ["10"] * 4},
    {"head_dim": None}, {"head_dim": 16}, {"num_key_value_heads": None}, {"num_key_value_heads": 3}, {"hidden_act": "gelu"},
    {"hidden_act": None}, {"tie_word_embeddings": None}, {"quantization_config": {"quant_method": "fp8"}},
    {"num_attention_heads": 3}, {"rms_norm_eps": 0.0}, {"rms_norm_eps": None}, {"mlp_bias": True}, {"attention_bias": True}]


def other_values(value):
    """Values of the same and of other types in place of one of config.json."""
    if isinstance(value, bool):
        return [not value, None, "yes"]
    if isinstance(value, int):
        return [value + 1, value * 2, 0, -1, None, str(value), float("nan")]
    if isinstance(value, float):
        return [value * 3, -value, float("nan"), float("inf"), str(value), None]
    return []


@pytest.fixture(scope="module", params=CLASSES)
def original(request, tmp_path_factory):
    """A folder that transformers wrote, and what it says in config.json."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, CLASSES[request.param])(**SMALL | (GRANITE if request.param == "granite_swa" else {}))).float()
    for w in model.parameters():
        w.data.add_(torch.randn_like(w) * 0.2)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return folder, json.loads((folder / "config.json").read_text())


def their_logits(folder, config):
    """What transformers computes from these weights with this config (dict); None where it refuses the config."""
    try:
        found = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(json.loads(json.dumps(config)))
        model = transformers.AutoModelForCausalLM.from_config(found, attn_implementation="eager").float().eval()
    except Exception:
        return None
    weights = load_file(folder / "model.safetensors")
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True)
    return model(TOKENS).logits


@torch.no_grad()
def test_every_field_of_a_config_is_used_or_refused(original):
    """Each field gets other values, and is left out: we refuse, or compute what transformers does."""
    folder, config = original
    changes = [{key: value} for key in config for value in [*other_values(config[key]), None]] + CHANGES
    configs = [(change, config | change) for change in [{}, *changes]]
    configs += [(f"without {key}", {k: v for k, v in config.items() if k != key}) for key in config]
    used, refused, wrong = 0, 0, []
    try:
        for change, changed in configs:
            (folder / "config.json").write_text(json.dumps(changed))
            try:
                found = ours.load(folder)[0](TOKENS)
            except ValueError as e:
                assert change and "\n" not in str(e) and str(folder) in str(e), (change, e)
                refused += 1
                continue
            try:
                expected = their_logits(folder, changed)
                if expected is not None and not (found - expected).abs().max() < 2e-4:
                    wrong.append((change, float((found - expected).abs().max())))
                used += expected is not None
            except Exception as e:                                            # what they cannot compute we must not make up
                wrong.append((change, f"{type(e).__name__}: {str(e)[:100]}"))
    finally:
        (folder / "config.json").write_text(json.dumps(config))
    assert not wrong, "\n".join(map(str, wrong))
    assert used > 40 and refused > 40


def edit(folder, name, change):
    """Changes a JSON file of a folder in place."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(change(content) or content))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    Transformer(Config(vocab_size=50, layers=1, width=16, heads=2, tied=False)).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text, message", [
    ("[]", "must hold a JSON object"), ("null", "must hold a JSON object"), ("[" * 100_000, "not valid JSON"),
    ("\xff", "not valid"),
    ('{"model_type": "nanothink"}', "'fields' is missing"), ('{"model_type": "nanothink", "fields": {"depth": 2}}', "depth"),
    ('{"model_type": "nanothink", "fields": {"layers": "2"}}', "layers='2'"), ('{"model_type": ["llama"]}', "model_type"),
    ('{"model_type": "nanothink", "fields": {"rope_theta": NaN}}', "rope_theta=nan"),
    ('{"model_type": "nanothink", "fields": {"heads": 0}}', "heads=0"),
    ('{"model_type": "nanothink", "fields": {"attention": []}}', "attention"),
    ('{"model_type": "nanothink", "fields": {"vocab_size": 1152921504606846976}}', "larger than in any model"),
    ('{"model_type": "nanothink", "fields": {"layers": 100000000}}', "layers=100000000 is larger"),
    ('{"model_type": "nanothink", "fields": {"width": -4}}', "width=-4")])
def test_what_config_json_may_not_be(saved, text, message):
    (saved / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as error:
        ours.load(saved)
    assert "config.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("field, value", [
    ("rope_theta", 500.0), ("rms_norm_eps", 0.5), ("num_key_value_heads", 1), ("tie_word_embeddings", True), ("hidden_size", 32),
    ("hidden_act", "gelu"), ("quantization_config", {"bits": 4}), ("sliding_window", 2), ("partial_rotary_factor", 0.5),
    ("layer_types", ["sliding_attention"]), ("rope_scaling", YARN), ("attention_bias", True)])
def test_a_folder_of_our_own_kind_says_a_thing_once_or_twice_the_same(saved, field, value):
    torch.manual_seed(0)
    Transformer(Config(vocab_size=50, layers=1, width=16, heads=2, kv_heads=2, head_gate=True, tied=False)).save(saved)
    config = json.loads((saved / "config.json").read_text())
    assert config["model_type"] == "nanothink" and ours.load(saved)
    (saved / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ValueError, match=f"config.json: {field}="):
        ours.load(saved)


@pytest.mark.parametrize("index, error, message", [
    ("{}", ValueError, "weight_map"), ('{"weight_map": {}}', ValueError, "weight_map"), ("{", ValueError, "not valid JSON"),
    ('{"weight_map": {"a": 1}}', ValueError, "weight_map"), ('{"weight_map": []}', ValueError, "weight_map"),
    ("[]", ValueError, "object"),
    ('{"weight_map": {"a": "../other/model.safetensors"}}', ValueError, "weight_map"),
    ('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}', FileNotFoundError, "00001-of-00001.safetensors: no such file")])
def test_a_broken_index_of_shards(saved, index, error, message):
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors.index.json").write_text(index)
    with pytest.raises(error, match=message) as found:
        ours.load(saved)
    assert str(saved) in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("change, message", [
    (lambda w: w.update({"norm.weight": w["model.norm.weight"].clone()}), "stored twice"),
    (lambda w: w.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)}), "model.norm.weight is stored as I8"),
    (lambda w: w.update({"model.norm.weight": torch.ones(16).to(torch.float8_e4m3fn)}), "model.norm.weight is stored as F8"),
    (lambda w: w.update({"model.norm.weight": torch.ones(4, 4)}), "model.norm.weight has shape"),
    (lambda w: w["model.layers.0.mlp.up_proj.weight"][3].fill_(float("nan")), "up_proj.weight holds NaN"),
    (lambda w: w["lm_head.weight"][3].fill_(float("-inf")), "lm_head.weight holds NaN or infinity"),
    (lambda w: w.pop("lm_head.weight"), "lm_head.weight is missing")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_that_do_not_fit(saved, change, message, dtype):
    weights = load_file(saved / "model.safetensors")
    change(weights)
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        ours.load(saved, dtype=dtype)
    assert str(saved) in str(error.value) and "\n" not in str(error.value)


@torch.no_grad()
def test_a_tied_model_may_store_its_head_alone(tmp_path):
    Transformer(Config(vocab_size=50, layers=1, width=16, heads=2)).save(tmp_path)
    before = ours.load(tmp_path)[0]
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tokens = TOKENS.clamp(max=49)
    assert torch.equal(ours.load(tmp_path)[0](tokens), before(tokens))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).float()
    assert (theirs(tokens).logits - before(tokens)).abs().max() < 1e-4


@torch.no_grad()
def test_a_save_leaves_nothing_that_could_win_over_it(original, tmp_path):
    """Over a sharded checkpoint of theirs, with what else may lie there; read by us and by transformers."""
    config = original[1]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(original[0])
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2 and (tmp_path / "generation_config.json").exists()
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "adapter_config.json",
                 "adapter_model.safetensors", "notes.md"):
        (tmp_path / name).write_text('{"peft_type": "LORA"}')
    model = ours.load(original[0])[0]
    for w in model.parameters():
        w.mul_(0.5)
    model.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"model.safetensors", "config.json", "notes.md"}
    assert torch.equal(ours.load(tmp_path)[0](TOKENS), model(TOKENS))
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).float()
    assert (back(TOKENS).logits - model(TOKENS)).abs().max() < 1e-4 and config["vocab_size"] == 60


@torch.no_grad()
def test_a_whole_file_goes_before_an_index(original, tmp_path):
    """As in transformers; so a save over shards that was killed before it removed them is read right."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(original[0])
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = {p.name: p.read_bytes() for p in tmp_path.glob("model*")}
    model = ours.load(original[0])[0]
    for w in model.parameters():
        w.mul_(0.5)
    model.save(tmp_path)
    for name, content in shards.items():
        (tmp_path / name).write_bytes(content)
    assert torch.equal(ours.load(tmp_path)[0](TOKENS), model(TOKENS))
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).float()
    assert (back(TOKENS).logits - model(TOKENS)).abs().max() < 1e-4


def test_files_have_the_mode_that_the_umask_says(tmp_path, tokenizer):
    model = Transformer(Config(vocab_size=len(tokenizer), layers=1, width=16, heads=2))
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            model.save(tmp_path, tokenizer)
            assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {mode}
        finally:
            os.umask(before)
