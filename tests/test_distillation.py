"""distill.py: its gradients are recomputed completion by completion from plain logits, whatever the teacher reads."""

import itertools
import json
import math
import string
from dataclasses import replace

import pytest
import torch
from helpers import assert_same_state, refusal, run_main, state_of, tiny_checkpoint, write_rows

import distill
import report
from data import Stream
from model import Config, Transformer, load
from rl.distillation import LOSSES
from rl.given import open_given
from rl.rollouts import Rollouts
from tasks.task import prompt_ids
from tokenizer import Tokenizer
from training.ledger import Costs, read_ledger

FEW = ["--data", "world:ops=1-2,split=rl", "--mode", "plain", "--prompts", 3, "--group", 2, "--max-new-tokens", 10, "--rows", 4,
       "--device", "cpu", "--steps", 1, "--clip", 1e9]
CLIPPED = 0.6                                            # nats: some tokens have more, and some less
HINT = "{question} (It is {answer}.)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A student, a teacher with a head of more rows, a stranger with another tokenizer, and conversations."""
    folder = tmp_path_factory.mktemp("distill")
    tiny_checkpoint(folder / "student", tokenizer, tied=False)
    model, _ = load(folder / "student")
    with torch.no_grad():                                 # it never draws what is no text: one hidden number is always large
        model.embed_tokens.weight[:, 0] = 3
        model.head[:, 0] = torch.tensor([-5.0 * (not tokenizer.token_bytes(i).isascii()) for i in range(len(tokenizer))])
    model.save(folder / "student", tokenizer)
    torch.manual_seed(1)
    larger = Transformer(Config(vocab_size=len(tokenizer) + 5, layers=1, width=48, heads=2, kv_heads=1, tied=False))
    for w in larger.parameters():
        w.data.add_(torch.randn_like(w) * 0.1)
    larger.save(folder / "teacher", tokenizer)
    # its tokens are pairs of letters, and of a mark with a line break
    pairs = ["".join(pair) + "\n" for pair in itertools.product(string.ascii_lowercase, repeat=2)] * 3
    marks = [mark + "\n" for mark in string.punctuation] * 9
    tiny_checkpoint(folder / "stranger", Tokenizer.train(pairs + marks, 1500), seed=2)
    write_rows(folder / "chats.jsonl", [{"messages": [{"role": "user", "content": f"{i} lions?"},
                                                      {"role": "assistant", "content": f"{i} owls"}]} for i in range(30)])
    return folder


class Drawn(list):
    """Rollouts. forced: tokens of each that count as not drawn, as those of a thinking budget or of a tool."""
    forced = slice(0)


@pytest.fixture
def drawn(monkeypatch):
    """What the runs of a test sample."""
    found, collect = Drawn(), Rollouts.collect

    def noted(rollouts, model, step):
        collected = collect(rollouts, model, step)
        found.extend(r for group in collected.groups for r in group)
        for r in found:
            r.completion.forced[found.forced] = [True] * len(r.completion.tokens[found.forced])
        return collected
    monkeypatch.setattr(Rollouts, "collect", noted)
    return found


