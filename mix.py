r"""A mixture chosen by measurement (RegMix, arXiv 2407.01492): train small proxies on many mixtures, fit their losses, solve.

On a laptop, two sizes of 24 proxies:
    python mix.py --sources world:ops=1-3,split=pretrain world:ops=4-6,split=pretrain problems.jsonl --out runs/mixture \
        --target loss:world:ops=4-6,split=test@0.8 held_out.txt@0.2 --proxies 24 --sizes 2x32 2x64 --steps 150
For mid-training, from checkpoints instead of random weights, with bounds and a check of the result with three seeds:
    python mix.py --init runs/base --sources world:ops=4-6,split=midtrain world:ops=2 problems.jsonl --out runs/midmix \
        --target loss:world:ops=4-6,split=test --measure held_out.txt --bound problems.jsonl@0.1-0.3 --max-epochs 4 \
        --run-tokens 20000000 --confirm 3
On a node, one rank for each GPU; or any number of processes that are started by hand with the same flags and --resume:
    torchrun --nproc_per_node=8 mix.py --sources corpus/a.jsonl problems.jsonl --tokenizer tokenizer/ --target held_out.txt \
        --proxies 256 --sizes 6x384 --steps 4000 --batch-tokens 131072 --pretrain "--heads 6" --jobs 1 --out runs/nodemix

A source is SOURCE[@FACTOR] of data.py, a target any SPEC[@WEIGHT] of --eval-data: loss:SPEC (nats per token), text (bits per
byte), a world or a file of questions (the share that is wrong). All are measured so that lower is better, and what is
minimised is their weighted sum. The first mixture is always that of the token shares, the baseline.

    draw      mixtures around the token shares, within the bounds              mixing/draw.py
    train     a proxy for each mixture and size, by pretrain.py                mixing/proxies.py
    fit       log-linear, additive and tree                                    mixing/fit.py
    trust     rank correlations on mixtures that the fit has not seen          mixing/table.py
    solve     the best of many simulated mixtures, by the best fit             mixing/solve.py

It can be stopped at any time; with --resume no proxy is trained twice. It writes mix.json, mix.html and ledger.json (what all
proxies took) into --out.

Other than RegMix: no early stopping on the test mixtures, and its tree is one fit of three. Simpler than Olmix: no reuse of
mixtures when the sources change.
"""

import argparse
import contextlib
import itertools
import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data import split_spec
from formats.files import write_json, write_text
from formats.locks import held
from measuring.in_training import check_specs
from mixing.draw import Bounds, bounds_of, draw, token_shares
from mixing.figures import whole_page
from mixing.fit import FITS
from mixing.proxies import Plan, Worker, open_plan, results
from mixing.solve import weighted
from mixing.table import best_fit, correlations, measured, solve
from page.plots import rate_text
from sources.fingerprint import fingerprint, parts_of
from sources.open import open_source
from sources.texts import sample_texts
from tasks.accuracy import interval
from tokenizer import Tokenizer
from training import cli
from training.flags import ENDLESS
from training.ledger import KINDS, Ledger, read_ledger, write_ledger

# what mix.py says to pretrain.py itself
OWN = ("--data", "--out", "--init", "--tokenizer", "--layers", "--width", "--steps", "--batch-tokens", "--seed", "--eval-data",
       "--eval-every", "--resume", "--vocab-size")

at_least_two = cli.number("a whole number of at least 2", int, lambda x: 1 < x <= cli.MOST)


