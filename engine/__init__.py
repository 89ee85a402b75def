"""What sampler.py stands on: requests, cache pages, drawing a token, thinking budgets, and a conversation in a terminal."""
