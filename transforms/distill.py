r"""A teacher's answers, unfiltered or without those that teach badly; several teachers, each for what it is best at.

    python augment.py distill --init smollm2/ --data gsm8k/train.jsonl --count 1000 --out taught.jsonl
    python augment.py distill --init smollm2/ --data gsm8k/train.jsonl --samples 4 --drop wrong guessed repetitive mixed \
        --exclude gsm8k/test.jsonl --out taught.jsonl
    python augment.py distill --init runs/sft --second runs/mid --data world:ops=1-3,split=sft --count 200 --out trial.jsonl

Rows are conversations for sft.py, {"messages": [...]}. Always dropped are answers that are empty or have a thinking mark out of
place, and of equal answers to one question all but the first. --drop takes out more of them, as Qwen3's data are made (arXiv
2505.09388, section 4.1):

    wrong         the answer is not the known one; on the world also where a step is not
    guessed       it comes without reasoning, or says that it is a guess; on the world without the steps
    repetitive    it goes round in circles
    mixed         it has words in a script that the question does not use

--exclude FILES drops what shares a run of 13 words with the questions or texts of these files, by which a model is to be
judged; a question that does so is not even asked.

An answer that was cut off at --max-new-tokens is dropped, or with --truncate N kept: everything longer than N tokens is cut
there and learned without an end, which is what OpenThoughts does with long traces (arXiv 2506.04178). --truncate-share takes
only that share of them. Where the cut falls is told by the characters, so it is off by a few tokens; only whole words are kept.

Each teacher that is given answers every question, and the last line says how often each is right in each domain: the context of
a world, the "subject" (or "domain", "category", "type") of a file's rows, or the file. With --choose FILE.ledger.json of such a
trial each question goes to the one that was best in its domain, the first one where none was better or the domain is new.
"""

import functools
import random
import re
from argparse import Namespace
from collections import Counter

from formats.chat import END_THINK, THINK
from formats.files import read_json
from tasks.accuracy import interval
from tasks.task import Reply
from training import cli
from transforms import Ask, Item
from transforms.parts import filters, traces, turns
from transforms.parts.overlap import overlap_with

TEACHERS = ("init", "second", "third")
OPTIONAL = ("second", "third")
FILES = ("exclude", "choose")
DROP = ("wrong", "guessed", "repetitive", "mixed")


def flags(parser: cli.Parser) -> None:
    turns.mode_flag(parser)
    parser.add_argument("--samples", type=cli.positive_int, default=1, help="answers to each question")
    parser.add_argument("--drop", nargs="+", choices=DROP, default=[], metavar="WHAT", help=f"answers to drop: {', '.join(DROP)}")
    parser.add_argument("--exclude", nargs="+", metavar="FILE", default=[], help="questions or texts that must not be learned")
    parser.add_argument("--most-repeated", type=cli.fraction, default=0.4,
                        help="share of 6-grams of words that stand there before, of an answer that is not repetitive")
    parser.add_argument("--least-words", type=cli.non_negative_int, default=5,
                        help="words of reasoning in an answer that is not guessed")
    parser.add_argument("--truncate", type=cli.non_negative_int, default=0,
                        help="tokens at which longer answers are cut and kept; 0: none")
    parser.add_argument("--truncate-share", type=cli.fraction, default=1.0, help="share of the longer answers that are cut")
    parser.add_argument("--choose", metavar="FILE", default="", help="ledger of a trial with these teachers: ask the best one")
    parser.needs += (turns.SAMPLES, ("--second-plain", lambda a: a.second, "without --second"),
                     ("--third-plain", lambda a: a.third, "without --third"),
                     ("--truncate-share", lambda a: a.truncate, "without --truncate"),
                     ("--most-repeated", lambda a: "repetitive" in a.drop, "without --drop repetitive"),
                     ("--least-words", lambda a: "guessed" in a.drop, "without --drop guessed"),
                     ("--choose", lambda a: a.second or a.third, "with one teacher"))


def check(args: Namespace) -> None:
    turns.check_mode(args, [plain_of(side, args) for side in sides(args)])
    overlap_with(tuple(args.exclude))                     # files that cannot be read are refused here
    if args.choose:
        best_of(args)


def sides(args: Namespace) -> list[str]:
    """The teachers that are given."""
    return [side for side in TEACHERS if getattr(args, side)]


def plain_of(side: str, args: Namespace) -> bool:
    return args.plain if side == "init" else getattr(args, f"{side}_plain")


def ask(item: Item, args: Namespace, rng: random.Random) -> list[Ask]:
    if overlap_with(tuple(args.exclude)).touches(item.problem.question):
        return []
    return [turns.ask_problem(item, args, side, plain_of(side, args), args.samples) for side in asked(item, args)]


def asked(item: Item, args: Namespace) -> list[str]:
    """The teachers that this question goes to."""
    return [best_of(args).get(domain_of(item), "init")] if args.choose else sides(args)


def keep(item: Item, answers: list[list[Reply]], args: Namespace) -> tuple[list[dict], Counter]:
    if not answers:
        return [], Counter(question_like_excluded=1)
    rows, dropped, seen = [], Counter(), set()
    for side, replies in zip(asked(item, args), answers):
        for reply in replies:
            found = shortened(item, reply, args, plain_of(side, args))
            fault = turns.UNUSABLE if found is None else fault_of(item, reply, *found, args)
            if not fault and found[:2] in seen:
                fault = "repeated"
            if fault:
                dropped[fault] += 1
                continue
            seen.add(found[:2])
            reasoning, answer, unfinished = found
            row = turns.conversation(item, reasoning, answer, args.mode)
            if unfinished:
                row["messages"][-1]["unfinished"] = True
            rows.append(row | {"meta": {"teacher": getattr(args, side)}})
    return rows, dropped


