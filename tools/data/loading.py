"""Samplers and data loaders of a data set."""

from __future__ import annotations

import os
import re
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from .samples import Samples
from .sampling import TrainBatches, ValBatches
from .streams import StreamedImages, TrainStream, ValStream

# workers of a stream
_STREAMED = 4


def train_batches(
    samples: Samples | StreamedImages,
    batch_size: int,
    *,
    parts: int = 1,
    repeats: int = 1,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
    seed: int = 0,
) -> TrainBatches | TrainStream:
    """Creates the training batches of a data set, see `TrainBatches` and `TrainStream` for the arguments.

    Raises:
        ValueError: the batch size cannot be split evenly, there are too few samples, or `repeats` is used with shards.
    """
    where: dict[str, int] = {"rank": rank, "processes": processes, "seed": seed}
    if isinstance(samples, Samples):
        return TrainBatches(len(samples), batch_size, parts=parts, repeats=repeats, **where)
    if repeats > 1:
        raise ValueError(f"repeats must be 1 for shards, got {repeats}: they cannot be read by index")
    return TrainStream(samples, batch_size, parts=parts, workers=workers, **where)


def val_batches(
    samples: Samples | StreamedImages, batch_size: int, *, rank: int = 0, processes: int = 1
) -> ValBatches | ValStream:
    """Creates validation batches with each sample once, see `ValBatches`."""
    if isinstance(samples, Samples):
        return ValBatches(len(samples), batch_size, rank=rank, processes=processes)
    return ValStream(samples, batch_size, rank=rank, processes=processes)


def worker_count(wanted: int | None, samples: Samples | StreamedImages, processes: int = 1) -> int:
    """Returns the number of data loading processes of each training process on this machine.

    Args:
        wanted: the number; None for one less than the cores that each process has, and for a stream, whose order
            depends on it, for 4.
        samples: the data set.
        processes: training processes on this machine.
    """
    if wanted is not None:
        return wanted
    return _STREAMED if isinstance(samples, StreamedImages) else max(0, cores() // processes - 1)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    # a container or a scheduler may limit them; not every system can tell
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def open_loader(
    samples: Samples | StreamedImages,
    batches: TrainBatches | TrainStream | ValBatches | ValStream,
    workers: int,
    device: torch.device,
) -> DataLoader[Any]:
    """Creates the data loader.

    Args:
        samples: the data set.
        batches: batches of the same data set.
        workers: number of data loading processes; 0 loads in this process.
        device: where the batches are moved to.
    """
    options: dict[str, Any] = {
        "num_workers": workers,
        "pin_memory": device.type == "cuda",
        "worker_init_fn": _start_worker,
        # by default a loader draws from torch's global generator, which would change the randomness of a resumed run
        "generator": torch.Generator(),
    }
    # of more workers than cores, whenever a loader starts; the summary of a training says it once
    warnings.filterwarnings("ignore", "This DataLoader will create")
    if isinstance(batches, (TrainStream, ValStream)):
        # the stream yields whole batches
        return DataLoader(batches, batch_size=None, **options)
    return DataLoader(cast(Samples, samples), batch_sampler=batches, collate_fn=samples.collate, **options)


class WorkerError(ValueError):
    """A data loading process has ended, or shared memory is full. The message says what to do."""


@contextmanager
def explaining_workers() -> Iterator[None]:
    """Reports in one line that a data loading process was killed, or that it found no shared memory.

    Raises:
        WorkerError: either has happened within the context.
    """
    try:
        yield
    # torch knows the cause only as text
    except RuntimeError as error:
        said = str(error)
        if re.search(r"Bus error|unable to (write to|resize|open|mmap).*torch_|No space left on device.*torch_", said):
            raise WorkerError(
                "the data loading processes have no shared memory left (/dev/shm): set fewer workers, or workers=0, or "
                "enlarge it, in a container with --shm-size"
            ) from error
        if re.search(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", said):
            raise WorkerError(
                "a data loading process was killed, probably because memory or shared memory (/dev/shm) ran out: set "
                "fewer workers, a smaller batch_size, or smaller images"
            ) from error
        raise


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # torchrun and Ctrl-C signal the whole process group: the training process decides when its workers end
    for entry in (signal.SIGTERM, signal.SIGINT):
        signal.signal(entry, signal.SIG_IGN)
