"""What grpo.py stands on: prompts, rollouts and batches, policy losses and advantages, the update, the log of a step."""
