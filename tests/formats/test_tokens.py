"""What belongs to a checkpoint's tokenizer and must hold everywhere: which ids exist, what stands before a text, what ends
one, and how a conversation is written. References: transformers on the same folder, and plain logits in float64."""

import json
import math

import pytest
import torch
from helpers import refusal, run_main, tiny_checkpoint, write_rows
from safetensors.torch import load_file, save_file

import augment
import evaluate
import sampler as sampling
import sft
from engine.draws import SamplingParams, draw
from formats import templates
from kernels import token_logprobs
from measuring import questions
from measuring.text import bits_per_byte
from model import Config, Transformer, load
from rl.critic import ActorCritic
from sampler import Sampler
from sources.documents import tokenise
from sources.open import open_source
from sources.shards import prepare
from tasks.problems import load_problems
from tasks.task import prompt_ids
from tokenizer import Tokenizer
from training.batch import batch_from
from transforms.parts import teachers

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
AutoTokenizer = transformers.AutoTokenizer


def changed(tokenizer, folder, spec=None, config=None):
    """The tokenizer with other parts of tokenizer.json and tokenizer_config.json, from a folder."""
    tokenizer.save(folder)
    for name, change in (("tokenizer.json", spec), ("tokenizer_config.json", config)):
        content = json.loads((folder / name).read_text())
        content = change(content) if callable(change) else content | (change or {})
        (folder / name).write_text(json.dumps(content))
    return Tokenizer.load(folder)


def with_holes(spec):
    """Three ids without a token before the special ones, and one in place of a long word."""
    for token in spec["added_tokens"]:
        token["id"] += 3
    word = max(spec["model"]["vocab"], key=len)
    spec["model"]["merges"] = [m for m in spec["model"]["merges"] if "".join(m.split(" ")) != word and word not in m.split(" ")]
    del spec["model"]["vocab"][word]
    return spec


@pytest.fixture(scope="module")
def holed(tokenizer, tmp_path_factory):
    return changed(tokenizer, tmp_path_factory.mktemp("holed"), with_holes)


@pytest.fixture(scope="module")
def padded(holed, tmp_path_factory):
    """A folder whose embedding has 40 rows more than the tokenizer, and whose unused ids the model likes best."""
    folder, V = tmp_path_factory.mktemp("padded"), len(holed) + 40
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=V, layers=2, width=32, heads=4, kv_heads=2, tied=False))
    for w in model.parameters():
        w.data.add_(torch.randn_like(w) * 0.15)
    for start, end in holed.unused_ids(V):
        model.lm_head.weight.data[start:end] *= 6
    model.save(folder, holed)
    return folder


# ---- ids that no token has

