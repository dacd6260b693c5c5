"""Padding of a map that is smaller than its window.

Shape legend: B batch, H W map, h heads, D E width of keys and values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Axis

# the key (h, D) and the value (h, E) of padded positions
Padding = tuple[Tensor, Tensor]


def is_padded(axes: tuple[Axis, Axis]) -> bool:
    """Returns whether a map is smaller than its window."""
    return any(axis.kernel * axis.dilation > axis.length for axis in axes)


def padded(
    attend: Callable[[Tensor, Tensor, Tensor, tuple[Axis, Axis]], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: tuple[Axis, Axis],
    padding: Padding | None,
) -> Tensor:
    """Pads the map to at least the size of the window, calls `attend`, and crops its result to (B, H, W, h, E)."""
    if padding is None or not is_padded(axes):
        return attend(q, k, v, axes)
    rows, columns = (max(axis.kernel * axis.dilation - axis.length, 0) for axis in axes)
    # the results of padded queries are cropped
    q = F.pad(q, (0, 0, 0, 0, 0, columns, 0, rows))
    k, v = (_with(_with(x, token, 1, rows), token, 2, columns) for x, token in zip((k, v), padding, strict=True))
    larger_rows, larger_columns = (
        dataclasses.replace(axis, length=axis.length + missing)
        for axis, missing in zip(axes, (rows, columns), strict=True)
    )
    return attend(q, k, v, (larger_rows, larger_columns))[:, : axes[0].length, : axes[1].length]


def _with(x: Tensor, token: Tensor, dim: int, count: int) -> Tensor:
    """Repeats a token (h, .) at the end of an axis of (B, H, W, h, .)."""
    shape = list(x.shape)
    shape[dim] = count
    return torch.cat([x, token.to(x.dtype).expand(shape)], dim) if count > 0 else x
