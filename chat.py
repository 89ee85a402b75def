"""Talks to a checkpoint: a conversation in the terminal, or one question.

    python chat.py --init smollm2/
    python chat.py --init smollm2/ --prompt "Why is the sky blue?" --colors
    python chat.py --init smollm2/ --think off
    python chat.py --init runs/grpo --think 20 --prompt "Zoo, mod 10. The lions number 3. How many lions?"

Turns are written in the chat template of the checkpoint. An empty line, or the end of the input, ends a conversation. For each
reply the complete conversation is computed again; no cache is kept between turns. To continue a text without a chat, use
sampler.py.
"""

from engine.conversation import NEEDS, add_flags, converse, open_checkpoint
from engine.thinking import parse_think
from sampler import Sampler
from training import cli


def main() -> None:
    p = cli.Parser(__doc__, NEEDS)
    add_flags(p, "one question, answered once; without it a conversation")
    args = p.parse_args()
    with cli.bad_input():
        parse_think(args.think)                           # a bad value is refused before the checkpoint is read
        result = converse(Sampler(*open_checkpoint(args), rows=1), args)
    cli.finish(result)


if __name__ == "__main__":
    main()