def test_absent_ranges(tokenizer, holed):
    n = len(tokenizer)
    assert tokenizer.unused_ids(n) == () and tokenizer.unused_ids(n + 7) == ((n, n + 7),) and tokenizer.unused_ids(n - 3) == ()
    missing = {i for start, end in holed.unused_ids(len(holed) + 5) for i in range(start, end)}
    known = set(holed._text_bytes) | set(holed.special.values())
    assert missing == set(range(len(holed) + 5)) - known and len(missing) == 3 + 1 + 5


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.no_grad()
def test_absent_ids_are_never_drawn_and_count_out_of_logprobs(padded, exact, dtype):
    model, tokenizer = load(padded, dtype=dtype)
    model.exact = exact
    V = model.config.vocab_size
    known = torch.tensor(sorted(set(tokenizer._text_bytes) | set(tokenizer.special.values())))
    prompts = ["Zoo, mod 10.\n", "The lions number 3."]
    for how in (dict(temperature=0), dict(), dict(temperature=2.5), dict(top_k=V - 2), dict(top_k=4), dict(top_p=0.999),
                dict(temperature=3.0, top_p=0.5)):
        for [c] in Sampler(model, tokenizer).generate(prompts, max_new_tokens=40, seed=3, stop=set(), **how):
            assert set(c.tokens) <= set(known.tolist())
            tokenizer.decode(c.tokens)
            if how.keys() - {"temperature"}:
                continue
            t = how.get("temperature") or 1.0
            ids = torch.tensor([c.prompt + c.tokens])
            logits = model(ids)[0, len(c.prompt) - 1:-1].double() / t
            assert not set(logits.argmax(-1).tolist()) <= set(known.tolist())                 # the model itself would draw them
            of_known = torch.full_like(logits, -math.inf)
            of_known[:, known] = logits[:, known]
            expected = of_known.log_softmax(-1).gather(1, torch.tensor(c.tokens)[:, None])[:, 0]
            found = torch.tensor(c.logprobs, dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            trained, entropy = model(ids[:, :-1], targets=ids[:, 1:], temperature=t, entropy=True)
            trained = trained[0, len(c.prompt) - 1:].double()
            torch.testing.assert_close(trained, found, rtol=0, atol=0 if exact and dtype == torch.float32 else 1e-5)
            p = of_known.softmax(-1)
            plain = -(p * p.log().nan_to_num(neginf=0.0)).sum(-1)
            torch.testing.assert_close(entropy[0, len(c.prompt) - 1:].double(), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", [2 ** 26, 0])
@pytest.mark.parametrize("exact", [False, True])
def test_gradients_without_absent_words(monkeypatch, exact, keep):
    import kernels.fast as fast
    monkeypatch.setattr(fast._TokenLogprobs, "KEEP", keep)
    monkeypatch.setattr(fast._TokenLogprobs, "CHUNK", 200)
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(30, 8, generator=g).double(), torch.randn(50, 8, generator=g).double()
    unused_ids, kept = ((3, 5), (44, 50)), [i for i in range(50) if not (3 <= i < 5 or i >= 44)]
    targets = torch.tensor(kept)[torch.randint(0, len(kept), (30,), generator=g)]
    results = []
    for ours in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if ours:
            logprobs, entropy = token_logprobs(h, w, targets, 0.7, True, exact, unused_ids)
        else:
            logp = (h @ w[kept].T / 0.7).log_softmax(-1)
            at = torch.tensor([kept.index(t) for t in targets.tolist()])
            logprobs, entropy = logp.gather(1, at[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
        (logprobs.sum() + entropy.square().sum()).backward()
        results.append((logprobs.detach(), entropy.detach(), h.grad, w.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert not results[0][3][3:5].any() and not results[0][3][44:].any()


def test_padding_of_a_batch_may_be_an_absent_id(tiny):
    tiny.unused_ids = ((0, 1),)
    batch = batch_from([[(torch.tensor([5, 6, 7]).numpy(), torch.ones(3).numpy())]], 8)
    logprobs, entropies = tiny(batch.tokens, batch.documents, batch.targets, entropy=True)
    loss = -(logprobs * batch.loss_mask).sum() + (entropies * batch.loss_mask).sum()
    loss.backward()
    assert math.isfinite(float(loss)) and all(torch.isfinite(w.grad).all() for w in tiny.parameters())


def test_a_value_head_and_a_hand_made_model_count_them_out_too(padded, tokenizer):
    model, _ = load(padded)
    ids = torch.tensor([[260, 261, 262, 263]])
    for model.exact in (False, True):
        critic = ActorCritic(model)
        both = critic(ids[:, :-1], None, ids[:, 1:], 0.8, True)[:2]
        assert all(map(torch.equal, both, model(ids[:, :-1], None, ids[:, 1:], 0.8, True)))
    made = Transformer(Config(vocab_size=len(tokenizer) + 9, layers=1, width=16, heads=2))
    Sampler(made, tokenizer)
    assert made.unused_ids == ((len(tokenizer), len(tokenizer) + 9),)


def test_no_draw_takes_a_token_without_probability():
    """At the largest u there is and at the smallest: u times the sum is below the sum, and ids without probability lie there."""
    logits = torch.zeros(64, 300)
    logits[:, 200:], logits[:, :20] = -math.inf, -1e20
    u = torch.tensor([0.0, 1 - 2.0 ** -53] * 32, dtype=torch.float64)
    for how in (dict(), dict(top_k=7), dict(top_p=0.5), dict(temperature=0.3), dict(temperature=1.7, top_k=100)):
        tokens, logprobs = draw(logits + torch.linspace(0, 3, 64)[:, None] * torch.rand(64, 300), u, SamplingParams(**how))
        assert 20 <= tokens.min() and tokens.max() < 200 and logprobs.min() > -1e10


@torch.no_grad()
def test_logits_are_still_those_of_transformers(padded):
    model, _ = load(padded)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(padded).float()
    ids = torch.randint(0, model.config.vocab_size, (2, 20))
    assert (model(ids) - theirs(ids).logits).abs().max() < 1e-4


def test_ids_that_the_model_lacks(tiny, tokenizer):
    for wrong in (-1, len(tokenizer)):
        with pytest.raises(ValueError, match=f"the id {wrong}, which the model does not have"):
            Sampler(tiny, tokenizer).generate([[5, wrong]], max_new_tokens=2)
    assert tokenizer.decode_reply([5], [*tokenizer.encode("ok"), len(tokenizer) + 5]) == "ok"    # what cannot be read is no text


def test_a_tokenizer_larger_than_the_embedding_is_refused(tokenizer, tmp_path):
    folder = tiny_checkpoint(tmp_path / "small", tokenizer)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 500}
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:500].clone()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": CHAT[:3]}])
    for module, args in ((sft, ("--init", folder, "--data", rows, "--out", tmp_path / "out")),
                         (sampling, ("--init", folder, "--prompt", "Hi")),
                         (evaluate, ("--init", folder, "--data", "world:ops=1"))):
        said = refusal(module, *args)
        assert f"ids up to {len(tokenizer) - 1}" in said and "vocab_size of 500" in said
    assert not (tmp_path / "out").exists()


# ---- what stands before a text

BOS = "<|begin_of_text|>"


def add_bos(spec):
    spec["added_tokens"].append(dict(spec["added_tokens"][0], id=spec["added_tokens"][-1]["id"] + 1, content=BOS))
    return spec


def with_post_processor(spec, before=(BOS,), wrap=True):
    ids = {token["content"]: token["id"] for token in add_bos(spec)["added_tokens"]}
    step = {"type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": t, "type_id": 0}} for t in before] + [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in before}}
    step["pair"] = step["single"] + [{"Sequence": {"id": "B", "type_id": 1}}]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    spec["post_processor"] = {"type": "Sequence", "processors": [byte_level, step]} if wrap else step
    return spec


def no_template(config):
    return {key: value for key, value in config.items() if key != "chat_template"}


KINDS = {"template": (with_post_processor, {"bos_token": BOS}),
         "bare template": (lambda spec: with_post_processor(spec, wrap=False), {"bos_token": BOS}),
         "two tokens": (lambda spec: with_post_processor(spec, before=(BOS, "<|im_start|>")), {"bos_token": BOS}),
         "add_bos_token": (add_bos, {"bos_token": BOS, "add_bos_token": True}),
         "add_eos_token": (with_post_processor, {"bos_token": BOS, "add_bos_token": False, "add_eos_token": True}),
         "named only": (add_bos, {"bos_token": BOS}), "none": (None, {})}


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_before_a_text_is_as_in_transformers(tokenizer, tmp_path, kind):
    ours = changed(tokenizer, tmp_path / "a", *KINDS[kind])
    ours.save(tmp_path / "b")
    for folder in (tmp_path / "a", tmp_path / "b"):
        theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
        for text in ("Zoo, mod 10.\n", "", " 7"):
            assert ours.encode_document(text) == theirs(text)["input_ids"], (folder, text)
        assert (ours.bos is None) == (kind in ("add_bos_token", "named only", "none"))


@pytest.fixture(scope="module")
def llama(tokenizer, tmp_path_factory):
    """A checkpoint whose tokenizer begins every text with a token, without a chat template."""
    folder = tmp_path_factory.mktemp("llama")
    own = changed(tokenizer, folder / "tokenizer", with_post_processor, lambda c: no_template(c) | {"bos_token": BOS})
    return tiny_checkpoint(folder / "model", own)


def test_every_way_into_the_model_begins_with_it_once(llama, tmp_path, monkeypatch):
    model, tokenizer = load(llama)
    bos = tokenizer.special[BOS]
    theirs = AutoTokenizer.from_pretrained(llama)
    seen = []

    def note(ids, text=None):
        ids = list(map(int, ids))
        assert ids[0] == bos and ids.count(bos) == 1
        assert text is None or ids == theirs(text)["input_ids"]
        seen.append(ids)
    [[c]] = Sampler(model, tokenizer).generate(["The zoo"], max_new_tokens=2)
    note(c.prompt, "The zoo")
    [problem] = load_problems("world:ops=2", 1)
    note(prompt_ids(tokenizer, problem, "plain"), problem.question + "\n")
    note(prompt_ids(tokenizer, problem, "think"))
    note(tokenise(["The zoo"], tokenizer, "x").get(0)[0][:-1], "The zoo")
    world = open_source("world:ops=1", tokenizer)
    note(world.get(0)[0])
    note(open_source("world:ops=1,chat=1", tokenizer).get(0)[0])
    prepare(["world:ops=1"], llama, tmp_path / "shards", 1, max_tokens=50)
    note(open_source(str(tmp_path / "shards"), tokenizer).get(0)[0])
    note(tokenizer.chat_prompt([{"role": "user", "content": f"{BOS} is text"}]))

    class Watched(Sampler):
        def generate(self, prompts, *args, **how):
            for ids in prompts:
                note(ids)
            return super().generate(prompts, *args, **how)
    monkeypatch.setattr(questions, "Sampler", Watched)
    monkeypatch.setattr(teachers, "Sampler", Watched)
    rows = write_rows(tmp_path / "q.jsonl", [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)])
    before = len(seen)
    for chat in (False, True):
        prompt = [{"role": "user", "content": "How many?"}] if chat else "How many?"
        questions.replies_to(model, tokenizer, [prompt], [3])
        questions.file_accuracy(model, tokenizer, rows, shots=0 if chat else 2, chat=chat, max_new_tokens=2)
    assert run_main(augment, "reject", "--init", llama, "--plain", "--data", "world:ops=2", "--count", 1, "--out",
                    tmp_path / "made.jsonl", "--max-new-tokens", 2)[0] == 0
    assert len(seen) == before + 1 + 2 + 1 + 4 + 1


