"""Which samples make up which step: decided by the seed alone, for any number of processes, from any step on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from .samples import Draw

# seeds of draws and of epochs are spread by a large odd number, so that runs with near seeds share none
_SPREAD = 0x9E3779B97F4A7C15


class TrainBatches(Sampler[list[Draw]]):
    """The batches of one process and epoch: its share of every step's images, in a new order each epoch.

    A step takes `batch_size` images over all processes and all parts of an accumulated gradient, so the same images are
    in the same step on one process and on many. What does not fill a step at the end of an epoch waits for another.

    Args:
        size: samples of the data set.
        batch_size: images per optimizer step.
        parts: batches per process that accumulate to a step.
        rank: of this process.
        processes: their number.
        seed: of the order and of the draws.
        repeats: draws of each image per epoch, each augmented on its own, in as many fewer images ("repeated
            augmentation", Hoffer et al., arXiv:1901.09335).

    Raises:
        ValueError: a step cannot be shared evenly, or the data set does not fill one.
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
        """Optimizer steps of an epoch."""
        return self.size // self.batch_size

    def __len__(self) -> int:
        return self.steps * self.parts - self.first

    def start(self, epoch: int, batch: int) -> None:
        """The next iteration gives the batches of `epoch` from number `batch` on."""
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
    """Each sample once, as it is: every process takes its share, and the shares differ by one sample at most."""

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, processes: int = 1) -> None:
        self.indices, self.batch_size = range(rank, size, processes), batch_size
        # batches that every process has
        self.common = size // processes // batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for begin in range(0, len(self.indices), self.batch_size):
            yield [Draw(index) for index in self.indices[begin : begin + self.batch_size]]


def share(size: int, batch_size: int, parts: int, processes: int) -> int:
    """Images per step: `batch_size`, or all there are where they are fewer.

    Raises:
        ValueError: they cannot be shared evenly among the parts and processes.
    """
    shares = parts * processes
    if batch_size % shares:
        raise ValueError(
            f"batch_size is the images per step of all processes: {batch_size} cannot be shared evenly among "
            f"{processes} processes x accumulate={parts}; the nearest that can is "
            f"{max(shares, round(batch_size / shares) * shares)}"
        )
    if size < shares:
        raise ValueError(f"{size} images to train on do not suffice for {processes} processes x accumulate={parts}")
    return batch_size if size >= batch_size else size // shares * shares


def spread(seed: int, number: int) -> int:
    """An integer of any size for each `number` under a seed, that near seeds do not share."""
    return seed * _SPREAD + number


def folded(number: int) -> int:
    """A seed that torch takes, from an integer of any size."""
    return (number ^ (number >> 64)) % 2**63
