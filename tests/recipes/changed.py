"""What test_change_it.py runs in a copy of the repository to which a change has been applied: the commands of the page, at toy
size and all in one process, and then what must hold with the change.

    python tests/recipes/changed.py NAME '["python pretrain.py ...", ...]'
"""

import json
import shlex
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pytest  # noqa: E402
import torch  # noqa: E402
from conftest import script  # noqa: E402
from helpers import assert_same_state, state_of  # noqa: E402

import training.run  # noqa: E402
from model import Config, Transformer, load  # noqa: E402
from sampler import Sampler  # noqa: E402

TINY = "--layers 2 --width 32 --heads 4 --kv-heads 2"
SMALL = {"pretrain.py": "--steps 4 --batch-tokens 512 --seq-len 64 --vocab-size 400 --device cpu " + TINY,
         "sft.py": "--steps 2 --batch-tokens 512 --seq-len 128 --device cpu",
         "grpo.py": "--steps 2 --prompts 4 --group 4 --max-new-tokens 8 --device cpu", "report.py": "--overwrite"}


def run(command):
    _, name, *flags = shlex.split(command)
    if name == "grpo.py" and "--reward" not in flags:
        flags += ["--reward", "random"]                   # a toy model is hardly ever right, and a step learns from a spread only
    return script(name, *flags, *SMALL[name].split(), cwd=ROOT).json


def log_of(folder):
    return [json.loads(line) for line in (ROOT / folder / "log.jsonl").read_text().splitlines()]


class Stopped(Exception):
    pass


def resumes(command, folder):
    """The run of a command, stopped after its first save, goes on bit for bit."""
    command = command.replace(folder, f"{folder}_stopped") + " --save-every 2"
    save = training.run.Run.save

    def once(self, *args, **options):
        save(self, *args, **options)
        raise Stopped
    with mock.patch.object(training.run.Run, "save", once):
        _, name, *flags = shlex.split(command)
        assert script(name, *flags, *SMALL[name].split(), cwd=ROOT, ok=False).returncode == 1
    assert state_of(ROOT / f"{folder}_stopped")["step"] == 2
    run(f"{command} --resume")
    whole, stopped = (state_of(ROOT / f) for f in (folder, f"{folder}_stopped"))
    for part in ("weights", "optimizers", "stream"):
        assert_same_state(whole[part], stopped[part])


def agrees_and_saves(**fields):
    """In exact mode the sampler reports the trainer's log-probabilities to the last bit, also after a save and a load."""
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=331, layers=3, width=48, heads=4, kv_heads=2, attention="rope+nope", **fields))
    for w in model.parameters():
        w.data.add_(torch.randn_like(w) * 0.1)
    model.exact = True
    prompts = [torch.randint(0, 331, (n,)).tolist() for n in (1, 3, 17, 40, 70)]
    found = [c for group in Sampler(model, rows=7).generate(prompts, n=3, max_new_tokens=24, stop={5}) for c in group]
    assert sum(len(c.tokens) for c in found) > 200

    def differ(model):
        apart = 0
        for c in found:
            ids = torch.tensor([c.prompt + c.tokens])
            apart += not torch.equal(model.logprobs(ids)[0, len(c.prompt) - 1:], torch.tensor(c.logprobs))
        return apart
    with torch.no_grad():
        assert differ(model) == 0
        model.save(ROOT / "saved")
        loaded, _ = load(ROOT / "saved")
        loaded.exact = True
        assert vars(loaded.config) == vars(model.config) and differ(loaded) == 0
        for name, w in loaded.named_parameters():         # and what the change adds does something
            if any(part in name for part in ("self_attn.wide_gate", "router")):
                w.zero_()
        assert differ(loaded) > len(found) / 2
    return model


def a_policy_loss(commands):
    from rl.losses import LOSSES, Clip
    ratio = torch.tensor([[0.5, 0.9, 1.1, 1.5]])
    ones = torch.ones(1, 4)
    loss, _ = LOSSES["masked"].of_tokens(ratio.log(), 0 * ones, -2 * ones, ones, 0 * ones.long(), Clip(0.2, 0.2))
    assert torch.allclose(loss, torch.tensor([[0.0, 1.8, 2.2, 0.0]]))
    assert log_of("runs/masked")[0]["flags"]["loss"] == "masked" and "clip_high" in log_of("runs/masked")[1]


