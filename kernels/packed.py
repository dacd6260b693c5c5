"""Packed tensors: queries, keys and values in one tensor, as one projection returns them.

Three parts of a tensor have three gradients, which torch copies into one. An operator that takes the whole tensor has
one gradient, which kernels write directly.

Shape legend: B batch, H W map, L length of a sequence, h heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

# the axis of queries, keys and values, from the end: the same on maps and on sequences
AXIS = -3


def parts_of(qkv: Tensor) -> tuple[Tensor, ...]:
    """(.., 3, h, D) -> three of (.., h, D)."""
    return qkv.unbind(AXIS)


def unpacked(given: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns q, k and v, which are given or packed in one tensor (.., 3, h, D)."""
    q, k, v = given if len(given) == 3 else parts_of(given[0])
    return q, k, v


def of_packed(execution: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns the execution for a packed tensor that an execution for q, k and v is."""

    def attend(qkv: Tensor, *arguments: Any) -> Tensor:
        return execution(*unpacked([qkv]), *arguments)

    return attend


def check_packed(qkv: Any, *shapes: str) -> None:
    """Checks that a tensor has six axes, the fourth of which has three entries, or five axes for sequences.

    Args:
        qkv: the tensor.
        shapes: shapes that are allowed, such as `(B, H, W, 3, heads, width)`.
    """
    if not isinstance(qkv, Tensor):
        raise TypeError(f"qkv must be a tensor {' or '.join(shapes)}, got {type(qkv).__name__}")
    if qkv.ndim not in [shape.count(",") + 1 for shape in shapes] or qkv.shape[AXIS] != 3:
        raise ValueError(f"qkv must be a tensor {' or '.join(shapes)}, got {tuple(qkv.shape)}")