@torch.no_grad()
def test_bits_per_byte_are_measured_behind_it(llama):
    model, tokenizer = load(llama)
    theirs, text = AutoTokenizer.from_pretrained(llama), "The lions number 3. The bears number 12."
    ids = torch.tensor([theirs(text)["input_ids"]])
    nats = -float(model(ids)[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None]).sum())
    found = bits_per_byte(model, tokenizer, [text])
    assert found["bytes"] == len(text.encode()) and found["tokens"] == ids.shape[1] - 1
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), abs=1e-4)


# ---- what ends a completion

@pytest.mark.parametrize("name, as_list", [("generation_config.json", False), ("generation_config.json", True),
                                           ("config.json", False), ("config.json", True)])
def test_every_end_that_a_folder_names_ends_a_completion(tokenizer, tmp_path, name, as_list):
    folder = tiny_checkpoint(tmp_path / "a", tokenizer, seed=3)
    prompt = tokenizer.encode("The zoo")
    [[free]] = Sampler(*load(folder)).generate([prompt], max_new_tokens=30, temperature=0, stop=set())
    end = next(t for i, t in enumerate(free.tokens) if i > 2 and t not in free.tokens[:i])
    content = json.loads((folder / name).read_text()) | {"eos_token_id": [end, tokenizer.eot] if as_list else end}
    (folder / name).write_text(json.dumps(content))
    for at, other in ((folder, tmp_path / "b"), (tmp_path / "b", tmp_path / "c")):
        model, own = load(at)
        [[c]] = Sampler(model, own).generate([prompt], max_new_tokens=30, temperature=0)
        assert c.finish == "stop" and c.tokens == free.tokens[:free.tokens.index(end) + 1]
        model.save(other, own)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(other)
        ids = torch.tensor([prompt])
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False)
        assert out[0, len(prompt):].tolist() == c.tokens


