"""Two tokenisations of one text, and what is compared of them."""

import pytest
import torch

from rl.alignment import common_ends, piece_sums, translate
from rl.teacher import read_hint, with_hint
from tasks.task import Problem
from tokenizer import Tokenizer


@pytest.mark.parametrize("student, teacher, wanted", [
    ([4, 2, 4, 7], [4, 5, 4, 4], [(1, 1), (4, 4)]),      # |The |li|ons | number| and |The |lions| num|ber|
    ([1, 1, 1], [3], [(3, 1)]), ([3], [1, 1, 1], [(1, 3)]), ([2, 2], [2, 2], [(1, 1), (2, 2)]),
    ([2, 3, 1], [3, 2, 1], [(2, 2), (3, 3)]), ([], [], []), ([5], [5], [(1, 1)])])
def test_ends_that_both_have(student, teacher, wanted):
    assert common_ends(student, teacher) == wanted


@pytest.fixture(scope="module")
def coarse():
    """A tokenizer of other words, which knows no other special tokens than its own."""
    return Tokenizer.train(["The lions number 3. The owls number the lions plus 4. " * 20], 300)


def spelled(pieces, tokens, ids, student, teacher):
    """The texts of the pieces on both sides."""
    return [(student.decode([tokens[i] for i in ours]), teacher.decode([ids[i] for i in theirs])) for ours, theirs in pieces]


def test_pieces_are_the_same_text_on_both_sides_and_as_short_as_can_be(tokenizer, coarse):
    tokens = tokenizer.encode("lions 3 + 4 = owls 7\nowls 7 * lions 3 = bears 1\nAnswer: 1") + [tokenizer.eot]
    ids, pieces = translate(tokens, tokenizer, coarse)
    texts = spelled(pieces, tokens, ids, tokenizer, coarse)
    assert all(a == b for a, b in texts) and coarse.decode(ids) == tokenizer.decode(tokens)
    assert [i for ours, _ in pieces for i in ours] == list(range(len(tokens)))                # all of them, in order
    assert [i for _, theirs in pieces for i in theirs] == list(range(len(ids)))

    def ends(tokenizer, ids):
        return {len(tokenizer.decode(ids[:n])) for n in range(len(ids) + 1)}
    assert len(pieces) == len(ends(tokenizer, tokens) & ends(coarse, ids)) - 1
    assert len(pieces) < len(tokens) and any(len(ours) > 1 for ours, _ in pieces)


def test_special_tokens_and_ends_keep_their_meaning(tokenizer, coarse):
    tokens = [tokenizer.think, *tokenizer.encode("3"), tokenizer.end_think, *tokenizer.encode("\n\n3"), tokenizer.im_end]
    ids, pieces = translate(tokens, tokenizer, coarse)
    assert (ids[0], ids[-1]) == (coarse.think, coarse.im_end) and coarse.end_think in ids
    assert pieces[0] == (range(0, 1), range(0, 1)) and len(pieces[-1][1]) == 1
    other = Tokenizer({**coarse._spec, "added_tokens": [
        t | {"content": "<end>"} if t["content"] == "<|endoftext|>" else t for t in coarse._spec["added_tokens"]
        if t["content"] not in ("<think>", "<|im_end|>")]}, {"eos_token": "<end>"})
    ids, pieces = translate(tokens, tokenizer, other)
    assert ids[-1] == other.eot and other.decode(ids[:len(pieces[0][1])]) == "<think>" and len(pieces[0][1]) > 1


def test_half_a_character_is_in_no_piece(tokenizer, coarse):
    tokens = tokenizer.encode("3 €")[:-1] + [tokenizer.end_think, *tokenizer.encode("3")]
    ids, pieces = translate(tokens, tokenizer, coarse)
    assert spelled(pieces, tokens, ids, tokenizer, coarse) == [("</think>", "</think>"), ("3", "3")]


def test_ids_are_the_same_or_not(tokenizer, coarse, tmp_path):
    tokenizer.save(tmp_path)
    assert tokenizer.same_ids(Tokenizer.load(tmp_path)) and not tokenizer.same_ids(coarse)


def test_sums_of_pieces_across_rows():
    logprobs = torch.arange(1.0, 11).view(2, 5)
    sums, lengths = piece_sums(logprobs, torch.tensor([[-1, 7, 7, 7, 3], [-1, -1, 5, 2, 2]]))
    assert sums.tolist() == [[0, 9, 9, 9, 5], [0, 0, 8, 19, 19]] and lengths.tolist() == [[1, 3, 3, 3, 1], [1, 1, 1, 2, 2]]
    assert piece_sums(logprobs, torch.full((2, 5), -1))[0].tolist() == [[0] * 5] * 2


def test_hints(tmp_path):
    problem = Problem("2 + {x}?", "4", "It is {question}.")
    assert with_hint(problem, read_hint("{question} ({answer})")).question == "2 + {x}? (4)"
    (tmp_path / "hint.txt").write_text("# A note, with {x}.\n{question}\n{solution}\n")
    assert with_hint(problem, read_hint(str(tmp_path / "hint.txt"))).question == "2 + {x}?\nIt is {question}."
    for bad in ("{question}", "{answer}", "{question} {question} {answer}", "{question} {answer} {x}"):
        with pytest.raises(ValueError, match="must have the place {question} once"):
            read_hint(bad)
    with pytest.raises(OSError, match=r"no\.txt"):
        read_hint("no.txt")
