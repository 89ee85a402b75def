"""Turns documents into packed batches: sources, token shards, mixtures and packing.

A source is given by a SPEC, `SOURCE[@WEIGHT]`. The weight is its share of the tokens, a number above 0. (If there is a file or a
folder with the full name, such as me@home.txt, then the SPEC means this file, with weight 1.)

    notes.txt  chat.jsonl  web.jsonl.gz  web.parquet  shards/  hf:org/name  long:pages.jsonl,by=book,tokens=1k-8k
    world:ops=1-4,contexts=zoo+school@0.9  knowledge:people=200  instructions:ops=1-2  needle:length=1k-4k

A .txt is one document. The other files have one document per row: in a field "text" (other fields are metadata), or in the fields
"question" and "answer". Empty documents are left out. hf: streams with the `datasets` library; its full form is
hf:org/name@REVISION:CONFIGURATION@WEIGHT, and behind a revision there must be a weight. long: keeps the documents of a length,
and joins rows that belong together (sources/long.py).

The tasks that write documents (world:, knowledge:, instructions:, needle:; see tasks/) have two more options:

- q_weight: the loss weight of question tokens, 0.1 by default. Questions are random, so with full weight they would dominate the
  loss.
- chat: the share of documents that are written as a chat with a think block.

Large corpora are tokenised once, in parallel processes, into memory-mapped shards. Then the folder is the source:

    python data.py prepare --data corpus/*.jsonl --tokenizer tokenizer/ --out shards/ --workers 2
    python data.py table --data shards/@0.7 world:ops=1-4,split=pretrain@0.3 --tokenizer tokenizer/ --tokens 200000

How a document becomes part of a batch:

    source.get(i)      tokens (n,), loss weights (n,)                           sources/
    Mixture.next()     the same, from the source that most lacks tokens for its share
    Packer.row()       a list of documents that fill at most T slots
    Stream.next()      this rank's micro-batches, each a Batch of (B, T)

A slot is one position of a row: a token and its target. A document of n tokens needs n - 1 slots.

Simpler than big loaders:
- every rank packs the complete global batch and takes its rows, so a batch does not depend on the number of ranks;
- a file that is not prepared is tokenised into memory;
- a shuffle is a permutation of one epoch.
"""

import argparse
import bisect
import itertools
import os
import signal
import sys
from collections.abc import Callable

import numpy as np
import torch

from formats import plugins
from sources.fingerprint import fingerprint, parts_of
from sources.open import open_source
from sources.shards import prepare
from tasks.options import is_generated
from tokenizer import Tokenizer
from training import cli
from training.batch import Batch, batch_from
from training.ledger import Ledger, write_ledger


def split_spec(spec: str) -> tuple[str, float]:
    """"name@0.3" -> ("name", 0.3). Without a weight it is 1. A file or folder with the full name, including @, is preferred."""
    name, at, weight = spec.rpartition("@")
    if not at or os.path.exists(spec):
        return spec, 1.0
    try:
        return name, cli.above_zero(weight)
    except argparse.ArgumentTypeError:
        hub = f", or behind a revision the weight as well, {spec}@1" if spec.startswith("hf:") else ""
        raise ValueError(f"--data {spec}: no file or folder has this name, and as SOURCE@WEIGHT it has the weight "
                         f"{weight!r}; use a number above 0{hub}") from None


def fingerprints(args: argparse.Namespace) -> dict[str, str]:
    """{name: fingerprint} of the files that decide what a run learns: the sources of --data (and --sft-data), the checkpoints and
    the tokenizer that it starts from, and a user's files with rewards and tools. A resumed run compares them
    (training/resume.py)."""
    folders = [getattr(args, name, "") for name in ("init", "reference", "teacher", "tokenizer")]
    given = {"--data": args.data, "--sft-data": getattr(args, "sft_data", [])}
    found = {f"{flag} {name}": fingerprint(name) for flag, specs in given.items() for spec, _ in map(split_spec, specs)
             for name in parts_of(spec)}
    rewards = (part.partition(".py:")[0] + ".py" for part in getattr(args, "reward", "").split("+") if ".py:" in part)
    found |= {f"--reward {file}": fingerprint(file) for file in rewards}
    found |= {f"--tool {spec}": fingerprint(spec) for spec in getattr(args, "tool", []) if plugins.is_plugin(spec)}
    return found | {folder: fingerprint(folder) for folder in folders if folder and folder != args.out}


