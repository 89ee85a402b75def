"""Claim 27: QK-norm costs what a model retrieves from a long context, and no short-context loss.

Bases with seven kinds of attention learn from short documents, go on with long ones, and are asked for needles. As the paper did,
the share of attention on each part of the text stands beside: a norm bounds the scores, so no key can stand out of many. A
learnable factor behind it, which the paper does not try, lifts that bound; whether it helps is measured beside.

Such small models learn to find needles from texts of a few facts first, with several questions about each; longer texts with one
question each taught nothing (results/tried.jsonl). When a base learns it depends on its weights, more than on its kind. So all
bases have the same number of steps, more than the slowest of those tried needed.
"""

from claims import tiny
from claims.runner.claim import Claim, Setting, about_zero, both, positive
from claims.runner.commands import Command, make
from claims.runner.measures import Result

WINDOW = ["--window", 8]
KINDS = {                                                  # flags of pretrain.py
    "RoPE": ["--attention", "rope"],
    "QK-norm": ["--attention", "rope", "--qk-norm", "head"],
    "QK-norm with a factor": ["--attention", "rope", "--qk-norm", "head", "--qk-scale"],
    "NoPE": ["--attention", "nope"],
    "hybrid": ["--attention", "rope+nope"],
    "windowed hybrid": ["--attention", "window+nope", *WINDOW],
    "windows alone": ["--attention", "window", *WINDOW],
}
FEW = "20-64"                                              # tokens of a text in pre-training
LENGTHS = (256, 512, 1024, 2048)
SHORT, LONG, BEYOND = 256, 1024, 2048                      # rows of pre-training, of what goes on from it, and twice as long
NAMED = "tiny,named=1"
NEEDLES, COST = f"needles at {LONG}, RoPE - QK-norm", "short-context loss, QK-norm - RoPE"


def needles(s: Setting, lengths: str, asks: int, share: float) -> str:
    return f"needle:{NAMED},length={lengths},asks={asks},split=pretrain,seed={s.seed}@{share:g}"


def base(s: Setting, kind: str, again: int = 0) -> Command:
    """From random weights, on short texts. Its rate never falls, so that it can go on learning."""
    words = make("tokenizer.py", "train", "--data", "world:tiny,ops=1-3", "needle:tiny,length=64-256", "--vocab-size", 512)
    flags = [*KINDS[kind], *(["--rope-theta", 10_000] if kind != "NoPE" else [])]
    data = needles(s, FEW, 4, 0.8), tiny.world(s, tiny.SKILLS, "pretrain", 0.2)
    shape = ["--layers", 2, "--width", 128, "--heads", 4, "--kv-heads", 2, *flags]
    return make("pretrain.py", "--tokenizer", words, "--data", *data, *shape, *tiny.BATCH, "--steps", s.steps(600),
                "--lr", 0.004, "--adam-lr", 0.0008, "--decay", 0, *tiny.common(s), "--seed", s.seed + again)


def extended(s: Setting, kind: str, again: int = 0) -> Command:
    """It goes on with rows of 1,024 tokens, half of their tokens in long documents; measured on short ones at its end."""
    data = needles(s, f"{SHORT // 2}-{7 * LONG // 8}", 8, 0.5), tiny.world(s, tiny.SKILLS, "midtrain", 0.5)
    return tiny.branch(s, base(s, kind, again), *data, steps=60, seq_len=LONG, batch_tokens=4 * LONG, lr=0.01, adam_lr=0.002,
                       seed=s.seed + again, eval_data=f"loss:{tiny.world(s, tiny.SKILLS, 'test')}")


def found(s: Setting, init: Command) -> Command:
    """Needles by length, and what the question looks at."""
    lengths = "+".join(map(str, LENGTHS))
    return make("evaluate.py", "--init", init, "--needle", f"{lengths},{NAMED},depth=0.1+0.5+0.9,seed={s.seed}", "--problems",
                s.count(40), "--attention", s.count(12), "--rows", 32, "--device", s.device)


def arms(s: Setting) -> dict[str, Command]:
    """Each kind, measured and trained ("..., loss": its last training run); and RoPE from other weights and documents."""
    made = {kind: extended(s, kind) for kind in KINDS} | {"RoPE, again": extended(s, "RoPE", again=100)}
    return {name: found(s, command) for name, command in made.items()} | {
        f"{kind}, loss": made[kind] for kind in KINDS}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    def at(length, kind):
        return r[kind].rate(ops=length)

    def loss(kind):
        return r[f"{kind}, loss"].heldout_loss()
    numbers = {NEEDLES: at(LONG, "RoPE") - at(LONG, "QK-norm"), COST: loss("QK-norm") - loss("RoPE"),
               f"needles at {BEYOND}, RoPE - QK-norm": at(BEYOND, "RoPE") - at(BEYOND, "QK-norm"),
               f"needles at {LONG}, with a factor - QK-norm": at(LONG, "QK-norm with a factor") - at(LONG, "QK-norm"),
               f"needles at {BEYOND}, windowed hybrid - RoPE": at(BEYOND, "windowed hybrid") - at(BEYOND, "RoPE")}
    for kind in KINDS:
        numbers |= {f"needles at {length}, {kind}": at(length, kind) for length in LENGTHS}
        numbers[f"short-context loss, {kind}"] = loss(kind)
        for length in (SHORT, LONG):
            numbers |= {f"attention at {length}, {kind}: {part}": r[kind].attention(length, part)
                        for part in ("first", "needle", "context", "question", "entropy")}
    return numbers | {"RoPE from other weights": at(LONG, "RoPE, again") - at(LONG, "RoPE"),
                      "RoPE - windows alone": at(SHORT, "RoPE") - at(SHORT, "windows alone")}


CLAIM = Claim(
    number="27", says="QK-norm costs what a model retrieves from a long context, and no short-context loss.",
    source="RoPE to NoPE and back, arXiv 2501.18795, sections 3 and 4",
    theirs="8B models, needles at 65k tokens (of 10): RoPE 9.82, QK-norm 7.93, NoPE 9.03; loss 1.52, 1.53, 1.58; windowed hybrid "
           "at 128k 9.56, RoPE 7.40",
    would_show="Above 0 at the longest rows of training, with a difference of the short-context loss near 0",
    arms=arms, statistic=statistic, headline=NEEDLES, also=(COST,),
    verdict=lambda n: both(positive(n[NEEDLES]), about_zero(n[COST])),
    null="RoPE from other weights", oracle="RoPE - windows alone")
