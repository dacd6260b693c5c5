"""Outlines of objects in the COCO format, polygons or run lengths: validated, and converted to masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .values import number, shortened

# three corners of x and y
_FEWEST_NUMBERS = 6

# largest length of a polygon: pixels, and pixels for each pixel of the width and height of the image
_LONGEST, _LONGEST_PER_SIDE = 10_000, 100


def check_outline(outline: Any, size: tuple[int, int], where: str) -> None:
    """Checks that an outline can be drawn, without drawing it.

    Args:
        outline: polygons, lists of x1, y1, x2, y2 and so on, or run lengths, a dict of `size` and `counts`.
        size: width and height of the image.
        where: location of the outline, for messages.

    Raises:
        ValueError: it cannot be drawn; the message gives the reason.
    """
    if isinstance(outline, list):
        for polygon in outline:
            _check_polygon(polygon, size, where)
        return
    if not isinstance(outline, dict) or not isinstance(outline.get("counts"), (list, str)):
        raise ValueError(
            f"{where}: segmentation must be polygons or a dict of size and counts, got {shortened(outline)}"
        )
    counts = outline["counts"]
    if outline.get("size") != [size[1], size[0]]:
        raise ValueError(
            f"{where}: run lengths must have the size of the image, [{size[1]}, {size[0]}], got "
            f"{shortened(outline.get('size'))}"
        )
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if not (all(isinstance(x, int) and x >= 0 for x in counts) and sum(counts) == size[0] * size[1]):
        raise ValueError(f"{where}: run lengths must be counts that add up to {size[0]} x {size[1]} pixels")


def _check_polygon(polygon: Any, size: tuple[int, int], where: str) -> None:
    if not isinstance(polygon, list) or len(polygon) < _FEWEST_NUMBERS or len(polygon) % 2:
        raise ValueError(
            f"{where}: a polygon must be a list of x, y of at least three corners, got {shortened(polygon)}"
        )
    if any(isinstance(x, str) or number(x) is None for x in polygon):
        raise ValueError(f"{where}: a polygon must be a list of finite numbers, got {shortened(polygon)}")
    corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    length = np.abs(np.roll(corners, -1, axis=0) - corners).max(axis=1).sum()
    # the memory for drawing a polygon is proportional to its length
    if length > (longest := max(_LONGEST, _LONGEST_PER_SIDE * sum(size))):
        raise ValueError(
            f"{where}: the sides of a polygon may be {longest} pixels long together, in an image of "
            f"{size[0]} x {size[1]} pixels, got {length:g}"
        )


def _decompressed(text: str) -> list[int]:
    """Returns the counts of compressed run lengths: pycocotools does not check that they fill the image."""
    counts: list[int] = []
    value = shift = 0
    for byte in text.encode():
        # five bits of a number per byte, the lowest first; 32 means that more follow
        value |= (byte - 48 & 31) << shift
        shift += 5
        if shift > 60:
            return []
        if byte - 48 & 32:
            continue
        if byte - 48 & 16:
            value -= 1 << shift
        # from the third on, differences to the count before the last
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts if shift == 0 else []


def draw_masks(outlines: Sequence[Any], width: int, height: int) -> NDArray[np.uint8]:
    """Converts outlines to masks of 0 and 1, (N, height, width); masks are copied.

    Raises:
        ValueError: compressed run lengths cannot be decoded to a mask.
    """
    from pycocotools import mask

    masks = np.zeros((len(outlines), height, width), dtype=np.uint8)
    for row, outline in enumerate(outlines):
        if isinstance(outline, np.ndarray):
            masks[row] = outline
            continue
        runs = outline
        if isinstance(outline, list):
            runs = mask.merge(mask.frPyObjects(outline, height, width))
        elif isinstance(outline["counts"], list):
            runs = mask.frPyObjects(outline, height, width)
        try:
            # as a list: only then is the result a plain numpy array
            masks[row] = mask.decode([runs])[:, :, 0]
        # pycocotools raises various exceptions for invalid run lengths
        except Exception as error:
            raise ValueError(f"run lengths of a segmentation cannot be decoded: {error}") from error
    return masks