def flags() -> cli.Parser:
    p = cli.Parser(__doc__, NEEDS)
    p.add_argument("--sources", metavar="SPEC", nargs="+", required=True, help="what is mixed, SOURCE[@FACTOR of its share]")
    p.add_argument("--target", metavar="SPEC", nargs="+", required=True, help="what is minimised, SPEC[@WEIGHT] of --eval-data")
    p.add_argument("--measure", metavar="SPEC", nargs="*", default=[], help="what is measured beside, with weight 0")
    p.add_argument("--out", type=cli.out_folder, metavar="FOLDER", required=True, help="folder to write")
    p.add_argument("--proxies", type=at_least_two, default=32, help="mixtures to train on, the token shares among them")
    p.add_argument("--sizes", metavar="LAYERSxWIDTH", nargs="+", default=["2x64"], help="of the proxies, from small to large")
    p.add_argument("--init", metavar="FOLDER", nargs="+", default=[],
                   help="checkpoints to start from, from small to large, instead of --sizes")
    p.add_argument("--tokenizer", metavar="FOLDER", default="",
                   help="folder with tokenizer.json; none: one trained on the sources, as tokenizer.py does")
    p.add_argument("--vocab-size", type=cli.positive_int, default=4096, help="of a tokenizer trained here")
    p.add_argument("--steps", type=cli.positive_int, default=200, help="of a proxy")
    p.add_argument("--batch-tokens", type=cli.positive_int, default=2048, help="of a proxy")
    p.add_argument("--pretrain", metavar="FLAGS", default="", help="more flags of pretrain.py for every proxy, in quotes")
    p.add_argument("--bound", metavar="SOURCE@LOW-HIGH", nargs="*", default=[], help="least and largest share of a source")
    p.add_argument("--max-epochs", type=cli.not_negative, default=15.0, help="most passes over a source in the run; 0: any")
    p.add_argument("--run-tokens", type=cli.non_negative_int, default=0,
                   help="tokens of the run that the mixture is for; 0: of a proxy")
    p.add_argument("--temperature", type=cli.not_negative, default=0.5, help="exponent of the token shares in the draw")
    p.add_argument("--strength", type=cli.above_zero, nargs=2, default=[0.5, 5.0], metavar=("LOW", "HIGH"),
                   help="of the Dirichlet draws; small: mixtures of few sources")
    p.add_argument("--folds", type=at_least_two, default=10, help="parts of the mixtures, each predicted from the others")
    p.add_argument("--fit", default="best", choices=["best", *FITS],
                   help="that solves; best: which ranks best at the largest size")
    p.add_argument("--simulate", type=cli.positive_int, default=100_000, help="mixtures to choose from")
    p.add_argument("--average", type=cli.positive_int, default=128, help="best ones to take the mean of")
    p.add_argument("--pareto", metavar="SPEC", nargs=2, default=None, help="targets of the trade-off (default: the first two)")
    p.add_argument("--confirm", type=cli.non_negative_int, default=0, metavar="SEEDS",
                   help="train the result and the token shares, at the largest size, with so many seeds each")
    p.add_argument("--jobs", type=cli.positive_int, default=os.cpu_count(), help="proxies side by side, a thread each")
    p.add_argument("--seed", type=cli.seed, default=0, help="of the mixtures; a proxy adds its number")
    p.add_argument("--resume", action="store_true", help="go on with, or join, what is in --out")
    return p


# when a flag has an effect (see cli.Parser)
NEEDS = (
    ("--sizes --tokenizer --vocab-size", lambda a: not a.init, "with --init, which brings its model and its tokenizer"),
    ("--vocab-size", lambda a: not a.tokenizer, "with --tokenizer, which has a size of its own"),
    ("--max-epochs --run-tokens", lambda a: not all(spec.startswith(ENDLESS) for spec in a.sources),
     "on worlds, which never end"),
    ("--pareto", lambda a: len(a.target) + len(a.measure) > 1, "with one target"),
)


def sizes_of(args: Namespace) -> dict[str, list[str]]:
    """{name of a size: the flags of pretrain.py that make it}."""
    if args.init:
        return {f"{i}-{Path(folder).resolve().name}": ["--init", folder] for i, folder in enumerate(args.init)}
    found = {}
    for size in args.sizes:
        layers, x, width = size.partition("x")
        if not (layers.isdecimal() and x and width.isdecimal() and int(layers) and int(width)):
            raise ValueError(f"--sizes {size}: use LAYERSxWIDTH, as in 2x64")
        found[size] = ["--tokenizer", args.tokenizer or str(Path(args.out) / "tokenizer"), "--layers", layers, "--width", width]
    return found


def given_bounds(texts: list[str], sources: list[str]) -> dict[int, tuple[float, float]]:
    """{number of a source: (least, largest share)} of --bound."""
    found = {}
    for text in texts:
        source, _, span = text.rpartition("@")
        low, dash, high = span.partition("-")
        if source in sources and sources.index(source) in found:
            raise ValueError(f"--bound {text}: the source has another bound already; give it one")
        try:
            found[sources.index(source)] = cli.fraction(low), cli.fraction(high)
        except (ValueError, argparse.ArgumentTypeError):
            raise ValueError(f"--bound {text}: use SOURCE@LOW-HIGH, a source as in --sources without its factor and two shares "
                             "from 0 to 1, as in qa.jsonl@0.1-0.3") from None
    return found


