"""The parts of grpo.py: prompts, rollouts and batches, policy losses and advantages, the update, the log of a step."""
