"""The teacher of distill.py: what it reads where the student has written, and what it thinks of each token.

A teacher with the student's tokenizer reads the student's packed batch as it is. There are two other cases, in which it reads a
batch of its own, and its results are carried over to the student's slots:

- with a hint its prompts are others: the same question, and its answer or solution (self-distillation);
- with another tokenizer its ids are others, aligned by bytes (rl/alignment.py).
"""

import dataclasses
import re
from argparse import Namespace

import torch
from torch import Tensor

from formats.texts import without_notes
from model import Transformer
from rl.alignment import Piece, piece_sums, translate
from rl.batches import TaughtBatch, pack
from rl.groups import Rollout
from sampler import Completion
from tasks.task import Problem, prompt_ids
from tokenizer import Tokenizer
from training.batch import Batch
from training.ledger import Costs
from training.run import Run

PLACES = ("question", "answer", "solution")              # of a hint


def read_hint(name: str) -> str:
    """A template: the text itself, or a file with it (without lines at its head that begin with #). ValueError unless it has
    the question's place once, and another one of PLACES."""
    text = name if "{" in name else without_notes(name)
    found = re.findall(r"\{(\w+)\}", text)
    if found.count("question") != 1 or len(found) < 2 or not set(found) <= set(PLACES):
        places = ", ".join(f"{{{place}}}" for place in found) or "none"
        raise ValueError(f"--hint {name}: must have the place {{question}} once, and {{answer}} or {{solution}}, and no other; "
                         f"it has {places}")
    return text


def with_hint(problem: Problem, hint: str) -> Problem:
    """The problem with the hint in its question. ValueError for one that has nothing to put at a place."""
    for place in re.findall(r"\{(\w+)\}", hint):
        if not getattr(problem, place):
            raise ValueError(f"--hint: a problem of {problem.source} has no {place}: {problem.question:.60}; leave {{{place}}} "
                             "out, or use other data")
    return dataclasses.replace(problem, question=re.sub(r"\{(\w+)\}", lambda place: getattr(problem, place[1]), hint))


class Teacher:
    """A frozen model. `own`: the tokenizer of its folder; `tokenizer`: the student's; args: the flags of distill.py.

    same: whether the ids are the student's."""

    def __init__(self, run: Run, args: Namespace, model: Transformer, own: Tokenizer, tokenizer: Tokenizer):
        self.run, self.mode, self.temperature = run, args.mode, args.temperature
        self.model, self.own, self.tokenizer = model.to(run.device).requires_grad_(False), own, tokenizer
        self.hint = read_hint(args.hint) if args.hint else ""
        self.model.exact, self.costs = args.exact, Costs.of(model)
        self.same = own.same_ids(tokenizer)
        if not self.same and args.loss != "opd":
            raise ValueError(f"--loss {args.loss}: --teacher {args.teacher} has another tokenizer than --init {args.init}, and "
                             "words of two vocabularies cannot be compared one by one; use --loss opd, which aligns their texts")

    # before the update

    def reads(self, b: Batch, rollouts: list[Rollout]) -> TaughtBatch:
        """A micro-batch of the student's with what the teacher reads for it. rollouts: those in the batch; none in given data.
        Tokens that are in no piece have no loss."""
        zeros, slots = torch.zeros_like(b.loss_mask, dtype=self.run.weight_dtype), torch.arange(b.tokens.numel())
        found = TaughtBatch(b.tokens, b.targets, b.positions, b.documents, b.loss_mask, getattr(b, "sampler_logprobs", zeros),
                            torch.full_like(b.tokens, -1), slots.view(b.tokens.shape), b.tokens, b.targets, b.documents,
                            torch.full_like(b.tokens, -1))
        seen = b
        if rollouts and (self.hint or not self.same):
            seen = self._rewrite(found, rollouts)
        self.run.ledger.add("scoring", self.costs.forward_batch(seen), seen.filled)
        return found

    def _rewrite(self, b: TaughtBatch, rollouts: list[Rollout]) -> Batch:
        """The batch that the teacher reads in place of the student's; sets where a token of the student's stands in it."""
        told, count = [self._tell(r) for r in rollouts], 0
        [seen] = pack([copy for copy, _ in told], 0, 2 ** 62, self.run.weight_dtype)
        b.seen, b.seen_targets, b.seen_documents = seen.tokens, seen.targets, seen.documents
        b.where, b.seen_pieces, b.loss_mask = torch.zeros_like(b.where), torch.full_like(seen.tokens, -1), b.loss_mask.clone()
        for r, (copy, pieces) in zip(rollouts, told, strict=True):
            ours, theirs = slots_of_tokens(r, b), slots_of_tokens(copy, seen)
            if self.same:                                 # token by token
                b.where[r.row, ours] = copy.row * seen.tokens.shape[1] + theirs
                continue
            for mine, others in pieces:
                here, there = ours[mine.start:mine.stop], theirs[others.start:others.stop]
                b.pieces[r.row, here], b.seen_pieces[copy.row, there], count = count, count, count + 1
                b.where[r.row, here] = copy.row * seen.tokens.shape[1] + there[0]
                if any(r.completion.forced[mine.start:mine.stop]):            # not all of it was drawn
                    b.loss_mask[r.row, here] = 0
        if not self.same:
            b.loss_mask[b.pieces < 0] = 0
        return seen

    def _tell(self, r: Rollout) -> tuple[Rollout, list[Piece]]:
        """A copy of the rollout with the teacher's prompt and the teacher's ids, and the pieces that both have."""
        problem = with_hint(r.problem, self.hint) if self.hint else r.problem
        prompt, tokens, pieces = prompt_ids(self.own, problem, self.mode), list(r.completion.tokens), []
        if not self.same:
            tokens, pieces = translate(tokens, self.tokenizer, self.own)
        silent = Completion(prompt, tokens, [0.0] * len(tokens), forced=[False] * len(tokens))
        return dataclasses.replace(r, completion=silent, batch=-1), pieces

    # what it thinks

    @torch.no_grad()
    def hidden(self, b: TaughtBatch) -> Tensor:
        """Its last hidden states where the student predicts: (B, T, D')."""
        with self.run.autocast():
            return self.model.hidden(b.seen, b.seen_documents).flatten(0, 1)[b.where]

    @torch.no_grad()
    def logprobs(self, b: TaughtBatch) -> Tensor:
        """Log-probabilities of the student's tokens, or of the pieces that they are in: (B, T)."""
        with self.run.autocast():
            found = self.model(b.seen, b.seen_documents, b.seen_targets, self.temperature)
        found = found if self.same else piece_sums(found, b.seen_pieces)[0]
        return found.flatten()[b.where]


def slots_of_tokens(r: Rollout, b: Batch) -> Tensor:
    """The slots in its row that predict the tokens of a completion, (n,)."""
    return (b.documents[r.row] == r.document).nonzero().flatten()[-len(r.completion.tokens):]
