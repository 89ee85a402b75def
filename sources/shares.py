"""Which documents are the share that gets something the others do not, such as a think block."""

GOLDEN, SILVER = 0.6180339887, 0.4142135624               # the golden and the silver ratio, without their whole parts


def in_share(i: int, share: float, ratio: float = GOLDEN) -> bool:
    """Whether document number i is one of the share (0 to 1). i times the ratio, without its whole part, spreads evenly over
    [0, 1): of any documents in a row nearly the share is chosen, without randomness. Two choices that shall not go together
    take two ratios."""
    return i * ratio % 1 < share
