"""The parts of the sampler: requests, cache pages, sampling a token, thinking budgets, a conversation in a terminal; and what a
model's attention looks at."""
