"""Samplers: the samples of a step depend on the seed only, not on the number of processes or where a run resumed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from .samples import Draw

# multiplier of seeds: a large odd number, so that runs with similar seeds share no seeds of epochs and draws
_SPREAD = 0x9E3779B97F4A7C15


class TrainBatches(Sampler[list[Draw]]):
    """The batches of one process in an epoch: its share of the images of every step, shuffled in each epoch.

    A step takes `batch_size` images over all processes and all accumulated batches, so the same images are in the same
    step for any number of processes. An incomplete step at the end of an epoch is dropped.

    Args:
        size: number of samples of the data set.
        batch_size: images per optimizer step.
        parts: accumulated batches per step and process.
        rank: rank of this process.
        processes: number of processes.
        seed: seed of the order and of the augmentation.
        repeats: draws of each image per epoch, each with its own augmentation ("repeated augmentation", Hoffer et al.,
            arXiv:1901.09335); an epoch then covers 1 / repeats of the images.

    Raises:
        ValueError: the batch size cannot be split evenly, or there are too few samples.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        parts: int = 1,
        rank: int = 0,
        processes: int = 1,
        seed: int = 0,
        repeats: int = 1,
    ) -> None:
        self.size, self.repeats, self.seed = size, repeats, seed
        self.batch_size = share(size, batch_size, parts, processes)
        self.parts, self.rank, self.processes = parts, rank, processes
        self.epoch = self.first = 0

    @property
    def steps(self) -> int:
        """Number of optimizer steps per epoch."""
        return self.size // self.batch_size

    def __len__(self) -> int:
        return self.steps * self.parts - self.first

    def start(self, epoch: int, batch: int) -> None:
        """Sets the epoch, and the index of the first batch, of the next iteration."""
        self.epoch, self.first = epoch, batch

    def __iter__(self) -> Iterator[list[Draw]]:
        base = spread(self.seed, self.epoch)
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(folded(base)))
        order = order.repeat_interleave(self.repeats)[: self.size]
        shares = self.parts * self.processes
        for batch in range(self.first, self.steps * self.parts):
            step, part = divmod(batch, self.parts)
            begin = step * self.batch_size + part * self.processes + self.rank
            positions = range(begin, (step + 1) * self.batch_size, shares)
            yield [Draw(int(order[i]), folded(spread(base, i))) for i in positions]


class ValBatches(Sampler[list[Draw]]):
    """Each sample once, without augmentation. The shares of the processes differ by at most one sample."""

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, processes: int = 1) -> None:
        self.indices, self.batch_size = range(rank, size, processes), batch_size
        # number of batches that every process has
        self.common = size // processes // batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for begin in range(0, len(self.indices), self.batch_size):
            yield [Draw(index) for index in self.indices[begin : begin + self.batch_size]]


def share(size: int, batch_size: int, parts: int, processes: int) -> int:
    """Returns the images per step: `batch_size`, or fewer if the data set is smaller.

    Raises:
        ValueError: the batch size cannot be split evenly, or there are too few samples.
    """
    shares = parts * processes
    if batch_size % shares:
        raise ValueError(
            f"batch_size, the images per step over all processes, must be a multiple of {processes} processes x "
            f"accumulate={parts}, got {batch_size}; the nearest is {max(shares, round(batch_size / shares) * shares)}"
        )
    if size < shares:
        raise ValueError(
            f"{processes} processes x accumulate={parts} need at least {shares} training images, got {size}"
        )
    return batch_size if size >= batch_size else size // shares * shares


def spread(seed: int, number: int) -> int:
    """Combines a seed and a number to an integer of any size; similar seeds give different integers."""
    return seed * _SPREAD + number


def folded(number: int) -> int:
    """Reduces an integer of any size to a seed that torch accepts."""
    return (number ^ (number >> 64)) % 2**63
