"""Many runs, one after the other, on 1, 2 and 4 ranks of gloo: what tests/rl/test_ranks.py compares.

    python tests/rl/rank_worker.py JOB      JOB: a file of {"runs": {name: [script, flags...]}, "out": folder, "ranks": [1, 2, 4]}

One import of torch serves all: the ranks are forked from this process, which has started no thread. Nothing is written but the
results, out/RANKS.pt: {name: {"log": records, "weights": ..., "stream": place in the data} or {"error": text}}.
"""

import copy
import functools
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

import model  # noqa: E402
from training import cli  # noqa: E402
from training.run import Run  # noqa: E402
from training.weights import full_weights  # noqa: E402


def results_of(script, flags, loaded):
    """One run of a script in this process, as one of the ranks."""
    found, module = {"log": []}, importlib.import_module(script)

    def save(run):
        run.spent = run.ledger.found(run)
        found.update(weights=full_weights(run.model), stream=run.data.state())

    def load(folder, device="cpu", dtype=torch.float32):
        kept, tokenizer = loaded(str(folder), dtype)
        return copy.deepcopy(kept), tokenizer
    patches = {"save": save, "open_log": lambda run, about: None, "log": lambda run, record: found["log"].append(record),
               "close": lambda run: None, "catch_interrupts": lambda run: None}
    loaders = dict.fromkeys({"load", "load_both"} & vars(module).keys(), load)
    with (mock.patch.multiple(Run, **patches), mock.patch.multiple(module, **loaders),
          mock.patch.object(cli, "finish", lambda result: None), mock.patch.object(sys, "argv", [f"{script}.py", *flags])):
        module.main()
    return found


prefixed = dist.PrefixStore


def work(job, ranks, rank):
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
        dist.init_process_group("gloo", init_method=f"file://{job['out']}/store{ranks}", rank=rank, world_size=ranks)
    loaded, results = functools.cache(lambda folder, dtype: model.load(folder, dtype=dtype)), {}
    for name, (script, *flags) in job["runs"].items():
        if ranks == 1:                                    # where they would be refused
            flags = [flag for flag in flags if flag not in ("--shard", "--rollout-ranks=1")]
        try:
            # each run has keys of its own in the store by which ranks that sample hear of news
            with mock.patch.object(dist, "PrefixStore", lambda prefix, store, name=name: prefixed(f"{prefix} {name}", store)):
                results[name] = results_of(script, [*flags, "--out", f"{job['out']}/never"], loaded)
        except (Exception, SystemExit):
            results[name] = {"error": traceback.format_exc()}
            if rank == 0:
                print(name, results[name]["error"], file=sys.stderr)
    if rank == 0:
        torch.save(results, f"{job['out']}/{ranks}.pt")
    if ranks > 1:
        dist.barrier()


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    for ranks in job["ranks"]:
        children = []
        for rank in range(ranks):
            child = os.fork()
            if not child:
                code = 1
                try:
                    sys.stdout = open(os.devnull, "w")
                    if rank:
                        sys.stderr = sys.stdout
                    work(job, ranks, rank)
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        if any([os.waitpid(child, 0)[1] for child in children]):
            raise SystemExit(f"a rank of {ranks} failed")


if __name__ == "__main__":
    main()
