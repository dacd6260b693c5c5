"""A map that is smaller than its window, made as large as that.

Shape legend: B batch, H W map, h heads, D E width of keys and values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Axis

# what stands for a key (h, D) and a value (h, E) where the map has none
Padding = tuple[Tensor, Tensor]


def is_smaller(size: tuple[int, int], axes: tuple[Axis, Axis]) -> bool:
    """Whether a map is smaller than the window on one of its axes."""
    return any(length < axis.kernel * axis.dilation for length, axis in zip(size, axes, strict=True))


def pad(
    q: Tensor, k: Tensor, v: Tensor, axes: tuple[Axis, Axis], padding: Padding
) -> tuple[Tensor, Tensor, Tensor, tuple[Axis, Axis]]:
    """q, k, v (B, H, W, h, .) with rows and columns added at the bottom and right, and the axes of the larger map."""
    rows, columns = (max(axis.kernel * axis.dilation - axis.length, 0) for axis in axes)
    # what is asked for there is cut off again
    q = F.pad(q, (0, 0, 0, 0, 0, columns, 0, rows))
    k, v = (_with(_with(x, token, 1, rows), token, 2, columns) for x, token in zip((k, v), padding, strict=True))
    larger = tuple(
        Axis(axis.length + missing, axis.kernel, axis.dilation, axis.stride, axis.is_causal)
        for axis, missing in zip(axes, (rows, columns), strict=True)
    )
    return q, k, v, (larger[0], larger[1])


def _with(x: Tensor, token: Tensor, dim: int, count: int) -> Tensor:
    """Repeats a token (h, .) at the end of an axis of (B, H, W, h, .)."""
    shape = list(x.shape)
    shape[dim] = count
    return torch.cat([x, token.to(x.dtype).expand(shape)], dim) if count > 0 else x
