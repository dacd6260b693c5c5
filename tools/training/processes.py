"""The processes of a training: one, or as many as torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """Where this process stands.

    Attributes:
        rank: 0 .. count - 1; rank 0 alone writes and speaks.
        count: processes of the training, on all machines.
        device: of this process.
    """

    rank: int
    count: int
    device: torch.device

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def any(self, value: bool) -> bool:
        """Whether it is so on any process."""
        if self.count == 1:
            return value
        # on the CPU, where asking does not wait for the device
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)


@contextmanager
def processes() -> Iterator[Processes]:
    """Joins the processes that torchrun started, for as long as a training lasts; alone without torchrun.

    Tensors on CUDA devices travel through NCCL and others through gloo.
    """
    local_rank, count = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank)
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if count == 1:
        yield Processes(0, 1, device)
        return
    joined_before = dist.is_initialized()
    if not joined_before:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if not joined_before:
            dist.destroy_process_group()
