"""The largest length of a completion: a cap that may grow in stages, and DAPO's soft penalty just below it."""

import argparse

from training import cli

Caps = list[tuple[int, int]]         # [(first step, tokens)]


def parse_caps(words: list[str]) -> Caps:
    """["64", "128@200"] -> [(0, 64), (200, 128)]. ValueError for a wrong --max-new-tokens."""
    caps = []
    for word in words:
        tokens, at, step = word.partition("@")
        try:
            caps.append((cli.non_negative_int(step) if at else 0, cli.positive_int(tokens)))
        except argparse.ArgumentTypeError:
            raise ValueError(f"--max-new-tokens {word}: give tokens, or tokens@step, as in 64 128@200") from None
    if min(caps)[0]:
        raise ValueError(f"--max-new-tokens {' '.join(words)}: none of them begins at step 0")
    if len(dict(caps)) < len(caps):
        raise ValueError(f"--max-new-tokens {' '.join(words)}: two of them begin at the same step")
    return caps


def cap_at(caps: Caps, step: int) -> int:
    """The cap at a step, as in OctoThinker's staged lengths."""
    return [tokens for first, tokens in sorted(caps) if first <= step][-1]


def longest_cap(caps: Caps) -> int:
    return max(tokens for _, tokens in caps)


def shortest_cap(caps: Caps) -> int:
    return min(tokens for _, tokens in caps)


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft penalty (arXiv 2503.14476, equation 13): 0 up to limit - buffer tokens, falling to -1 at the limit."""
    return min(0.0, (limit - buffer - length) / buffer) if buffer else 0.0
