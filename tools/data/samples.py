"""What every data set here is: samples that a seed decides, and a report on the files that cannot be read.

A run that is killed and resumed must see the same pictures, augmented the same way, whatever the number of workers. So
a sample does not depend on who draws it or what was drawn before: the sampler hands out a `Draw`, and its seed is all
the randomness there is.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from ..images import UnreadableImageError


class Draw(NamedTuple):
    """A sample to read: which, and the seed of its augmentation; None reads it as it is."""

    sample: int
    seed: int | None = None


class Samples(Dataset[dict[str, Any]]):
    """A data set of dictionaries, each with the `name` of its file.

    `samples[Draw(sample, seed)]` is the sample, augmented, with a list `unreadable`: what was wrong with files that
    were tried before it. While training the next readable sample takes the place of a file that cannot be read; without
    a seed, when each sample is to be judged once, there is that list alone, and `collate` leaves the sample out.
    """

    classes: Sequence[str]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int) -> dict[str, Any]:
        """The sample, augmented with the global random numbers.

        Raises:
            UnreadableImageError: its file cannot be read.
        """

    def try_out(self, seed: int) -> None:
        """Reads and augments a sample, so that mistakes show before training.

        Raises:
            UnreadableImageError: none can be read.
        """
        self[Draw(0, seed)]

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        unreadable: list[str] = []
        with seeded(draw.seed):
            for step in range(len(self) if draw.seed is not None else 1):
                sample = self._load_or_note((draw.sample + step) % len(self), unreadable)
                if sample is not None:
                    return {**sample, "unreadable": unreadable}
        if draw.seed is None:
            return {"unreadable": unreadable}
        raise UnreadableImageError(f"none of {len(self)} pictures can be read; the first: {unreadable[0]}")

    def _load_or_note(self, index: int, unreadable: list[str]) -> dict[str, Any] | None:
        try:
            return self.load(index)
        except UnreadableImageError as error:
            unreadable.append(str(error))
            return None

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch: tensors and numbers stacked, names and what was unreadable as lists."""
        return collate(samples)


def collate(samples: Sequence[dict[str, Any]], stacked: bool = True) -> dict[str, Any]:
    """Samples as one batch, without those that could not be read.

    Args:
        samples: dictionaries with the same keys.
        stacked: tensors and numbers as one tensor; as a list where sizes differ.
    """
    readable = [sample for sample in samples if len(sample) > 1]
    batch: dict[str, Any] = {}
    for key in readable[0] if readable else ():
        values = [sample[key] for sample in readable]
        batch[key] = default_collate(values) if stacked and not isinstance(values[0], (str, list)) else values
    batch["unreadable"] = [message for sample in samples for message in sample["unreadable"]]
    return batch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Python's, numpy's and torch's random numbers from a seed, and afterwards where they were; nothing without one."""
    if seed is None:
        yield
        return
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # neighbouring seeds give unrelated streams in all three
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
