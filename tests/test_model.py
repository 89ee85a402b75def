"""The transformer against Hugging Face's own, and its own promises: packing, cache, folders, errors."""

import json
import shutil

import pytest
import torch
from conftest import real_file
from safetensors.torch import load_file, save_file

import model as ours
from engine.cache import KVCache
from model import Config, Transformer

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()

BASE = dict(vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512, pad_token_id=None, bos_token_id=None, eos_token_id=None)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64, rope_theta=500000.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
FAMILIES = {
    "llama": ("LlamaConfig", dict(tie_word_embeddings=True)),
    "llama 3 scaling": ("LlamaConfig", dict(rope_parameters=LLAMA3)),
    "llama yarn": ("LlamaConfig", dict(rope_parameters=YARN | {"rope_theta": 10000.0})),
    "qwen2": ("Qwen2Config", {}),
    "qwen2 windows": ("Qwen2Config", dict(use_sliding_window=True, sliding_window=16, max_window_layers=2)),
    "qwen3": ("Qwen3Config", dict(head_dim=32)),
    "smollm3": ("SmolLM3Config", {}),
    "granite swa": ("GraniteSWAConfig", dict(
        sliding_window=16, attention_multiplier=16 ** -0.5, layer_rope_theta=[0, 500, 500, 0],
        layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"])),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", dict(sliding_window=16)),
    "olmo3 yarn": ("Olmo3Config", dict(sliding_window=16, rope_scaling=YARN)),
}


def theirs(family):
    kind, more = FAMILIES[family]
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**BASE | more),
                                                          attn_implementation="eager").float().eval()
    for w in model.parameters():
        w.data.add_(torch.randn_like(w) * 0.1)                                # norms and biases away from 1 and 0
    return model


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_parity_with_hugging_face(family, tmp_path):
    tokens = torch.randint(0, 300, (2, 130), generator=torch.Generator().manual_seed(2))
    original = theirs(family)
    original.save_pretrained(tmp_path / "theirs")
    expected = original(tokens).logits
    model, tokenizer = ours.load(tmp_path / "theirs")
    assert tokenizer is None
    assert (model(tokens) - expected).abs().max() < 1e-4
    model.save(tmp_path / "ours")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").float()
    assert type(back) is type(original)
    assert (back(tokens).logits - expected).abs().max() < 1e-4
    assert ours.load(tmp_path / "ours")[0].config == model.config


@torch.no_grad()
def test_old_spelling_of_rope_and_shards(tmp_path):
    original = theirs("llama 3 scaling")
    original.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = torch.randint(0, 300, (1, 100))
    assert (ours.load(tmp_path)[0](tokens) - original(tokens).logits).abs().max() < 1e-4


@pytest.mark.parametrize("options", [
    dict(), dict(attention="rope+nope"), dict(attention="window+rope", window=9), dict(qk_norm="head"),
    dict(qkv_bias=True, tied=False),
    dict(qk_norm="full", norm_after=True), dict(norm_after=True, qk_norm="full", attention="window+rope", window=9),
    dict(qk_norm="head", attention="rope+nope"), dict(qk_norm="full"), dict(qkv_bias=True, qk_norm="head"),
    dict(head_size=10), dict(sinks=True, attention="window+nope", window=9), dict(sinks=True, head_size=10),
    dict(sinks=True, qk_norm="head"), dict(qk_norm="full", qk_scale=True), dict(head_gate=True)])
@torch.no_grad()
def test_every_architecture_survives_its_folder_and_opens_in_transformers_where_it_exists(options, tmp_path):
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=100, layers=2, width=32, **options))
    tokens = torch.randint(0, 100, (2, 40))
    model.save(tmp_path)
    again = ours.load(tmp_path)[0]
    assert again.config == model.config and torch.equal(again(tokens), model(tokens))
    if json.loads((tmp_path / "config.json").read_text())["model_type"] != "nanothink":
        back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).float()
        assert (back(tokens).logits - model(tokens)).abs().max() < 1e-4


@pytest.mark.parametrize("options", [dict(), dict(attention="window+nope", window=6),
                                     dict(qk_norm="full", norm_after=True)])
@torch.no_grad()
def test_packed_documents_are_as_if_alone(options):
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=60, layers=2, width=32, **options)).double()
    lengths = [[5, 17, 1, 9], [20, 3, 9]]                                     # the last one of each row is padding
    tokens = torch.randint(0, 60, (2, 32))
    documents = torch.tensor([[d if d < len(row) - 1 else -1 for d, n in enumerate(row) for _ in range(n)] for row
                              in lengths])
    packed = model(tokens, documents)
    logprobs = model.logprobs(tokens, documents)
    for b, row in enumerate(lengths):
        at = 0
        for n in row[:-1]:
            alone = model(tokens[b:b + 1, at:at + n])
            torch.testing.assert_close(packed[b, at:at + n], alone[0], rtol=1e-9, atol=1e-11)
            if n > 1:
                expected = alone[0, :-1].log_softmax(-1).gather(1, tokens[b, at + 1:at + n, None]).squeeze(1)
                torch.testing.assert_close(logprobs[b, at:at + n - 1], expected, rtol=1e-9, atol=1e-11)
            at += n