class Mixture:
    """Takes documents from weighted sources, so that each source's share of the tokens stays at its weight.

    The next document comes from the source that most lacks tokens for its share. So the shares are right at every moment,
    without randomness. Inside a source each epoch is a new permutation, made from the seed. A source that reaches `max_epochs`
    is left out, and the others take its share. When all are left out, `next` raises StopIteration. With max_epochs 1.5
    the second epoch ends after half of the source's tokens, with a whole document or piece.

    piece: a document with more tokens is given piece by piece, and other sources have their turns between two pieces. Otherwise
    a book in one document would fill many batches alone. A piece has one token more, the target of its last position; the next
    piece begins with it. 0: documents are given whole.
    """

    def __init__(self, specs: list[str], tokenizer: Tokenizer, seed: int = 0, max_epochs: float = 0.0,
                 opener: Callable | None = None, piece: int = 0):
        named = [split_spec(s) for s in specs]
        self.names, weights = [n for n, _ in named], np.array([w for _, w in named])
        self.weights, self.seed, self.max_epochs = weights / weights.sum(), seed, max_epochs
        self.sources = [(opener or open_source)(n, tokenizer) for n in self.names]
        streamed = [n for n, source in zip(self.names, self.sources)
                    if source.count is None and not is_generated(n) and not plugins.is_plugin(n)]
        if max_epochs % 1 and streamed:
            raise ValueError(f"--max-epochs {max_epochs:g}: {streamed[0]} is streamed, and only its end says how long it is; use "
                             "a whole number")
        self.cursors, self.epochs = [0] * len(named), [0] * len(named)
        self.given = np.zeros(len(named), np.int64)                           # tokens drawn from each source
        self.orders = [None] * len(named)
        self.piece, self.offsets = piece, [0] * len(named)                    # tokens of the current document that were given
        self.current = [None] * len(named)                                    # this document, so that it is read once
        self.documents, self.cut = 0, 0                                       # all that were begun, and those given in pieces

    def _live(self, s: int) -> bool:
        if self.epochs[s] < 0:                                                # marked as left out
            return False
        left = self.max_epochs - self.epochs[s]                               # epochs
        if not self.max_epochs or self.sources[s].count is None or left >= 1:
            return True
        return left > 0 and self.given[s] < self.max_epochs * self.sources[s].tokens - 1e-6

    def next(self) -> tuple | list[tuple]:
        """One document: a tuple of tokens (n,) int64 and loss weights (n,) float32. A source whose documents must stay together
        (the two answers of a preference pair) gives a list of such tuples."""
        live = [s for s in range(len(self.names)) if self._live(s)]
        if not live:
            raise StopIteration
        total = self.given.sum()
        # the one that most lacks tokens; at the start all lack 0, and 1e-6 of the weight selects the largest
        s = max(live, key=lambda i: self.weights[i] * total - self.given[i] + self.weights[i] * 1e-6)
        source, i = self.sources[s], self.cursors[s]
        if source.count:
            if self.orders[s] is None:
                self.orders[s] = np.random.default_rng([self.seed, s, self.epochs[s]]).permutation(source.count)
            i = int(self.orders[s][i])
        try:
            drawn = source.get(i) if self.current[s] is None else self.current[s]
        except IndexError:                                                    # the end of a streamed source
            if self.cursors[s] == 0:
                raise ValueError(f"{self.names[s]}: holds no documents") from None
            self._turn(s)
            return self.next()
        at, self.current[s] = self.offsets[s], None
        self.documents += at == 0
        if self.piece and not isinstance(drawn, list) and len(drawn[0]) - 1 > self.piece:
            self.cut += at == 0
            if at + self.piece < len(drawn[0]) - 1:                           # this is not the last piece
                self.current[s], self.offsets[s] = drawn, at + self.piece
                self.given[s] += self.piece + (at == 0)
                return tuple(x[at:at + self.piece + 1] for x in drawn)
            drawn = tuple(x[at:] for x in drawn)
        self.offsets[s] = 0
        self.cursors[s] += 1
        self.given[s] += sum(len(tokens) for tokens, *_ in (drawn if isinstance(drawn, list) else [drawn])) - (at > 0)
        if self.cursors[s] == source.count:
            self._turn(s)
        return drawn

    def _turn(self, s: int) -> None:
        """A source begins its next epoch, or is left out."""
        self.cursors[s], self.epochs[s], self.orders[s] = 0, self.epochs[s] + 1, None
        if self.sources[s].count is None and self.max_epochs and self.epochs[s] >= self.max_epochs:
            self.epochs[s] = -self.epochs[s]

    def table(self) -> list[dict]:
        """The table of a mixture as in phi-4 (arXiv 2412.08905, table 5): share, unique tokens and epochs of each source."""
        rows, total = [], max(1, int(self.given.sum()))
        for s, (name, source) in enumerate(zip(self.names, self.sources)):
            endless = source.count is None
            unique = int(self.given[s]) if endless else source.tokens
            rows.append({"source": name, "share": round(float(self.given[s] / total), 4), "tokens": int(self.given[s]),
                         "unique_tokens": unique, "epochs": round(int(self.given[s]) / max(1, unique), 3)})
        return rows

    def report(self) -> dict:
        """Fields for the result of a run: the table, and the share of documents that were cut into pieces."""
        return {"mixture": self.table(), "cut_documents": round(self.cut / max(1, self.documents), 4)}

    def state(self) -> dict:
        return {"names": self.names, "cursors": list(self.cursors), "epochs": list(self.epochs), "given": self.given.tolist(),
                "offsets": list(self.offsets), "documents": self.documents, "cut": self.cut}

    def restore(self, state: dict) -> None:
        if state["names"] != self.names:
            raise ValueError(f"--data {' '.join(self.names)}: the run was started with "
                             f"{' '.join(state['names'])}; give the same sources")
        for name, source, cursor in zip(self.names, self.sources, state["cursors"], strict=True):
            if source.count is not None and cursor >= source.count:
                raise ValueError(f"--data {name}: holds {source.count} documents now, and the run is at number {cursor + 1}"
                                 "; put the old file back, or start another run with another --out")
        self.cursors, self.epochs, self.given = list(state["cursors"]), list(state["epochs"]), np.array(state["given"],
                np.int64)
        self.orders, self.current = [None] * len(self.names), [None] * len(self.names)
        # a state without offsets is of the time in which all documents were given whole
        self.offsets = list(state.get("offsets", [0] * len(self.names)))
        self.documents, self.cut = state.get("documents", 0), state.get("cut", 0)