def a_reward(commands):
    from tasks.rewards import parse_rewards
    from tasks.task import Reply
    (_, function, weight) = parse_rewards("answer+my_rewards.py:brevity:0.5")[1]
    assert weight == 0.5 and function(None, Reply("four tokens", tokens=4), None) == 0.25
    assert all(0 < r["reward"] <= 1.5 for r in log_of("runs/brief") if "reward" in r)


def a_variant_of_attention(commands):
    from training.optim import split_by_role
    model = agrees_and_saves(wide_gate=True)
    assert all(any(w is o for o in split_by_role(model)[1]) for n, w in model.named_parameters() if "wide_gate" in n)
    trained(commands, "runs/gate", "wide_gate", True)


def a_mixture_of_experts(commands):
    from training.optim import split_by_role
    model = agrees_and_saves(experts=3)
    matrices, others = ([n for n, w in model.named_parameters() if any(w is o for o in part)] for part in split_by_role(model))
    assert sum("router" in n for n in others) == 3 and not any("router" in n for n in matrices)
    assert sum("experts" in n for n in matrices) == 3 * 3 * 3
    chosen = set()
    layer = model.layers[0].mlp
    layer.router.register_forward_hook(lambda module, args, out: chosen.update(out.argmax(-1).flatten().tolist()))
    x = torch.randn(1, 50, 48)
    y, e = layer(x, False), layer.router(x, False).softmax(-1)
    one_by_one = torch.stack([e[0, i].max() * layer.experts[e[0, i].argmax()](x[:, i:i + 1], False)[0, 0] for i in range(50)])
    assert len(chosen) == 3 and torch.allclose(y[0], one_by_one, atol=1e-5)
    trained(commands, "runs/moe", "experts", 4)


def trained(commands, folder, field, value):
    """What both changes of the model share: the flag arrives, exact reinforcement is exact, a run resumes."""
    assert log_of(folder)[0]["config"][field] == value
    steps = [r for r in log_of(f"{folder}_rl") if "reward" in r]
    assert len(steps) == 2 and all(r["logprob_diff_max"] == 0.0 for r in steps)
    resumes(commands[0], folder)


def a_kind_of_file(commands):
    from formats.texts import read_texts
    assert list(read_texts(ROOT / "questions.csv")) == ["What is 2 + 3?\n5", "How many are ten, less four?\n6"]
    for ragged in ("not,fine", "short"):
        (ROOT / "ragged.csv").write_text(f"text{',source' * (ragged == 'short')}\n{ragged}\n")
        with pytest.raises(ValueError, match="line 2: a row needs as many cells"):
            list(read_texts(ROOT / "ragged.csv"))


def an_optimiser(commands):
    from training.optim import Lion
    w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = Lion([w], {"lr": 0.1, "weight_decay": 0.5})
    for g in ([1.0, -1.0], [-0.01, 20.0]):                # the second: 0.9 * 0.01 - 0.001 > 0, and -0.9 * 0.01 + 2 > 0
        w.grad = torch.tensor(g)
        optimizer.step()
    assert torch.allclose(w, torch.tensor([(0.95 - 0.1) * 0.95 - 0.1, (0.95 + 0.1) * 0.95 - 0.1]))
    resumes(commands[0], "runs/lion")


def a_metric_on_the_report_page(commands):
    assert all(0 < r["distinct"] <= 1 for r in log_of("runs/distinct") if "reward" in r)
    assert "Different completions" in (ROOT / "report.html").read_text()


def your_own_conversations(commands):
    from sources.conversations import open_conversations
    from tokenizer import Tokenizer
    tokenizer = Tokenizer.load(ROOT / "runs" / "chats")
    ids, mask = open_conversations("my_chats.jsonl", tokenizer, 128).get(0)
    learned = tokenizer.decode([int(i) for i, m in zip(ids, mask, strict=True) if m])
    assert "Three." in learned and "3 lions" in learned and "Four" not in learned and "lions?" not in learned


if __name__ == "__main__":
    name, given = sys.argv[1], json.loads(sys.argv[2])
    for each in given:
        run(each)
    globals()[name](given)