@pytest.mark.parametrize("options", [dict(), dict(attention="window+nope", window=6),
                                     dict(qk_norm="head", qkv_bias=True), dict(norm_after=True, qk_norm="full")])
@torch.no_grad()
def test_decoding_with_the_cache_equals_a_full_pass(options):
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=60, layers=2, width=32, **options)).double()
    a, b = torch.randint(0, 60, (110,)), torch.randint(0, 60, (110,))
    cache = KVCache(model.config, 2, 5, 150, dtype=torch.float64)
    _, kv = model.prefill(torch.cat([a[:4], b[:60]])[None], torch.tensor([[0] * 4 + [1] * 60]))
    for row, part in ((1, slice(4, 64)), (0, slice(0, 4))):
        cache.reserve(row, 110)
        cache.fill(row, *(torch.stack([layer[i][0, part] for layer in kv]) for i in (0, 1)))
    full = [model.hidden(x[None])[0] for x in (a, b)]
    step = 0
    for R in [1] * 40 + [7, 1, 2]:                        # one token a row, and several
        out = model.decode(torch.stack([a[4 + step:][:R], b[60 + step:][:R]]), cache)
        torch.testing.assert_close(out[0], full[0][4 + step:][:R], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(out[1], full[1][60 + step:][:R], rtol=1e-9, atol=1e-11)
        step += R


def test_checkpointing_changes_no_gradient(tiny):
    tokens = torch.randint(0, 100, (2, 12))
    grads = []
    for tiny.checkpointing in (False, True):
        tiny.zero_grad()
        tiny.logprobs(tokens).sum().backward()
        grads.append([w.grad.clone() for w in tiny.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_flops_per_token_of_a_model_counted_by_hand():
    model = Transformer(Config(vocab_size=100, layers=2, width=32, heads=4, kv_heads=2, ff=64))
    per_layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32
    assert model.flops_per_token(128) == 6 * (2 * per_layer + 32 + 100 * 32) + 12 * 2 * 4 * 8 * 128


@pytest.fixture
def folder(tmp_path):
    Transformer(Config(vocab_size=50, layers=1, width=16, heads=2)).save(tmp_path)
    return tmp_path


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_mismatched_weights_are_listed(folder):
    change(folder, lambda w: (w.pop("model.norm.weight"),
                              w.update({"model.extra": torch.ones(3),
                                        "model.layers.0.mlp.up_proj.weight": torch.ones(2, 2)})))
    with pytest.raises(ValueError) as error:
        ours.load(folder)
    text = str(error.value)
    assert "3 weights do not fit" in text and "norm.weight is missing" in text and "model.extra (3,) is not part" in text
    assert "layers.0.mlp.up_proj.weight has shape (2, 2), config.json says (64, 16)" in text and "\n" not in text


def test_a_tied_head_may_be_repeated_but_not_differ(folder):
    change(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    ours.load(folder)
    change(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] + 1}))
    with pytest.raises(ValueError, match="differs from the embedding"):
        ours.load(folder)


def test_damaged_and_missing_files(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:len(data) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        ours.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors: no such file"):
        ours.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not valid JSON"):
        ours.load(folder)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="config.json: no such file"):
        ours.load(folder)


@pytest.mark.parametrize("field, value, message", [
    ("model_type", "mamba", "model_type 'mamba'"), ("hidden_act", "gelu", "hidden_act='gelu'"),
    ("mlp_bias", True, "mlp_bias=True"),
    ("attention_bias", True, "attention_bias"), ("rope_parameters", {"rope_type": "longrope", "factor": 2.0},
                                                 "'longrope'")])
def test_unsupported_configs_are_named(folder, field, value, message):
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        ours.load(folder)


@pytest.mark.parametrize("options", [dict(attention="rope+sliding"), dict(window=4), dict(attention="window"),
                                     dict(heads=3, kv_heads=2), dict(qk_norm="both")])
def test_bad_configs(options):
    with pytest.raises(ValueError):
        Config(**options)


@torch.no_grad()
def test_wikitext_through_a_real_tokenizer_and_hugging_face_model_agree_in_loss(tmp_path):
    """Real text, our tokenizer, our model and theirs from one folder: the same loss."""
    from tokenizer import Tokenizer
    text = real_file("wikitext2/valid.txt").read_text()[:200_000]
    tokenizer = Tokenizer.train([text], 600)
    torch.manual_seed(0)
    Transformer(Config(vocab_size=len(tokenizer), layers=2, width=64)).save(tmp_path, tokenizer)
    model, tokenizer = ours.load(tmp_path)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode(text[:5000])
    assert their_tokenizer(text[:5000], add_special_tokens=False)["input_ids"] == ids
    tokens = torch.tensor([ids])
    assert abs(float(back(tokens, labels=tokens).loss) + float(model.logprobs(tokens).mean())) < 1e-5
