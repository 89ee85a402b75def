"""One file for each contested claim, and the runner that measures it: python claims/run.py NAME."""
