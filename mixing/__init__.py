"""What mix.py stands on: mixtures drawn, proxies trained, losses fitted, the best mixture solved for, and its page."""
