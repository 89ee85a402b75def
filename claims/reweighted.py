"""One chat model, fine-tuned with each loss of sft.py on the same data, which the claims on weighted fine-tuning share.

A base learns problems of two contexts, zoo and market, and facts about people. A cold start by plain SFT teaches it the chat on
easy problems and old facts, because DFT learns little from what a model finds unlikely. Then comes the fine-tuning that differs
in its loss alone: on problems of the zoo at the edge of competence, and on chats about new people. Four things are measured:

    in domain        test problems of the zoo
    out of domain    test problems of the market, which this fine-tuning has not
    new facts        questions about the new people
    old facts        questions about the people of pre-training and of the cold start
"""

from claims import tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command, make
from claims.runner.measures import Result

IN, OUT = {"contexts": "zoo"}, {"contexts": "market"}      # options of the world
NEW, OLD = "sft", "pretrain"                               # splits of people
PEOPLE = 96                                                # in each split; training sees every fact many times
RATES = {"lr": 0.005, "adam_lr": 0.001}                    # at twice these, all of the other domain is lost (results/tried.jsonl)
METHODS = {"SFT": {}, "DFT": {"loss": "dft"}, "iw-SFT": {"loss": "iw"}, "PSFT": {"loss": "psft"}}


def facts(s: Setting, split: str, share: float = 1.0, **options) -> str:
    more = "".join(f",{name}={value}" for name, value in options.items())
    return f"knowledge:tiny,people={PEOPLE},split={split},seed={s.seed}{more}" + (f"@{share:g}" if share != 1 else "")


def words(s: Setting) -> Command:
    """Of this seed's people, too."""
    worlds = [f"world:tiny,ops=1-6,contexts={context['contexts']}" for context in (IN, OUT)]
    return make("tokenizer.py", "train", "--data", *worlds, facts(s, OLD), facts(s, NEW), "--vocab-size", 768)


def base(s: Setting) -> Command:
    """Problems of both contexts and old facts, as documents."""
    worlds = [tiny.world(s, ops, "pretrain", share, **context) for context in (IN, OUT)
              for ops, share in ((tiny.SKILLS, 0.36), (tiny.BEYOND, 0.04))]
    return tiny.base(s, words(s), *worlds, facts(s, OLD, 0.1), facts(s, OLD, 0.1, format="qa"), steps=360)


def cold(s: Setting) -> Command:
    """The chat, from easy problems of both contexts and from questions about the old people."""
    easy = [tiny.world(s, "1-2", "sft", 0.35, **context) for context in (IN, OUT)]
    return tiny.sft(s, base(s), *easy, facts(s, OLD, 0.3), steps=100)


def tuned(s: Setting, method: str, *more: str, **flags) -> Command:
    """The fine-tuning. more: sources beside the usual ones."""
    data = [tiny.world(s, tiny.EDGE, "sft", 0.6, **IN), facts(s, NEW, 0.4), *more]
    return tiny.sft(s, cold(s), *data, **{"steps": 150} | RATES | METHODS[method] | flags)


def reinforced(s: Setting, start: Command, **flags) -> Command:
    """The same for all: new problems of the zoo."""
    return tiny.grpo(s, start, **{"mode": "chat", "max_new_tokens": 64} | flags)


def measured(s: Setting, start: Command) -> Command:
    """All four measures, in a chat."""
    worlds = [tiny.world(s, tiny.EDGE, "test", **context) for context in (IN, OUT)]
    people = [facts(s, split, probe="question") for split in (NEW, OLD)]
    return make("evaluate.py", "--init", start, "--data", *worlds, *people, "--chat", "--problems", s.count(150), "--limit",
                s.count(280), "--max-new-tokens", 16, "--k", 1, 8, "--temperature", 1, "--rows", 256, "--seed", s.seed,
                "--device", s.device)


def in_domain(r: Result, k: int = 1) -> float:
    return r.rate(k, data="contexts=zoo")


def out_of_domain(r: Result) -> float:
    return r.rate(data="contexts=market")


def new_facts(r: Result) -> float:
    return r.rate(data=f"split={NEW},")


def old_facts(r: Result) -> float:
    return r.rate(data=f"split={OLD},")


def late(run: Result, metric: str) -> float:
    """The mean of a metric of the log over the last third of its steps."""
    values = [record[metric] for record in run.records if metric in record]
    return sum(values[-max(1, len(values) // 3):]) / max(1, len(values) // 3)
