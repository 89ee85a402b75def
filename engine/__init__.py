"""What sampler.py stands on: cache pages, drawing a token, thinking budgets."""
