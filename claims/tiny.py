"""The tiny world that claims share, as commands: a tokenizer, a base, a branch of mid-training, SFT, GRPO, and their measure.

Numbers are plain and small, there is one context, and problems are chains, so that a very small model learns quickly. What
made it cheap, the largest effect first: no modulus; a layer with a window below a layer that sees everything; two layers of
width 128; QK-norm; one token for each name and digit, so the tokenizer is trained on the world.

Every function returns a Command and takes the Setting. Steps are those of budget small. Training problems depend on the seed, and
so do test problems, which are the same in all arms of a seed. More flags go behind the usual ones, where the last one counts.
"""

from claims.runner.claim import Setting
from claims.runner.commands import Command, make

SHAPE = ["--layers", 2, "--width", 128, "--heads", 4, "--kv-heads", 2, "--attention", "window+nope", "--window", 8,
         "--rope-theta", 100, "--qk-norm", "head"]
BATCH = ["--seq-len", 256, "--batch-tokens", 2048]
SKILLS = "1-3"                       # operations that a base learns
EDGE = "2-3"                         # and those that reinforcement is about: the deepest that training has much of
BEYOND = "4-6"                       # of which training has a little
STEADY = {"decay": 0, "warmup": 0}   # a rate of training that is the same at all steps


def world(s: Setting, ops: str, split: str, share: float = 1.0, **options) -> str:
    """A SPEC of problems: world(s, "1-3", "pretrain", 0.9, style="long")."""
    more = "".join(f",{name}={value}" for name, value in options.items())
    return f"world:tiny,ops={ops},split={split},seed={s.seed}{more}" + (f"@{share:g}" if share != 1 else "")


def tokenizer(*styles: str, **options) -> Command:
    """One for all seeds and arms, trained on problems in each of these styles. options: of the world."""
    more = "".join(f",{name}={value}" for name, value in options.items())
    specs = [f"world:tiny,ops=1-6{style and ',style='}{style}{more}" for style in styles or ("",)]
    return make("tokenizer.py", "train", "--data", *specs, "--vocab-size", 512)


def base(s: Setting, words: Command, *data, steps: int = 240, **flags) -> Command:
    """From random weights, with the rate kept up for what comes. data: its sources; without any, nine tenths of SKILLS."""
    data = data or (world(s, SKILLS, "pretrain", 0.9), world(s, BEYOND, "pretrain", 0.1))
    return make("pretrain.py", "--tokenizer", words, "--data", *data, *SHAPE, *BATCH, "--steps", s.steps(steps), "--lr", 0.04,
                "--adam-lr", 0.008, *common(s), *as_flags({"decay": 0.3} | flags))


def steady(s: Setting, words: Command, *data, **flags) -> Command:
    """A base whose rate never falls, for claims that begin reinforcement at a base: from one whose rate has fallen it gains too
    little to tell arms apart (results/tried.jsonl)."""
    return base(s, words, *data, **STEADY | flags)


def branch(s: Setting, init: Command, *data, steps: int = 120, **flags) -> Command:
    """Mid-training from a checkpoint, at a rate that falls."""
    return make("pretrain.py", "--init", init, "--data", *data, *BATCH, "--steps", s.steps(steps), "--lr", 0.03,
                "--adam-lr", 0.006, *common(s), *as_flags({"decay": 0.4} | flags))


def sft(s: Setting, init: Command, *data, steps: int = 60, **flags) -> Command:
    """Fine-tuning on conversations."""
    return make("sft.py", "--init", init, "--data", *data, "--batch-tokens", 2048, "--steps", s.steps(steps), "--lr", 0.01,
                "--adam-lr", 0.002, *common(s), *as_flags(flags))


def grpo(s: Setting, init: Command, ops: str = EDGE, steps: int = 60, **flags) -> Command:
    """Reinforcement on the edge; a solution earns something only if every step is right."""
    usual = {"mode": "plain", "reward": "strict", "prompts": 32, "group": 8, "rows": 256, "max_new_tokens": 48, "lr": 1e-3,
             "schedule": "wsd", "decay": 0.5, "show_every": 0}
    return make("grpo.py", "--init", init, "--data", world(s, ops, "rl"), "--steps", s.steps(steps), *common(s),
                *as_flags(usual | flags))


def evaluate(s: Setting, init: Command, ops: str = EDGE, problems: int = 200, samples: int = 8, chat: bool = False,
             suffix: str = "", think: str | int = "", draws: int | None = None, **options) -> Command:
    """Eight samples at temperature 1 for each test problem. suffix: behind a question in a chat, as " /no_think". think: on, off,
    or the most tokens of thinking. draws: their seed, if it is not that of the setting. options: of the world."""
    return make("evaluate.py", "--init", init, "--data", world(s, ops, "test", **options), "--problems", s.count(problems),
                "--k", 1, samples, "--temperature", 1, "--rows", 256, "--seed", s.seed if draws is None else draws,
                "--device", s.device, *(["--chat"] if chat else []), *(["--user-suffix", suffix] if suffix else []),
                *(["--think", think] if think != "" else []))


def common(s: Setting) -> list:
    """Of every training command. A checkpoint is kept now and then, in case of a kill."""
    return ["--seed", s.seed, "--device", s.device, "--save-every", 50]


def as_flags(flags: dict) -> list:
    """{"max_new_tokens": [32, "64@20"], "exact": True} -> --max-new-tokens 32 64@20 --exact"""
    words = []
    for name, value in flags.items():
        values = [] if value is True else list(value) if isinstance(value, list | tuple) else [value]
        words += [f"--{name.replace('_', '-')}", *values]
    return words
