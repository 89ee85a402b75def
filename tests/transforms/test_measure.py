"""augment.py measure: each number against a count by hand, and files of every kind."""

import json
import math
import random
import zlib
from itertools import combinations

import pytest
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import augment
from tasks.problems import load_problems
from transforms.parts import corpus, measures

TEXTS = ["a b c a b", "a b d"]


def test_distinct_ngrams_by_hand():
    assert measures.distinct_ngrams(TEXTS, 1) == 4 / 8
    assert measures.distinct_ngrams(TEXTS, 2) == 4 / 6                    # ab bc ca ab, ab bd
    assert measures.distinct_ngrams(TEXTS, 4) == 1 and measures.distinct_ngrams(TEXTS, 9) is None
    assert measures.distinct_ngrams(["A, b", "a , B"], 3) == 1 / 2       # case and blanks do not count, signs do


def test_compression_ratio():
    rng = random.Random(0)
    noise = ["".join(rng.choices("abcdefghij", k=400)) for _ in range(5)]
    assert measures.compression_ratio(noise * 2) > measures.compression_ratio(noise) > 1
    assert measures.compression_ratio(["x" * 1000]) == 1000 / len(zlib.compress(b"x" * 1000, 9))
    assert measures.compression_ratio([]) is None


def test_coverage_of_topics():
    texts = ["Lions and owls.", "the lions", "Ash Court, a lioness"]
    found = measures.coverage(texts, ["lions", "owls", "Ash Court", "bears", "lions"])
    assert (found["topics"], found["covered"]) == (4, 3)
    wanted = math.exp(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)))
    assert found["effective"] == pytest.approx(wanted)
    assert measures.coverage(["nothing"], ["lions"])["effective"] == 0


def jaccard(a, b):
    def runs(text):
        w = text.split()
        return {tuple(w[i:i + 5]) for i in range(len(w) - 4)}
    return len(runs(a) & runs(b)) / len(runs(a) | runs(b))


def test_near_duplicates_against_all_pairs():
    pytest.importorskip("datasketch")
    rng, vocabulary = random.Random(0), [f"w{i}" for i in range(300)]
    texts = [" ".join(rng.choices(vocabulary, k=80)) for _ in range(30)]
    for number, changed in enumerate((1, 5, 30, *[2] * 12)):              # words that are changed: .88, .5, 0, .77 in common
        words = texts[number].split()
        for at in rng.sample(range(80), changed):
            words[at] = "other"
        texts.append(" ".join(words))
    texts += [texts[0], texts[0]]
    wanted = sum(any(jaccard(texts[i], texts[j]) >= 0.8 for i in range(j)) for j in range(len(texts)))
    assert 3 <= wanted < 12 and measures.near_duplicates(texts) == wanted
    assert measures.near_duplicates(["short", "short", "other"]) == 1 and measures.near_duplicates([]) == 0
    # pairs just below the line are candidates of the hashes, and are found to be none
    assert not any(jaccard(a, b) >= 0.8 for a, b in combinations(texts[:30], 2))


def test_spread():
    assert measures.spread([]) is None
    assert measures.spread([3])["p90"] == 3
    assert measures.spread(list(range(100))) == {"mean": 49.5, "p10": 10, "p50": 50, "p90": 90}


def test_words_end_with_a_whole_row():
    assert measures.first_words(["a b", "c d", "e"], 3) == ["a b", "c d"] and measures.first_words(["a", "b"], 0) == ["a", "b"]


def row_of(problem, index, solution, source, **more):
    reasoning, _, answer = solution.rpartition("\n")
    return {"messages": [{"role": "user", "content": problem.question + " /think"},
                         {"role": "assistant", "content": answer, "reasoning": reasoning}],
            "meta": {"source": source, "index": index, **more}}


@pytest.fixture
def files(tmp_path):
    """A file of conversations on the world of which a quarter is wrong, and one of texts without meta."""
    source = "world:ops=2,seed=3"
    problems = load_problems(source, 8)
    wrong = [p.solution.replace("Answer: ", "Answer: 9") for p in problems]
    rows = [row_of(p, i, p.solution if i % 4 else wrong[i], source) for i, p in enumerate(problems)]
    rows[5]["messages"][1] |= {"reasoning": "", "content": problems[5].solution}
    return (write_rows(tmp_path / "kept.jsonl", rows),
            write_rows(tmp_path / "texts.jsonl", [{"text": "The lions number 3.\nlions 3 + 4 = owls 7"},
                                                  {"text": "<think>\nhm\n</think>\n\nyes"}]))


def test_a_file_is_measured(files):
    pytest.importorskip("datasketch")
    kept, texts = files
    code, found, err = run_main(augment, "measure", kept, texts, "world:ops=2,seed=3", "--count", 8)
    assert code == 0, err
    one = found[str(kept)]
    assert one["rows"] == 8 and one["accuracy"]["known"] == 8 and one["accuracy"]["right"][0] == 0.75
    assert one["reasoning"] == 7 / 8 and one["complexity"]["steps"]["mean"] == 2
    two = found[str(texts)]
    assert two["rows"] == 2 and two["accuracy"] == {"known": 0, "right": None} and two["reasoning"] == 0.5
    world = found["world:ops=2,seed=3"]
    assert world["accuracy"]["right"][0] == 1 and world["rows"] == 8
    assert world["diversity"]["coverage"]["topics"] == 131                # 4 contexts of 33 words, of which pilots stand in two
    assert "verified" in err and "near-duplicates" in err


