"""Logits of whole images from a network for one input size: images are padded to it, larger ones read in windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# largest distance of two windows, as a share of their size
_STEP = 2 / 3


@torch.inference_mode()
def segment(network: Callable[[Tensor], Tensor], images: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
    """Logits of images of any size. Windows overlap by at least a third, and their logits are averaged.

    Args:
        network: maps (B, C, H, W) of the input size to logits (B, K, H, W).
        images: images (C, H, W), normalised, so that the mean is 0.
        size: height and width of the input.

    Returns:
        Logits (K, H, W) of each image, in float32.
    """
    height, width = size
    windows = [
        (i, top, left)
        for i, image in enumerate(images)
        for top, left in itertools.product(_starts(image.shape[1], height), _starts(image.shape[2], width))
    ]
    sums: list[Tensor] = []
    counts = [torch.zeros(image.shape[1:], device=image.device) for image in images]
    # no more at a time than images were given
    for begin in range(0, len(windows), len(images)):
        chosen = windows[begin : begin + len(images)]
        cut = [images[i][:, top : top + height, left : left + width] for i, top, left in chosen]
        padded = [F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in cut]
        logits = network(torch.stack(padded)).float()
        sums = sums or [logits.new_zeros(logits.shape[1], *image.shape[1:]) for image in images]
        for (i, top, left), part, one in zip(chosen, cut, logits, strict=True):
            rows, columns = part.shape[1:]
            sums[i][:, top : top + rows, left : left + columns] += one[:, :rows, :columns]
            counts[i][top : top + rows, left : left + columns] += 1
    return [total / count for total, count in zip(sums, counts, strict=True)]


def resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (K, H, W) in another height and width."""
    if tuple(logits.shape[1:]) == tuple(size):
        return logits
    return F.interpolate(logits[None], size=list(size), mode="bilinear", align_corners=False)[0]


def _starts(length: int, window: int) -> list[int]:
    """Where the windows of a side begin: as few as needed, evenly spaced."""
    steps = max(0, -(-(length - window) // max(1, int(window * _STEP))))
    return [round(i * (length - window) / steps) for i in range(steps + 1)] if steps else [0]