def shortened(item: Item, reply: Reply, args: Namespace, plain: bool) -> tuple[str | None, str, bool] | None:
    """(reasoning, answer, whether it is cut off) of a reply that can be used, else None."""
    whole = turns.read(item, reply, args, plain)
    if not args.truncate or (whole and reply.tokens <= args.truncate):
        return whole and (*whole[:2], False)
    if random.Random(f"{args.seed}/{item.number}/{reply.sample}/cut").random() >= args.truncate_share:
        return whole and (*whole[:2], False)
    if whole:
        reasoning, answer, _ = whole
    elif reply.finish == "length":
        reasoning, answer = (reply.text, "") if plain else turns.turn_of(reply.text, False)
    else:
        return None                                       # empty, or a thinking mark out of place
    reasoning, answer = cut(reasoning, answer, min(1.0, args.truncate / max(1, reply.tokens)))
    stray = any(mark in part for mark in (THINK, END_THINK) for part in (reasoning or "", answer))
    return None if stray or not (answer or (reasoning or "").strip()) else (reasoning, answer, True)


def cut(reasoning: str | None, answer: str, share: float) -> tuple[str | None, str]:
    """The first `share` of reasoning and answer together, to the end of a word."""
    left = int(share * (len(reasoning or "") + len(answer)))
    if reasoning and left <= len(reasoning):
        return whole_words(reasoning, left), ""
    return reasoning, whole_words(answer, left - len(reasoning or ""))


def whole_words(text: str, most: int) -> str:
    """The beginning of a text, at most so many characters, that does not end inside a word."""
    return text if most >= len(text) else re.sub(r"\S+$", "", text[:most + 1]).rstrip()


def fault_of(item: Item, reply: Reply, reasoning: str | None, answer: str, unfinished: bool, args: Namespace) -> str:
    """Why a usable answer is dropped; "" if it is kept. Whether one that is cut off is right is not known, if it was cut by
    --max-new-tokens."""
    problem, text = item.problem, turns.text_of(reasoning, answer)
    if reply.finish != "length":
        verdict = problem.task.grade(problem, reply)
        if "guessed" in args.drop and verdict.answer_ok and verdict.process_ok is False:
            return "guessed"
        if "wrong" in args.drop and not verdict.right:
            return "wrong"
    if "guessed" in args.drop and not unfinished and not problem.task.has_steps and traces.is_guess(
            reasoning, answer, problem.question, args.least_words):
        return "guessed"
    if "repetitive" in args.drop and is_repetitive(text, args.most_repeated):
        return "repetitive"
    if "mixed" in args.drop and traces.mixes_languages(problem.question, text):
        return "mixed_language"
    return "like_excluded" if overlap_with(tuple(args.exclude)).touches(text) else ""


def is_repetitive(text: str, most: float = 0.4) -> bool:
    """Whether a text goes round in circles: runs of words that stood there before, or a loop of a few characters."""
    lines = re.sub(r"([^\w\s])\1+", r"\1", text)         # a line of dashes is no repetition
    return filters.repeated_share(lines) > most or traces.loops(text)


# which teacher is right where

def domain_of(item: Item) -> str:
    return item.problem.domain or item.source


def tally(item: Item, answers: list[list[Reply]], args: Namespace) -> Counter:
    counts = Counter(problems=1)
    for side, replies in zip(asked(item, args) if answers else [], answers):
        found = turns.tally_right(item, replies, args, plain_of(side, args))
        counts += Counter({"answers": found["answers"], "right": found["right"]})
        counts["solved"] = int(counts["solved"] or found["solved"])
        counts[f"{side} answers {domain_of(item)}"], counts[f"{side} right {domain_of(item)}"] = found["answers"], found["right"]
    rows, _ = keep(item, answers, args)
    counts["cut"] = sum("unfinished" in row["messages"][-1] for row in rows)
    return counts


def summary(counts: Counter, args: Namespace) -> dict:
    """What `reject` says, the number of truncated rows, and for several teachers how often each is right in each domain."""
    found = turns.summary_right(counts) | ({"truncated": counts["cut"]} if args.truncate else {})
    if len(sides(args)) > 1 and not args.choose:
        found["right_in"] = right_in(counts, sides(args))
        found["best"] = {domain: getattr(args, best(by_side)) for domain, by_side in found["right_in"].items()}
    return found


def right_in(counts: Counter, given: list[str]) -> dict[str, dict]:
    """{domain: {teacher: rate}} of what `tally` counted."""
    domains = [key.partition(" answers ")[2] for key in counts if key.startswith("init answers ")]
    return {domain: {side: interval([True] * counts[f"{side} right {domain}"] + [False] * (
        counts[f"{side} answers {domain}"] - counts[f"{side} right {domain}"])) for side in given} for domain in sorted(domains)}


def best(by_side: dict) -> str:
    """The teacher with the highest rate, of equals the first."""
    return max(by_side, key=lambda side: by_side[side][0])


def best_of(args: Namespace) -> dict[str, str]:
    """{domain: teacher} of the trial in --choose. ValueError where it was not made with these teachers."""
    trial = _trial(args.choose)
    chosen = trial.get("summary", {}).get("best") if isinstance(trial, dict) else None
    if not chosen:
        raise ValueError(f"--choose {args.choose}: is no ledger of a distill run with several teachers that has come to its end")
    names = {getattr(args, side): side for side in reversed(sides(args))}
    if unknown := [name for name in chosen.values() if name not in names]:
        raise ValueError(f"--choose {args.choose}: was made with the teacher {unknown[0]}, which is not given")
    return {domain: names[name] for domain, name in chosen.items()}


@functools.lru_cache(maxsize=4)
def _trial(path: str):
    return read_json(path)
