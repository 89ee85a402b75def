"""Long documents: chosen by length, joined out of rows, and packed without being cut."""

import json
from unittest import mock

import pytest
from helpers import run_main, write_rows

import augment
import mix
import pretrain
from data import Mixture, Packer, fingerprints
from sources.fingerprint import fingerprint, parts_of
from sources.open import open_source
from sources.shards import prepare
from sources.texts import sample_texts
from training.ledger import Ledger, write_ledger
from transforms import find

PAGES = [("a", 30), ("b", 8), ("a", 60), ("c", 200), ("b", 9), ("a", 50)]         # (book, words)


def words(n, first=0):
    return " ".join(f"{i % 10}" for i in range(first, first + n))


@pytest.fixture
def pages(tmp_path):
    return write_rows(tmp_path / "pages.jsonl", [{"text": f"{words(n, i)} page{i}", "book": book}
                                                 for i, (book, n) in enumerate(PAGES)])


def texts_of(source, tokenizer):
    assert all(source.get(i)[0][-1] == tokenizer.eot for i in range(source.count))
    return [tokenizer.decode(source.get(i)[0].tolist()[:-1]) for i in range(source.count)]


def test_documents_of_a_length_are_kept_and_the_others_left_out(pages, tokenizer, tmp_path, capsys):
    everything = open_source(str(pages), tokenizer)
    lengths = [len(everything.get(i)[0]) for i in range(everything.count)]
    low, high = sorted(lengths)[1], sorted(lengths)[4]
    for options, fits in ((f"tokens={low}-{high}", lambda n: low <= n <= high), (f"tokens={low + 1}-", lambda n: n > low),
                          (f"tokens=-{high - 1}", lambda n: n < high), ("tokens=-1k", lambda n: True)):
        source = open_source(f"long:{pages},{options}", tokenizer)
        wanted = [i for i, n in enumerate(lengths) if fits(n)]
        assert source.count == len(wanted) and source.tokens == sum(lengths[i] for i in wanted)
        assert all((source.get(k)[0] == everything.get(i)[0]).all() for k, i in enumerate(wanted))
        assert f"{len(wanted)} of 6 documents, with {source.tokens:,} of {sum(lengths):,} tokens" in capsys.readouterr().err
    tokenizer.save(tmp_path / "tok")
    prepare([str(pages)], tmp_path / "tok", tmp_path / "shards", workers=1)
    assert texts_of(open_source(f"long:{tmp_path / 'shards'},tokens={low}-{high}", tokenizer), tokenizer) == texts_of(
        open_source(f"long:{pages},tokens={low}-{high}", tokenizer), tokenizer)


def test_rows_that_belong_together_are_one_document_in_their_order(pages, tokenizer):
    rows = [json.loads(line) for line in pages.read_text().splitlines()]
    whole = ["\n\n".join(row["text"] for row in rows if row["book"] == book) for book in "abc"]
    assert texts_of(open_source(f"long:{pages},by=book", tokenizer), tokenizer) == whole
    most = len(tokenizer.encode(whole[0])) - 5             # too few for all of a's rows
    found = texts_of(open_source(f"long:{pages},by=book,tokens=-{most}", tokenizer), tokenizer)
    a = [row["text"] for row in rows if row["book"] == "a"]
    assert found == ["\n\n".join(a[:2]), a[2], whole[1]], "c alone is too long"
    assert all(len(tokenizer.encode(text)) + 1 <= most for text in found)
    assert list(sample_texts(f"long:{pages},by=book")) == [row["text"] for row in rows]
    exactly = len(tokenizer.encode_document(whole[0])) + 1                    # with the end-of-document token
    for most, first in ((exactly, whole[0]), (exactly - 1, "\n\n".join(a[:2]))):
        assert texts_of(open_source(f"long:{pages},by=book,tokens=-{most}", tokenizer), tokenizer)[0] == first


