"""The thirteen benchmarks of mathematics that evaluate.py --benchmark measures, with prompts of our own."""
