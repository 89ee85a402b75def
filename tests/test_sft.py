"""Fine-tuning: the losses against the papers' formulas, what is trained in a conversation, the same gradient however a
batch is split, exact resume, clear refusals."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import real_file
from helpers import (
    a_run,
    assert_same_gradients,
    assert_same_state,
    kill_after,
    on_two_ranks,
    refusal,
    run_main,
    state_of,
    steps_of,
    tiny_checkpoint,
    write_rows,
)

import sft
from data import Stream
from model import load
from sources.conversations import open_conversations, problem_turns
from tasks.problems import load_problems
from tokenizer import Tokenizer
from training import metrics
from training.batch import batch_from
from training.weights import full

LOSSES = ["sft", "dft", "iw", "iw --iw-form token", "psft"]
GSM8K = {"question": "Tom has 1,000 apples and eats 2. How many?",
         "answer": "He has 1000 - 2 = <<1000-2=998>>998.\n#### 998"}
TALK = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                     {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "2 + 2?"},
                     {"role": "assistant", "content": "4", "reasoning": "two and two"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("sft") / "init", tokenizer)


# losses

def guess(seed=0, B=3, T=17, V=11):
    """Logits that need a gradient, targets, a mask, document numbers with padding, and other log-probabilities."""
    torch.manual_seed(seed)
    logits = (3 * torch.randn(B, T, V, dtype=torch.float64)).requires_grad_()
    targets, mask = torch.randint(V, (B, T)), (torch.rand(B, T) < 0.7).double()
    documents = torch.tensor([[0] * 5 + [1] * 6 + [2] * 6, [0] * 12 + [1] * 3 + [-1] * 2, [0] * 17])
    mask[documents < 0] = 0
    logprobs = logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    return logits, targets, mask, documents, logprobs, logprobs.detach() + torch.randn(B, T, dtype=torch.float64)


def weights_by_the_book(form, p, other, mask, documents):
    """w of each token in the gradient -w grad log pi, one token at a time; p and other are probabilities (B, T)."""
    w = torch.zeros_like(p)
    for b in range(p.shape[0]):
        for t in range(p.shape[1]):
            if form == "sft":
                w[b, t] = 1
            elif form == "dft":
                w[b, t] = p[b, t]
            elif form == "iw token":
                w[b, t] = min(1.8, max(0.2, p[b, t] / other[b, t]))
            elif form == "iw sequence":
                inside = [s for s in range(p.shape[1]) if documents[b, s] == documents[b, t] and mask[b, s]]
                product = np.prod([float(p[b, s] / other[b, s]) for s in inside])
                w[b, t] = min(16.0, product ** (1 / max(1, len(inside))))
            else:
                r = p[b, t] / other[b, t]
                w[b, t] = r if r <= 1.28 else 0.0
    return w


@pytest.mark.parametrize("form", ["sft", "dft", "iw token", "iw sequence", "psft"])
def test_losses_and_gradients_are_the_formulas(form):
    logits, targets, mask, documents, logprobs, other = guess()
    loss = {"sft": lambda: sft.sft_loss(logprobs, mask), "dft": lambda: sft.dft_loss(logprobs, mask),
            "iw token": lambda: sft.iw_loss(logprobs, other, mask, documents, "token"),
            "iw sequence": lambda: sft.iw_loss(logprobs, other, mask, documents),
            "psft": lambda: sft.psft_loss(logprobs, other, mask)}[form]()
    with torch.no_grad():
        everything = logits.softmax(-1)                                       # (B, T, V)
        p = everything.gather(2, targets[..., None])[..., 0]
        w = weights_by_the_book(form, p, other.exp(), mask, documents)
        value = -(mask * w * p.log()).sum()
        if form == "psft":
            r = p / other.exp()
            value = -(mask * torch.where(r > 1.28, 1.28, r)).sum()
        onehot = torch.nn.functional.one_hot(targets, logits.shape[2])
        gradient = (mask * w)[..., None] * (everything - onehot)
    assert len({round(float(x), 6) for x in w[mask > 0]}) > 1 or form == "sft"
    assert float(loss.detach()) == pytest.approx(float(value), rel=1e-12)
    [found] = torch.autograd.grad(loss, logits)
    assert (found - gradient).abs().max() < 1e-12


def test_the_gradient_of_dft_is_that_of_the_probability():
    logits, _, mask, _, logprobs, _ = guess(1)
    [a] = torch.autograd.grad(sft.dft_loss(logprobs, mask), logits, retain_graph=True)
    [b] = torch.autograd.grad(-(logprobs.exp() * mask).sum(), logits)
    assert (a - b).abs().max() < 1e-14


def test_at_the_reference_and_after_a_refresh_the_gradient_is_that_of_sft():
    logits, _, mask, documents, logprobs, _ = guess(2)
    same = logprobs.detach()
    [plain] = torch.autograd.grad(sft.sft_loss(logprobs, mask), logits, retain_graph=True)
    for loss in (sft.iw_loss(logprobs, same, mask, documents), sft.iw_loss(logprobs, same, mask, documents, "token"),
                 sft.psft_loss(logprobs, same, mask)):
        [g] = torch.autograd.grad(loss, logits, retain_graph=True)
        assert (g - plain).abs().max() < 1e-14
    with torch.no_grad():
        weighted, plain = sft.iw_loss(logprobs, same, mask, documents), sft.sft_loss(logprobs, mask)
    assert float(weighted) == pytest.approx(float(plain), rel=1e-14)


def test_the_bounds_of_iw():
    zeros, mask, documents = torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4), torch.tensor([[0, 0, 1, 1]])
    logprobs = torch.tensor([[-1.0, -1.0, -1.0, -1.0]], dtype=torch.float64)
    far = torch.tensor([[-9.0, -9.0, 5.0, 5.0]], dtype=torch.float64)
    assert float(sft.iw_loss(logprobs, far, mask, documents, "token")) == pytest.approx(2 * 1.8 + 2 * 0.2)
    assert float(sft.iw_loss(logprobs, far, mask, documents)) == pytest.approx(2 * 16 + 2 * np.exp(-6))
    assert float(sft.iw_loss(zeros, far, mask, documents)) == 0


# what is trained in a conversation

def trained(tokenizer, ids, weights):
    """The text with weight 1 and that with weight 0."""
    assert set(np.unique(weights)) <= {0.0, 1.0}
    return tokenizer.decode(ids[weights > 0]), tokenizer.decode(ids[weights == 0])


def test_only_the_assistant_is_trained_and_its_end_of_turn(tokenizer, tmp_path):
    source = open_conversations(str(write_rows(tmp_path / "a.jsonl", [TALK])), tokenizer, 512)
    ids, weights = source.get(0)
    said, rest = trained(tokenizer, ids, weights)
    assert said == "Hello.<|im_end|><think>\ntwo and two\n</think>\n\n4<|im_end|>"
    assert "Be brief." in rest and "2 + 2?" in rest and "assistant" in rest and source.count == 1


def test_a_think_block_in_the_text_becomes_reasoning(tokenizer, tmp_path):
    apart = {"role": "assistant", "content": "4", "reasoning": "two and two"}
    inside = {"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\n4"}
    rows = [{"messages": [{"role": "user", "content": "2 + 2?"}, answer]} for answer in (apart, inside)]
    source = open_conversations(str(write_rows(tmp_path / "a.jsonl", rows)), tokenizer, 512)
    assert np.array_equal(source.get(0)[0], source.get(1)[0]) and tokenizer.think in source.get(1)[0]


def test_gsm8k_and_math_rows_think_before_they_answer(tokenizer, tmp_path):
    math = {"problem": "What is $1+1$?", "solution": "We get $\\boxed{2}$."}
    plain = {"question": "Capital of France?", "answer": "Paris"}
    source = open_conversations(str(write_rows(tmp_path / "a.jsonl", [GSM8K, math, plain])), tokenizer, 512)
    said = [trained(tokenizer, *source.get(i))[0] for i in range(3)]
    assert said == ["<think>\nHe has 1000 - 2 = 998.\n</think>\n\nAnswer: 998<|im_end|>",
                    "<think>\nWe get $\\boxed{2}$.\n</think>\n\nAnswer: 2<|im_end|>", "Answer: Paris<|im_end|>"]


def test_two_modes_and_what_they_train(tokenizer):
    source = open_conversations("world:ops=2", tokenizer, 512, no_think=0.3, unflagged=0.25)
    kinds = {"/think": 0, "/no_think": 0, "": 0}
    for i in range(1000):
        ids, weights = source.get(i)
        said, rest = trained(tokenizer, ids, weights)
        problem = source.task.problem(i)
        flag = rest.partition("?")[2].partition("<|im_end|>")[0].strip()
        kinds[flag] += 1
        at = ids.tolist().index(tokenizer.think)
        if flag == "/no_think":                           # the empty block is there and masked
            assert said == f"Answer: {problem.answer}<|im_end|>"
            assert "<think>\n\n</think>\n\n" in rest and weights[at] == 0
        else:
            assert said == f"<think>\n{problem.reasoning}\n</think>\n\nAnswer: {problem.answer}<|im_end|>"
            assert weights[at] == 1 and "<think>" not in rest
        assert weights[ids.tolist().index(tokenizer.im_end, at)] == 1
    assert kinds["/no_think"] == 300 and abs(kinds[""] - 175) <= 3
    again = open_conversations("world:ops=2", tokenizer, 512, no_think=0.3, unflagged=0.25)
    assert all(np.array_equal(source.get(i)[0], again.get(i)[0]) for i in range(50))
    plain = open_conversations("world:ops=2", tokenizer, 512)
    assert not any("think" in trained(tokenizer, *plain.get(i))[1] for i in range(50))


def test_a_problem_without_working_cannot_think():
    [problem] = load_problems("world:ops=2,solution=0", 1)
    assert all(problem_turns(problem, i, 0.1)[0]["content"].endswith(" /no_think") for i in range(20))
    assert problem_turns(problem, 0, 0.1)[1]["reasoning"] == "" and problem_turns(problem, 0)[1]["reasoning"] is None


def test_a_tokenizer_without_thinking_tokens_spells_them(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    spec = json.loads((tmp_path / "t/tokenizer.json").read_text())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if "think" not in t["content"]]
    (tmp_path / "t/tokenizer.json").write_text(json.dumps(spec))
    plain = Tokenizer.load(tmp_path / "t")
    assert plain.think is None
    source = open_conversations("world:ops=2", plain, 512, no_think=0.5)
    learned = [trained(plain, *source.get(i)) for i in range(20)]
    assert any(said.startswith("<think>\n") for said, _ in learned)
    assert any(said.startswith("Answer: ") and rest.endswith("<think>\n\n</think>\n\n\n") for said, rest in learned)


def test_real_gsm8k(tokenizer):
    source = open_conversations(str(real_file("gsm8k/test.jsonl")), tokenizer, 4096, no_think=0.5)
    learned = [trained(tokenizer, *source.get(i))[0] for i in range(source.count)]
    assert source.count == 1319 and all("Answer: " in t and "####" not in t and "<<" not in t for t in learned)
    assert sum(t.startswith("<think>") for t in learned) == pytest.approx(660, abs=2)


# one gradient

def test_packed_is_as_alone(folder, tokenizer):
    """Each conversation's loss is the same with neighbours as without, for every loss."""
    model, _ = load(folder, dtype=torch.float64)
    other = copy.deepcopy(model)
    for w in other.parameters():
        w.data.mul_(0.9)
    source = open_conversations("world:ops=1-3", tokenizer, 512, no_think=0.5)
    rows = [[source.get(i) for i in range(r, r + 3)] for r in (0, 3)]
    for flags in LOSSES:
        args = sft.flags().parse_args(f"--data x --out x --loss {flags}".split())
        with torch.no_grad():
            packed, alone = {}, {}
            metrics.add(packed, sft.batch_loss(args, model, batch_from(rows, 512), other)[1])
            for document in sum(rows, []):
                metrics.add(alone, sft.batch_loss(args, model, batch_from([[document]], 512), other)[1])
        assert packed.keys() == alone.keys() >= {"nll", "entropy"}
        for name in packed:
            assert torch.allclose(torch.stack(packed[name]), torch.stack(alone[name]), rtol=1e-12, atol=1e-12)