def targets_of(args: Namespace) -> dict[str, float]:
    """{SPEC of --eval-data: weight}; of --measure 0."""
    found = dict(map(split_spec, args.target))
    if len(found) < len(args.target) or set(found) & set(args.measure):
        raise ValueError("--target --measure: a SPEC is given twice; give each once")
    return found | dict.fromkeys(args.measure, 0.0)


def the_tokenizer(args: Namespace, sources: list[str]) -> Tokenizer:
    """The tokenizer of all proxies. One that is trained here will stand in --out."""
    folder = Path(args.init[0] if args.init else args.tokenizer or Path(args.out) / "tokenizer")
    if args.init or args.tokenizer or (folder / "tokenizer.json").exists():
        return Tokenizer.load(folder)
    return Tokenizer.train(itertools.chain.from_iterable(map(sample_texts, sources)), args.vocab_size)


def make_plan(args: Namespace) -> tuple[Plan, Tokenizer, np.ndarray, Bounds]:
    """(what is trained, the tokenizer, the token shares (S,), the bounds). Writes nothing."""
    named, targets = list(map(split_spec, args.sources)), targets_of(args)
    sources = [name for name, _ in named]
    if len(sources) < 2 or len(set(sources)) < len(sources):
        raise ValueError("--sources: give at least two, each once")
    more = shlex.split(args.pretrain)
    if wrong := [flag for flag in more if flag.partition("=")[0] in OWN]:
        raise ValueError(f"--pretrain {wrong[0]}: mix.py says that to pretrain.py itself; use its own flag")
    sizes = sizes_of(args)
    given = given_bounds(args.bound, sources)
    tokenizer = the_tokenizer(args, sources)
    check_specs(list(targets), tokenizer)
    proxy_tokens, tokens = args.steps * args.batch_tokens, []
    for name in sources:
        source = open_source(name, tokenizer)
        tokens.append(None if source.count is None else source.tokens)
    shares = token_shares(tokens, [factor for _, factor in named], args.run_tokens or proxy_tokens)
    bounds = bounds_of(tokens, args.run_tokens or proxy_tokens, args.max_epochs, given)
    mixtures = [shares.round(4).tolist(), *draw(args.proxies - 1, shares, bounds, args.seed, temperature=args.temperature,
                                                strength=tuple(args.strength)).tolist()]
    files = [*sources, *(t.removeprefix("loss:") for t in targets), *args.init, *filter(None, [args.tokenizer])]
    common = ["--steps", str(args.steps), "--batch-tokens", str(args.batch_tokens), *more]
    inputs = {name: fingerprint(name) for spec in files for name in parts_of(spec)}
    return Plan(sources, mixtures, sizes, targets, common, args.seed, inputs), tokenizer, shares, bounds


def confirm(args: Namespace, plan: Plan, solved: dict) -> dict:
    """Trains the chosen mixture and the token shares at the largest size, with seeds of their own: {way: {"values": {target:
    rate}, "value": the weighted sum, a rate}, "gain": by how much the chosen one is better, a rate}. A rate is (mean, low, high)
    over seeds."""
    ways = {"chosen": list(solved["shares"].values()), "token shares": plan.mixtures[0]}
    size = list(plan.sizes)[-1]
    again = Plan(plan.sources, list(ways.values()) * args.confirm, {size: plan.sizes[size]}, plan.targets, plan.flags,
                 plan.seed + 1_000_000, plan.inputs)
    folder = Path(args.out) / "confirm"
    open_plan(folder, again, True, f"remove {folder}, and only what confirms the mixture is trained again", more=True)
    Y = measured(again, Worker(folder, again, args.jobs).run(), size)         # (2 seeds, M), both ways in turn
    values = weighted(Y, list(plan.targets.values()))
    found = {way: {"values": {target: interval(Y[w::2, t]) for t, target in enumerate(plan.targets)},
                   "value": interval(values[w::2])} for w, way in enumerate(ways)}
    return found | {"gain": interval(values[1::2] - values[0::2])}


