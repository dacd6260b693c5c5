"""A small segmentation data set that is generated on the fly: mosaics of scikit-image's photographs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.embedded import photographs

# patches of each photograph; a mosaic shows a part of one in each of its regions
_PATCHES = 100


class Mosaics:
    """Grey mosaics of regions with straight borders, each from another photograph, which is the class of its pixels.

    A mosaic depends on its split and index only, and no pixel of a photograph is used in both splits.

    Args:
        split: "train" or "val".
        size: side of a mosaic in pixels, at most 128.
        train_images: number of mosaics for training.
        val_images: number of mosaics for validation.
        most: largest number of regions; the smallest is two.

    Raises:
        ValueError: an argument is out of range.
    """

    remarks = ""

    def __init__(
        self, split: str, size: int = 96, train_images: int = 800, val_images: int = 200, most: int = 5
    ) -> None:
        self._patches = photographs(split, size, _PATCHES)
        self.classes: Sequence[str] = self._patches.classes
        if not 2 <= most <= len(self.classes) or min(train_images, val_images) < 1:
            raise ValueError(
                f"data: most must be 2 .. {len(self.classes)}, and train_images and val_images at least 1, got {most}, "
                f"{train_images} and {val_images}"
            )
        self.split, self.size, self.most = split, size, most
        self.count = train_images if split == "train" else val_images

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """The name of a mosaic in messages."""
        return f"{self.split} mosaic {index}"

    def picture(self, index: int, channels: int) -> Image.Image:
        """A mosaic."""
        chosen, region = self._make(index)
        pixels = np.take_along_axis(self._patches.pixels[chosen], region[None], axis=0)[0]
        return Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")

    def mask(self, index: int) -> NDArray[np.int64]:
        """The photograph of each pixel (H, W)."""
        chosen, region = self._make(index)
        labels: NDArray[np.int64] = self._patches.labels[chosen][region].astype(np.int64)
        return labels

    def _make(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The patches of a mosaic, and the region of each pixel: that of the nearest of some random points."""
        random = np.random.default_rng((index, self.split == "train"))
        count = int(random.integers(2, self.most + 1))
        classes = random.permutation(len(self.classes))[:count]
        chosen = np.asarray([random.choice(np.flatnonzero(self._patches.labels == label)) for label in classes])
        points = random.uniform(0, self.size, size=(count, 2, 1, 1))
        distances = ((np.indices((self.size, self.size)) - points) ** 2).sum(1)
        return chosen, distances.argmin(0)
