"""Sources of training data: text, conversations and preference pairs from files, shards, the world and the hub."""
