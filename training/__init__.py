"""Code that all stages share: flags, the methods of the training loop, ranks, checkpoints, the guard, progress, optimisers."""
