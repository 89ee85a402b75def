"""augment.py measure: what a file of data is like, in numbers (transforms/parts/measures.py), beside other files.

    python augment.py measure kept.jsonl --init runs/base
    python augment.py measure generation0.jsonl generation1.jsonl world:ops=1-3,split=sft --words 20000 --out measured.json

A file may hold texts, conversations, questions with answers, or preference pairs (of which the chosen answers count). Whether
an answer is right can be said of rows whose "meta" says from which problem they come, as augment.py writes it, and of world:...
itself.
"""

import functools
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch

from data import batch_from
from formats.chat import END_THINK, THINK, split_thinking
from formats.files import write_json
from formats.rows import file_at, read_rows
from formats.texts import read_texts, row_text
from model import load_both
from sources.conversations import read_conversation
from sources.kinds import kind_of
from tasks.accuracy import interval
from tasks.answers import same_answer
from tasks.problems import open_task
from tasks.task import Problem, Reply
from tasks.words import CONTEXTS
from tasks.world import World
from training import cli
from transforms.parts import measures, turns

PIECE, BATCH = 512, 8        # tokens of a piece for the entropy, and pieces at once


@dataclass
class Text:
    """A row of a file."""
    text: str                          # all of it
    reply: str                         # what was answered; of a text without a question the text
    reasoning: bool                    # whether there is working before the answer
    kind: str = "answer"               # what the reply is: "answer", "label" (an answer without working), or "document"
    problem: Problem | None = None     # that it answers, where that is known


