"""Small data sets of real images that are part of other packages, for demos and tests without a download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .sources import check_split

# images of scikit-image that have texture nearly everywhere
PHOTOGRAPHS = ("brick", "chelsea", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "page")


@dataclass
class ImagesInMemory:
    """Grayscale or RGB images with one class each.

    Attributes:
        pixels: uint8, (N, H, W) or (N, H, W, 3).
        labels: (N,), integers in [0, len(classes)).
        classes: class names, in the order of the labels.
        origin: name of the images in messages.
        remarks: what was skipped; nothing.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    origin: str
    remarks: str = ""

    def __len__(self) -> int:
        return len(self.pixels)

    def open(self, index: int) -> tuple[Image.Image, int]:
        """Returns an image and its label."""
        return Image.fromarray(self.pixels[index]), int(self.labels[index])

    def name(self, index: int) -> str:
        """Returns the name of an image for messages."""
        return f"{self.origin} {index}"


def digits(split: str) -> ImagesInMemory:
    """Returns scikit-learn's handwritten digits, 1797 grayscale images of 8x8 pixels; a fixed fifth is held out.

    Args:
        split: "train" (1437 images) or "val" (360 images), stratified by class.

    Raises:
        ValueError: an unknown split.
    """
    check_split(split)
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    rows = train_test_split(range(len(source.target)), test_size=0.2, stratify=source.target, random_state=0)
    chosen = rows[0] if split == "train" else rows[1]
    # 17 gray levels, counts of 0 .. 16 pixels of the scanned form -> 0 .. 255
    pixels = np.round(source.images[chosen] * (255 / 16)).astype(np.uint8)
    return ImagesInMemory(pixels, source.target[chosen], [str(name) for name in source.target_names], "digit")


def photographs(split: str, size: int = 64, per_class: int = 200) -> ImagesInMemory:
    """Returns grayscale patches of scikit-image's photographs; the class is the photograph that a patch is from.

    Training patches are from the left two thirds of a photograph and validation patches from the rest.

    Args:
        split: "train" or "val".
        size: side length of a patch in pixels, 1 .. 128.
        per_class: training patches per photograph, at fixed random positions; there are a quarter as many validation
            patches.

    Raises:
        ValueError: an unknown split, or `size` or `per_class` out of range.
    """
    check_split(split)
    if not 1 <= size <= 128 or per_class < 4:
        raise ValueError(f"size must be 1 .. 128 and per_class at least 4, got {size} and {per_class}")
    import skimage.data

    random, count = np.random.default_rng(0), per_class if split == "train" else per_class // 4
    patches: list[NDArray[np.uint8]] = []
    for name in PHOTOGRAPHS:
        picture = np.asarray(Image.fromarray(getattr(skimage.data, name)()).convert("L"))
        border = picture.shape[1] * 2 // 3
        part = picture[:, :border] if split == "train" else picture[:, border:]
        if min(part.shape) < size:
            # 384 x 191 is the smallest photograph: its right third is 128 pixels wide
            raise ValueError(f"size must be at most {min(part.shape)} for {name}, got {size}")
        for _ in range(count):
            top, left = (int(random.integers(0, length - size + 1)) for length in part.shape)
            patches.append(part[top : top + size, left : left + size])
    labels = np.repeat(np.arange(len(PHOTOGRAPHS)), count)
    return ImagesInMemory(np.stack(patches), labels, PHOTOGRAPHS, "patch")