def gradients(folder, micro=None, shard=False, losses=LOSSES):
    """The loss and the whole gradient of one batch by each loss: {flags: (loss, {parameter: gradient})}."""
    run, found = a_run(shard=shard), {}
    for flags in losses:
        args = sft.flags().parse_args(f"--data x --out x --loss {flags}".split())
        model, tokenizer = load(folder, dtype=torch.float64)
        frozen = copy.deepcopy(model)
        for w in frozen.parameters():
            w.data.mul_(0.97)
        wrapped = run.distribute(model)
        stream = Stream(["world:ops=1-3"], tokenizer, 256, 2048,
                        opener=lambda name, t: open_conversations(name, t, 256, no_think=0.3))
        batches = stream.next(run.rank, run.ranks, micro)
        loss = run.backward(wrapped, batches, lambda b, a=args, w=wrapped, f=frozen: sft.batch_loss(a, w, b, f))
        found[flags] = loss, {n: full(w.grad) for n, w in model.named_parameters()}
    return found


def test_micro_batches_and_ranks_change_no_gradient(folder, tmp_path):
    whole = gradients(folder)
    for micro in (1, 3):
        assert_same_gradients(gradients(folder, micro), whole)
    assert len(whole) == 5
    call = f"gradients({str(folder)!r}"
    code = f"from test_sft import gradients\nfound = [{call}), {call}, 3, True, ['psft', 'iw'])]"
    for found in on_two_ranks(tmp_path, code):
        assert_same_gradients(found, {k: whole[k] for k in found})


