"""Images with a mask each: from folders, from tables, and from sources of objects."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..data.readers import ordered
from ..data.samples import Location, Pictures
from ..detection.outlines import draw_masks
from ..images import UnreadableImageError, check_pixels, open_regular

# label of the pixels that are neither learned nor judged; torch's own default
IGNORED = -100
# largest number of classes, those of a mask of 16 bits
LARGEST_COUNT = 2**16

# modes of Pillow whose values are indices of classes
_INDEXED = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")


class Source(Pictures, Protocol):
    """Images with a mask each, by index."""

    def mask(self, index: int) -> NDArray[np.int64]:
        """The label of each pixel (H, W), IGNORED for none."""


@dataclass(frozen=True)
class Coding:
    """Which value of a mask is which class.

    Attributes:
        first_label: value of the first class, the next class has the next value; smaller values are ignored. ADE20K
            has 1.
        ignore_index: value of the pixels that are neither learned nor judged; None for none.
        values: the value of each class, if they are not consecutive; all other values are ignored.

    Raises:
        ValueError: a value is none of a mask, or the values contradict each other.
    """

    first_label: int = 0
    ignore_index: int | None = 255
    values: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.ignore_index is not None and type(self.ignore_index) is not int:
            raise ValueError(
                f"data.ignore_index must be one value of the masks, an integer, or None, got {self.ignore_index!r}; "
                "data.values=[...] lists the values of the classes and ignores all others"
            )
        if type(self.first_label) is not int:
            raise ValueError(f"data.first_label must be an integer, got {self.first_label!r}")
        if self.values is None:
            return
        if self.first_label:
            raise ValueError("data.values lists the value of each class: omit data.first_label")
        allowed = isinstance(self.values, Sequence) and all(
            type(value) is int and 0 <= value < LARGEST_COUNT for value in self.values
        )
        if not allowed or not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(
                f"data.values must list the value of each class, from 0 to {LARGEST_COUNT - 1}, each once, such as "
                f"[0, 128, 255], got {self.values!r}"
            )
        # the default does not count
        if self.ignore_index in self.values and self.ignore_index != 255:
            raise ValueError(
                f"data.values lists {self.ignore_index} as the value of a class, and data.ignore_index ignores it: "
                "omit one of them"
            )

    def reason(self, ignored: Collection[int]) -> str:
        """Why some values are ignored, in words."""
        if self.values is not None:
            return "another value than those of data.values"
        said = [f"a value of {self.ignore_index} (data.ignore_index)"] if self.ignore_index in ignored else []
        said += [f"a value less than {self.first_label} (data.first_label)"] if min(ignored) < self.first_label else []
        return " or ".join(said)

    def labels_of(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The label of each pixel of a mask, IGNORED for none."""
        if self.values is None:
            labels = values - self.first_label
            labels[(values == self.ignore_index) | (labels < 0)] = IGNORED
            return labels
        table = np.full(LARGEST_COUNT + 1, IGNORED)
        table[list(self.values)] = range(len(self.values))
        found: NDArray[np.int64] = table[np.clip(values, -1, LARGEST_COUNT)]
        return found


class IndexMasks:
    """Masks in grey or palette images, whose values are classes.

    Args:
        labels: the classes and their labels.
        coding: which value is which class.

    Attributes:
        present: the labels in the training masks if all were read for the classes, with IGNORED; None if they were not.
    """

    present: set[int] | None = None

    def __init__(self, labels: Mapping[str, int], coding: Coding) -> None:
        self.classes, self.coding = ordered(labels), coding
        if coding.values is not None and len(coding.values) != len(labels):
            raise ValueError(
                f"data.values must have a value for each of the {len(labels)} classes of data.class_map, got "
                f"{len(coding.values)}"
            )

    def file(self, index: int) -> tuple[str | Path | BinaryIO, str]:
        """The mask of an image, and its name in messages."""
        raise NotImplementedError

    def values(self, index: int) -> NDArray[np.int64]:
        """Reads the values of the mask of an image (H, W).

        Raises:
            UnreadableImageError: it cannot be read.
        """
        return read_mask(*self.file(index))

    def mask(self, index: int) -> NDArray[np.int64]:
        """Reads the mask of an image (H, W).

        Raises:
            UnreadableImageError: it cannot be read, or has a value that is not a class.
        """
        mask = self.coding.labels_of(self.values(index))
        if (largest := mask.max(initial=0)) >= len(self.classes):
            name, first = self.file(index)[1], self.coding.first_label
            raise UnreadableImageError(
                f"{name} has the value {largest + first}, but there are {len(self.classes)} classes, from {first}: set "
                "data.ignore_index, data.class_map, or data.values with the value of each class"
            )
        return mask


