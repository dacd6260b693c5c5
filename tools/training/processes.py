"""The processes of a training: one, or as many as torchrun started.

Whoever asks here asks together with all the others: what is a conversation must be reached by every process. What goes
wrong on one is raised on all of them, and told once, by rank 0. A process that is killed is noticed by the others when
they talk to it next, and by torchrun, which ends them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

# for rank 0 to say why before torchrun sees another process end, and ends rank 0 as well
_SECONDS_TO_SPEAK = 3.0


class LeftToRankZero(SystemExit):
    """Ends a process in silence: rank 0 says why."""


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

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.count == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def copy_buffers(self, module: nn.Module) -> None:
        """Gives every process the buffers that rank 0 has, such as the statistics of batch normalisation."""
        self._copy(module.buffers())

    def copy_weights(self, module: nn.Module) -> None:
        """Gives every process the parameters and buffers that rank 0 has."""
        self._copy(module.parameters())
        self._copy(module.buffers())

    def _copy(self, tensors: Iterator[Tensor]) -> None:
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def stop(self, error: Exception) -> NoReturn:
        """Ends all processes, each of which calls this: rank 0 raises the error, the others end in silence."""
        if self.rank == 0:
            error.is_told = True  # type: ignore[attr-defined]
            raise error
        raise LeftToRankZero(1)

    def stop_if(self, error: Exception | None) -> None:
        """Ends all processes if there is an error on any; rank 0 raises its own, or that of the first that has one."""
        if self.count == 1:
            if error is not None:
                raise error
            return
        if not self.any(error is not None):
            return
        told = self.gather(None if error is None else (type(error), str(error), socket.gethostname()))
        rank = next(rank for rank, entry in enumerate(told) if entry is not None)
        if error is None:
            kind, message, host = told[rank]
            error = _rebuilt(kind, f"{message} (process {rank} on {host})")
        self.stop(error)

    @contextmanager
    def stopping_together(self) -> Iterator[None]:
        """What any process raises inside ends all of them, see `stop_if`. No conversation may take place inside."""
        raised = None
        try:
            yield
        except Exception as error:
            raised = error
        self.stop_if(raised)


@contextmanager
def processes() -> Iterator[Processes]:
    """Joins the processes that torchrun started, for as long as a training lasts; alone without torchrun.

    Tensors on CUDA devices travel through NCCL and others through gloo.

    Raises:
        ValueError: there are more processes on this machine than devices.
    """
    local_rank, count = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    if cuda and local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} of this machine has no device, there are {torch.cuda.device_count()}: start as many "
            f"processes, torchrun --nproc-per-node {torch.cuda.device_count()}"
        )
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
    except LeftToRankZero:
        if not joined_before:
            time.sleep(_SECONDS_TO_SPEAK)
        raise
    except Exception as error:
        # torchrun names the process that failed first, and shows once more what it has written here
        if not hasattr(error, "is_told"):
            get_error_handler().record_exception(error)
        raise
    finally:
        if not joined_before:
            dist.destroy_process_group()


def _rebuilt(kind: type[Exception], message: str) -> Exception:
    try:
        return kind(message)
    except TypeError:
        # one that is made of more than a message
        return RuntimeError(f"{kind.__name__}: {message}")
