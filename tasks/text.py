r"""Text as a task: what a text goes on with is to be predicted, after thinking (reinforcement learning on pre-training data).

The answer key is ordinary text, so there is as much of it as there is text. Three kinds:

    rpt     the next token: the prediction must be, byte for byte, a beginning of the text that ends where a token ends
            (Reinforcement Pre-Training, arXiv 2506.08007)
    rlpt    the next segment, or one that is masked in the middle: a judge (tasks/judges.py) says whether the prediction says the
            same (RL on Pre-Training Data, arXiv 2509.19249)
    rlp     nothing is predicted: a thought is worth as much as it makes the next tokens likelier (RL as a Pre-training Objective,
            arXiv 2510.01265); the model itself says this, so rl/scoring.py computes it

    python -m tasks.text --data text:world:tiny,ops=1-3,kind=rlpt --show 3
    python sft.py --init runs/mid --data text:corpus.txt,kind=rlpt --out runs/cold --steps 30 --batch-tokens 2048
    python grpo.py --init runs/cold --data text:corpus.txt,kind=rlpt --out runs/rlpt --mode think --reward score --steps 2
    python grpo.py --init runs/cold --data text:corpus.txt,kind=rpt,proxy=runs/base --out runs/rpt --mode think --reward score \
        --steps 2
    python grpo.py --init runs/base --data text:corpus.txt,kind=rlp --out runs/rlp --mode plain --reward score --loss rlp \
        --steps 2
    python evaluate.py --init runs/cold --data text:held_out.txt,kind=rlpt --chat --limit 20 --k 1 8 --max-new-tokens 60

What all of this must be compared with is next-token training on the same file, which is far cheaper (arXiv 2608.23256):

    python pretrain.py --init runs/base --data corpus.txt --out runs/plain --steps 20 --seq-len 256 --batch-tokens 2048

A SPEC is text:CORPUS,option=value,... The corpus is a .txt file (one document), a file of rows with "text", a file of questions
with answers (the answer is predicted, the question is given), or world:..., knowledge:... whose documents are taken; options that
are not those of class Text are then the world's.

A reply must have the form that sft.py teaches from the same SPEC (a cold start): a think block, and behind it one <answer>...
</answer>. Without it the reward is 0, whatever it says. In plain text and in no-think mode there is no think block to ask for.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from tasks import show
from tasks.corpus import read_corpus
from tasks.judges import ModelJudge, StepsJudge, TextJudge
from tasks.options import is_generated, need, read_options, set_apart
from tasks.positions import Position, Proxy, at_random, is_clean, writable
from tasks.predictions import CLOSE, OPEN, answer_in, matches, predicted
from tasks.segments import spans
from tasks.task import Problem, Reply, Task
from tasks.verdict import Verdict
from tokenizer import Tokenizer

REWARDS = {"rpt": ("prefix", "first", "dense", "dense_hit"), "rlpt": ("prefix", "strict"), "rlp": ("gain",)}
POSITIONS = ("random", "all", "entropy")
USUAL = {"context": {"rpt": 256, "rlpt": 16, "rlp": 256}, "next": {"rpt": 16, "rlpt": 3, "rlp": 1}}
# the kinds in which an option has an effect; the others have one in all
ONLY = {"positions": ("rpt", "rlp"), "proxy": ("rpt", "rlp"), "entropy": ("rpt", "rlp"), "middle": ("rlpt",), "judge": ("rlpt",),
        "enough": ("rlpt",), "shortest": ("rlpt",), "taught": ("rlpt",), "judge_errors": ("rpt", "rlpt")}
GAP = "[...]"
ASKED = {
    "full": {"rpt": "Below is the beginning of a text. Think about what stands next in it. Then write the next word, or the next "
                    f"part of one, between {OPEN} and {CLOSE}: exactly as it stands there, with the space before it if there is "
                    "one.",
             "next": "Below is the beginning of a text. Think about how it goes on. Then write the next sentence or line of it "
                     f"between {OPEN} and {CLOSE}.",
             "middle": f"Below is a text from which one sentence or line is missing, at {GAP}. Think about what it must say. "
                       f"Then write it between {OPEN} and {CLOSE}.",
             "rlp": "Below is the beginning of a text. Think about how it goes on, then go on in the same style."},
    "short": {"rpt": "Next token?", "next": "Next line?", "middle": "Missing line?", "rlp": "Go on."}}


@dataclass
class Excerpt(Problem):
    """A place in a text. `answer` is what stands there, `question` the prompt with what stands before it."""
    before: str = ""                 # the text before the place, as far as it is shown
    kind: str = ""                   # what was asked: next, middle (rlpt); easy, medium, hard (with a proxy)
    references: tuple[str, ...] = ()     # rlpt: the segment, and those behind it that a prediction may say as well
    before_ids: tuple[int, ...] = field(default=(), repr=False)      # rpt, rlp: tokens before the place
    next_ids: tuple[int, ...] = field(default=(), repr=False)        # and from it on
    top: dict[int, float] | None = field(default=None, repr=False)   # the proxy's most likely tokens there
    difficulty: str = ""             # easy, medium or hard; "" without a proxy


@dataclass(eq=False)
class Text(Task):
    """A text and what is asked of it; ValueError for options that do not fit. The fields but the first are the options of a SPEC;
    numbers of 0 stand for what is usual."""
    corpus: str = ""
    kind: str = "rlpt"               # rpt, rlpt or rlp
    documents: int = 0               # how many, from the beginning; 0: all, of an endless source 1000
    context: int = 0                 # how much is shown before the place: tokens (256), in rlpt segments (16)
    next: int = 0                    # how much behind it counts: rpt tokens (16), rlpt segments (3), rlp tokens (1)
    reward: str = ""                 # rpt: prefix, first, dense or dense_hit; rlpt: prefix or strict; the first is usual
    positions: str = ""              # rpt, rlp: random (one in `context` tokens), all, or entropy, which needs a proxy
    proxy: str = ""                  # a checkpoint that says which tokens are hard
    entropy: float = 0.5             # of the proxy, in nats: positions above it are taken
    middle: float = 0.5              # rlpt: lambda, the weight of masked segments; next ones have weight 1
    judge: str = ""                  # rlpt: text, steps, or a checkpoint; usual: steps where the documents have some, else text
    enough: int = 0                  # rlpt, judge text: words from which on a beginning of a segment is right; 0: the whole of it
    judge_errors: float = 0.0        # share of verdicts that are turned round, as the reward sees them
    shortest: int = 8                # rlpt: characters; shorter segments are not asked for
    taught: int = 1                  # rlpt: a lesson of sft.py says the next segment, or the next 2, ... up to so many, by chance
    ask: str = "full"                # the words of the prompt: full, or short for a model that learns them from a cold start
    seed: int = 0                    # of positions and of judge_errors; a world of the SPEC has it, too

    has_steps = False
    format = "plain"

    def __post_init__(self):
        where = f"text:{self.corpus}"
        need(self.corpus, "text: names no corpus; use text:corpus.txt,kind=rpt or text:world:...,kind=rlpt")
        need(self.kind in REWARDS, f"{where}: kind={self.kind} is not known; use one of {', '.join(REWARDS)}")
        own = {option.name: option.default for option in fields(self)}
        for name, kinds in ONLY.items():
            need(self.kind in kinds or getattr(self, name) == own[name],
                 f"{where}: {name}={getattr(self, name)} has no effect with kind={self.kind}; it is for {' and '.join(kinds)}")
        self.reward = self.reward or REWARDS[self.kind][0]
        need(self.reward in REWARDS[self.kind],
             f"{where}: reward={self.reward} is not known for kind={self.kind}; use one of {', '.join(REWARDS[self.kind])}")
        self.positions = self.positions or ("entropy" if self.proxy else "random")
        need(self.positions in POSITIONS, f"{where}: positions={self.positions}: use one of {', '.join(POSITIONS)}")
        need(bool(self.proxy) == (self.positions == "entropy"), f"{where}: positions=entropy and proxy=CHECKPOINT go together")
        need(self.proxy or not self.reward.startswith("dense"), f"{where}: reward={self.reward} needs proxy=CHECKPOINT, whose "
             "probability a wrong token is paid")
        need(self.ask in ASKED, f"{where}: ask={self.ask}: use one of {', '.join(ASKED)}")
        need(0 <= self.judge_errors <= 1, f"{where}: judge_errors={self.judge_errors:g} is a share; use 0 to 1")
        need(0 <= self.middle <= 1, f"{where}: middle={self.middle:g} is the weight lambda; use 0 to 1")
        need(min(self.documents, self.context, self.next, self.enough, self.shortest) >= 0,
             f"{where}: documents, context, next, enough and shortest are numbers of at least 0")
        self.context = self.context or USUAL["context"][self.kind]
        self.next = self.next or USUAL["next"][self.kind]
        need(1 <= self.taught <= self.next, f"{where}: taught={self.taught}: use 1 to next={self.next} segments, which count")
        for name in ("proxy", "judge"):
            folder = getattr(self, name)
            need(folder in ("", "text", "steps")[:3 if name == "judge" else 1] or (Path(folder) / "config.json").is_file(),
                 f"{where}: {name}={folder}: no such checkpoint")
        self.tokenizer, self.device, self.bills, self._judge = None, "cpu", [], None
        self.texts, self.writer = read_corpus(self.corpus, self.documents)
        need(self.judge != "steps" or self.writer is not None, f"{where}: judge=steps needs documents with steps: "
             "world:..., or a file of questions with worked answers; use judge=text")
        if self.kind == "rlpt":
            need(self.places, f"{where}: is too short for kind=rlpt, which needs a document of two segments at least, one of "
                 f"them of {self.shortest} characters" + " that its judge can read" * (not self.by_model))

    @classmethod
    def from_spec(cls, spec: str) -> "Text":
        """Text from "text:corpus.txt,kind=rpt"; ValueError for unknown options."""
        corpus, options = split_spec(spec)
        if not is_generated(corpus) and not Path(corpus).exists() and "," in corpus:
            need(False, f"text option {corpus.split(',')[1]!r} is not known: see the options in tasks/text.py, class Text")
        task = cls(corpus, **read_options(f"text:{','.join(f'{name}={value}' for name, value in options.items())}", cls, {}))
        task.source = f"text:{spec.removeprefix('text:')}"
        return task

    # what decides about rewards

    @property
    def own_reward(self) -> str:
        """Why its reward is more than whether the answer is right; "" if it is not."""
        return ("the gain of a thought" if self.kind == "rlp" else f"reward={self.reward}" if self.reward.startswith("dense") else
                f"judge_errors={self.judge_errors:g}" if self.judge_errors else "")

    @property
    def by_gain(self) -> bool:
        return self.kind == "rlp"

    # what can be asked

    def prepare(self, tokenizer: Tokenizer, device: str = "cpu") -> None:
        """Takes the tokenizer of the model that is asked, and the device for the proxy or the judge. ValueError for a proxy with
        another tokenizer, and for a text without a place to ask about."""
        self.tokenizer, self.device = tokenizer, str(device)
        need(self.places, f"text:{self.corpus}: is too short for kind={self.kind}: no document has a token to predict"
             + f" at which the entropy of the proxy is above {self.entropy:g}" * bool(self.proxy))

    @cached_property
    def places(self) -> list:
        """All that can be asked for, in order."""
        return self._segments() if self.kind == "rlpt" else self._positions()

    def _segments(self):
        """[(document, number of its segment, next or middle)]"""
        self.spans, found, middles = [spans(text) for _, text in self.texts], [], 0
        judges = (lambda segment: True) if self.by_model else self.judge_of().judges
        for document, ((before, text), parts) in enumerate(zip(self.texts, self.spans, strict=True)):
            for k, (start, end) in enumerate(parts):
                if end - start < self.shortest or not (k or before.strip()) or not judges(text[start:end]):
                    continue
                # lambda to 1 are their shares; the last segment of a document can only be the next one
                masked = k + 1 < len(parts) and middles < self.middle / (1 + self.middle) * (len(found) + 1)
                middles += masked
                found.append((document, k, "middle" if masked else "next"))
        return found

    def _positions(self):
        need(self.tokenizer, f"text:{self.corpus},kind={self.kind}: counts in tokens, so it needs the tokenizer of a model; here "
             "only kind=rlpt can be read")
        self.ids, choices = [], []
        for before, text in self.texts:
            ids = self.tokenizer.encode(before + text)
            size, sizes = 0, []
            for i in ids:
                sizes.append(size)
                size += len(self.tokenizer.token_bytes(i))
            first = next((n for n, at in enumerate(sizes) if at >= len(before.encode())), len(ids))
            self.ids.append(ids)
            choices.append((ids, range(max(1, first), len(ids) - (self.next - 1 if self.kind == "rlp" else 0))))
        def fits(number: int, at: int) -> bool:
            ids = self.ids[number]
            can_be_said = self.kind != "rpt" or writable(self.tokenizer, ids[at:at + self.next]) > 0
            return can_be_said and is_clean(self.tokenizer, ids, at)
        if self.positions == "all":
            return [Position(n, at) for n, (_, places) in enumerate(choices) for at in places if fits(n, at)]
        if self.positions == "random":
            return [found for n, (_, places) in enumerate(choices)
                    for found in at_random(n, places, self.context, self.seed, fits)]
        proxy = Proxy(self.proxy, self.tokenizer, self.device)
        found = [place for place in proxy.hard(choices, self.context, self.entropy) if fits(place.document, place.at)]
        self.bills.append(("scoring", proxy.flops, proxy.tokens))
        return found

    # problems

    @property
    def count(self) -> int:
        return len(self.places)

    @property
    def lessons(self) -> int:
        return self.count

    def problem(self, i: int) -> Excerpt:
        return self._segment(*self.places[i]) if self.kind == "rlpt" else self._token(self.places[i])

    def _segment(self, document: int, k: int, form: str) -> Excerpt:
        before, text = self.texts[document]
        parts = self.spans[document]
        shown = text[parts[max(0, k - self.context)][0]:parts[k][0]]
        answer, behind = text[slice(*parts[k])], parts[k + 1:k + self.next]
        asked = before + shown.rstrip() + ("\n" if "\n" in text[parts[k - 1][1]:parts[k][0]] else " ") * bool(k)
        if form == "middle":                              # what stands behind the gap cannot be a part of what is missing
            asked, behind = f"{asked}{GAP}{text[parts[k][1]:parts[k + 1][1]]}", []
        references = (answer, *(text[slice(*span)] for span in behind))
        more = random.Random(f"{document}|{k}").randrange(self.taught)        # segments of a lesson behind the first
        said = text[parts[k][0]:[parts[k], *behind][min(len(behind), more)][1]]
        return Excerpt(f"{ASKED[self.ask][form]}\n\n{asked.strip()}", answer, f"{OPEN}{said}{CLOSE}", self,
                       before=(before + shown).strip(), kind=form, references=references)

    def _token(self, place: Position) -> Excerpt:
        ids, at = self.ids[place.document], place.at
        start = max(0, at - self.context)
        while start + 1 < at and "\ufffd" in self.tokenizer.decode(ids[start:start + 1]):       # not inside of a character
            start += 1
        before, after = ids[start:at], ids[at:at + self.next]
        text = self.tokenizer.decode(before)
        answer = self.tokenizer.decode(after[:writable(self.tokenizer, after)] if self.kind == "rpt" else after)
        solution = f"{OPEN}{answer}{CLOSE}" if self.kind == "rpt" else answer
        return Excerpt(f"{ASKED[self.ask][self.kind]}\n\n{text}", answer, solution, self, before=text, kind=place.difficulty,
                       before_ids=tuple(before), next_ids=tuple(after), top=place.top, difficulty=place.difficulty)

    def prompt(self, problem: Excerpt, mode: str) -> str | list[dict]:
        return problem.before if self.kind == "rlp" and mode == "plain" else super().prompt(problem, mode)

    def reply(self, problem: Excerpt) -> tuple[str, str]:
        """The form of a reply, for a cold start: a thought that only repeats the last words, and the true answer."""
        return " ".join(problem.before.split()[-6:]), problem.solution

    # grades

    def answer_in(self, text: str) -> str | None:
        """The prediction, exactly as it stands there; None if there is not just one, or if a think block is not closed."""
        return answer_in(text)

    def well_formed(self, text: str, thinking: bool) -> bool:
        return answer_in(text) is not None

    def grade(self, problem: Excerpt, reply: Reply) -> Verdict:
        if self.kind == "rlp":
            need(reply.gain is not None, f"{self.source}: a thought has no answer that could be checked; measure bits per "
                 "byte of the text, or ask with kind=rpt")
            return Verdict(reply.gain > 0, None, None, f"gain {reply.gain:.4g}")
        said, fault = predicted(reply)
        if said is None:
            return Verdict(False, None, None, fault)
        ok = self._right(problem, [said])[0]
        return Verdict(ok, None, None, "ok" if ok else f"predicted {said[:60]!r}, it is {problem.answer[:60]!r}")

    def _right(self, problem: Excerpt, said: Sequence[str]) -> list[bool]:
        if self.kind == "rlpt":
            return self.judge_of().right([text.strip() for text in said], problem.references, self.reward == "strict")
        if self.reward == "first":
            return [self.tokenizer.encode(text)[0] == problem.next_ids[0] for text in said]
        tokens = [self.tokenizer.token_bytes(i) for i in problem.next_ids]
        return [matches(text.encode(), tokens) for text in said]

    def score(self, problem: Excerpt, reply: Reply, group: Sequence[Reply]) -> float:
        """What is paid. The verdict of `grade` is that of a judge who does not err (judge_errors); this one is as the judge says.

        dense pays a wrong prediction with the proxy's probability of its first token, if that is one of its 16 most likely ones;
        dense_hit does so only where some reply of the group is right."""
        if self.kind == "rlp":
            need(reply.gain is not None, f"{self.source}: the gain of a thought is not known here")
            return reply.gain
        said, _ = predicted(reply)
        if said is None:
            return 0.0
        ok = self._right(problem, [said])[0] != self._errs(problem, said)
        if ok or not self.reward.startswith("dense"):
            return float(ok)
        hit = self.reward == "dense" or any(self.grade(problem, other).answer_ok for other in group)
        first = self.tokenizer.encode(said)[:1]
        return float(problem.top.get(first[0], 0.0)) if hit and first else 0.0

    def _errs(self, problem: Excerpt, said: str) -> bool:
        """Whether the judge is wrong about this prediction: it depends on the seed, the problem and what is said, so the same
        prediction always has the same verdict."""
        key = f"{self.seed}|{problem.question}|{' '.join(said.split())}"
        drawn = int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest(), "big")
        return drawn < self.judge_errors * 2 ** 64

    @property
    def by_model(self) -> bool:
        """Whether a checkpoint judges."""
        return self.judge not in ("", "text", "steps")

    def judge_of(self) -> TextJudge | StepsJudge | ModelJudge:
        """The judge; a model is loaded when it is first needed."""
        if self._judge is None:
            steps = self.judge == "steps" or (not self.judge and getattr(self.writer, "has_steps", False))
            self._judge = (ModelJudge(self.judge, self.device) if self.by_model else StepsJudge(self.writer) if steps else
                           TextJudge(self.enough))
        return self._judge

    def examine(self, problem: Excerpt, replies: Sequence[Reply]) -> None:
        """A model judges the replies to one problem together, which is quicker; it remembers what it said."""
        if self.by_model:
            self._right(problem, [text for text, _ in map(predicted, replies) if text is not None])

    def take_bills(self) -> list[tuple[str, int, int]]:
        bills, self.bills = self.bills, []
        if self.by_model and self._judge is not None:
            bills.append(("judge", self._judge.flops, self._judge.tokens))
            self._judge.flops = self._judge.tokens = 0
        return bills


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """"text:world:ops=2,kind=rpt" -> ("world:ops=2", {"kind": "rpt"}): the corpus, and the options of class Text."""
    rest, options = set_apart(f"text:{spec.removeprefix('text:')}", [option.name for option in fields(Text)][1:])
    corpus = rest.removeprefix("text:")
    need(not corpus.startswith("text:"), f"{spec}: text of text; name the corpus itself")
    return corpus + (f",seed={options['seed']}" if is_generated(corpus) and "seed" in options else ""), options


def parts_of(spec: str) -> tuple[str, ...]:
    """What a SPEC is made of: the corpus, and the checkpoints that choose positions and judge."""
    corpus, options = split_spec(spec)
    return (corpus, *(options[name] for name in ("proxy", "judge") if options.get(name, "text") not in ("text", "steps")))


def main() -> None:
    show.main("Show what is asked about a text.", Text.from_spec, "text:world:tiny,ops=1-3,kind=rlpt")


if __name__ == "__main__":
    main()
