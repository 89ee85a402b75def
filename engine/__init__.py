"""The parts of the sampler: requests, cache pages, sampling a token, thinking budgets, and a conversation in a terminal."""