def test_where_none_is_longer_than_a_row_none_is_cut(pages, tokenizer):
    """Best fit: rows of whole documents, with little padding."""
    longest = 64
    mixture = Mixture([f"long:{pages},tokens=-{longest + 1}"], tokenizer, max_epochs=20, piece=longest)
    whole = {tuple(mixture.sources[0].get(i)[0].tolist()) for i in range(mixture.sources[0].count)}
    packer, rows = Packer(longest, mixture.next), []
    with pytest.raises(StopIteration):
        while True:
            rows.append([tuple(ids.tolist()) for ids, _ in packer.row()])
    assert all(document in whole for row in rows for document in row) and len(whole) >= 3
    assert sum(map(len, rows)) == 20 * len(whole) and all(sum(len(d) - 1 for d in row) <= longest for row in rows)
    assert mixture.report()["cut_documents"] == 0


def test_a_run_knows_the_file_within_and_its_cost(pages, tmp_path):
    spec = f"long:{pages},by=book,tokens=-1k"
    assert parts_of(spec) == (str(pages),)
    cost = Ledger(tmp_path / "made", {})
    cost.add("teacher", 1000, 10)
    write_ledger(pages, cost.found())
    flags = ["--data", spec, "--out", tmp_path / "run", "--steps", 1, "--layers", 1, "--width", 16, "--heads", 2, "--kv-heads", 1,
             "--vocab-size", 300, "--batch-tokens", 64, "--seq-len", 64, "--device", "cpu"]
    code, found, err = run_main(pretrain, *flags)
    assert code == 0 and found["flops"]["inherited"] == 1000, err
    args = pretrain.flags().parse_args([str(flag) for flag in flags])
    before = fingerprints(args)
    assert before[f"--data {pages}"] == fingerprint(str(pages))
    pages.write_text(pages.read_text() + pages.read_text())
    assert fingerprints(args) != before


def test_mixtures_and_made_data_know_the_file_within_and_its_cost(pages, tmp_path):
    cost = Ledger(tmp_path / "made", {})
    cost.add("teacher", 1000, 10)
    write_ledger(pages, cost.found())
    with mock.patch("sys.argv", ["augment.py"]):
        mixed = mix.flags().parse_args(["--sources", f"long:{pages},by=book", "world:ops=1", "--max-epochs", "0", "--vocab-size",
                                        "300", "--target", "loss:world:ops=1", "--proxies", "2", "--out", str(tmp_path / "m")])
        asked = augment.flags().parse_args(["reject", "--init", "oracle:", "--data", f"text:{pages}", "--out",
                                            str(tmp_path / "o.jsonl")])

    def inputs():
        output = augment.open_output(find("reject"), asked)
        return mix.make_plan(mixed)[0].inputs, output.state["inputs"], output.cost.found()["total"]
    before = inputs()
    assert before[0] == {str(pages): fingerprint(str(pages)), "world:ops=1": fingerprint("world:ops=1")}
    assert before[1:] == ({str(pages): fingerprint(str(pages))}, 1000)
    pages.write_text(pages.read_text() * 2)               # what stands behind the first texts
    after = inputs()
    assert after[0] != before[0] and after[1] != before[1]


@pytest.mark.parametrize("options, why", [
    ("", "use long:SOURCE"), (",by=", "names no field"), (",tokens=1k", "use a range"), (",tokens=9-3", "range that rises"),
    (",tokens=a-b", "use a range"), (",tokens=5k-", "none of 6 documents"), (",by=author", 'has no "author"'),
    (",by=book,by=book", "given twice")])
def test_what_does_not_fit_is_refused(options, why, pages, tokenizer):
    with pytest.raises(ValueError, match=why):
        open_source(f"long:{pages}{options}", tokenizer)


def test_sources_that_cannot_be_joined_or_chosen_from_are_refused(tmp_path, tokenizer):
    (tmp_path / "one.txt").write_text("one document")
    with pytest.raises(ValueError, match="is one document; by=x needs a file of rows"):
        open_source(f"long:{tmp_path / 'one.txt'},by=x", tokenizer)
    with pytest.raises(ValueError, match="never ends"):
        open_source("long:world:ops=1,tokens=8-", tokenizer)
