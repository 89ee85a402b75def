"""The processes of a run: on which device each computes, sums over all of them, and the model wrapped for them.

torchrun starts one process for each rank. With one process everything here does nothing.
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


class Ranks:
    """The place of this process among all of them.

    device, dtype: where it computes, and in which type its matrix products are.
    weight_dtype: the type of the weights: float32, or float64 where products are in float64.
    rank, ranks: its number, and the number of those that learn.
    rollout_ranks: the number of those that only sample, the last ones (rl/asynchronous.py).
    group: the learners. sync_group: rank 0 and those that sample. Both None where all learn.
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
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")
        self.dtype = getattr(torch, args.dtype) if args.dtype != "auto" else (torch.bfloat16 if cuda else torch.float32)
        self.weight_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo", device_id=self.device if cuda else None)
        if self.rollout_ranks:
            self.group = dist.new_group(list(range(self.ranks)))
            self.sync_group = dist.new_group([0, *range(self.ranks, world)])
            self.store = dist.PrefixStore("rollouts", dist.distributed_c10d._get_default_store())

    @property
    def main(self) -> bool:
        """True for the one rank that writes and prints."""
        return self.rank == 0

    @property
    def learns(self) -> bool:
        """False for a rank that only samples."""
        return self.rank < self.ranks

    def wait_for_all(self) -> None:
        if dist.is_initialized():
            dist.barrier()

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of a forward pass: matrix products in bfloat16, where that is the type."""
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
        """The largest of a number over all ranks, in its own type."""
        if self.ranks == 1:
            return number
        t = torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None, device=self.device)
        dist.all_reduce(t, dist.ReduceOp.MAX, group=self.group)
        return t.item()

    def distribute(self, model: nn.Module) -> nn.Module:
        """Moves the model to the device and wraps it for the ranks. Returns the module whose forward training must call."""
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
        """Ends the program with this exit code; of many ranks all together, for one that leaves early would break the
        others' last messages. Of one rank only a code other than 0 does end it."""
        if dist.is_initialized():
            try:                                          # a rank that died does not come
                dist.barrier(async_op=True).wait(timedelta(seconds=20 if code else 600))
            except RuntimeError as e:
                print(f"not all ranks have come to the end: {str(e).splitlines()[0]}", file=sys.stderr)
                code = code or 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)                                # now and then a thread of gloo's, still there when Python ends,
        if code:                                          # aborts a run that is done and saved; so it ends here
            raise SystemExit(code)