def test_our_folders_have_a_generation_config(tokenizer, tmp_path):
    folder = tiny_checkpoint(tmp_path / "a", tokenizer)
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": None, "eos_token_id": sorted(tokenizer.stop_ids), "pad_token_id": tokenizer.eot}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "temperature": 0.6, "do_sample": True}))
    model, own = load(folder)
    model.save(tmp_path / "b", own)
    again = json.loads((tmp_path / "b" / "generation_config.json").read_text())
    assert again["temperature"] == 0.6 and again["eos_token_id"] == sorted({7} | tokenizer.stop_ids)


def test_settings_that_nothing_reads_are_told_once(tokenizer, tmp_path, capsys):
    folder, settings = tiny_checkpoint(tmp_path / "a", tokenizer), {"repetition_penalty": 1.5, "stop_strings": ["a"],
                                                                  "num_beams": 1, "temperature": 0.6, "min_length": 0}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    for _ in range(2):
        Sampler(*load(folder))
    assert capsys.readouterr().err == "generation_config.json has repetition_penalty=1.5, stop_strings=['a']: not used here\n"


def test_an_end_that_is_no_token_ends_nothing(tokenizer, tmp_path):
    folder = tiny_checkpoint(tmp_path / "a", tokenizer)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eot, 99_999]}))
    model, own = load(folder)
    assert own.stop_ids == tokenizer.stop_ids
    prompt = tokenizer.chat_prompt([{"role": "user", "content": "Hi"}], think=True)
    assert Sampler(model, own).generate([prompt], max_new_tokens=24, think_budget=2)[0][0].tokens


