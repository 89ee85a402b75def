"""What grpo.py stands on: rollouts, batches, the critic, asynchronous rollouts."""
