"""The processes of a training: one, or those that torchrun started.

The methods are collective operations: every process must call them. An error on one process ends all of them and is
reported once, by rank 0. If a process is killed, the others fail at their next collective operation, and torchrun ends
them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from ..devices import choose_device

# time for rank 0 to report the error before torchrun notices that another process ended, and ends rank 0
_SECONDS_TO_SPEAK = 3.0


class LeftToRankZero(SystemExit):
    """Ends a process without a message: rank 0 reports the reason."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from one of them.

    Attributes:
        rank: 0 .. count - 1; only rank 0 writes files and messages.
        count: number of processes on all machines.
        device: device of this process; the CPU until `on` chooses another one.
    """

    rank: int
    count: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def on(self, name: str) -> Processes:
        """Returns the processes with the device that a name stands for, see `attnzoo.tools.devices.choose_device`.

        Raises:
            ValueError: the device is not there, or there are more processes on this machine than devices.
        """
        device = choose_device(name, int(os.environ.get("LOCAL_RANK", 0)), self.count)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return replace(self, device=device)

    @property
    def on_this_machine(self) -> int:
        """The number of processes on this machine, as torchrun says it."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.count)) if self.count > 1 else 1

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def any(self, value: bool) -> bool:
        """Returns whether the value is true on any process."""
        if self.count == 1:
            return value
        # on the CPU, which does not wait for the device
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean over all processes."""
        if self.count == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def copy_buffers(self, module: nn.Module) -> None:
        """Broadcasts the buffers of rank 0, such as batch norm statistics."""
        self._copy(module.buffers())

    def copy_weights(self, module: nn.Module) -> None:
        """Broadcasts the parameters and buffers of rank 0."""
        self._copy(module.parameters())
        self._copy(module.buffers())

    def _copy(self, tensors: Iterator[Tensor]) -> None:
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def stop(self, error: Exception) -> NoReturn:
        """Ends all processes: rank 0 raises the error, the others exit without a message."""
        if self.rank == 0:
            error.is_told = True  # type: ignore[attr-defined]
            raise error
        raise LeftToRankZero(1)

    def stop_if(self, error: Exception | None) -> None:
        """Ends all processes if any of them has an error; rank 0 raises its own, or the first of another process."""
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
        """Ends all processes if any of them raises inside, see `stop_if`. Use no collective operations inside."""
        raised = None
        try:
            yield
        except Exception as error:
            raised = error
        self.stop_if(raised)


@contextmanager
def processes() -> Iterator[Processes]:
    """Joins the process group of torchrun for the duration of a training; without torchrun there is one process.

    CUDA tensors are communicated with NCCL, others with gloo.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Processes(0, 1)
        return
    joined_before = dist.is_initialized()
    if not joined_before:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    except LeftToRankZero:
        if not joined_before:
            time.sleep(_SECONDS_TO_SPEAK)
        raise
    except Exception as error:
        # torchrun reports the process that failed first, with the error recorded here
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
        # an exception that takes more than a message
        return RuntimeError(f"{kind.__name__}: {message}")