def flags(p: cli.Parser) -> None:
    p.add_argument("files", metavar="FILE", nargs="+", help=".jsonl (or .jsonl.gz, .parquet, .txt), or world:...")
    p.add_argument("--init", metavar="FOLDER", default="", help="checkpoint: its tokens are counted, and how it predicts them")
    p.add_argument("--count", type=cli.non_negative_int, default=0,
                   help="rows to read of each; 0: all of a file, 1000 of a world")
    p.add_argument("--words", type=cli.non_negative_int, default=0, help="words to measure of each, whole rows; 0: all")
    p.add_argument("--topics", metavar="FILE", default="", help="words or phrases, one a line: how many of them occur; empty: "
                   "for the world its contexts and what is counted there")
    p.add_argument("--out", type=cli.out_file, metavar="FILE", default="", help="JSON file to write the numbers to as well")
    p.add_argument("--entropy-tokens", type=cli.positive_int, default=50_000, help="tokens to score with --init, at most")
    p.add_argument("--device", type=cli.device, default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the weights")


NEEDS = (("--entropy-tokens --device --dtype", lambda a: a.init, "without --init"),)


# reading

def texts_of(spec: str, count: int = 0) -> list[Text]:
    """The rows of a file, or problems of a world. FileNotFoundError, or ValueError that says what is wrong."""
    if spec.startswith("world:"):
        task = open_task(spec)
        problems = map(task.problem, range(count or 1000))
        return [Text(f"{p.question}\n{p.solution}", p.solution, "\n" in p.solution, problem=p) for p in problems]
    if spec.endswith(".txt"):
        return [Text(text, text, THINK in text) for text in read_texts(spec)]
    kind = kind_of(spec)
    rows = [_read(row, where, kind) for _, (where, row) in zip(range(count) if count else iter(int, 1), read_rows(spec))]
    return [_with_problem(text, row) for text, row in rows]


def _read(row, where, kind):
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
    if kind == "conversations":
        *before, last = read_conversation(row, where)
        reply = turns.text_of(last.get("reasoning"), last["content"])
        said = [turns.text_of(m.get("reasoning"), m["content"]) for m in before]
        return Text("\n".join([*said, reply]), reply, bool((last.get("reasoning") or "").strip())), row
    if isinstance(row.get("chosen"), str):
        prompt = row.get("prompt") if isinstance(row.get("prompt"), str) else ""
        return Text(f"{prompt}\n{row['chosen']}".strip(), row["chosen"], _thinks(row["chosen"])), row
    if kind == "questions" and "text" not in row:
        solution, answer = (str(row.get(key) or "") for key in ("solution", "answer"))
        reply, working = f"{solution}\n{answer}".strip(), solution or answer.rpartition("####")[0]
        return Text(f"{row.get('question') or row.get('problem')}\n{reply}", reply, bool(working.strip()),
                    "answer" if working.strip() else "label"), row
    text = row_text(row, where)
    return Text(text, text, THINK in text, "document"), row


def _thinks(reply: str) -> bool:
    return bool((split_thinking(reply)[0] or "").strip())


def _with_problem(text: Text, row: dict) -> Text:
    """The text with the problem that its "meta" names, if its question stands in it."""
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    source, index = meta.get("source"), meta.get("index")
    if isinstance(source, str) and isinstance(index, int):
        problem = _problem(source, index, text.text)
        if problem and problem.question in text.text:
            text.problem = problem
            text.reply = text.reply.removeprefix(problem.question)
    return text


def _problem(source: str, index: int, text: str) -> Problem | None:
    try:
        task = _task(source)
    except (OSError, ValueError):                         # the questions are not here any more
        return None
    if task.count is None:
        return task.problem(index)
    first = text.split("\n", 1)[0].strip()                # of a file that was drawn from, the number is not that of the row
    return _by_question(source).get(first) or next((p for q, p in _by_question(source).items() if text.startswith(q)), None)


@functools.lru_cache(maxsize=8)
def _task(source: str):
    return open_task(source)


@functools.lru_cache(maxsize=8)
def _by_question(source: str) -> dict[str, Problem]:
    task = _task(source)
    return {p.question.strip(): p for p in map(task.problem, range(task.count))}


# measuring

def is_right(text: Text) -> bool:
    """Whether a row answers its problem, steps included where it has any."""
    said = text.reply
    if text.kind == "label":
        return same_answer(said, text.problem.answer)
    if text.kind == "document" and said.endswith(END_THINK):                  # thinking behind it, which is not what it says
        said = said.rpartition(f"\n{THINK}")[0]
    return bool(text.problem.task.grade(text.problem, Reply(said)).right)


def measure(texts: list[Text], topics: list[str], scorer: Callable | None = None) -> dict:
    """The numbers of some rows: {"rows", "words", "diversity", "complexity", "accuracy", "reasoning"}. scorer: texts -> what a
    checkpoint makes of them."""
    whole = [t.text for t in texts]
    known = [t for t in texts if t.problem is not None]
    right = [is_right(t) for t in known]
    steps = [len((t.problem or Problem("", "")).task.steps_in(t.reply)) for t in texts]
    near = measures.near_duplicates(whole)
    return {
        "rows": len(texts), "words": sum(len(measures.words_of(t)) for t in whole),
        "diversity": {"distinct": {str(n): measures.distinct_ngrams(whole, n) for n in (1, 2, 4)},
                      "compression_ratio": measures.compression_ratio(whole), "near_duplicates": near / max(1, len(texts)),
                      "coverage": measures.coverage(whole, topics) if topics else None},
        "complexity": {"steps": measures.spread(steps), "words": measures.spread([len(measures.words_of(t)) for t in whole])}
        | (scorer(whole) if scorer else {}),
        "accuracy": {"known": len(known), "right": interval(right) if right else None},
        "reasoning": sum(t.reasoning for t in texts) / max(1, len(texts))}


def scorer_of(args: Namespace) -> Callable:
    """texts -> {"tokens", "loss", "entropy"}: tokens of a text, and over all tokens the mean of -log p and of the entropy of the
    checkpoint's prediction, in nats."""
    model, tokenizer = load_both(args.init, args.device, getattr(torch, args.dtype))

    @torch.no_grad()
    def score(texts):
        documents = [tokenizer.encode_document(text) for text in texts]
        pieces = [(ids[at:at + PIECE + 1], [1.0] * len(ids[at:at + PIECE + 1])) for ids in documents
                  for at in range(0, len(ids) - 1, PIECE)]
        losses = entropies = count = 0.0
        while pieces and count < args.entropy_tokens:
            some, pieces = pieces[:BATCH], pieces[BATCH:]
            batch = batch_from([[piece] for piece in some], PIECE)
            logprobs, entropy = model(*(x.to(args.device) for x in (batch.tokens, batch.documents, batch.targets)), entropy=True)
            mask = batch.loss_mask.double()
            losses -= float((logprobs.cpu().double() * mask).sum())
            entropies += float((entropy.cpu().double() * mask).sum())
            count += float(mask.sum())
        return {"tokens": measures.spread([len(ids) for ids in documents]), "loss": losses / max(1, count),
                "entropy": entropies / max(1, count), "scored_tokens": int(count)}
    return score


def topics_of(path: str, files: list[list[Text]]) -> list[str]:
    """The lines of --topics; without it the world's words where one of the files has problems of the world, else none."""
    if not path:
        world = any(isinstance(text.problem and text.problem.task, World) for texts in files for text in texts)
        return [word for title, kinds in CONTEXTS.values() for word in (title, *kinds.split())] if world else []
    topics = [line.strip() for line in file_at(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    if not topics:
        raise ValueError(f"--topics {path}: holds no line of text")
    return topics


def print_table(found: dict[str, dict]) -> None:
    """A column for each file, on standard error."""
    lines = {
        "rows": lambda m: m["rows"], "words": lambda m: m["words"],
        **{f"distinct {n}-grams": lambda m, n=n: m["diversity"]["distinct"][n] for n in ("1", "2", "4")},
        "compression ratio": lambda m: m["diversity"]["compression_ratio"],
        "near-duplicates": lambda m: m["diversity"]["near_duplicates"],
        "topics covered": lambda m: m["diversity"]["coverage"] and m["diversity"]["coverage"]["covered"],
        "of topics": lambda m: m["diversity"]["coverage"] and m["diversity"]["coverage"]["topics"],
        "effective topics": lambda m: m["diversity"]["coverage"] and m["diversity"]["coverage"]["effective"],
        "steps a row": lambda m: m["complexity"]["steps"] and m["complexity"]["steps"]["mean"],
        "words a row": lambda m: m["complexity"]["words"] and m["complexity"]["words"]["mean"],
        "entropy a token": lambda m: m["complexity"].get("entropy"), "loss a token": lambda m: m["complexity"].get("loss"),
        "verified": lambda m: m["accuracy"]["right"] and m["accuracy"]["right"][0], "of rows": lambda m: m["accuracy"]["known"],
        "with reasoning": lambda m: m["reasoning"]}
    width = max(12, *(min(len(name), 28) for name in found))
    print(f"{'':18}" + "".join(f" {name[-28:]:>{width}}" for name in found), file=sys.stderr)
    for title, get in lines.items():
        cells = [get(m) for m in found.values()]
        if any(cell is not None for cell in cells):
            shown = ["-" if c is None else f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells]
            print(f"{title:18}" + "".join(f" {cell:>{width}}" for cell in shown), file=sys.stderr)


def main(args: Namespace) -> None:
    with cli.bad_input():
        scorer = scorer_of(args) if args.init else None
        files = {spec: texts_of(spec, args.count) for spec in dict.fromkeys(args.files)}
        topics = topics_of(args.topics, [*files.values()])
        found = {}
        for spec, texts in files.items():
            kept = measures.first_words([t.text for t in texts], args.words)
            found[spec] = measure(texts[:len(kept)], topics, scorer)
    print_table(found)
    if args.out:
        write_json(args.out, _rounded(found))
    cli.finish(_rounded(found))


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value
