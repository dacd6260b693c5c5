"""The base class of data sets: deterministic samples, and messages on files that cannot be read.

A run that is killed and resumed must see the same images with the same augmentation, for any number of workers. So the
sampler yields a `Draw`, and all randomness of a sample follows from the seed in it.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from ..images import UnreadableImageError


class Draw(NamedTuple):
    """Index of a sample, and the seed of its augmentation; None for evaluation."""

    sample: int
    seed: int | None = None


class Location(NamedTuple):
    """The files of a data set, by which a resumed run recognises it: the `location` of a source that has files.

    Attributes:
        root: where the names of its images begin, which may be moved.
        annotations: files whose contents are compared; of the images the sizes are.
        size: bytes of a table that has the images; None without one.
    """

    root: str = ""
    annotations: Sequence[Path] = ()
    size: int | None = None


class Pictures(Protocol):
    """Images with annotations, by index."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, in the order of the labels."""

    @property
    def remarks(self) -> str:
        """What was left out or changed; empty if nothing was."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of an image in messages."""

    def picture(self, index: int, channels: int) -> Image.Image:
        """The image, with 1 or 3 channels."""


class Samples(Dataset[dict[str, Any]]):
    """A data set of dictionaries, each with the `name` of its file.

    `samples[Draw(sample, seed)]` is the augmented sample. Its list `unreadable` has a message for each file that could
    not be read. In training, a file that cannot be read is replaced by the next readable sample. Without a seed, for
    evaluation, a file that cannot be read gives only this list, and `collate` omits the sample.
    """

    classes: Sequence[str]
    # what was skipped, for the summary
    remarks: str = ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int) -> dict[str, Any]:
        """Loads a sample; augmentation uses the global random number generators.

        Raises:
            UnreadableImageError: the file cannot be read.
        """

    def try_out(self, seed: int) -> None:
        """Loads and augments a sample, so that errors are raised before training.

        Raises:
            UnreadableImageError: no sample can be read.
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
        raise UnreadableImageError(f"none of {len(self)} images can be read; the first: {unreadable[0]}")

    def _load_or_note(self, index: int, unreadable: list[str]) -> dict[str, Any] | None:
        try:
            return self.load(index)
        except UnreadableImageError as error:
            unreadable.append(str(error))
            return None

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collates samples to a batch: tensors and numbers are stacked, names and messages are lists."""
        return collate(samples)


def collate(samples: Sequence[dict[str, Any]], stacked: bool = True) -> dict[str, Any]:
    """Collates samples to a batch, without those that could not be read.

    Args:
        samples: dictionaries with the same keys.
        stacked: stack tensors and numbers; False returns lists, for tensors of different sizes.
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
    """Seeds Python, NumPy and torch within the context and restores their states afterwards; None does nothing."""
    if seed is None:
        yield
        return
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # consecutive seeds give unrelated streams in all three
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
