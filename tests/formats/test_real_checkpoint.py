"""A real pretrained model against transformers: set NANOTHINK_SMOLLM2 to a folder that holds SmolLM2-135M-Instruct."""

import json
import os

import pytest
import torch
from conftest import real_file

from model import load
from sampler import Sampler

transformers = pytest.importorskip("transformers")
FOLDER = os.environ.get("NANOTHINK_SMOLLM2", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="NANOTHINK_SMOLLM2 is not set")
PROMPTS = ["The capital of France is", "def fibonacci(n):\n", "Once upon a time there was a lion who", "Q: What is 12 + 30?\nA:",
           "Water boils at 100 degrees because"]


def test_same_ids_on_all_of_gsm8k():
    from tokenizer import Tokenizer
    ours, theirs = Tokenizer.load(FOLDER), transformers.AutoTokenizer.from_pretrained(FOLDER)
    rows = [json.loads(line) for line in real_file("gsm8k/test.jsonl").read_text().splitlines()]
    texts = [r[field] for r in rows for field in ("question", "answer")]
    assert len(texts) == 2638
    assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]


def test_same_greedy_tokens():
    model, tokenizer = load(FOLDER)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    theirs.generation_config.eos_token_id = None                              # both continue after an end token
    done = Sampler(model, tokenizer).generate(PROMPTS, max_new_tokens=64, temperature=0, stop=set())
    for prompt, [completion] in zip(PROMPTS, done, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt)])
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False)
        assert completion.tokens == out[0, ids.shape[1]:].tolist(), prompt
