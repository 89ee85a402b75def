r"""Measures claims: runs their arms side by side, computes the statistic and its verdict, and keeps the result.

    python claims/run.py --list
    python claims/run.py midtraining_decides --show
    python claims/run.py midtraining_decides --seed 0 1 2
    python claims/run.py midtraining_decides --budget full --device cuda --jobs 4
    python claims/run.py my_claim.py --budget toy
    python claims/run.py --table
    python claims/run.py --page claims.html

A claim is a file of this folder, or a file of yours (README.md here says how to write one). Its arms are command lines; each runs
in a folder of its own under runs/claims and is never run twice (runner/commands.py). On a CPU as many run at one time as there
are cores, one thread each. Ctrl-C, a kill or a power cut lose little: the same call goes on.

Each claim and seed adds a line to results/claims.jsonl (those of --budget toy, which do not count, to runs/claims); what is
measured again replaces the older line in the table and on the page, not in the file. Lines of other arms than the claim has now
do not count there. --table writes the table of README.md here, --page one HTML file with a card and a figure for each claim.
A small budget is meant for 15 minutes on two cores; full makes four times the steps and measures twice the problems.
"""

import os
import sys
from argparse import Namespace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))               # where `python claims/run.py` finds the rooms


from claims.runner.claim import BUDGETS, Claim, Setting
from claims.runner.commands import in_order
from claims.runner.page import write_page
from claims.runner.results import RESULTS, add, record_of
from claims.runner.schedule import Schedule, say
from claims.runner.table import one_line, place, write_table
from formats import plugins
from training import cli

HERE = Path(__file__).resolve().parent


def find_claim(name: str) -> Claim:
    """The claim of claims/NAME.py, or of a user's file. ValueError where there is none."""
    path = path_of(name)
    if not path.is_file() or (path.resolve().parent == HERE and path.stem not in all_claims()):
        raise ValueError(f"{name}: no such claim; there are {', '.join(all_claims())}, or give a file of your own")
    claim = plugins.load(f"{path}:CLAIM")
    if not isinstance(claim, Claim):
        raise ValueError(f"{path}: CLAIM is no Claim (claims/runner/claim.py)")
    return claim


def path_of(name: str) -> Path:
    return Path(name) if name.endswith(".py") else HERE / f"{name}.py"


def all_claims() -> list[str]:
    """The names of the files of this folder that hold a claim."""
    return sorted(path.stem for path in HERE.glob("*.py") if "\nCLAIM = " in path.read_text())


