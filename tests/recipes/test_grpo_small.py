"""The page of GRPO in plain PyTorch: its updates are those of grpo.py, and it runs."""

from unittest import mock

import pytest
import torch
from helpers import run_main, state_of, tiny_checkpoint

import grpo
from model import load
from recipes import grpo_small
from rl.rollouts import Rollouts
from sampler import Sampler


@pytest.mark.parametrize("updates", [1, 3])
def test_its_first_updates_are_those_of_grpo(tokenizer, tmp_path, updates):
    """The same checkpoint, prompts, completions and rewards: the same moments of the gradient and the same weights. Some
    completions end early, and from the second update on the clip acts."""
    folder, groups = tiny_checkpoint(tmp_path / "init", tokenizer), []
    start, score = Sampler.start, Rollouts.score

    def ends_early(self, *args, **options):
        start(self, *args, **options)
        self.stop = set(range(0, len(tokenizer), 13)) | tokenizer.stop_ids

    def noted(self, *args):
        groups.append(score(self, *args))
        return groups[-1]
    with mock.patch.object(Sampler, "start", ends_early), mock.patch.object(Rollouts, "score", noted):
        code, _, err = run_main(grpo, "--init", folder, "--out", tmp_path / "run", "--data", "world:ops=1-2,split=rl", "--mode",
                                "plain", "--reward", "random", "--prompts", 3, "--group", 4, "--max-new-tokens", 10, "--steps", 1,
                                "--updates", updates, "--dtype", "float64", "--device", "cpu", "--lr", 0.01)
    assert code == 0, err
    rollouts = [r for group in groups for r in group]
    prompts, completions = ([getattr(r.completion, name) for r in rollouts] for name in ("prompt", "tokens"))
    rewards = torch.tensor([r.reward for r in rollouts], dtype=torch.float64).view(3, 4)
    assert len(set(map(len, prompts))) > 1 and len(set(map(len, completions))) > 2 and (rewards.std(dim=1) > 0).sum() > 1
    assert prompts == [grpo_small.prompt_of(r.problem, tokenizer) for r in rollouts]

    model, _ = load(folder, dtype=torch.float64)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    optimizer = grpo_small.adamw(model, 0.01)
    grpo_small.grpo_step(model, optimizer, prompts, completions, rewards, tokenizer.eot, updates)
    theirs = state_of(tmp_path / "run")
    moments = {name: s["exp_avg"] for packed in theirs["optimizers"] for name, s in packed.items()}
    for name, w in model.named_parameters():
        assert (optimizer.state[w]["exp_avg"] - moments[name]).abs().max() < 1e-12, name
        assert (w - theirs["weights"][name]).abs().max() < 1e-8, name
        assert (w - before[name]).abs().max() > 1e-3, name


def test_it_runs_from_its_start_and_from_a_checkpoint(tokenizer, tmp_path, capsys):
    toy = ["--steps", 2, "--prompts", 2, "--group", 3, "--max-new-tokens", 6]
    code, result, err = run_main(grpo_small, "--start-steps", 50, *toy)
    assert code == 0 and result["steps"] == 2 and 0 <= result["reward_of_last_5_steps"] <= 1, err
    code, result, err = run_main(grpo_small, "--init", tiny_checkpoint(tmp_path / "init", tokenizer), *toy)
    assert code == 0 and result["steps"] == 2, err


@pytest.mark.parametrize("flags, message", [(["--init", "nowhere"], "nowhere"), (["--world", "ops=0"], "ops=0")])
def test_bad_input_is_a_usage_error(flags, message):
    code, _, err = run_main(grpo_small, *flags)
    assert code == 2 and message in err.splitlines()[-1] and "Traceback" not in err
