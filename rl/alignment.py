"""Aligns two tokenisations of one text by their bytes: the pieces between which both of them have a boundary.

    student   |The |li|ons | number|      bytes 4, 2, 4, 7
    teacher   |The |lions| num|ber|       bytes 4, 5, 4, 4
    pieces    |The |lions | number|       where both end at the same byte: after 4 and after 17

So log-probabilities of two models can be compared though their tokens differ: the log-probability of a piece is the sum over its
tokens. Special tokens are pieces of their own, and so are end tokens, whatever each model calls them.
"""

import itertools

import torch
from torch import Tensor

from tokenizer import Tokenizer

Piece = tuple[range, range]              # places of its tokens in the student's list, and in the teacher's


def common_ends(student: list[int], teacher: list[int]) -> list[tuple[int, int]]:
    """Bytes of each token, in two tokenisations of the same bytes -> [(tokens of the student, tokens of the teacher)] up to each
    byte at which both have a boundary."""
    ends = {end: n for n, end in enumerate(itertools.accumulate(teacher), 1)}
    return [(n, ends[end]) for n, end in enumerate(itertools.accumulate(student), 1) if end in ends]


def translate(tokens: list[int], student: Tokenizer, teacher: Tokenizer) -> tuple[list[int], list[Piece]]:
    """Tokens that the student has drawn -> the teacher's ids for the same text, and the pieces that both have.

    Text that the teacher's ids do not repeat byte by byte (half a character, or what a normaliser changes) is in no piece."""
    ids, pieces, place = [], [], 0
    for special, run in itertools.groupby(tokens, key=lambda i: not student.token_bytes(i)):
        run = list(run)
        for part in ([[i] for i in run] if special else [run]):
            text, begun = student.decode(part), len(ids)
            named = special_id(part[0], text, student, teacher) if special else None
            ids += teacher.encode(text) if named is None else [named]
            if named is not None:
                ends = [(1, 1)]
            elif teacher.decode_bytes(ids[begun:]) == student.decode_bytes(part):
                ends = common_ends([len(student.decode_bytes([i])) for i in part],
                                   [len(teacher.decode_bytes([i])) for i in ids[begun:]])
            else:
                ends = []
            for (a, c), (b, d) in itertools.pairwise([(0, 0), *ends]):
                pieces.append((range(place + a, place + b), range(begun + c, begun + d)))
            place += len(part)
    return ids, pieces


def special_id(token: int, text: str, student: Tokenizer, teacher: Tokenizer) -> int | None:
    """The teacher's id for a special token of the student: the one with the same name, or the end token where it ends a
    completion. None: the teacher has none, and reads its name as text."""
    end = teacher.eot if token in student.stop_ids else None
    return teacher.special.get(text, end)


def piece_sums(logprobs: Tensor, pieces: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the log-probabilities of the piece that a token is in, and the number of its tokens: all (B, T). The tokens of a
    piece are neighbours. Tokens without a piece (a negative number) have 0 and 1."""
    inside = (pieces.flatten() >= 0).nonzero().flatten()
    _, lengths = pieces.flatten()[inside].unique_consecutive(return_counts=True)
    sums, counts = torch.zeros_like(logprobs).flatten(), torch.ones_like(logprobs).flatten()
    if len(inside):
        sums[inside] = torch.segment_reduce(logprobs.flatten()[inside], "sum", lengths=lengths).repeat_interleave(lengths)
        counts[inside] = lengths.to(counts.dtype).repeat_interleave(lengths)
    return sums.view(pieces.shape), counts.view(pieces.shape)
