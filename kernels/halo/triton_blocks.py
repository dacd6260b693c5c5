"""Building blocks of the halo attention kernels: which program computes which tile, and the positions of tokens.

A program computes a tile of tokens of one block. It iterates over the window of the block, or over the blocks whose
windows contain its keys. Tokens of blocks and windows are numbered row-major. Values that exist for rows and for
columns are pairs.

Shape legend: M tokens of a program's tile, N tokens of a chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class AxisGeometry(NamedTuple):
    """The geometry of an axis, at compile time; see `HaloAxis`.

    Attributes:
        block: positions of a block.
        halo: positions on each side of a block that its queries also attend to.
        queries: queries of a block.
        window: keys in the window of a block.
        positions: power of two that holds a window, at least 16.
        reach: number of blocks on each side whose windows contain keys of a block.
    """

    block: int
    halo: int
    queries: int
    window: int
    positions: int
    reach: int


class MapShape(NamedTuple):
    """The maps of queries and keys of a call.

    Attributes:
        lengths: rows and columns of the map of queries.
        key_lengths: rows and columns of the map of keys.
        counts: number of blocks down and across.
        heads: number of heads.
    """

    lengths: tuple[int, int]
    key_lengths: tuple[int, int]
    counts: tuple[int, int]
    heads: int


@triton.jit
def tile_of(program, map_shape, TOKENS: tl.constexpr, TILE: tl.constexpr):
    """Returns a program's image, head and block, and the indices (M,) of its tile among the TOKENS of a block.

    Heads vary fastest, because their channels are adjacent in memory.
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
    """Returns the positions of a block's queries on the map, a pair, and whether the queries exist."""
    rows = block[0] * AXES[0].queries + tokens // AXES[1].queries
    columns = block[1] * AXES[1].queries + tokens % AXES[1].queries
    exist = tokens < AXES[0].queries * AXES[1].queries
    exist = exist & (rows < map_shape.lengths[0]) & (columns < map_shape.lengths[1])
    return (rows, columns), exist


@triton.jit
def keys_of(block, numbers, map_shape, AXES: tl.constexpr):
    """Returns the positions of keys in the window and on the map, and whether they are on the map.

    `numbers` are the indices (N,) of the keys in the window. A key in the window but not on the map is zero and takes
    part in the softmax; an index beyond the window does not.
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
    """Returns the start and end of the blocks of an axis whose windows may contain keys of a block."""
    return tl.maximum(block - AXIS.reach, 0), tl.minimum(block + AXIS.reach + 1, count)


@triton.jit
def one_hot(positions, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    """Returns one-hot vectors (N, COUNT) of positions; a product with them selects or sums entries by position."""
    # via float32: the interpreter converts only float32 to bfloat16
    return (positions[:, None] == tl.arange(0, COUNT)[None, :]).to(tl.float32).to(DTYPE)
