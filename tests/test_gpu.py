"""On a GPU: every architecture has the trainer's bits and gradients, and every stage runs with what it can be asked for.

The same commands and models run on a CPU in other tests. Here the device is what is tested: tensors left on the host, kernels
that differ from their plain form, CUDA graphs that keep an old buffer.
"""

import json
import math

import pytest
import torch
from conftest import script
from test_architectures import ARCHITECTURES, a_model, documents_of

from benchmarks.bits import _bits

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICE = "cuda"

ZOO = "world:tiny,ops=1-2"
SHAPE = "--layers 2 --width 64 --heads 4 --kv-heads 2"
PRETRAIN = f"pretrain.py --data {ZOO} --batch-tokens 2048"
SFT = f"sft.py --init BASE --data {ZOO},split=sft --steps 4 --batch-tokens 2048"
ROLLOUTS = "--prompts 4 --group 4 --steps 3 --max-new-tokens 24 --lr 1e-3"
GRPO = f"grpo.py --init BASE --reward random {ROLLOUTS}"
RL = f"{GRPO} --mode plain --data {ZOO},split=rl"
DISTILL = f"distill.py --init BASE --teacher OTHER --data {ZOO},split=rl"
EVALUATE = "evaluate.py --init BASE OTHER"
STAGES = {
    "everything": f"{PRETRAIN} --steps 4 --attention window+nope --window 32 --qk-norm full --qk-scale --head-gate --sinks "
                  f"--norm-after --eval-data {ZOO},split=dev --eval-problems 8 --vocab-size 512 {SHAPE}",
    "yarn": f"{PRETRAIN} --init BASE --steps 3 --seq-len 512 --yarn-factor 2",
    "sft": f"{SFT} --no-think 0.2",
    "dft": f"{SFT} --loss dft",
    "psft": f"{SFT} --loss psft --refresh 2",
    "iw": f"{SFT} --loss iw",
    "pairs": f"augment.py pairs --strong OTHER --weak BASE --data {ZOO},split=sft --count 16 --out ROWS",
    "rft": f"augment.py rft --init BASE --data {ZOO},split=sft --count 8 --samples 2 --out ROWS",
    "grpo": RL,
    "exact": f"{RL} --exact --updates 2",
    "exact, ahead": f"{RL} --exact --async-steps 2 --recompute",
    "ahead, corrected": f"{RL} --async-steps 2 --correction tis --cap 2",
    "masks": f"{RL} --updates 2 --correction icepop --cap 5 --cap-low 0.5 --sequence-mask 0.5 --kl 0.01",
    "divergence": f"{RL} --loss dppo_kl --updates 2",
    "critic": f"{RL} --loss ppo --updates 2",
    "mismatch": f"{RL} --mismatch noise=0.5 --correction tis",
    "chats beside": f"{RL} --sft-data {ZOO},split=sft --sft-weight 0.1 --sft-tokens 1024",
    "keep": f"{RL} --keep-rate 0 0.9 --candidates 8",
    "budget": f"{GRPO} --mode think --data {ZOO},split=rl --think-budget 8",
    "tools": f"{GRPO} --mode chat --data {ZOO},split=rl,calls=1",
    "text": f"{GRPO.replace('random', 'score')} --mode chat --data text:{ZOO},split=midtrain,documents=50,kind=rlpt",
    "distill": f"{DISTILL} {ROLLOUTS} --mode plain",
    "distill, exact": f"{DISTILL} {ROLLOUTS} --mode plain --loss reverse --exact",
    "distill, given": f"{DISTILL} --mode chat --batch-tokens 1024 --steps 3 --lr 1e-3 --loss jsd --on-policy 0 --top-k 8",
    "evaluate": f"{EVALUATE} --data {ZOO},split=test --problems 4 --k 1 2 --exact --compared-with BASE",
    "needles": f"{EVALUATE} --needle 128-512,tiny 128,kind=chain,tiny --problems 2 --attention 2",
    "contamination": f"{EVALUATE} --data {ZOO},split=test --problems 4 --contamination 0.5",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A short base, and a second one of other weights, both with QK-norm and windows."""
    folder = tmp_path_factory.mktemp("bases")
    for name, seed in (("one", 0), ("two", 1)):
        words = f"--tokenizer {folder}/one" if seed else "--vocab-size 512"
        script(*f"{PRETRAIN} --out {folder}/{name} --steps 20 {SHAPE} --qk-norm head --attention window+nope --window 32 {words} "
                f"--device {DEVICE} --seed {seed}".split())
    return folder


@pytest.fixture
def float32_products():
    """Not in TF32, which a script that ran before has switched on (training/ranks.py)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", STAGES)
def test_stage(name, bases, tmp_path):
    words = STAGES[name]
    for word, path in {"BASE": bases / "one", "OTHER": bases / "two", "ROWS": tmp_path / "rows.jsonl"}.items():
        words = words.replace(word, str(path))
    trains = not words.startswith(("evaluate", "augment"))
    found = script(*words.split(), *(["--out", tmp_path / "out"] if trains else []), "--device", DEVICE)
    if trains:
        records = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
        steps = [r for r in records if "loss" in r]
        assert found.json["steps"] == steps[-1]["step"] and all(math.isfinite(r["loss"]) for r in steps)
        if name in ("exact", "distill, exact"):
            assert all(r["logprob_diff_max"] == 0 for r in steps)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bits_of_an_architecture(name):
    """In exact mode the trainer has each log-probability of the sampler; in fast mode it is near."""
    for size in (dict(), dict(width=256, heads=4, ff=256)):                  # heads of 12 and of 64
        model = a_model(**ARCHITECTURES[name] | size).to(DEVICE)
        versions = [{k: w * scale for k, w in model.state_dict().items()} for scale in (1, 1.02)]
        found = _bits(model, versions, torch.bfloat16, True, 0.7, 300, 6, 96, 29)
        assert found["tokens"] >= 300 and found["updates"] and found["differ"] == 0
        near = _bits(model, versions, torch.bfloat16, False, 0.7, 300, 6, 96, 29)
        assert near["mean"] < 0.3


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_of_an_architecture(name, exact, float32_products):
    """Of the kernels in float32, beside those of the plain form in float64 on a CPU."""
    model = a_model(**ARCHITECTURES[name]).double()
    documents, g = documents_of(23, 1, 80, 40), torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(0, 211, (1, 144), generator=g) for _ in range(2))
    weights = torch.randn(1, 144, generator=g, dtype=torch.float64)

    def gradients(model, move):
        logprobs = model(move(tokens), move(documents), move(targets))
        return logprobs, torch.autograd.grad((logprobs * move(weights).to(logprobs)).sum(), list(model.parameters()))
    wanted = gradients(model, lambda x: x)
    ours = a_model(**ARCHITECTURES[name]).to(DEVICE)
    ours.exact = exact
    found = gradients(ours, lambda x: x.to(DEVICE))
    torch.testing.assert_close(found[0].cpu().double(), wanted[0], rtol=1e-3, atol=1e-3)
    for (what, _), a, b in zip(model.named_parameters(), found[1], wanted[1]):
        assert (a.cpu().double() - b).norm() <= 5e-3 * b.norm() + 1e-6, what