# the script

def common_flags(folder):
    return ["--init", folder, "--data", "world:ops=1-2,split=sft", "--seq-len", 256, "--batch-tokens", 1024,
            "--log-every", 1]


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_trains(folder, tmp_path, loss):
    more = {"sft": ["--eval-data", "world:ops=1,split=test", "--eval-problems", 2], "psft": ["--refresh", 3]}.get(loss, [])
    code, result, err = run_main(sft, *common_flags(folder), "--out", tmp_path / "run", "--steps", 8,
                                 "--no-think", 0.3, *f"--loss {loss}".split(), *more)
    assert code == 0, err
    assert len(result.get("eval", {})) == (2 if loss == "sft" else 0)            # with thinking and without
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    nll = [r["nll"] for r in records if "nll" in r]
    assert len(nll) == 8 == result["steps"] and nll[-1] < nll[0] - 0.3 and result["entropy"] > 0
    assert {"loss", "nll", "entropy", "seconds", "tokens_per_second", "mixture"} <= result.keys()
    if loss == "sft":
        assert all(r["loss"] == pytest.approx(r["nll"], rel=1e-6) for r in records if "nll" in r)
    if loss == "psft":                                    # r = 1 right after each refresh, and only there
        ones = [r["step"] for r in records if "nll" in r and abs(r["loss"] + 1) < 1e-9]
        assert ones == [1, 4, 7] and sum(r["clipped"] for r in records if "nll" in r) > 0
    model, again = load(tmp_path / "run")
    assert len(again) == model.config.vocab_size


