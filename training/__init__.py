"""What the stages share: flags, run folder, ranks, checkpoints, guards, progress, optimisers."""
