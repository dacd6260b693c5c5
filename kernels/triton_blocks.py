"""Building blocks of all attention kernels: loading and storing tokens.

Shape legend: B batch, H W map, h heads, M tokens, D channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Tokens(NamedTuple):
    """A tensor (B, H, W, h, D) with contiguous channels, as an argument of a kernel.

    Attributes:
        data: the tensor.
        image_stride: stride of images.
        row_stride: stride of rows.
        column_stride: stride of columns.
        head_stride: stride of heads.
    """

    data: Any
    image_stride: int
    row_stride: int
    column_stride: int
    head_stride: int

    @property
    def dtype(self) -> Any:
        """Dtype of the tensor; Triton's autotuner reads it as part of its key."""
        return self.data.dtype


class Width(NamedTuple):
    """Channels of a head, at compile time.

    Attributes:
        channels: number of channels.
        block: power of two that holds the channels.
    """

    channels: int
    block: int


@triton.jit
def pointers_to(tokens, image, head, positions, WIDTH: tl.constexpr):
    """Returns pointers to the channels of tokens, (M, block)."""
    base = tokens.data + image.to(tl.int64) * tokens.image_stride + head.to(tl.int64) * tokens.head_stride
    offsets = positions[0].to(tl.int64) * tokens.row_stride + positions[1].to(tl.int64) * tokens.column_stride
    return base + offsets[:, None] + tl.arange(0, WIDTH.block)[None, :]


@triton.jit
def _mask_of(exist, WIDTH: tl.constexpr):
    mask = exist[:, None]
    if WIDTH.block != WIDTH.channels:
        mask = mask & (tl.arange(0, WIDTH.block) < WIDTH.channels)[None, :]
    return mask


@triton.jit
def load_from(pointers, exist, WIDTH: tl.constexpr):
    """Loads the channels of tokens from `pointers_to`, (M, block); zeros where there is no token or no channel."""
    return tl.load(pointers, mask=_mask_of(exist, WIDTH), other=0.0)


@triton.jit
def load(tokens, image, head, positions, exist, WIDTH: tl.constexpr):
    """Loads the channels of tokens, (M, block); zeros where there is no token or no channel."""
    return load_from(pointers_to(tokens, image, head, positions, WIDTH), exist, WIDTH)


@triton.jit
def load_for_columns(data, number, exist, OTHER: tl.constexpr):
    """Loads the entries (N,) of the columns of scores (M, N) from `number_of`; OTHER where there is no token.

    They are loaded as a matrix (N, 4) whose other columns are zero. The compiler takes the load of a vector for cheap:
    every thread would compute the addresses of all columns that it holds a part of.
    """
    column = tl.arange(0, 4)[None, :]
    found = tl.load(data + number[:, None] + column, mask=exist[:, None] & (column == 0), other=0.0)
    return tl.where(exist, tl.sum(found, 1), OTHER)


@triton.jit
def store(tokens, values, image, head, positions, exist, WIDTH: tl.constexpr):
    """Stores values (M, block) at the addresses that `load` reads."""
    pointers = pointers_to(tokens, image, head, positions, WIDTH)
    tl.store(pointers, values.to(tokens.data.dtype.element_ty), mask=_mask_of(exist, WIDTH))


@triton.jit
def number_of(image, head, positions, map_shape):
    """Returns the index of a token's entry in a contiguous tensor (B, H, W, h)."""
    row = image.to(tl.int64) * map_shape.rows + positions[0]
    return (row * map_shape.columns + positions[1]) * map_shape.heads + head
