r"""GRPO on one page: reinforcement learning from verifiable rewards, in plain PyTorch. Start reading here.

From the folder of the repository, about three minutes on one core of a CPU:
    python -m recipes.grpo_small --seed 0
From a checkpoint of your own, without the supervised start:
    python -m recipes.grpo_small --init runs/base --world ops=1-2,split=rl

First a tiny model is trained on solved problems (tasks/world.py). Half of the solutions show their steps; the other half are only
the answer. The model learns to write both kinds. Then it learns from its own answers. Each step of GRPO (arXiv 2402.03300)

    1. samples G completions for each of P problems,
    2. gives each completion a reward: 1 if the answer is right, else 0,
    3. compares it with its group: the advantage A is above 0 where a completion did better than the mean,
    4. makes the tokens of good completions more likely, and those of bad ones less likely.

The reward depends only on the answer. Still the completions grow longer: the model finds out that it is right more often if it
writes the steps first. Reinforcement learning of reasoning is known for this effect.

Left out: the KL term of the paper, which few people use now. grpo.py adds a fast sampler with a cache, packed rows, other losses,
thinking, real models, many GPUs, and exact resume.

Letters: P problems, G completions of each, N = P x G rows, T tokens in a row, D model width, V vocabulary.
"""

import argparse
import json

import torch
from torch import Tensor

from model import Config, Transformer, load_both
from tasks.world import World, WorldProblem
from tokenizer import Tokenizer

# Plus and minus on numbers from 0 to 9, with one set of names. There is no modulus: a tiny model learns plain sums much sooner.
WORLD = "contexts=zoo,operators=+-,modulus=0,max_value=9,branch=0"


