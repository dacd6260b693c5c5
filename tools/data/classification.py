"""Data sets for classification, by the `data.name` of a recipe.

| `data.name`   | data                                                                                           |
|---------------|------------------------------------------------------------------------------------------------|
| `imagefolder` | `root/train/CLASS/*.jpg` and `root/val/CLASS/*.jpg`, or tar files of such folders under `root` |
| `hfds`        | a data set of the Hugging Face Hub or a local one, read with the package `datasets`            |
| `wds`         | streamed `webdataset` shards: `000000.tar` ... with `KEY.jpg` and `KEY.cls`                    |
| `digits`      | scikit-learn's handwritten digits, 8x8 pixels                                                  |
| `photographs` | patches of scikit-image's photographs                                                          |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from PIL import Image

from ..images import apply_transform, read_image
from .embedded import digits, photographs
from .folders import imagefolder
from .samples import Samples
from .shards import Shards, wds
from .sources import open_source
from .streams import StreamedImages
from .tables import hfds
from .transforms import PREPROCESSING, Transform, preprocessing, train_transform, val_transform


class Source(Protocol):
    """Images with one class each, by index."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names, in the order of the labels."""

    @property
    def labels(self) -> Collection[int]:
        """The label of each image, without opening it."""

    @property
    def remarks(self) -> str:
        """What was skipped; empty if nothing was."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> tuple[Image.Image | BinaryIO, int]:
        """Returns an image, or its file, and its label."""

    def name(self, index: int) -> str:
        """Returns the name of an image for messages."""


class ClassifiedImages(Samples):
    """Samples with `images` (C, H, W) and `labels`.

    Args:
        source: the images and labels.
        transform: maps an image to a tensor.
        channels: 1 for grayscale, 3 for RGB.
    """

    def __init__(self, source: Source, transform: Transform, channels: int) -> None:
        self.source, self.transform, self.channels = source, transform, channels
        self.classes, self.remarks = source.classes, source.remarks

    def __len__(self) -> int:
        return len(self.source)

    @property
    def labels(self) -> Collection[int]:
        """The label of each image."""
        return self.source.labels

    def load(self, index: int) -> dict[str, Any]:
        """Reads and transforms an image."""
        name = self.source.name(index)
        picture, label = self.source.open(index)
        with picture:
            image = read_image(picture, self.channels, name)
        return {"images": apply_transform(self.transform, name, image), "labels": label, "name": name}


DATASETS: dict[str, Callable[..., Source | Shards]] = {
    "imagefolder": imagefolder,
    "hfds": hfds,
    "wds": wds,
    "digits": digits,
    "photographs": photographs,
}


def open_classification(
    data: Mapping[str, Any], split: str, augment: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
) -> ClassifiedImages | StreamedImages:
    """Opens a split of the data set of a recipe.

    Args:
        data: `name`, one of DATASETS; the keys of PREPROCESSING; arguments of the data set.
        split: "train", "val", or another split that the data set has.
        augment: augmentation of training images, see `train_transform`; None for the transform of evaluation.

    Raises:
        ValueError: an unknown data set, split or transform, or invalid arguments.
        FileNotFoundError: a folder does not exist.
    """
    source = open_source(DATASETS, data, split, PREPROCESSING)
    transform = val_transform(data) if augment is None else train_transform(data, augment)
    channels = preprocessing(data)["input_size"][0]
    if isinstance(source, Shards):
        return StreamedImages(source, transform, channels)
    return ClassifiedImages(source, transform, channels)