def print_table(rows: list[dict]) -> None:
    print(f"{'source':<60} {'share':>7} {'tokens':>13} {'unique tokens':>14} {'epochs':>7}")
    for r in rows:
        print(f"{r['source'][:60]:<60} {r['share']:>7.1%} {r['tokens']:>13,} {r['unique_tokens']:>14,} {r['epochs']:>7.2f}")


class Packer:
    """Fills rows of T slots with complete documents, by best fit. Each row starts with the document that has waited longest. Then
    it takes the largest waiting document that fits, again and again. Only documents longer than a row are cut. Documents that
    come together, as a list, are put side by side into one row."""

    def __init__(self, T: int, draw: Callable, waiting_rows: int = 16):
        self.T, self.draw, self.enough = T, draw, waiting_rows * T
        # waiting: sorted (slots, number, documents)
        self.waiting, self.slots, self.born = [], 0, 0
        self.stats = {"slots": 0, "padding": 0}

    def _refill(self) -> None:
        empty = 0                                         # consecutive documents that fill no slot; a stream may have them
        while self.slots < self.enough:
            try:
                drawn = self.draw()
            except StopIteration:
                return
            if isinstance(drawn, list):                                       # its source made sure that it fits
                self._add(drawn)
                continue
            ids, weights = drawn
            empty = 0 if len(ids) > 1 else empty + 1
            if empty > 100_000:
                raise ValueError(f"--data: {empty:,} documents in a row hold no text")
            for at in range(0, len(ids) - 1, self.T):
                self._add([(ids[at:at + self.T + 1], weights[at:at + self.T + 1])])

    def _add(self, documents: list[tuple]) -> None:
        slots = sum(len(ids) - 1 for ids, *_ in documents)
        bisect.insort(self.waiting, (slots, self.born, documents), key=lambda w: w[:2])
        self.slots, self.born = self.slots + slots, self.born + 1

    def row(self) -> list[tuple]:
        """One row: a list of documents. Raises StopIteration when the sources are used up and nothing waits."""
        self._refill()
        if not self.waiting:
            raise StopIteration
        space, row = self.T, []
        i = min(range(len(self.waiting)), key=lambda j: self.waiting[j][1])
        while i >= 0:
            n, _, documents = self.waiting.pop(i)
            row += documents
            space, self.slots = space - n, self.slots - n
            i = bisect.bisect_right(self.waiting, space, key=lambda w: w[0]) - 1
        self.stats["slots"] += self.T
        self.stats["padding"] += space
        return row

    def report(self) -> dict:
        """The share of padding."""
        return {"padding": round(self.stats["padding"] / max(1, self.stats["slots"]), 4)}

    def state(self) -> dict:
        return {"born": self.born, "stats": dict(self.stats), "waiting": [(n, b, as_tensors(d)) for n, b, d in self.waiting]}

    def restore(self, state: dict) -> None:
        self.born, self.stats = state["born"], dict(state["stats"])
        self.waiting = [(n, b, as_arrays(documents)) for n, b, documents in state["waiting"]]
        self.slots = sum(n for n, *_ in self.waiting)