def slots(device: str, jobs: int) -> list[dict]:
    """The environment of each process that may run at one time; on a node the GPUs take turns."""
    if device == "cpu":
        return [{"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}] * (jobs or len(os.sched_getaffinity(0)))
    named = [c for c in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if c]
    cards = named or [str(i) for i in range(torch.cuda.device_count())]
    return [{"CUDA_VISIBLE_DEVICES": cards[i % len(cards)]} for i in range(jobs or len(cards))]


def measure(claims: dict[str, Claim], args: Namespace) -> int:
    """Runs the arms of all claims and seeds in one schedule and keeps a result as soon as its arms are done; the exit code."""
    runs, todo = Path(args.runs), {}
    for name, claim in claims.items():
        for seed in dict.fromkeys(args.seed):
            setting = Setting(seed, args.budget, args.device)
            with plugins.named(f"{path_of(name)}:arms"):
                todo[name, setting] = claim.arms(setting)
    if args.show:
        for (name, setting), arms in todo.items():
            print(f"# {name}, seed {setting.seed}; the arms are measured by " +
                  ", ".join(f"{c.name} ({arm})" for arm, c in arms.items()))
            print("\n".join(command.shown(runs) for command in in_order(arms.values())))
        return 0
    schedule = Schedule([c for arms in todo.values() for c in arms.values()], runs, slots(args.device, args.jobs), args.fresh)
    say(f"{len(schedule.commands)} commands, {schedule.reused} of them done before; {len(schedule.slots)} at a time, "
        f"{schedule.time_left()}")
    broken = []

    def results():
        for (name, setting), arms in list(todo.items()):
            if all(command in schedule.seconds for command in arms.values()):
                del todo[name, setting]
                try:
                    with plugins.named(f"{path_of(name)}:statistic"):
                        record = record_of(claims[name], Path(name).stem, setting, arms, schedule)
                    add(record, args.runs if args.budget == "toy" and args.results == str(RESULTS) else args.results)
                    say(one_line(claims[name], record))
                except (ValueError, OSError) as e:        # of this claim: the others go on
                    broken.append(f"{name}, seed {setting.seed}: no result, because {e}")
            elif why := next((schedule.failed[c] for c in arms.values() if c in schedule.failed), ""):
                del todo[name, setting]
                broken.append(f"{name}, seed {setting.seed}: no result, because {why}")
    results()
    schedule.run(after_each=results)
    results()
    for line in broken:
        say(line)
    return 130 if schedule.stopping else 1 if broken else 0


def main() -> None:
    p = cli.Parser(__doc__, NEEDS)
    p.add_argument("names", nargs="*", metavar="NAME", default=[], help="claims to measure (--list), or files of your own")
    p.add_argument("--list", action="store_true", help="list the claims")
    p.add_argument("--show", action="store_true", help="print the commands of the arms, and run nothing")
    p.add_argument("--seed", type=cli.seed, nargs="+", default=[0], metavar="S",
                   help="of weights, problems and draws; a result for each")
    p.add_argument("--budget", choices=list(BUDGETS), default="small",
                   help="small: 15 minutes on two cores; full: four times the steps; toy: a few steps, to see that all works")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the arms compute")
    p.add_argument("--jobs", type=cli.non_negative_int, default=0, help="commands at one time; 0: the cores, or the GPUs")
    p.add_argument("--fresh", action="store_true", help="run everything again, whatever is there")
    p.add_argument("--runs", type=cli.out_folder, metavar="FOLDER", default="runs/claims", help="of the commands' folders")
    p.add_argument("--results", type=cli.out_folder, metavar="FOLDER", default=str(RESULTS), help="of claims.jsonl")
    p.add_argument("--table", action="store_true", help="write the table of claims/README.md anew")
    p.add_argument("--page", type=cli.out_file, metavar="FILE", default="", help="HTML file to write, with a card for each claim")
    args = p.parse_args()
    code, found = 0, {}
    with cli.bad_input():
        if not (args.names or args.list or args.table or args.page):
            raise ValueError("give claims to measure, or --list, --table or --page")
        if args.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: no GPU is visible; use cpu")
        if args.names:
            code = measure({name: find_claim(name) for name in dict.fromkeys(args.names)}, args)
        if args.table and Path(args.results).resolve() != RESULTS.resolve():
            raise ValueError("--table writes the table of this repository from its results; leave --results out, or use --page")
        known = {name: find_claim(name) for name in all_claims()}
        if args.list:
            for name, claim in sorted(known.items(), key=place):
                print(f"{claim.number:<4} {name:<28} {claim.says}")
        if args.table:
            found["table"] = write_table(HERE / "README.md", known, args.results)
        if args.page:
            own = {Path(name).stem: find_claim(name) for name in args.names if name.endswith(".py")}
            found["page"] = write_page(args.page, known | own, args.results)
    if code:
        raise SystemExit(code)
    cli.finish({"claims": args.names} | found)


# when a flag has an effect (see cli.Parser)
NEEDS = (
    ("--show --seed --budget --device --jobs --fresh --runs", lambda a: a.names, "without a claim to measure"),
    ("--jobs --fresh", lambda a: not a.show, "with --show"),
    ("--results", lambda a: a.names or a.table or a.page, "with --list"),
)


if __name__ == "__main__":
    main()