def test_of_named_templates_the_default_is_used_and_the_others_are_named(tokenizer, tmp_path, capsys):
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": config["chat_template"]}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    own = Tokenizer.load(tmp_path)
    assert "only the default is used and saved, not tool_use" in capsys.readouterr().err
    assert own.encode_chat([{"role": "user", "content": "Hi"}]) == tokenizer.encode_chat([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("name, content, message", [
    ("generation_config.json", "[]", "generation_config.json: must hold a JSON object"),
    ("generation_config.json", '{"eos_token_id": "2"}', "generation_config.json: eos_token_id='2'"),
    ("config.json", '{"eos_token_id": [2, null]}', r"config.json: eos_token_id=\[2, None\]"),
    ("tokenizer_config.json", "[]", "tokenizer_config.json: must hold a JSON object"),
    ("tokenizer.json", "[]", "tokenizer.json: must hold a JSON object"),
    ("tokenizer.json", "[" * 100_000, "tokenizer.json: not valid"),
    ("generation_config.json", '{"eos_token_id": -1}', "generation_config.json: eos_token_id=-1"),
    ("tokenizer_config.json", '{"chat_template": 5}', "chat_template must be text, not 5"),
    ("tokenizer_config.json", '{"chat_template": [1]}', "no template with the name default"),
    ("tokenizer_config.json", '{"chat_template": [{"name": "tool_use", "template": "x"}]}', "default .found: tool_use.")])
def test_broken_files_of_a_tokenizer(tokenizer, tmp_path, name, content, message):
    tokenizer.save(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_list_of_ends_and_an_empty_normalizer(tokenizer, tmp_path):
    empty = {"type": "Sequence", "normalizers": []}
    ours = changed(tokenizer, tmp_path, {"normalizer": empty, "post_processor": {"type": "Sequence", "processors": []}},
                   {"eos_token": ["<|im_start|>", "<|endoftext|>"]})
    assert ours.stop_ids == tokenizer.stop_ids | {tokenizer.im_start} and ours.encode("a 5") == tokenizer.encode("a 5")
    nested = {"type": "Sequence", "normalizers": [empty, {"type": "NFC"}]}
    assert changed(tokenizer, tmp_path, {"normalizer": nested}).encode("e\u0301") == tokenizer.encode("\u00e9")
    with pytest.raises(ValueError, match="normalizer"):
        changed(tokenizer, tmp_path, {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}})


def test_names_of_tokens_in_the_older_file(tokenizer, tmp_path):
    changed(tokenizer, tmp_path, None, lambda c: {k: v for k, v in c.items() if k != "eos_token"})
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_start|>"}}))
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == tokenizer.im_start and ours.stop_ids == tokenizer.stop_ids | {tokenizer.im_start}
    ours.save(tmp_path)
    assert not (tmp_path / "special_tokens_map.json").exists() and Tokenizer.load(tmp_path).stop_ids == ours.stop_ids
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token_id == tokenizer.im_start


def test_added_tokens_of_whitespace_cut_text_as_in_transformers(tokenizer, tmp_path):
    def add(spec):
        for n, text in enumerate(("  ", "    ", "\n\n", "\t", " ")):
            spec["added_tokens"].append(dict(spec["added_tokens"][-1], id=len(tokenizer) + n, content=text, special=False))
        return spec
    ours = changed(tokenizer, tmp_path, add)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a b", "a  b", "      a", "x\n\n\n y", "\t\t7 \n", "", "   "]
    for text in texts:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ours.encode(text)) == text
        assert b"".join(map(ours.token_bytes, ours.encode(text))) == text.encode()
    assert ours.encode_batch(texts, threads=2) == [ours.encode(text) for text in texts]


# ---- conversations

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 3 * 14?"},
        {"role": "assistant", "reasoning": "3 * 14 is 42.", "content": "42"}, {"role": "tool", "content": "ok"},
        {"role": "user", "content": "Sure?"}, {"role": "assistant", "reasoning": "", "content": "Yes."},
        {"role": "user", "content": "b "}, {"role": "assistant", "content": ""}, {"role": "assistant", "content": "Bye."}]