def test_only_a_row_that_has_the_question_is_graded_by_it(files):
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    rows[1]["meta"]["index"], rows[2]["meta"] = 5, {"source": "gone.jsonl", "index": 2}
    rows[3]["meta"].pop("index")
    texts = corpus.texts_of(str(write_rows(files[0].with_name("moved.jsonl"), rows)))
    assert [text.problem is not None for text in texts] == [True, False, False, False, True, True, True, True]


def test_questions_and_pairs_and_their_meta(tmp_path):
    pytest.importorskip("datasketch")
    questions = write_rows(tmp_path / "q.jsonl", [{"question": f"What is {i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"}
                                                  for i in range(6)])
    # from a file the number in "meta" may be that of a draw: the question decides
    rows = [row_of(p, 0, f"{p.solution.split('####')[0]}\n#### {p.answer if i else 77}", str(questions))
            for i, p in enumerate(load_problems(str(questions)))]
    taught = write_rows(tmp_path / "taught.jsonl", rows)
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "Q", "chosen": "<think>\nlong\n</think>\n\nA", "rejected": "B"}])
    code, found, err = run_main(augment, "measure", questions, taught, pairs)
    assert code == 0, err
    assert found[str(questions)]["accuracy"]["known"] == 0 and found[str(questions)]["reasoning"] == 1
    assert found[str(taught)]["accuracy"]["known"] == 6 and found[str(taught)]["accuracy"]["right"][0] == round(5 / 6, 4)
    assert found[str(pairs)]["rows"] == 1 and found[str(pairs)]["reasoning"] == 1


@pytest.mark.parametrize("place", ["after", "before"])
def test_a_document_is_graded_by_what_it_says_wherever_its_thinking_stands(place, tmp_path):
    data = ["--data", "world:ops=1-3,split=sft", "--count", 4]
    code, found, err = run_main(augment, "think", "--init", "oracle:", *data, "--place", place, "--out", tmp_path / "t.jsonl")
    assert code == 0 and found["verified"][0] == 1, err
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    before, _, last = rows[0]["text"].rpartition("\nAnswer: ")
    rows[0]["text"] = f"{before}\nAnswer: 9{last}"        # what it says is wrong now, and what it thinks is as right as before
    texts = corpus.texts_of(str(write_rows(tmp_path / "o.jsonl", rows)))
    assert [corpus.is_right(text) for text in texts] == [False, True, True, True]


def test_a_label_alone_is_right_if_it_is_the_answer(tmp_path):
    source = "world:ops=2,seed=3"
    rows = [{"question": p.question, "answer": p.answer + "1" * (i == 2), "meta": {"source": source, "index": i}}
            for i, p in enumerate(load_problems(source, 3))]
    rows.append(rows[0] | {"solution": "lions 1 + 1 = owls 3\nAnswer: " + rows[0]["answer"]})       # with working, which counts
    rows.append(rows[0] | {"solution": load_problems(source, 1)[0].solution})
    texts = corpus.texts_of(str(write_rows(tmp_path / "labels.jsonl", rows)))
    assert [corpus.is_right(text) for text in texts] == [True, True, False, False, True]


def test_the_entropy_under_a_checkpoint(files, tmp_path, tokenizer):
    """Against the whole softmax, token by token."""
    pytest.importorskip("datasketch")
    import torch

    from model import load
    folder = tiny_checkpoint(tmp_path / "init", tokenizer)
    code, found, err = run_main(augment, "measure", files[1], "--init", folder)
    assert code == 0, err
    model, tok = load(folder)
    losses, entropies, lengths = [], [], []
    for line in files[1].read_text().splitlines():
        ids = tok.encode_document(json.loads(line)["text"])
        logprobs = model(torch.tensor([ids]))[0, :-1].double().log_softmax(-1)
        losses += (-logprobs[range(len(ids) - 1), ids[1:]]).tolist()
        entropies += (-(logprobs.exp() * logprobs).sum(-1)).tolist()
        lengths.append(len(ids))
    got = found[str(files[1])]["complexity"]
    assert got["scored_tokens"] == len(losses) and got["tokens"]["mean"] == sum(lengths) / 2
    assert got["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-3)
    assert got["entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-3)


@pytest.mark.parametrize("flags, message", [
    ("no.jsonl", "no such file"), ("world:ops=x", "use a number or a range"),
    ("world:ops=1 --device cpu", "no effect without --init"),
    ("world:ops=1 --init nowhere", "no such file"), ("world:ops=1 --topics nowhere.txt", "nowhere.txt")])
def test_bad_input(flags, message):
    assert message in refusal(augment, "measure", *flags.split())


def test_topics_from_a_file(tmp_path):
    topics = tmp_path / "topics.txt"
    topics.write_text("lions\n\nfilm festival\n")
    assert corpus.topics_of(str(topics), []) == ["lions", "film festival"]
    topics.write_text("\n")
    with pytest.raises(ValueError, match="no line of text"):
        corpus.topics_of(str(topics), [])
    assert corpus.topics_of("", [corpus.texts_of("world:ops=1", 2)])[:2] == ["Zoo", "lions"] and corpus.topics_of("", [[]]) == []