def test_killed_in_between_it_resumes_bit_for_bit_with_its_snapshot(folder, tmp_path):
    flags = [*common_flags(folder), "--loss", "psft", "--refresh", 7, "--steps", 60, "--save-every", 3]
    assert run_main(sft, *flags, "--out", tmp_path / "whole")[0] == 0
    kill_after(8, sft, *flags, out=tmp_path / "run")
    stopped = state_of(tmp_path / "run")
    assert 0 < stopped["step"] < 60 and stopped["step"] % 7 and "snapshot" in stopped["more"]
    assert run_main(sft, *flags, "--out", tmp_path / "run", "--resume")[0] == 0
    a, b = state_of(tmp_path / "run"), state_of(tmp_path / "whole")
    for state in (a, b):                                  # they say the name of the folder
        del state["args"], state["ledger"]["name"]
    assert_same_state(a, b)
    assert steps_of(tmp_path / "run") == steps_of(tmp_path / "whole")


def test_capped_data_ends_the_run(folder, tmp_path):
    data = write_rows(tmp_path / "a.jsonl", [TALK, TALK, TALK] * 10)
    flags = [*common_flags(folder)[:2], "--data", data, *common_flags(folder)[4:], "--max-epochs", 2]
    code, result, err = run_main(sft, *flags, "--out", tmp_path / "run", "--steps", 99)
    assert code == 0 and 0 < result["steps"] < 99 and "the data is used up" in err
    assert result["mixture"][0]["epochs"] == pytest.approx(2, abs=0.6)


