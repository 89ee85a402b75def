"""What bench.py runs, and the tables made of its results."""
