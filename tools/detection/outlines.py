"""Outlines of objects as COCO stores them, polygons or run lengths: checked, and drawn as masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# three corners
_FEWEST_NUMBERS = 6


def check_outline(outline: Any, size: tuple[int, int], where: str) -> None:
    """Whether an outline can be drawn, without drawing it.

    Args:
        outline: polygons, lists of x1, y1, x2, y2 and so on, or run lengths, a dict of `size` and `counts`.
        size: width and height of the picture.
        where: it stands.

    Raises:
        ValueError: it cannot; says why.
    """
    if isinstance(outline, list):
        for polygon in outline:
            if not isinstance(polygon, list) or len(polygon) < _FEWEST_NUMBERS or len(polygon) % 2:
                raise ValueError(f"{where}: a polygon must be a list of x, y of three corners at least, got {polygon}")
            if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in polygon):
                raise ValueError(f"{where}: a polygon must be made of numbers, got {polygon}")
        return
    if not isinstance(outline, dict) or not isinstance(outline.get("counts"), (list, str)):
        raise ValueError(f"{where}: segmentation must be polygons or a dict of size and counts, got {outline!r}")
    counts = outline["counts"]
    if outline.get("size") != [size[1], size[0]]:
        raise ValueError(
            f"{where}: run lengths must have the size of the picture, [{size[1]}, {size[0]}], got {outline.get('size')}"
        )
    if isinstance(counts, list) and not (
        all(isinstance(x, int) and x >= 0 for x in counts) and sum(counts) == size[0] * size[1]
    ):
        raise ValueError(f"{where}: run lengths must be counts that add up to {size[0]} x {size[1]} pixels")


def draw_masks(outlines: Sequence[Any], width: int, height: int) -> NDArray[np.uint8]:
    """Outlines as masks of 0 and 1, (N, height, width); what is a mask already stays as it is.

    Raises:
        ValueError: run lengths, which are compressed, do not unpack to a mask.
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
            # as a list, whose result is an array of this numpy's own
            masks[row] = mask.decode([runs])[:, :, 0]
        # what is wrong with it, pycocotools tells in many ways
        except Exception as error:
            raise ValueError(f"run lengths of a segmentation cannot be unpacked: {error}") from error
    return masks