def test_what_a_row_repeats_beside_its_messages_changes_nothing(tmp_path, tokenizer):
    talk = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\n4"}]}
    beside = [{}, {"problem": "What?", "solution": talk["messages"][1]["content"], "source": "x"},
              {"prompt": "What?", "tools": ""}, {"question": "What?", "answer": None, "num_turns": 2, "problem_type": "Algebra"}]
    source = open_conversations(str(write_rows(tmp_path / "a.jsonl", [talk | row for row in beside])), tokenizer, 512)
    (ids, weights), *others = (source.get(i) for i in range(len(beside)))
    assert weights.sum() > 0
    assert all(np.array_equal(a, ids) and np.array_equal(w, weights) for a, w in others)


LONG = {"messages": [{"role": "user", "content": "x y " * 300}, {"role": "assistant", "content": "ok"}]}


@pytest.mark.parametrize("rows, message", [
    ([TALK, {"messages": TALK["messages"][:2]}], "a.jsonl, line 2: no turn of an assistant"),
    ([TALK, {"messages": [{"role": "robot", "content": "x"}]}], "line 2: unknown role 'robot'; use one of system"),
    ([TALK, "", LONG], "a.jsonl, line 3: the conversation takes"), ([LONG], "raise --seq-len to at least"),
    ([TALK, '{"messages": ['], "a.jsonl, line 2: not valid JSON"),
    ([TALK, {"text": "a"}], "a.jsonl, line 2: the messages must be a list"),
    ([TALK, {"messages": [{"role": "user"}, TALK["messages"][2]]}], "a.jsonl, line 2: message 0 must have"),
    ([{"messages": [{"role": "assistant", "content": None}]}], "a.jsonl, line 1: message 0 must have"),
    ([GSM8K, {"question": "x"}], "a.jsonl, line 2: no field 'answer'"), (["[1, 2]"], "line 1: expected a JSON object"),
    ([{"text": "a"}], 'line 1: no field "messages", "question" or "problem" (found: text)')])
def test_bad_rows_are_named(folder, tmp_path, rows, message):
    data = write_rows(tmp_path / "a.jsonl", rows)
    assert message in refusal(sft, "--init", folder, "--data", data, "--out", tmp_path / "run", "--seq-len", 256,
                              "--batch-tokens", 1024)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags, message", [
    ("--data world:ops=9-12 --seq-len 128 --batch-tokens 128", "a conversation takes"), ("--data world:chat=1", "chat"),
    ("--data world:ops=1 --no-think 1.5", "--no-think: 1.5: use a number from 0 to 1"),
    ("--data nowhere.jsonl", "jsonl: no such"),
    ("--data world:ops=1 --unflagged 0.5", "--unflagged has no effect without --no-think"),
    ("--data world:ops=1 --loss no", "--loss"),
    ("--data world:ops=1 --batch-tokens 1000", "--batch-tokens 1000 must be a multiple of --seq-len"),
    ("--data world:ops=1 --refresh 0", "--refresh: 0: use"), ("--data world:ops=1 --micro-tokens 9", "--micro-tokens at")])
def test_bad_flags_are_one_line(folder, tmp_path, flags, message):
    assert message in refusal(sft, "--init", folder, "--out", tmp_path / "run", *flags.split())
    assert not (tmp_path / "run").exists()


def test_it_needs_a_checkpoint(tmp_path):
    assert "--init is needed" in refusal(sft, "--data", "world:ops=1", "--out", tmp_path / "run")


# what rows may say, and what it does

USER, ANSWER = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}


