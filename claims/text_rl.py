"""Claim 9: reinforcement on text makes a better start for RLVR than next-token training on the same text, at equal FLOPs."""

from claims import texts, tiny
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

KINDS = {"rpt": 90, "rlpt": 60, "rlp": 30}                # steps, for about as many FLOPs; the ratios are measured
HEAD = "after RLVR, rlpt - mixed SFT"
MIXED_STEPS = 240                                          # of next-token training, likewise


def arms(s: Setting) -> dict[str, Command]:
    """From one cold start: three kinds of reinforcement on text; next-token training on the same text and on chats in one stage
    (mixed SFT); nothing. Then the same RLVR. "..., cost" are the runs on text themselves."""
    data = {kind: texts.text(s, kind=kind) for kind in KINDS}
    data["rpt"] = (data["rpt"], ",proxy=", texts.pretrained(s))
    starts = {kind: texts.reinforced(s, data[kind], kind, steps) for kind, steps in KINDS.items()}
    chats = tiny.world(s, texts.EASY, "sft", 0.3, format="chat")
    starts["mixed SFT"] = tiny.branch(s, texts.cold(s), (texts.raw(s), "@0.7"), chats, steps=MIXED_STEPS)
    found = {f"{name}, cost": start for name, start in starts.items()}
    for name, start in (starts | {"cold start": texts.cold(s)}).items():
        found |= {name: texts.solves(s, start), f"{name}, RLVR": texts.solves(s, texts.rlvr(s, start))}
    again = texts.rlvr(s, starts["mixed SFT"], seed=s.seed + 100)
    return found | {"mixed SFT, RLVR again": texts.solves(s, again)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    def flops(name):
        own = r[f"{name}, cost"].line["flops"]
        return own["total"] - own["inherited"]
    base, found = r["mixed SFT, RLVR"], {}
    for kind in ("rlpt", *(kind for kind in KINDS if kind != "rlpt")):
        found[f"after RLVR, {kind} - mixed SFT"] = r[f"{kind}, RLVR"].rate() - base.rate()
        found[f"after RLVR, {kind} - cold start"] = r[f"{kind}, RLVR"].rate() - r["cold start, RLVR"].rate()
        found[f"pass@8 after RLVR, {kind} - mixed SFT"] = r[f"{kind}, RLVR"].rate(8) - base.rate(8)
        found[f"before RLVR, {kind} - mixed SFT"] = r[kind].rate() - r["mixed SFT"].rate()
        found[f"FLOPs of {kind} / mixed SFT"] = flops(kind) / flops("mixed SFT")
    return found | {"RLVR with other draws": r["mixed SFT, RLVR again"].rate() - base.rate(),
                    "mixed SFT and RLVR - cold start": base.rate() - r["cold start"].rate()}


CLAIM = Claim(
    number="9", says="Reinforcement on text (RLPT) beats next-token training on it as a start for RLVR, at equal FLOPs.",
    source="RLPT, arXiv 2509.19249; also RPT, arXiv 2506.08007, and RLP, arXiv 2510.01265",
    theirs="Qwen3-4B, AIME24 after RLVR: 29.9 with RLPT, 27.6 without; against mixed SFT, Qwen3-30B, mean of benchmarks in its "
           "domain, arXiv 2608.23256: 67.4 with mixed SFT, 64.2 with next-token RL",
    would_show="Above 0: RLPT is ahead of next-token training on the same text and of chats, after the same RLVR",
    arms=arms, statistic=statistic, headline=HEAD, verdict=lambda n: positive(n[HEAD]),
    null="RLVR with other draws", oracle="mixed SFT and RLVR - cold start")