def as_tensors(documents: list[tuple]) -> list[list]:
    """Documents as torch.save stores them."""
    return [[torch.from_numpy(np.array(x)) for x in document] for document in documents]


def as_arrays(documents: list[list]) -> list[tuple]:
    return [tuple(x.numpy() for x in document) for document in documents]


class Stream:
    """The batches of a run: a packed mixture. It is the same for any number of ranks, and it can be resumed between two batches.

    opener(name, tokenizer) opens a source that is not plain text; make(rows, T) makes a batch with more fields."""

    def __init__(self, specs: list[str], tokenizer: Tokenizer, T: int, batch_tokens: int, seed: int = 0, max_epochs: float = 0.0,
                 opener: Callable | None = None, make: Callable = batch_from):
        if batch_tokens % T or batch_tokens <= 0:
            raise ValueError(f"--batch-tokens {batch_tokens} must be a multiple of --seq-len {T}")
        self.T, self.rows, self.make = T, batch_tokens // T, make
        self.mixture = Mixture(specs, tokenizer, seed, max_epochs, opener, piece=T)
        self.packer, self.packed = Packer(T, self.mixture.next), []           # packed: rows of a batch that is not complete
        if max_epochs:                                    # without a limit every source is endless
            start = self.state()
            try:
                self.next()
            except StopIteration:
                drawn = int(self.mixture.given.sum())
                raise ValueError(f"--data: {max_epochs:g} epochs are {drawn} tokens and do not fill one batch of {batch_tokens}; "
                                 "lower --batch-tokens (and --seq-len), or raise --max-epochs") from None
            self.restore(start)

    def next(self, rank: int = 0, ranks: int = 1, micro_rows: int | None = None) -> list[Batch]:
        """This rank's part of the next global batch, as a list of micro-batches of at most micro_rows rows. Raises StopIteration
        if sources with a limit cannot fill another batch."""
        while len(self.packed) < self.rows:               # if a source cannot be read now, a resumed run begins with these rows
            self.packed.append(self.packer.row())
        rows, self.packed = self.packed, []
        mine = rows[rank::ranks]
        size = micro_rows or len(mine)
        return [self.make(mine[i:i + size], self.T) for i in range(0, len(mine), size)]

    def report(self) -> dict:
        """Fields for the result of a run: the table of the mixture, and how well rows were filled."""
        return self.packer.report() | self.mixture.report()

    def state(self) -> dict:
        return {"mixture": self.mixture.state(), "packer": self.packer.state(), "packed": list(map(as_tensors, self.packed))}

    def restore(self, state: dict) -> None:
        self.mixture.restore(state["mixture"])
        self.packer.restore(state["packer"])
        self.packed = list(map(as_arrays, state.get("packed", [])))           # older states have none


