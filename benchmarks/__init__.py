"""The benchmarks that bench.py runs, and the tables made of their results."""
