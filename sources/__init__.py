"""Text, documents, conversations and preference pairs from files, shards, the world and the hub."""