def ran(out, *flags):
    code, result, err = run_main(distill, *flags, "--out", out)
    assert code == 0, err
    return result, [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def gradients(out):
    """Of the only step: AdamW's first moment is a tenth of it."""
    return {name: s["exp_avg"] / (1 - 0.9) for o in state_of(out)["optimizers"] for name, s in o.items()}


def distribution(model, ids, temperature, rows):
    """Log-probabilities of the next token behind each of some ids, from the logits of one document: (n, rows)."""
    return (model(torch.tensor([ids]))[0, :, :rows] / temperature).log_softmax(dim=-1)


def divergence(kind, logp, logq, beta):
    p, q = logp.exp(), logq.exp()
    m = (beta * q + (1 - beta) * p).log()
    return {"forward": (q * (logq - logp)).sum(1), "reverse": (p * (logp - logq)).sum(1),
            "jsd": beta * (q * (logq - m)).sum(1) + (1 - beta) * (p * (logp - m)).sum(1)}[kind]


def ends_of(tokenizer, tokens):
    """The byte at which each token ends."""
    return [len(tokenizer.decode_bytes(tokens[:n + 1])) for n in range(len(tokens))]


def recomputed(folder, tokenizer, teacher, rollouts, loss, temperature=1.0, beta=0.5, hint="", mode="plain",
               learner="student", most=math.inf):
    """The mean loss over the drawn tokens and its gradient {name: gradient}, one completion after the other."""
    student, _ = load(folder / learner, dtype=torch.float64)
    master, own = load(teacher, dtype=torch.float64)
    rows, total, count, shapes, mixed = len(tokenizer), 0.0, 0, set(), 0
    for r in rollouts:
        problem, tokens = r.problem, r.completion.tokens
        if hint:
            problem = replace(problem, question=hint.format(question=problem.question, answer=problem.answer))
        prompt, n, drawn = prompt_ids(own, problem, mode), len(tokens), ~torch.tensor(r.completion.forced)
        logp = distribution(student, r.completion.prompt + tokens[:-1], temperature, rows)[-n:]
        chosen = logp[torch.arange(n), tokens]
        if own.fingerprint() == tokenizer.fingerprint():
            with torch.no_grad():
                logq = distribution(master, prompt + tokens[:-1], temperature, rows)[-n:]
            if loss == "opd":
                total = total - (torch.clamp(logq[torch.arange(n), tokens] - chosen.detach(), min=-most) * chosen)[drawn].sum()
            else:
                total = total + torch.clamp(divergence(loss, logp, logq, beta), max=most)[drawn].sum()
            count += int(drawn.sum())
            continue
        theirs, pairs, at = [], [], 0                     # another tokenizer; pairs: places that are compared
        runs = [list(run) for _, run in itertools.groupby(tokens, key=lambda i: i in tokenizer.special.values())]
        for run in runs:
            special, base = run[0] in tokenizer.special.values(), len(theirs)
            if special:
                theirs += [own.special[tokenizer.decode([i])] for i in run]
                pairs += [(range(at + k, at + k + 1), range(base + k, base + k + 1)) for k in range(len(run))]
            else:
                theirs += own.encode(tokenizer.decode(run))
                if own.decode_bytes(theirs[base:]) == tokenizer.decode_bytes(run):
                    ours, others, a, b = ends_of(tokenizer, run), ends_of(own, theirs[base:]), 0, 0
                    for end in sorted(set(ours) & set(others)):
                        c, d = ours.index(end) + 1, others.index(end) + 1
                        pairs.append((range(at + a, at + c), range(base + b, base + d)))
                        a, b = c, d
            at += len(run)
        with torch.no_grad():
            logq = distribution(master, prompt + theirs[:-1], temperature, len(own))[-len(theirs):]
        other = logq[torch.arange(len(theirs)), theirs]
        for ours, others in [pair for pair in pairs if drawn[list(pair[0])].all()]:
            total = total - (other[list(others)].sum() - chosen[list(ours)].detach().sum()) * chosen[list(ours)].sum()
            count += len(ours)
        shapes |= {(len(ours) > 1, len(others) > 1) for ours, others in pairs}
        mixed += sum(0 < int(drawn[list(ours)].sum()) < len(ours) for ours, _ in pairs)
    if shapes:                                            # several tokens in a piece, on either side; some of them forced
        assert {(True, False), (False, True)} <= shapes and (mixed > 0) == (mode == "think")
    (total / count).backward()
    return float(total.detach() / count), {name: w.grad for name, w in student.named_parameters()}


def assert_gradients(found, wanted):
    assert found.keys() == wanted.keys()
    for name, g in wanted.items():
        assert (found[name] - g).norm() <= 1e-9 * max(1e-3, float(g.norm())), name
    assert sum(float(g.norm()) for g in wanted.values()) > 1e-3


@pytest.mark.parametrize("teacher, flags", [
    ("teacher", ["--loss", "opd", "--temperature", 0.7]), ("stranger", []), ("student", ["--hint", HINT]),
    ("stranger", ["--mode", "think", "--max-new-tokens", 20, "--hint", HINT]),
    ("teacher", ["--mode", "think", "--loss", "forward"]),
    ("teacher", ["--loss", "forward", "--temperature", 1.3]),
    ("teacher", ["--loss", "reverse", "--hint", HINT, "--seq-len", 128]),
    ("teacher", ["--loss", "jsd", "--beta", 0.2, "--micro-tokens", 512]),
    ("teacher", ["--loss", "opd", "--clip-divergence", CLIPPED]),
    ("teacher", ["--loss", "reverse", "--clip-divergence", CLIPPED])], ids=str)
def test_a_step_is_what_plain_logits_give(folder, drawn, tmp_path, tokenizer, teacher, flags):
    own = [] if teacher == "student" else ["--teacher", folder / teacher]     # with a hint, a model teaches itself
    drawn.forced = slice(3, 9, 2) if "--mode" in flags else slice(0)
    result, log = ran(tmp_path / "run", "--init", folder / "student", *own, *FEW, "--dtype", "float64", *flags)
    given = dict(zip(flags[::2], flags[1::2]))
    loss, wanted = recomputed(folder, tokenizer, folder / teacher, drawn, given.get("--loss", "opd"),
                              given.get("--temperature", 1.0), given.get("--beta", 0.5), given.get("--hint", ""),
                              given.get("--mode", "plain"), most=given.get("--clip-divergence", math.inf))
    assert_gradients(gradients(tmp_path / "run"), wanted)
    step = next(r for r in log if "divergence" in r)
    assert step["loss"] == pytest.approx(loss, rel=1e-9) and len(drawn) == 6
    if "--clip-divergence" in given:                      # the log has the whole divergence
        assert 0.1 < step["clipped"] < 0.9 and (step["divergence"] > loss or given["--loss"] == "opd")
    else:
        assert step["divergence"] == pytest.approx(loss, rel=1e-9) or given.get("--loss", "opd") == "opd"
        assert "clipped" not in step
    for name in "entropy nll answer process length_mean length_max cut_off logprob_diff_max grad_norm seconds".split():
        assert math.isfinite(step[name]), name
    assert step["logprob_diff_max"] < 1e-9 and 0 < step["entropy"] < math.log(512) and "note" not in step


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_of_a_head_that_no_token_has_are_left_out(folder, drawn, tmp_path, tokenizer, loss):
    """Here the student has five more, and the teacher has none."""
    ran(tmp_path / "run", "--init", folder / "teacher", "--teacher", folder / "student", *FEW, "--dtype", "float64", "--loss",
        loss)
    _, wanted = recomputed(folder, tokenizer, folder / "student", drawn, loss, learner="teacher")
    assert_gradients(gradients(tmp_path / "run"), wanted)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_teacher_that_is_the_student_teaches_exactly_nothing(folder, tmp_path, loss):
    """In exact mode: a divergence of 0.0, a gradient of 0.0 and the same weights, in float32."""
    flags = ["--top-k", 7] if loss == "reverse" else []
    result, log = ran(tmp_path / "run", "--init", folder / "student", "--teacher", folder / "student", *FEW, "--loss", loss,
                      "--exact", "--steps", 2, *flags)
    steps = [r for r in log if "divergence" in r]
    assert [(r["divergence"], r["loss"], r["grad_norm"], r["logprob_diff_max"]) for r in steps] == [(0.0, 0.0, 0.0, 0.0)] * 2
    assert_same_state(state_of(tmp_path / "run")["weights"], dict(load(folder / "student")[0].state_dict()))


def test_given_documents_and_the_students_own_take_turns(folder, drawn, tmp_path, tokenizer):
    """Half of the steps each; a step on given text has the gradient of the mean over what the assistant says."""
    flags = ["--init", folder / "student", "--teacher", folder / "teacher", *FEW, "--dtype", "float64", "--loss", "forward",
             "--data", "world:ops=1", folder / "chats.jsonl", "--seq-len", 64, "--batch-tokens", 128, "--steps", 6, "--on-policy",
             0.5]
    result, log = ran(tmp_path / "run", *flags)
    steps = [r for r in log if "divergence" in r]
    assert [r["on_policy"] for r in steps] == [True, False, True, False, True, True]          # 0, .62, .24, .85, .47, .09 < .5
    assert all(("answer" in r) == ("logprob_diff_max" in r) == r["on_policy"] for r in steps) and len(drawn) == 24
    assert [row["source"] for row in result["prompts"] + result["mixture"]] == ["world:ops=1", str(folder / "chats.jsonl")]


def test_given_documents_go_through_the_model_in_micro_batches(folder, monkeypatch, tmp_path):
    """As many tokens at once as of rollouts, where --micro-tokens does not say it."""
    seen, loss = [], distill.Lessons.loss
    monkeypatch.setattr(distill, "MICRO_TOKENS", {"cpu": 128})
    monkeypatch.setattr(distill.Lessons, "loss", lambda self, b: seen.append(tuple(b.tokens.shape)) or loss(self, b))
    ran(tmp_path / "run", "--init", folder / "student", "--teacher", folder / "teacher", "--loss", "forward", "--data",
        folder / "chats.jsonl", "--seq-len", 64, "--batch-tokens", 256, "--steps", 1, "--on-policy", 0, "--device", "cpu")
    assert [rows for rows, _ in seen] == [2, 2]


@pytest.mark.parametrize("mode, flag", [("chat", ""), ("think", " /think"), ("no_think", " /no_think")])
def test_given_questions_are_all_asked_in_the_mode(tokenizer, mode, flag):
    source = open_given(["world:ops=1"], tokenizer, mode, 256, 256, 0).mixture.sources[0]
    assert all(f"?{flag}<|im_end|>" in tokenizer.decode(source.get(i)[0].tolist()) for i in range(20))


def test_the_gradient_on_given_documents(folder, monkeypatch, tmp_path, tokenizer):
    """Of the conversations that were packed, on what the assistant says."""
    packed, real = [], Stream.next

    def noted(stream, *args):
        packed.extend(real(stream, *args))
        return packed
    monkeypatch.setattr(Stream, "next", noted)
    ran(tmp_path / "run", "--init", folder / "student", "--teacher", folder / "teacher", "--loss", "jsd", "--on-policy", 0,
        "--mode", "think", "--data", folder / "chats.jsonl", "--seq-len", 64, "--batch-tokens", 256, "--micro-tokens", 128,
        "--steps", 1, "--clip", 1e9, "--dtype", "float64", "--device", "cpu")
    student, master = (load(folder / name, dtype=torch.float64)[0] for name in ("student", "teacher"))
    total = count = 0
    for b, row in ((batch, row) for batch in packed for row in range(len(batch.tokens))):
        for document in range(int(b.documents[row].max()) + 1):
            here = b.documents[row] == document
            ids, mask = b.tokens[row, here].tolist(), b.loss_mask[row, here].double()
            said = tokenizer.decode([int(i) for i, weight in zip(b.targets[row, here], mask, strict=True) if weight])
            assert said.endswith(" owls<|im_end|>") and len(said) < 20
            logp, logq = (distribution(model, ids, 1.0, len(tokenizer)) for model in (student, master))
            total, count = total + (divergence("jsd", logp, logq.detach(), 0.5) * mask).sum(), count + mask.sum()
    (total / count).backward()
    assert len(packed) == 2
    assert_gradients(gradients(tmp_path / "run"), {name: w.grad for name, w in student.named_parameters()})


@pytest.mark.parametrize("hint", [[], ["--hint", HINT]])
def test_what_the_teacher_reads_is_in_the_ledger(folder, drawn, tmp_path, tokenizer, hint):
    ran(tmp_path / "run", "--init", folder / "student", "--teacher", folder / "teacher", *FEW, *hint)
    ledger, (model, own) = read_ledger(tmp_path / "run"), load(folder / "teacher")
    asked = [replace(r.problem, question=HINT.format(question=r.problem.question, answer=r.problem.answer)) if hint else r.problem
             for r in drawn]
    more = [len(prompt_ids(own, problem, "plain")) for problem in asked]
    lengths = [n + len(r.completion.tokens) - 1 for n, r in zip(more, drawn, strict=True)]
    assert ledger["own"]["scoring"] == Costs.of(model).forward(lengths) and ledger["tokens"]["scoring"] == sum(lengths)
    assert ledger["own"]["rollouts"] > 0 and ledger["own"]["training"] > 0
    assert ledger["unknown"] == [str(folder / "student"), str(folder / "teacher")]


def test_losses_over_the_vocabulary_refuse_another_one(folder, tmp_path):
    line = refusal(distill, "--init", folder / "student", "--teacher", folder / "stranger", *FEW, "--loss", "jsd",
                   "--out", tmp_path / "run")
    assert "has another tokenizer than --init" in line and "use --loss opd" in line and not (tmp_path / "run").exists()


def test_the_page_shows_the_stage(folder, tmp_path):
    ran(tmp_path / "run", "--init", folder / "student", "--teacher", folder / "teacher", *FEW, "--steps", 2)
    code, _, err = run_main(report, "--runs", tmp_path / "run", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert code == 0 and "distill.py" in page and "Divergence from the teacher" in page and "Rollouts of run" in page, err
