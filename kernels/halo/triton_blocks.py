"""The pieces that the kernels of halo attention are made of: which program does what, and where tokens lie.

A program takes a tile of tokens of one block and walks the window of the block, or the blocks whose windows show its
keys. Tokens of blocks and windows are numbered row-major. Whatever exists once for rows and once for columns is a pair.

Shape legend: M tokens of a program's tile, N tokens of a chunk it walks over.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class AxisGeometry(NamedTuple):
    """The geometry of an axis, at compile time; see `HaloAxis`.

    Attributes:
        block: positions of a block.
        halo: positions seen before and after it.
        queries: queries of a block.
        window: keys that a block sees.
        positions: the power of two that holds a window, at least 16.
        reach: blocks on each side whose windows show keys of a block.
    """

    block: int
    halo: int
    queries: int
    window: int
    positions: int
    reach: int


class MapShape(NamedTuple):
    """The maps that a kernel works on.

    Attributes:
        lengths: rows and columns of the map of queries.
        key_lengths: of the map of keys.
        counts: blocks down and across.
        heads: number of heads.
    """

    lengths: tuple[int, int]
    key_lengths: tuple[int, int]
    counts: tuple[int, int]
    heads: int


@triton.jit
def tile_of(program, map_shape, TOKENS: tl.constexpr, TILE: tl.constexpr):
    """A program's image, head, block, and the numbers (M,) of its tile's tokens among TOKENS of a block.

    Heads come first, for their channels lie side by side.
    """
    head = program % map_shape.heads
    program = program // map_shape.heads
    tiles: tl.constexpr = (TOKENS + TILE - 1) // TILE
    tokens = program % tiles * TILE + tl.arange(0, TILE)
    program = program // tiles
    column = program % map_shape.counts[1]
    program = program // map_shape.counts[1]
    return program // map_shape.counts[0], head, (program % map_shape.counts[0], column), tokens


@triton.jit
def queries_of(block, tokens, map_shape, AXES: tl.constexpr):
    """Places on the map of queries of a block's tokens, a pair, and whether they are there."""
    rows = block[0] * AXES[0].queries + tokens // AXES[1].queries
    columns = block[1] * AXES[1].queries + tokens % AXES[1].queries
    exist = tokens < AXES[0].queries * AXES[1].queries
    exist = exist & (rows < map_shape.lengths[0]) & (columns < map_shape.lengths[1])
    return (rows, columns), exist


@triton.jit
def keys_of(block, numbers, map_shape, AXES: tl.constexpr):
    """Of the numbers (N,) of a window: where in it, where on the map, and whether they are on the map.

    What is in the window but not on the map is zero, and counts; what is beyond the window does not.
    """
    window_rows = numbers // AXES[1].window
    window_columns = numbers % AXES[1].window
    rows = block[0] * AXES[0].block - AXES[0].halo + window_rows
    columns = block[1] * AXES[1].block - AXES[1].halo + window_columns
    exist = (rows >= 0) & (rows < map_shape.key_lengths[0]) & (columns >= 0) & (columns < map_shape.key_lengths[1])
    exist &= numbers < AXES[0].window * AXES[1].window
    return (window_rows, window_columns), (rows, columns), exist


@triton.jit
def neighbors_of(block, count, AXIS: tl.constexpr):
    """First and end of the blocks of an axis whose windows may show keys of a block."""
    return tl.maximum(block - AXIS.reach, 0), tl.minimum(block + AXIS.reach + 1, count)


@triton.jit
def one_hot(positions, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    """(N, COUNT) unit vectors of positions; a product with them picks or sums what belongs to a position."""
    # by way of float32: the interpreter makes bfloat16 of nothing else
    return (positions[:, None] == tl.arange(0, COUNT)[None, :]).to(tl.float32).to(DTYPE)