def read_mask(file: str | Path | BinaryIO, name: str) -> NDArray[np.int64]:
    """Reads the values of a grey or palette image, (H, W).

    Args:
        file: a path, or an open binary file.
        name: its name in messages.

    Raises:
        UnreadableImageError: it is damaged, or has colours instead of indices.
    """
    try:
        opened = open_regular(file) if isinstance(file, (str, Path)) else file
        with warnings.catch_warnings(), opened, Image.open(opened, formats=_FORMATS) as image:
            # of broken EXIF data
            warnings.simplefilter("ignore")
            check_pixels(image.size)
            if image.mode not in _INDEXED:
                raise ValueError(
                    f"it is a {image.mode} image, but a mask has one value per pixel, the index of its class: convert "
                    "it, with the index of the class in place of each colour, and save it as PNG"
                )
            scale = _scale(image)
            values = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
            return values if scale == 1 else np.rint(values / scale).astype(np.int64)
    # decoders may raise any exception on damaged files
    except UnidentifiedImageError as error:
        # Pillow's message has the address of the file object
        raise UnreadableImageError(
            f"{name} cannot be read as a mask: it is not in one of the lossless formats {', '.join(_FORMATS)}: write "
            "it as PNG from where it was drawn, because other formats (JPEG) change the values"
        ) from error
    except Exception as error:
        raise UnreadableImageError(f"{name} cannot be read as a mask: {error}") from error


def _scale(image: Image.Image) -> float:
    """By what Pillow multiplies the values of a file that has neither 1, 8 nor 16 bits, to fill 8 or 16 bits."""
    decoder, _, _, options = image.tile[0]
    if decoder.startswith("ppm") and image.mode != "1":
        return float((255 if image.mode == "L" else 65535) / options[-1])
    # the layout of the values, alone or as the first of several options; GIF has numbers only
    layout = options[0] if isinstance(options, tuple) else options
    return {"L;2": 85, "L;4": 17}.get(str(layout)[:3], 1)


def labels_in(mask: NDArray[np.int64]) -> set[int]:
    """The labels of a mask, with IGNORED."""
    return set(counted(mask))


def counted(values: NDArray[np.int64]) -> dict[int, int]:
    """How often each value occurs."""
    if (lowest := values.min(initial=0)) < -LARGEST_COUNT or values.max(initial=0) > LARGEST_COUNT:
        found, counts = np.unique(values, return_counts=True)
    # much faster than sorting
    else:
        counts = np.bincount(values.ravel() - lowest)
        found = np.flatnonzero(counts)
        counts, found = counts[found], found + lowest
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


class ObjectMasks:
    """Masks of the objects of a detection source: class 0 is the background, and small objects lie on large ones.

    Args:
        objects: the source, opened with masks.
        background: learn the pixels without an object as the class "background"; otherwise they are ignored.
    """

    def __init__(self, objects: Any, background: bool = True) -> None:
        self.objects, self.background = objects, background
        self.classes = [*(["background"] if background else []), *objects.classes]
        self.remarks: str = objects.remarks
        # canvases have no files
        self.location = getattr(objects, "location", Location())

    def __len__(self) -> int:
        return len(self.objects)

    def name(self, index: int) -> str:
        """The name of an image."""
        return str(self.objects.name(index))

    def picture(self, index: int, channels: int) -> Image.Image:
        """Reads an image."""
        image: Image.Image = self.objects.picture(index, channels)
        return image

    def mask(self, index: int) -> NDArray[np.int64]:
        """The mask of an image (H, W); crowds are ignored."""
        found, (width, height) = self.objects.objects(index), self.objects.shape(index)
        labels = np.full((height, width), 0 if self.background else IGNORED, dtype=np.int64)
        drawn = draw_masks(found.outlines, width, height)
        # crowds first, then from large to small
        for row in sorted(range(len(drawn)), key=lambda i: (not found.crowds[i], -int(drawn[i].sum()))):
            labels[drawn[row] > 0] = IGNORED if found.crowds[row] else found.labels[row] + self.background
        return labels
