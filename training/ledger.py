"""The ledger of cost: how many floating-point operations (FLOPs) a run took, or a file of made data, and all that came before.

A run folder has it as ledger.json, a file of made data beside it as FILE.ledger.json:

    {"name": "runs/grpo 5a41c07e",            the folder or the file, and a hash of its flags
     "own": {"training": ..., "rollouts": ..., "scoring": ..., "teacher": ..., "judge": ...},         FLOPs
     "tokens": {the same kinds},
     "training_usual": ...,                   FLOPs of training by the usual convention
     "inherited": {name: {"own": ..., "tokens": ...}, ...},      the --init of a run and its made data, their --init, ...
     "unknown": [...],                        checkpoints among these that have no ledger, so the total is a lower bound
     "total": ...}                            of "own" and everything inherited

What is counted:

- training: forward and backward pass, three times the FLOPs of a forward pass. Its tokens are those that are read, also where
  their loss weight is 0, and a token of the second epoch counts again.
- rollouts, teacher, judge: what is sampled to be trained on, to be written down, to be a verdict. Tokens are those drawn. The
  samples of one prompt share its prefill.
- scoring: log-probabilities under a reference or a teacher, a critic's values, and other forward passes over whole documents.

This is what the method needs, whatever the code wastes on top: padding, rows that wait, passes that are repeated to save memory,
and steps that were lost to a kill do not count. Evaluation does not count either. What is inherited by two ways counts once.

Two conventions. The count above is true: a token attends to the tokens before it in its document, and not beyond a window. The
usual one is 6 N + 12 L H hd T for each slot of a row, padding included, as though every token attended to the whole row.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from formats.files import read_json, write_json
from training.batch import Batch

KINDS = ("training", "rollouts", "scoring", "teacher", "judge")


@dataclass(frozen=True)
class Costs:
    """The FLOPs of a model. A weight that multiplies takes 2 (a product and a sum), a query and a key 4 hd in each head (its
    score, and its share in the sum of the values). Letters as in model.py.

    body: weights that multiply every token. head: those that do where the next token is predicted, V D.
    attention: H hd. windows: of each layer; 0 where it sees its whole document.
    """
    body: int
    head: int
    attention: int
    windows: tuple[int, ...]

    @classmethod
    def of(cls, model: torch.nn.Module) -> "Costs":
        """Of a Transformer, or of a module that holds one as `.model` and adds weights of its own (rl/critic.py). A token only
        looks its row up in an embedding table, so the table counts where it is the head as well."""
        transformer = getattr(model, "model", model)
        c = transformer.config
        head, weights = c.vocab_size * c.width, sum(w.numel() for w in model.parameters())
        return cls(weights - head * (1 if c.tied else 2), head, c.heads * c.head_size, c.windows)

    def keys(self, n: int) -> int:
        """How many keys the first n tokens of a document see, each itself included, summed over the layers."""
        return sum(n * (n + 1) // 2 if not w or n <= w else w * (w + 1) // 2 + (n - w) * w for w in self.windows)

    def _flops(self, tokens, predicted, keys):
        return 2 * self.body * tokens + 2 * self.head * predicted + 4 * self.attention * keys

    def forward(self, lengths: list[int]) -> int:
        """A forward pass over documents of so many tokens, with a prediction at each of them."""
        return self._flops(sum(lengths), sum(lengths), sum(map(self.keys, lengths)))

    def forward_batch(self, batch: Batch) -> int:
        """The same for a packed Batch, which is read from its documents and positions (B, T)."""
        seen = (batch.positions + 1)[batch.documents >= 0]                    # (tokens,)
        keys = {w: int((seen.clamp(max=w) if w else seen).sum()) for w in set(self.windows)}
        return self._flops(seen.numel(), seen.numel(), sum(keys[w] for w in self.windows))

    def sampling(self, prompt: int, lengths: list[int]) -> int:
        """Completions of so many tokens to one prompt of that many. The prompt is prefilled once. Each drawn token takes a
        prediction, and each but the last of a completion is fed back, with all tokens before it as its context."""
        flops = self._flops(prompt, 0, self.keys(prompt))
        for n in filter(None, lengths):
            flops += self._flops(n - 1, n, self.keys(prompt + n - 1) - self.keys(prompt))
        return flops

    def usual(self, T: int | float) -> int | float:
        """Training, for each token of a row of T, by the usual convention: 6 N + 12 L H hd T."""
        return 6 * (self.body + self.head) + 12 * len(self.windows) * self.attention * T


class Ledger:
    """Adds up what one run, or one file, takes; on many ranks each adds up its own.

    path: the folder or the file. about: what it was made with (flags, inputs); a part of its name, so that two that were written
    to the same path one after the other are told apart.
    """

    def __init__(self, path: str | Path, about: dict):
        digest = hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()
        self.name = f"{path} {digest}"
        self.own, self.tokens, self.usual = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0), 0
        self.inherited, self.unknown = {}, []

    def add(self, kind: str, flops: int, tokens: int = 0) -> None:
        """FLOPs of one of KINDS, and the tokens that they were for."""
        self.own[kind] += flops
        self.tokens[kind] += tokens

    def inherit(self, path: str | Path, checkpoint: bool = False) -> None:
        """Takes over the ledger of a run folder, of a folder of shards or of a file, if it has one. A checkpoint always has cost
        something; without a ledger it is unknown how much. checkpoint: it is one, also where it does not look like one."""
        found = read_ledger(path)
        if found is not None:
            self.inherited |= found["inherited"] | {found["name"]: {"own": found["own"], "tokens": found["tokens"]}}
        checkpoint = checkpoint or (Path(path) / "config.json").is_file()
        unknown = found["unknown"] if found else [str(path)] * checkpoint
        self.unknown += [name for name in unknown if name not in self.unknown]

    def found(self, ranks: Any = None) -> dict:
        """The ledger as it stands in the file. ranks: a training.ranks.Ranks to sum over, all of them together."""
        numbers = [*self.own.values(), *self.tokens.values(), self.usual]
        if ranks is not None and ranks.ranks > 1:         # sums are in float64, which is exact below 2^53: so in two parts
            parts = ranks.sum(*(part for n in numbers for part in divmod(n, 2 ** 40)))
            numbers = [int(high) * 2 ** 40 + int(low) for high, low in zip(parts[::2], parts[1::2])]
        own, tokens = dict(zip(KINDS, numbers)), dict(zip(KINDS, numbers[len(KINDS):]))
        total = sum(own.values()) + sum(sum(other["own"].values()) for other in self.inherited.values())
        return {"name": self.name, "own": own, "tokens": tokens, "training_usual": numbers[-1], "inherited": dict(self.inherited),
                "unknown": list(self.unknown), "total": total}

    def restore(self, found: dict, sums: bool = True) -> None:
        """Goes on from what `found` returned. sums: True on one rank alone, or they would count as often as there are ranks."""
        self.name, self.inherited, self.unknown = found["name"], dict(found["inherited"]), list(found["unknown"])
        if sums:
            self.own |= found["own"]
            self.tokens |= found["tokens"]
            self.usual = found["training_usual"]


def summary(found: dict) -> dict:
    """What stands under "flops" in the last line of a script: the kinds that cost something, training by the usual convention as
    well, what was inherited, and the total."""
    own = {kind: flops for kind, flops in found["own"].items() if flops}
    usual = {"training_usual": found["training_usual"]} if found["training_usual"] else {}
    more = {"unknown": found["unknown"]} if found["unknown"] else {}
    return own | usual | {"inherited": found["total"] - sum(own.values()), "total": found["total"]} | more


def path_of(path: str | Path) -> Path:
    """Where the ledger of a folder, or of a file, stands."""
    return Path(path) / "ledger.json" if Path(path).is_dir() else Path(f"{path}.ledger.json")


def read_ledger(path: str | Path) -> dict | None:
    """The ledger of a folder or a file; None where there is none. ValueError, in one line, where it cannot be read."""
    where = path_of(path)
    if not where.is_file():
        return None
    found = read_json(where)
    if not isinstance(found.get("name"), str) or not all(isinstance(found.get(k), dict) for k in ("own", "tokens", "inherited")):
        raise ValueError(f'{where}: is not a ledger, which has "name", "own", "tokens" and "inherited"; remove it, and this cost '
                         "is unknown")
    return {"training_usual": 0, "unknown": [], "total": 0} | found


def write_ledger(path: str | Path, found: dict) -> None:
    """Writes what Ledger.found returned to where it belongs, whole or not at all."""
    write_json(path_of(path), found)
