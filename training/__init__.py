"""What the stages share: flags, the verbs of the loop, ranks, checkpoints, the guard, progress, optimisers."""
