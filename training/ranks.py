"""The processes of a run: the device of each, sums over all of them, and DDP or FSDP2.

torchrun starts one process for each rank. With one process there is nothing to add up and nothing to wait for.
"""

import contextlib
import os
import sys
from argparse import Namespace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from training.flags import uses_gpu

# One rank may sample or evaluate longer than the 10 minutes that nccl waits by itself. (torchrun notices a rank that has died.)
LONGEST_WAIT = timedelta(hours=3)


class Ranks:
    """This process, and its relation to the others.

    device, dtype: where it computes, and the dtype of its matrix products.
    weight_dtype: the dtype of the weights: float64 if products are in float64, else float32.
    rank, ranks: the number of this rank, and how many ranks train.
    rollout_ranks: how many ranks only sample; these are the last ones (rl/asynchronous.py).
    group: the ranks that train. sync_group: rank 0 and the ranks that sample. Both are None if all ranks train.
    """

    def __init__(self, args: Namespace):
        self.args = args
        self.rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.rollout_ranks = getattr(args, "rollout_ranks", 0)
        self.ranks = world - self.rollout_ranks
        self.group = self.sync_group = None
        cuda = uses_gpu(args)
        if cuda and not torch.cuda.is_available():
            raise ValueError(f"--device {args.device}: no GPU is visible; use --device cpu")
        if args.compile and not cuda:
            raise ValueError("--compile: layers are compiled for a GPU only; leave it out on a CPU")
        if cuda and getattr(args, "exact", False) and args.dtype == "float64":
            raise ValueError("--exact --dtype float64: on a GPU exact mode computes in float32 or bfloat16; choose one of them")
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")
        self.dtype = getattr(torch, args.dtype) if args.dtype != "auto" else (torch.bfloat16 if cuda else torch.float32)
        self.weight_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo", timeout=LONGEST_WAIT, device_id=self.device if cuda else None)
        if self.rollout_ranks:
            self.group = dist.new_group(list(range(self.ranks)), timeout=LONGEST_WAIT)
            self.sync_group = dist.new_group([0, *range(self.ranks, world)], timeout=LONGEST_WAIT)
            self.store = dist.PrefixStore("rollouts", dist.distributed_c10d._get_default_store())

    @property
    def main(self) -> bool:
        """True for the rank that writes and prints."""
        return self.rank == 0

    @property
    def learns(self) -> bool:
        """False for a rank that only samples."""
        return self.rank < self.ranks

    def wait_for_all(self) -> None:
        if dist.is_initialized():
            dist.barrier()

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of a forward pass: matrix products in bfloat16, if that is the dtype."""
        half = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext()

    def sum(self, *numbers) -> list:
        """Sums of numbers over all ranks, in float64."""
        if self.ranks == 1:
            return [float(n) for n in numbers]
        t = torch.tensor([float(n) for n in numbers], dtype=torch.float64, device=self.device)
        dist.all_reduce(t, group=self.group)
        return t.tolist()

    def gather(self, value: object) -> list:
        """What all ranks hold, in their order: anything that pickle can write."""
        if self.ranks == 1:
            return [value]
        found = [None] * self.ranks
        dist.all_gather_object(found, value, group=self.group)
        return found

    def max(self, number: int | float) -> int | float:
        """The largest value of a number over all ranks, of the same type."""
        if self.ranks == 1:
            return number
        t = torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None, device=self.device)
        dist.all_reduce(t, dist.ReduceOp.MAX, group=self.group)
        return t.item()

    def distribute(self, model: nn.Module) -> nn.Module:
        """Moves the model to the device and wraps it in DDP or FSDP2. Returns the module whose forward training must call."""
        model.to(self.device)
        model.checkpointing = self.args.checkpointing
        if self.args.compile:
            model.compile_layers()
        if self.ranks == 1:
            return model
        if not self.args.shard:
            device_ids = [self.device.index] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(model, device_ids=device_ids, process_group=self.group)
        from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = (DeviceMesh.from_group(self.group, self.device.type) if self.group
                else init_device_mesh(self.device.type, (self.ranks,)))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    def leave(self, code: int = 0) -> None:
        """Ends the program with this exit code. All ranks leave together: if one left early, the last messages of the others
        would fail. With one rank the program ends only if the code is not 0."""
        if dist.is_initialized():
            try:                                          # a rank that died does not reach this
                dist.barrier(async_op=True).wait(timedelta(seconds=20 if code else 600))
            except RuntimeError as e:
                print(f"not all ranks have come to the end: {str(e).splitlines()[0]}", file=sys.stderr)
                code = code or 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)                                # at a normal exit a thread of gloo sometimes aborts the process, though
        if code:                                          # the run is finished and saved; so it ends here
            raise SystemExit(code)