def main() -> None:
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.Parser)
    for name, text in (("prepare", "Tokenise sources into a folder of shards."),
                       ("table", "Draw from a mixture and print its table.")):
        p = commands.add_parser(name, text=text)
        p.add_argument("--data", nargs="+", required=True, metavar="SPEC", help="sources, SOURCE[@WEIGHT]")
        p.add_argument("--tokenizer", required=True, metavar="FOLDER", help="folder with tokenizer.json")
    p.add_argument("--tokens", type=cli.positive_int, default=1_000_000, help="tokens to draw in all")
    p.add_argument("--seq-len", type=cli.positive_int, default=256, help="slots in a row, tokens")
    p.add_argument("--seed", type=cli.seed, default=0, help="order of the documents")
    p = commands.choices["prepare"]
    p.add_argument("--tokens", type=cli.non_negative_int, default=0,
                   help="tokens to take from each source, at least (documents are taken whole); 0: all")
    p.add_argument("--out", type=cli.out_folder, required=True, metavar="FOLDER", help="folder to write; must not exist")
    p.add_argument("--workers", type=cli.positive_int, default=os.cpu_count(), help="processes")
    p.add_argument("--shard-tokens", type=cli.positive_int, default=100_000_000, help="tokens in one shard file")
    p.add_argument("--shard-dtype", default="", choices=["", "uint16", "uint32"],
                   help="type of a token; empty: the smallest that fits")
    args = parser.parse_args()
    with cli.bad_input():
        if args.command == "prepare":
            if weighted := [spec for spec in args.data if split_spec(spec)[0] != spec]:
                raise ValueError(f"--data {weighted[0]}: shards have no weight; give the weight to the command that reads them")
            signal.signal(signal.SIGTERM, signal.default_int_handler)         # a kill is answered as Ctrl-C is
            try:
                index = prepare(args.data, args.tokenizer, args.out, args.workers, args.shard_tokens, args.tokens,
                                args.shard_dtype)
            except KeyboardInterrupt:
                print(f"data.py: stopped; nothing is kept, the same command writes {args.out} from its start", file=sys.stderr)
                raise SystemExit(130) from None
            ledger = Ledger(args.out, {"data": args.data, "tokens": args.tokens})
            for name in itertools.chain.from_iterable(map(parts_of, args.data)):
                ledger.inherit(name)
            if ledger.inherited:                          # of made data: its cost goes where its tokens go
                write_ledger(args.out, ledger.found())
            cli.finish({k: index[k] for k in ("documents", "tokens", "vocab_size", "dtype")}
                       | {"shards": len(index["shards"])})
            return
        mixture = Mixture(args.data, Tokenizer.load(args.tokenizer), args.seed, piece=args.seq_len)
        packer = Packer(args.seq_len, mixture.next)
        while mixture.given.sum() < args.tokens:
            packer.row()
        print_table(mixture.table())
        cli.finish(packer.report() | mixture.report())


if __name__ == "__main__":
    main()