def layout(prompts: list[list[int]], completions: list[list[int]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Puts lists of ids into one tensor. All prompts end in the same column; all completions begin in the next one.

    Returns
    - tokens (N, T);
    - documents (N, T): -1 on the padding before a prompt, so that no token attends to it, and 0 elsewhere;
    - mask (N, T): 1 on the tokens of the completion, 0 elsewhere.

    The padding after a completion needs no mark: a token attends only to tokens before it."""
    left, right = max(map(len, prompts)), max(map(len, completions))
    tokens = torch.full((len(prompts), left + right), pad)                   # (N, T)
    documents, mask = torch.zeros_like(tokens), torch.zeros(tokens.shape)    # (N, T), (N, T)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        tokens[row, left - len(prompt):left + len(completion)] = torch.tensor(prompt + completion)
        documents[row, :left - len(prompt)] = -1
        mask[row, left:left + len(completion)] = 1
    return tokens, documents, mask


@torch.no_grad()
def sample(model: Transformer, prompts: list[list[int]], longest: int, end: int) -> list[list[int]]:
    """Samples a completion for each prompt, one token at a time, until the end token or `longest` tokens: N lists of ids."""
    completions = [[] for _ in prompts]
    tokens, documents, _ = layout(prompts, completions, end)                 # (N, T), (N, T)
    for _ in range(longest):
        hidden = model.hidden(tokens, documents)[:, -1]                      # (N, D)
        probabilities = model.logits(hidden).softmax(dim=-1)                 # (N, V)
        drawn = torch.multinomial(probabilities, 1)                          # (N, 1)
        tokens = torch.cat([tokens, drawn], dim=1)                           # (N, T + 1)
        documents = torch.cat([documents, torch.zeros_like(drawn)], dim=1)   # (N, T + 1)
        for completion, token in zip(completions, drawn[:, 0].tolist(), strict=True):
            if completion[-1:] != [end]:
                completion.append(token)
        if all(completion[-1] == end for completion in completions):
            break
    return completions


def logprobs_of(model: Transformer, tokens: Tensor, documents: Tensor) -> Tensor:
    """The log-probability of each token, given the tokens before it: (N, T) -> (N, T - 1); the first token has none."""
    logits = model(tokens[:, :-1], documents[:, :-1])                        # (N, T - 1, V)
    return logits.log_softmax(dim=-1).gather(2, tokens[:, 1:, None]).squeeze(2)


def group_advantages(rewards: Tensor) -> Tensor:
    """How much better than its group each completion did, in standard deviations: (P, G) -> (P, G)."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + 1e-6)               # all rewards equal: A = 0, nothing to learn


def grpo_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    """The loss, a number. logprobs, old_logprobs and mask are (N, T - 1), advantages (N, 1).

    The ratio says how much more likely a token is now than when it was sampled. A good token gains nothing above 1 + clip, and a
    bad one nothing below 1 - clip: there the gradient is 0. The mean is taken over the tokens of a completion, then over
    completions."""
    ratio = (logprobs - old_logprobs).exp()                                  # (N, T - 1)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -((gain * mask).sum(dim=1) / mask.sum(dim=1)).mean()


def adamw(model: Transformer, lr: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def take_step(model: Transformer, optimizer: torch.optim.AdamW, loss: Tensor) -> None:
    """One step of AdamW, with the gradient clipped to a norm of 1."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def supervised_step(model: Transformer, optimizer: torch.optim.AdamW, prompts: list[list[int]], solutions: list[list[int]],
                    pad: int) -> float:
    """Makes given solutions more likely; returns the mean of -log p over their tokens."""
    tokens, documents, mask = layout(prompts, solutions, pad)                # (N, T) each
    loss = -(logprobs_of(model, tokens, documents) * mask[:, 1:]).sum() / mask.sum()
    take_step(model, optimizer, loss)
    return loss.item()


def grpo_step(model: Transformer, optimizer: torch.optim.AdamW, prompts: list[list[int]], completions: list[list[int]],
              rewards: Tensor, pad: int, updates: int) -> None:
    """Learns from N scored completions; prompts and completions are N lists of ids, rewards is (P, G)."""
    tokens, documents, mask = layout(prompts, completions, pad)              # (N, T) each
    advantages = group_advantages(rewards).view(-1, 1)                       # (N, 1)
    with torch.no_grad():
        old_logprobs = logprobs_of(model, tokens, documents)                 # (N, T - 1)
    for _ in range(updates):                                                 # in the first update every ratio is 1
        logprobs = logprobs_of(model, tokens, documents)                     # (N, T - 1)
        take_step(model, optimizer, grpo_loss(logprobs, old_logprobs, advantages, mask[:, 1:]))


def supervised_start(steps: int, seed: int) -> tuple[Transformer, Tokenizer]:
    """A new tokenizer, and a tiny model trained on 32 solved problems in each step: (model, tokenizer).

    The settings make a model of this size learn in few steps:
    - the tokenizer is trained on the same problems, so each name and each digit is one token;
    - a "window" layer sees only the last 8 tokens, which makes copying a nearby number easy; the "nope" layer has no
      positions, so it finds a name at any distance;
    - qk_norm, and rope_theta=100 (positions over short distances), lower the loss that is reached with the same tokens;
    - the learning rate is high, so it rises over the first 20 steps and falls to 0 over the last 40%."""
    lessons = World.from_spec(f"ops=1-2,{WORLD},split=sft,seed={seed}")
    tokenizer = Tokenizer.train((f"{p.question}\n{p.solution}" for p in map(lessons.problem, range(1000))), vocab_size=512)
    model = Transformer(Config(vocab_size=len(tokenizer), layers=2, width=128, heads=4, kv_heads=4, attention="window+nope",
                               window=8, qk_norm="head", rope_theta=100.0))
    optimizer = adamw(model, 0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 20, (steps - step) / (0.4 * steps))   # up, flat, down
        problems = [lessons.problem(32 * step + i) for i in range(32)]
        prompts = [prompt_of(p, tokenizer) for p in problems]
        texts = [p.solution if i % 2 else f"Answer: {p.answer}" for i, p in enumerate(problems)]
        loss = supervised_step(model, optimizer, prompts, [tokenizer.encode(t) + [tokenizer.eot] for t in texts], tokenizer.eot)
        if (step + 1) % 50 == 0:
            print(f"supervised step {step + 1:3}  loss {loss:.2f}", flush=True)
    return model, tokenizer


def prompt_of(problem: WorldProblem, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_document(problem.question + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", default="", metavar="FOLDER", help="checkpoint to start from; none: train a tiny model")
    parser.add_argument("--world", default=f"ops=1,{WORLD},split=rl", help="which problems: options of tasks/world.py")
    parser.add_argument("--start-steps", type=int, default=450, help="supervised steps without --init")
    parser.add_argument("--steps", type=int, default=30, help="steps of GRPO")
    parser.add_argument("--prompts", type=int, default=16, help="P, problems per step")
    parser.add_argument("--group", type=int, default=8, help="G, completions per problem")
    parser.add_argument("--updates", type=int, default=1, help="passes over the completions of a step")
    parser.add_argument("--max-new-tokens", type=int, default=24, help="longest completion, tokens")
    parser.add_argument("--lr", type=float, default=2e-4, help="learning rate of GRPO")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    try:
        world = World.from_spec(args.world)
        model, tokenizer = load_both(args.init) if args.init else supervised_start(args.start_steps, args.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    optimizer = adamw(model, args.lr)
    history = []
    for step in range(args.steps):
        problems = [world.problem(args.prompts * step + i) for i in range(args.prompts)]
        problems = [p for p in problems for _ in range(args.group)]          # N: each one G times in a row
        prompts = [prompt_of(p, tokenizer) for p in problems]
        completions = sample(model, prompts, args.max_new_tokens, tokenizer.eot)
        texts = [tokenizer.decode(c, skip_special=True) for c in completions]
        rewards = [float(world.verify(p, text).answer_ok) for p, text in zip(problems, texts, strict=True)]
        rewards = torch.tensor(rewards, dtype=torch.float64).view(args.prompts, args.group)      # (P, G)
        grpo_step(model, optimizer, prompts, completions, rewards, tokenizer.eot, args.updates)
        reward, length = float(rewards.mean()), sum(map(len, completions)) / len(completions)
        print(f"GRPO step {step + 1:3}  reward {reward:.2f} {'#' * round(40 * reward):40}  {length:4.1f} tokens", flush=True)
        history.append(reward)
    first, last = (sum(part) / len(part) for part in (history[:5], history[-5:]))
    print(json.dumps({"steps": args.steps, "reward_of_first_5_steps": round(first, 3), "reward_of_last_5_steps": round(last, 3)}))


if __name__ == "__main__":
    main()
