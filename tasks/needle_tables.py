"""Tables of needles: accuracy by length and depth, what a prompt's tokens are part of, and both as text.

    sweep("1k-16k,kind=chain")         "needle:length=1k+2k+4k+8k+16k,depth=0+0.25+0.5+0.75+1,split=test,kind=chain"
    needle_table(graded, ks, window)   {"lengths": a row for each length, "cells": one for each length and depth}
    prompt_parts(tokenizer, ids, problem)     for each token: first, needle, context or question
"""

from collections.abc import Sequence

from tasks.accuracy import rate_text, rates
from tasks.needle import Needle, NeedleProblem
from tasks.options import need, token_count
from tasks.tables import Graded
from tokenizer import Tokenizer

DEPTHS = "0+0.25+0.5+0.75+1"
PARTS = ("first", "needle", "context", "question")        # what a token of a prompt is part of
FIRST = 10                                                # tokens at the beginning (arXiv 2501.18795, section 3)


def sweep(text: str) -> str:
    """The SPEC of what --needle says, "LENGTHS[,OPTION=VALUE...]": a range of lengths is doubled from its low end on; all usual
    depths; problems of the test split. ValueError for options that do not fit."""
    lengths, _, options = text.partition(",")
    need(lengths[:1].isdigit(), f"--needle {text}: begins with lengths, as in 1k-16k or 64+100,kind=chain")
    lengths = "+".join(doubled(part, text) for part in lengths.split("+"))
    given = {part.partition("=")[0] for part in options.split(",")}
    idle = [name for name in ("asks", "solution", "format") if name in given]
    need(not idle, f"--needle {text}: {''.join(idle[:1])} is of documents for training, and has no effect here; leave it out")
    usual = [part for part in (f"depth={DEPTHS}", "split=test") if part.partition("=")[0] not in given]
    spec = ",".join([f"needle:length={lengths}", *usual, *filter(None, [options])])
    check_grid(Needle.from_spec(spec))
    return spec


def doubled(part: str, text: str) -> str:
    """"1k-4k" -> "1k+2k+4k"; one length stays as it is. ValueError for what is no range (text: the whole of --needle)."""
    low, dash, high = part.partition("-")
    if not (dash and low and high):
        return part                                        # what is no number is refused with the SPEC
    length, last = token_count(low), token_count(high)
    need(0 < length <= last, f"--needle {text}: use a range that rises")
    found = []
    while length <= last:
        found.append(f"{length // 1024}k" if length % 1024 == 0 else str(length))
        length *= 2
    need(length == 2 * last, f"--needle {text}: {low}, doubled again and again, is never {high}; use {low}-{found[-1]}+{high}")
    return "+".join(found)


def check_grid(task: Needle) -> None:
    """ValueError where lengths or depths are drawn from a range: a table has rows and columns."""
    for name, choices in (("length", task.lengths), ("depth", task.depths)):
        need(all(low == high for low, high in choices), f"{task.source}: {name} is a range, and a table needs numbers; give "
             f"several with + between, such as {'1k+4k' if name == 'length' else '0+0.5+1'}")


def prompt_parts(tokenizer: Tokenizer, ids: Sequence[int], problem: NeedleProblem, first: int = FIRST) -> list[int]:
    """For each token of a prompt the index in PARTS of what it is part of; ids: the prompt of the problem, plain or of a chat.

    The question is the last sentence and all that stands behind it. A token belongs where its last byte lies. A needle that
    stands among the first tokens counts as needle."""
    pieces = [tokenizer.token_bytes(i) for i in ids]
    start = b"".join(pieces).find(problem.question.encode())
    need(start >= 0, f"{problem.source}: the tokenizer changes the text, so its parts cannot be found in the prompt")

    def place(character):
        return start + len(problem.question[:character].encode())
    asked, needles = place(problem.asked), [(place(a), place(b)) for a, b in problem.needles]
    found, end = [], 0
    for number, piece in enumerate(pieces):
        end += len(piece)
        last = end - 1 if piece else end                  # a special token has no bytes
        name = ("question" if last >= asked else "needle" if any(a <= last < b for a, b in needles) else
                "first" if number < first else "context")
        found.append(PARTS.index(name))
    return found


def needle_table(graded: Sequence[Graded], ks: Sequence[int], window: int) -> dict:
    """{"window", "lengths": [row], "cells": [row]}, from graded replies to needles.

    window   the longest rows that the model was trained on, in tokens
    a row    length, depth (cells only), problems, tokens (mean of the prompts), beyond (whether it is longer than the window),
             accuracy (rates), right ([right samples, samples] of each problem)
    """
    def row(part, **named):
        right = [[verdict.right for verdict in a.verdicts] for a in part]
        tokens = round(sum(a.problem.tokens for a in part) / len(part), 1)
        return named | {"problems": len(part), "tokens": tokens, "beyond": named["length"] > window,
                        "accuracy": rates(right, ks), "right": [[sum(each), len(each)] for each in right]}
    lengths = dict.fromkeys(a.problem.length for a in graded)
    cells = dict.fromkeys((a.problem.length, a.problem.depth) for a in graded)
    return {"window": window,
            "lengths": [row([a for a in graded if a.problem.length == length], length=length) for length in lengths],
            "cells": [row([a for a in graded if (a.problem.length, a.problem.depth) == cell], length=cell[0], depth=cell[1])
                      for cell in cells]}


def print_needles(found: dict) -> None:
    """Prints the table of needle_table, lengths down and depths across, and where attention was measured its shares."""
    depths = sorted({cell["depth"] for cell in found["cells"]})
    for k in found["lengths"][0]["accuracy"]:
        print(f"{'length':<10}{'problems':>9}" + "".join(f"{f'depth {depth:g}':>12}" for depth in depths) + f"{k:>24}")
        for row in found["lengths"]:
            cells = {cell["depth"]: cell["accuracy"][k][0] for cell in found["cells"] if cell["length"] == row["length"]}
            print(f"{row['length']:<10,}{row['problems']:>9}" + "".join(f"{cells[depth]:>12.3f}" for depth in depths)
                  + f"{rate_text(row['accuracy'][k]):>24}" + beyond(row))
    for length in found.get("attention", []):
        print(f"attention at {length['length']:,} tokens, from the question{beyond(length)}")
        columns = [*PARTS, *(["sink"] if "sink" in length["layers"][0] else [])]
        print(f"{'layer':<16}" + "".join(f"{name:>10}" for name in columns) + f"{'entropy':>10}")
        several = [(f"all {row['kind']}", row) for row in length["kinds"] if row["layers"] > 1]
        for name, row in [*((f"{row['layer']}: {row['kind']}", row) for row in length["layers"]), *several]:
            print(f"{name:<16}" + "".join(f"{row[part]:>10.4f}" for part in columns) + f"{row['entropy']:>10.3f}")
    if any(row["beyond"] for row in found["lengths"]):
        print(f"* longer than the rows of {found['window']:,} tokens that the model was trained on")


def beyond(row: dict) -> str:
    return " *" if row["beyond"] else ""


def without_details(found: dict) -> dict:
    """The result without the replies to single problems, for the last line of a script."""
    return {key: [{name: value for name, value in row.items() if name != "right"} for row in part]
            if key in ("lengths", "cells") else part for key, part in found.items() if key != "right"}