def cost_of(args: Namespace, plan: Plan) -> dict:
    """The ledger of the mixture: what all its proxies took, those that confirm it too. What they start from counts once."""
    ledger = Ledger(args.out, asdict(plan))
    for path in sorted(Path(args.out).glob("**/proxies/*/ledger.json")):
        proxy = read_ledger(path.parent)
        for kind in KINDS:
            ledger.add(kind, proxy["own"][kind], proxy["tokens"][kind])
        ledger.usual += proxy["training_usual"]
        ledger.inherited |= proxy["inherited"]
        ledger.unknown = list(dict.fromkeys([*ledger.unknown, *proxy["unknown"]]))
    return ledger.found()


def report(args: Namespace, plan: Plan, found: dict, rows: list[dict], solved: dict, confirmed: dict) -> None:
    """Writes mix.json, mix.html and ledger.json, prints the tables for people, and the last line."""
    pair = tuple(args.pareto or list(plan.targets)[:2])
    html = whole_page(plan, found, rows, solved, pair if len(pair) == 2 else None, confirmed)
    told = {key: value for key, value in solved.items() if key not in ("simulated", "predictions")}
    cost, folder = cost_of(args, plan), Path(args.out)
    result = {"out": args.out, "proxies": len(found), "flops": cost["total"], "rank_correlation": rows} | told
    result |= {"confirmed": confirmed} if confirmed else {}
    write_ledger(folder, cost)
    write_json(folder / "mix.json", result)
    write_text(folder / "mix.html", html)
    print(f"{'target':<40} {'size':>10} {'fit':<12} {'rank correlation with the largest size':<32}")
    for row, name in itertools.product(rows, ["proxies", *FITS]):
        if row[name]:
            print(f"{row['target'][:40]:<40} {row['size']:>10} {name:<12} {rate_text(row[name], '.3f')}")
    for source, share in solved["shares"].items():
        print(f"{share:>7.1%}  {source}  (of the tokens there are: {solved['token_shares']['shares'][source]:.1%})")
    print("--data " + " ".join(f"{source}@{share:g}" for source, share in solved["shares"].items() if share))
    cli.finish(result)


@contextlib.contextmanager
def stoppable(folder: Path, plan: Plan) -> Iterator[None]:
    """Ctrl-C ends the program with one line."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped: {len(results(folder))} of {len(plan.jobs())} proxies are done; the same command with --resume goes on",
              file=sys.stderr)
        raise SystemExit(130) from None


def main() -> None:
    args = flags().parse_args()
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    folder = Path(args.out)
    with cli.bad_input():
        if args.pareto and (unknown := set(args.pareto) - set(targets_of(args))):
            raise ValueError(f"--pareto {unknown.pop()}: is no target; give two SPECs of --target and --measure, without weights")
        if not args.resume and not rank and folder.exists() and any(folder.iterdir()):
            raise ValueError(f"--out {folder}: is not empty; add --resume to go on with what it holds, or choose another")
        while rank and not (folder / "plan.json").exists():
            time.sleep(0.2)                               # the first rank may refuse; then torchrun ends all
        plan, tokenizer, shares, bounds = make_plan(args)
        open_plan(folder, plan, join=args.resume or rank > 0)
        with held(folder / "plan.lock"):                  # whoever comes first writes it
            if not args.init and not args.tokenizer and not (folder / "tokenizer" / "tokenizer.json").exists():
                tokenizer.save(folder / "tokenizer")
        device = os.environ.get("LOCAL_RANK", "") if ranks > 1 else ""
        with stoppable(folder, plan):
            found = Worker(folder, plan, args.jobs, device).run(shown=rank == 0)
    if rank:
        return
    rows = correlations(plan, found, args.folds)
    fit = best_fit(rows, plan) if args.fit == "best" else args.fit
    how = dict(temperature=args.temperature, strength=tuple(args.strength))
    with cli.bad_input(), stoppable(folder, plan):
        solved = solve(plan, found, fit, bounds, shares, args.simulate, args.average, args.seed, **how)
        confirmed = confirm(args, plan, solved) if args.confirm else {}
    with held(folder / "plan.lock"):                      # all who have trained write the same files, one after the other
        report(args, plan, found, rows, solved, confirmed)


if __name__ == "__main__":
    main()
