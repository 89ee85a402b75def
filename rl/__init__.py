"""The parts of grpo.py and distill.py: prompts, rollouts and batches, losses and advantages, the update, the log of a step."""