def written(folder, messages, **how):
    """Ids and assistant mask by transformers."""
    theirs = AutoTokenizer.from_pretrained(folder)
    found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, **how)
    return found["input_ids"], [float(x) for x in found["assistant_masks"]]


@pytest.mark.parametrize("think", ["unsaid", None, True, False])
def test_the_template_gives_our_ids_and_our_mask(tokenizer, llama, tmp_path, think):
    tokenizer.save(tmp_path)
    how, asked = ({}, None) if think == "unsaid" else ({"think": think}, think)
    for folder, own in ((tmp_path, tokenizer), (llama, Tokenizer.load(llama))):
        for messages in (CHAT, CHAT[:3], CHAT[:6], CHAT[5:6], CHAT[1:2]):
            assert written(folder, messages, **how) == own.encode_chat(messages, think=asked)
            assert written(folder, messages, add_generation_prompt=True, **how) == own.encode_chat(messages, True, asked)
    assert sum(tokenizer.encode_chat(CHAT)[1]) > 10


def test_the_words_of_others_in_our_template(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    user = CHAT[:2]
    no_think = tokenizer.encode_chat(user, True, think=False)
    assert written(tmp_path, user, add_generation_prompt=True, enable_thinking=False) == no_think
    assert written(tmp_path, user, add_generation_prompt=True, enable_thinking=True) == tokenizer.encode_chat(user, True)
    flagged = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " /no_think"}]}]
    assert written(tmp_path, flagged, add_generation_prompt=True)[0] == tokenizer.chat_prompt(flagged)
    assert tokenizer.chat_prompt(flagged) == tokenizer.chat_prompt([{"role": "user", "content": "a /no_think"}])
    parts = [dict(m, content=[{"type": "text", "text": m["content"]}]) for m in CHAT]
    assert written(tmp_path, parts) == tokenizer.encode_chat(CHAT) == tokenizer.encode_chat(parts)
    other = [dict(m, reasoning_content=m["reasoning"]) if "reasoning" in m else m for m in CHAT]
    other = [{k: v for k, v in m.items() if k != "reasoning"} for m in other]
    assert written(tmp_path, other) == tokenizer.encode_chat(CHAT)
    nothing = [*user, {"role": "assistant", "content": None, "reasoning": None}]
    assert written(tmp_path, nothing) == tokenizer.encode_chat([*user, {"role": "assistant", "content": ""}])
    calls = {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}
    for wrong in ({"role": "user", "content": [{"type": "image"}]}, calls):
        with pytest.raises(Exception, match="cannot be written|can be written"):
            written(tmp_path, [wrong])
    with pytest.raises(ValueError, match="message 0"):
        tokenizer.encode_chat([{"role": "user", "content": [{"type": "image"}]}])


