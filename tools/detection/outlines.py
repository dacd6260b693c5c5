"""Outlines of objects in the COCO format, polygons or run lengths: validated, and converted to masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# three corners of x and y
_FEWEST_NUMBERS = 6


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
            if not isinstance(polygon, list) or len(polygon) < _FEWEST_NUMBERS or len(polygon) % 2:
                raise ValueError(f"{where}: a polygon must be a list of x, y of at least three corners, got {polygon}")
            if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in polygon):
                raise ValueError(f"{where}: a polygon must be a list of finite numbers, got {polygon}")
        return
    if not isinstance(outline, dict) or not isinstance(outline.get("counts"), (list, str)):
        raise ValueError(f"{where}: segmentation must be polygons or a dict of size and counts, got {outline!r}")
    counts = outline["counts"]
    if outline.get("size") != [size[1], size[0]]:
        raise ValueError(
            f"{where}: run lengths must have the size of the image, [{size[1]}, {size[0]}], got {outline.get('size')}"
        )
    if isinstance(counts, list) and not (
        all(isinstance(x, int) and x >= 0 for x in counts) and sum(counts) == size[0] * size[1]
    ):
        raise ValueError(f"{where}: run lengths must be counts that add up to {size[0]} x {size[1]} pixels")


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
