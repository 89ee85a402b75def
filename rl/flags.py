"""The flags of the scripts that sample while they train (grpo.py, distill.py), and when each of them has an effect."""

from argparse import Namespace

from tasks.problems import add_task_flag
from tasks.task import MODES
from tasks.tools import TOOL_NEEDS, add_tool_flags
from training import cli


def rollout_flags(p: cli.Parser) -> None:
    """How prompts are asked, and how completions are sampled."""
    add_task_flag(p)
    add_tool_flags(p)
    p.add_argument("--prompts", type=cli.positive_int, default=16, help="P, prompts in a step, over all ranks")
    p.add_argument("--group", type=cli.positive_int, default=8, help="G, completions of a prompt")
    p.add_argument("--mode", default="chat", choices=MODES, help="how a question is asked")
    p.add_argument("--max-new-tokens", nargs="+", default=["128"], metavar="CAP[@STEP]",
                   help="most tokens of a completion; several caps are stages, each from its step on")
    p.add_argument("--think-budget", type=cli.non_negative_int, default=None,
                   help="most tokens of thinking, then the block is closed; none: no limit")
    p.add_argument("--temperature", type=cli.above_zero, default=1.0, help="of sampling, and in the loss")
    p.add_argument("--rows", type=cli.positive_int, default=128, help="completions that decode at once")
    p.add_argument("--seq-len", type=cli.non_negative_int, default=0, help="window and packed row, tokens; 0: as long as needed")
    p.add_argument("--exact", action="store_true", help="kernels with which sampler and trainer agree to the last bit: pi_old "
                   "is the sampler's, and a step in which they differ is an error")
    p.add_argument("--async-steps", type=cli.non_negative_int, default=None, metavar="K",
                   help="rollouts are begun at most K updates ahead of training, in an engine that goes on through updates; "
                   "none: they take turns")
    p.add_argument("--rollout-ranks", type=cli.non_negative_int, default=0, metavar="R",
                   help="the last R ranks of torchrun sample, the others learn (K is 1 if --async-steps is not given)")
    p.add_argument("--recompute", action="store_true", help="new weights compute the keys of unfinished completions again")
    p.add_argument("--show-every", type=cli.non_negative_int, default=10, help="steps between completions in the log")


def runs_ahead(args: Namespace) -> bool:
    """Whether training uses completions that were begun with older weights."""
    return bool(args.async_steps or (args.rollout_ranks and args.async_steps is None))


# when these flags have an effect (see cli.Parser)
ROLLOUT_NEEDS = (
    ("--think-budget", lambda a: a.mode not in ("plain", "no_think"), "with --mode {mode}"),
    ("--tool", lambda a: a.mode != "plain", "with --mode plain: a call of a tool is a turn"),
    *TOOL_NEEDS,
    ("--recompute", runs_ahead, "without --async-steps above 0"),
)