@pytest.mark.parametrize("row, plain", [
    ({"messages": [USER, ANSWER], "system": "Be brief."}, [{"role": "system", "content": "Be brief."}, USER, ANSWER]),
    ({"messages": [USER, ANSWER | {"reasoning_content": "two and two"}]}, [USER, ANSWER | {"reasoning": "two and two"}]),
    ({"messages": [USER, ANSWER | {"thinking": "two and two", "reasoning": None}]},
     [USER, ANSWER | {"reasoning": "two and two"}]),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?", "image": None}]},
                   ANSWER]}, [USER, ANSWER]),
    ({"messages": [USER | {"weight": 0}, ANSWER | {"weight": 1, "train": True}]}, [USER, ANSWER]),
    ({"messages": [USER | {"name": None}, ANSWER | {"tool_calls": [], "audio": None, "refusal": None}], "tools": None,
      "system": "", "id": 3, "prompt_id": "x", "prompt": "2 + 2?", "source": "a", "_note": 1, "metadata": {"a": 1}},
     [USER, ANSWER])])
def test_what_a_row_says_is_used(row, plain, tokenizer, tmp_path):
    found, wanted = (open_conversations(str(write_rows(tmp_path / name, [rows])), tokenizer, 512).get(0)
                     for name, rows in (("a.jsonl", row), ("b.jsonl", {"messages": plain})))
    assert np.array_equal(found[0], wanted[0]) and np.array_equal(found[1], wanted[1])
    assert tokenizer.decode(found[0]).count("Be brief.") == ("Be brief." in str(row))


@pytest.mark.parametrize("out", [{"weight": 0}, {"train": False}, {"weight": 0.0, "train": False}])
def test_a_turn_with_weight_0_is_read_and_not_learned(out, tokenizer, tmp_path):
    first = {"role": "assistant", "content": "Hello.", "reasoning": "a greeting"}
    row = {"messages": [USER, first | out, USER, ANSWER, USER, first]}
    ids, weights = open_conversations(str(write_rows(tmp_path / "a.jsonl", [row])), tokenizer, 512).get(0)
    whole, _ = open_conversations(str(write_rows(tmp_path / "b.jsonl", [{"messages": [USER, first, USER, ANSWER, USER, first]}])),
                                  tokenizer, 512).get(0)
    said, rest = trained(tokenizer, ids, weights)
    assert np.array_equal(ids, whole)
    assert said == "4<|im_end|><think>\na greeting\n</think>\n\nHello.<|im_end|>"
    assert "<think>\na greeting\n</think>\n\nHello.<|im_end|>" in rest


def test_numbers_are_answers_and_headings_are_no_marks(tokenizer, tmp_path):
    rows = [{"question": "q", "answer": 12}, {"question": "q", "answer": 0.5}, {"question": "q", "answer": 1e22},
            {"problem": "q", "question": "q", "answer": "3", "level": "Level 5", "unique_id": "x", "solution": None},
            {"problem": "q", "solution": "#### Step 1\nAdd. Answer: no\n#### Step 2\nSo $\\boxed{3}$."},
            {"question": "q", "answer": "#### 3", "solution": "One and two."}]
    path = str(write_rows(tmp_path / "a.jsonl", rows))
    assert [p.answer for p in load_problems(path)] == ["12", "0.5", "1" + "0" * 22, "3", "3", "3"]
    source = open_conversations(path, tokenizer, 512)
    said = [trained(tokenizer, *source.get(i))[0] for i in range(6)]
    assert said[0] == "Answer: 12<|im_end|>"
    assert said[4] == f"<think>\n{rows[4]['solution']}\n</think>\n\nAnswer: 3<|im_end|>"
    assert said[5] == "<think>\nOne and two.\n</think>\n\nAnswer: 3<|im_end|>"


@pytest.mark.parametrize("flags, ended", [("--until-loss 99", "--until-loss"), ("--max-epochs 2", "--max-epochs"),
                                          ("--until-loss 0", None)])
def test_a_run_says_what_ended_it(folder, tmp_path, flags, ended):
    data = write_rows(tmp_path / "a.jsonl", [TALK] * 60)
    code, result, err = run_main(sft, "--init", folder, "--data", data, "--seq-len", 128, "--batch-tokens", 128, "--steps",
                                 200 if ended else 3, "--out", tmp_path / "run", *flags.split())
    assert code == 0 and result.get("ended_by") == ended and (result["steps"] < 200), err
