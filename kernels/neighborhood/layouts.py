"""Maps and sequences: the neighborhoods of both, and a sequence as a map of one column.

It is a column and not a row because the regions of a column of tiles overlap in memory and are never copied.

Shape legend: B batch, H W map, L length of a sequence, h heads, D width, k keys of a window.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..arguments import MAP, SEQUENCE, Layout, PerAxis, PerAxisBool, values_of
from ..tracing import is_dynamic
from .geometry import Axis

# the second axis of a sequence
_ONE_COLUMN = Axis(1, 1)


def layout_of(*tensors: Any) -> Layout:
    """Returns SEQUENCE if all tensors have its four axes, (B, L, h, .), else MAP."""
    return SEQUENCE if all(isinstance(x, Tensor) and x.ndim == 4 for x in tensors) else MAP


def to_map(x: Tensor, layout: Layout) -> Tensor:
    """Returns a map as it is, and (B, L, h, .) as (B, L, 1, h, .)."""
    return x.unsqueeze(2) if layout is SEQUENCE else x


def from_map(x: Tensor, layout: Layout) -> Tensor:
    """Returns a map as it is, or (B, L, 1, h, .) as (B, L, h, .)."""
    return x.squeeze(2) if layout is SEQUENCE else x


def table_of_map(bias: Tensor | None, layout: Layout) -> Tensor | None:
    """Returns the table of a map as it is, and (h, 2k-1) as (h, 2k-1, 1)."""
    return bias.unsqueeze(2) if bias is not None and layout is SEQUENCE else bias


def axes_of(
    x: Tensor,
    layout: Layout,
    kernel_size: PerAxis,
    dilation: PerAxis,
    stride: PerAxis,
    is_causal: PerAxisBool,
    is_padded: bool = False,
) -> tuple[Axis, Axis]:
    """Returns rows and columns of the map that `to_map` makes of x.

    Args:
        x: tensor of the layout.
        layout: of x.
        kernel_size, dilation, stride, is_causal: as in `neighborhood_attention`.
        is_padded: whether a window may be larger than the map.

    Raises:
        TypeError, ValueError: as in `neighborhood_attention`.
    """
    kernels, dilations = (
        values_of(name, value, int, layout) for name, value in (("kernel_size", kernel_size), ("dilation", dilation))
    )
    strides, causal = values_of("stride", stride, int, layout), values_of("is_causal", is_causal, bool, layout)
    axes = []
    for index, name in enumerate(layout.axes):
        length, kernel, step = x.shape[index + 1], kernels[index], dilations[index]
        place = f" on axis {index} ({name})" if layout is MAP else ""
        if kernel < 1:
            raise ValueError(f"kernel_size must be at least 1, got {kernel}{place}")
        if step < 1:
            raise ValueError(f"dilation must be at least 1, got {step}{place}")
        if not 1 <= strides[index] <= kernel:
            raise ValueError(f"stride must be between 1 and kernel_size, {kernel}, got {strides[index]}{place}")
        # a dynamic size cannot be checked
        if not is_padded and not is_dynamic([length]) and kernel * step > length:
            raise ValueError(
                f"kernel_size * dilation must not exceed the {layout.name}, {length}{place}, got {kernel} * {step}: "
                f"use a smaller window, or pad the {layout.name}"
            )
        axes.append(Axis(length, kernel, step, strides[index], causal[index]))
    rows, columns = axes if layout is MAP else (axes[0], _ONE_COLUMN)
    return rows, columns


def kernels_of(axes: tuple[Axis, Axis], layout: Layout) -> tuple[int, ...]:
    """Returns the kernel of each axis of the layout."""
    return tuple(axis.kernel for axis in axes[: len(layout.axes)])
