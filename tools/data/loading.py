"""From a data set to its batches: which samples a process has, in which order, and the loader that reads them."""

from __future__ import annotations

import signal
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from .samples import Samples
from .sampling import TrainBatches, ValBatches
from .streams import StreamedImages, TrainStream, ValStream


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
    """The batches of a training, see `TrainBatches` and `TrainStream` for the arguments.

    Raises:
        ValueError: a step cannot be shared evenly, the data does not fill one, or a stream is to be repeated.
    """
    where: dict[str, int] = {"rank": rank, "processes": processes, "seed": seed}
    if isinstance(samples, Samples):
        return TrainBatches(len(samples), batch_size, parts=parts, repeats=repeats, **where)
    if repeats > 1:
        raise ValueError(f"repeats={repeats} is for data with an index: a stream has each image once")
    return TrainStream(samples, batch_size, parts=parts, workers=workers, **where)


def val_batches(
    samples: Samples | StreamedImages, batch_size: int, *, rank: int = 0, processes: int = 1
) -> ValBatches | ValStream:
    """Batches with each sample once, see `ValBatches`."""
    if isinstance(samples, Samples):
        return ValBatches(len(samples), batch_size, rank=rank, processes=processes)
    return ValStream(samples, batch_size, rank=rank, processes=processes)


def open_loader(
    samples: Samples | StreamedImages, batches: TrainBatches | TrainStream | ValBatches | ValStream, workers: int
) -> DataLoader[Any]:
    """What reads batches.

    Args:
        samples: the data set.
        batches: of the same data set.
        workers: processes that read; 0 reads in this one.
    """
    options: dict[str, Any] = {
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _start_worker,
        # a loader without its own draws a seed from the training's random numbers, which a resumed run has drawn before
        "generator": torch.Generator(),
    }
    if isinstance(batches, (TrainStream, ValStream)):
        # whole batches already
        return DataLoader(batches, batch_size=None, **options)
    return DataLoader(cast(Samples, samples), batch_sampler=batches, collate_fn=samples.collate, **options)


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # torchrun and Ctrl-C signal whole groups of processes: the one that trains decides when its workers end
    for entry in (signal.SIGTERM, signal.SIGINT):
        signal.signal(entry, signal.SIG_IGN)