PLAIN = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
         "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
DEFAULT = ("{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are \"kind\" \\\\ n.\n\nYes.<|im_end|>\n' }}"
           "{% endif %}") + PLAIN
LATER = """{%- for message in messages %}
    {%- if message.role == "user" or message.role == "system" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
        {{- message.content }}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
MARKED = PLAIN.replace("{{ '<|im_start|>' + message", "{% generation %}{{ '<|im_start|>' + message").replace(
    "'\n' }}{% endfor", "'\n' }}{% endgeneration %}{% endfor")


@pytest.mark.parametrize("template", [PLAIN, DEFAULT, "{{ bos_token }}" + PLAIN, "{{ bos_token }}" + DEFAULT, LATER, MARKED])
@pytest.mark.parametrize("jinja_file", [False, True])
def test_a_foreign_template_of_chatml_is_spoken_as_it_is(tokenizer, tmp_path, template, jinja_file):
    folder = tmp_path / "a"
    changed(tokenizer, folder, add_bos, lambda c: no_template(c) | {"bos_token": BOS})
    if jinja_file:
        (folder / "chat_template.jinja").write_text(template)
    else:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    one = [{"role": "user", "content": "How many?"}]
    talk = [*one, {"role": "assistant", "content": "Two."}, {"role": "user", "content": "Sure?"}]
    for messages in (one, talk, [CHAT[0], *talk]):
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ours.chat_prompt(messages) == expected
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "chat_template.jinja").write_text("of an older checkpoint")
    ours.save(tmp_path / "b")                                                 # the template of what is trained on
    again = Tokenizer.load(tmp_path / "b")
    for messages in (CHAT, CHAT[1:], talk, one):
        assert written(tmp_path / "b", messages) == ours.encode_chat(messages) == again.encode_chat(messages)
        no_think = written(tmp_path / "b", messages, add_generation_prompt=True, think=False)
        assert no_think == ours.encode_chat(messages, True, False)
    assert ours.encode_chat([])[0] == ours.encode_chat(one)[0][:len(ours.encode_chat([])[0])]


@pytest.mark.parametrize("template, message", [
    ("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}", "is not ChatML"),
    (PLAIN.replace("message['content']", "message['content'].strip()"), "is not ChatML"),
    (PLAIN.replace("'<|im_end|>' + '\n'", "'<|im_end|>'"), "is not ChatML"), ("{% for %}", "TemplateSyntaxError"),
    ("{{ raise_exception('alternate') }}", "alternate"), ("{{ messages[7].content.x }}", "Undefined"),
    (PLAIN + "{{ ''.__class__.__mro__ }}", "is not ChatML|Security")])
def test_another_template_is_refused_for_chats_and_kept(tokenizer, tmp_path, template, message):
    ours = changed(tokenizer, tmp_path / "a", None, {"chat_template": template})
    for use in (lambda: ours.encode_chat([]), lambda: ours.chat_prompt(CHAT[:2])):
        with pytest.raises(ValueError, match=message) as error:
            use()
        assert "chat_template.jinja" in str(error.value) and "\n" not in str(error.value)
    ours.encode_document("plain text is all right")
    ours.save(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())["chat_template"] == template


def test_our_template_is_what_the_tokenizer_writes_and_saves(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == templates.chat_template()
