"""A small detection data set that is generated on the fly: canvases with real handwritten digits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.embedded import digits
from .annotated import Objects

# smallest pixel value that counts as ink, of 255
_INK = 64
# positions tried for a digit before it is left out
_TRIES = 20


class DigitsOnCanvas:
    """scikit-learn's handwritten digits at random sizes and positions on coloured, textured canvases.

    A canvas depends on its split and index only, and no digit is used in both splits.

    Args:
        split: "train" or "val".
        size: side of a canvas in pixels.
        train_images: number of canvases for training.
        val_images: number of canvases for validation.
        most: largest number of digits on a canvas; the smallest is one.
        smallest: side of the smallest digit in pixels, with its margin.
        largest: side of the largest digit in pixels, with its margin.
        with_masks: include masks.

    Raises:
        ValueError: an argument is out of range.
    """

    remarks = ""

    def __init__(
        self,
        split: str,
        size: int = 128,
        train_images: int = 1000,
        val_images: int = 200,
        most: int = 5,
        smallest: int = 20,
        largest: int = 44,
        with_masks: bool = False,
    ) -> None:
        if not 8 <= smallest <= largest <= size:
            raise ValueError(
                f"data: 8 <= smallest <= largest <= size must hold, got smallest={smallest}, largest={largest} and "
                f"size={size}"
            )
        if min(train_images, val_images, most) < 1:
            raise ValueError(
                f"data: train_images, val_images and most must be at least 1, got {train_images}, {val_images} and "
                f"{most}"
            )
        self.split, self.size, self.most, self.sides = split, size, most, (smallest, largest)
        self.count = train_images if split == "train" else val_images
        self.with_masks = with_masks
        self._digits = digits(split)
        self.classes = list(self._digits.classes)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """The name of a canvas in messages."""
        return f"{self.split} canvas {index}"

    def identity(self, index: int) -> int:
        """The index of a canvas."""
        return index

    def objects(self, index: int) -> Objects:
        """The digits on a canvas."""
        return self._make(index)[1]

    def shape(self, index: int) -> tuple[int, int]:
        """Width and height of a canvas."""
        return self.size, self.size

    def picture(self, index: int, channels: int) -> Image.Image:
        """A canvas."""
        return Image.fromarray(self._make(index)[0]).convert("L" if channels == 1 else "RGB")

    def _make(self, index: int) -> tuple[NDArray[np.uint8], Objects]:
        random = np.random.default_rng((index, self.split == "train"))
        canvas = self._background(random)
        taken: list[tuple[int, int, int, int]] = []
        labels, masks = [], []
        for _ in range(int(random.integers(1, self.most + 1))):
            chosen = int(random.integers(len(self._digits)))
            ink = self._resized(chosen, int(random.integers(self.sides[0], self.sides[1] + 1)))
            place = self._free_place(random, ink.shape, taken)
            if place is None:
                continue
            rows, columns = np.nonzero(ink >= _INK)
            top, left = place
            taken.append((left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1))
            labels.append(int(self._digits.labels[chosen]))
            masks.append(self._paste(random, canvas, ink, top, left))
        boxes = np.asarray(taken, dtype=np.float32).reshape(-1, 4)
        areas = np.asarray([mask.sum() for mask in masks], dtype=np.float32)
        # without masks, the area that decides whether an object is small is the area of its box
        if not self.with_masks:
            areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        crowds = np.zeros(len(boxes), dtype=np.bool_)
        return canvas.astype(np.uint8), Objects(
            boxes, np.asarray(labels, dtype=np.int64), areas, crowds, masks if self.with_masks else None
        )

    def _background(self, random: np.random.Generator) -> NDArray[np.float64]:
        """Coarse colour patches with fine noise, in the middle of the range: ink is darker or lighter."""
        coarse = random.uniform(70, 185, size=(5, 5, 3)).astype(np.uint8)
        patches = Image.fromarray(coarse).resize((self.size, self.size), Image.Resampling.BICUBIC)
        noise = random.normal(0, 10, size=(self.size, self.size, 1))
        return np.clip(np.asarray(patches) + noise, 0, 255)

    def _resized(self, digit: int, side: int) -> NDArray[np.uint8]:
        picture = Image.fromarray(self._digits.pixels[digit])
        return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))

    def _free_place(
        self, random: np.random.Generator, shape: tuple[int, ...], taken: list[tuple[int, int, int, int]]
    ) -> tuple[int, int] | None:
        height, width = shape
        for _ in range(_TRIES):
            top, left = (int(random.integers(0, self.size - length + 1)) for length in (height, width))
            if all(
                left >= right or top >= bottom or left + width <= x or top + height <= y
                for x, y, right, bottom in taken
            ):
                return top, left
        return None

    def _paste(
        self, random: np.random.Generator, canvas: NDArray[np.float64], ink: NDArray[np.uint8], top: int, left: int
    ) -> NDArray[np.uint8]:
        """Draws the ink, and returns its mask on the whole canvas."""
        colour = random.uniform(0, 40, size=3) if random.random() < 0.5 else random.uniform(215, 255, size=3)
        part = np.s_[top : top + ink.shape[0], left : left + ink.shape[1]]
        share = ink[..., None] / 255
        canvas[part] = canvas[part] * (1 - share) + colour * share
        mask = np.zeros(canvas.shape[:2], dtype=np.uint8)
        mask[part] = ink >= _INK
        return mask
