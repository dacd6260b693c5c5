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
    """

    block: int
    halo: int
    queries: int
    window: int
    positions: int


class MapShape(NamedTuple):
    """The maps of queries and keys of a call; flat, because Triton 3.6 loses sizes of 1 in a tuple within a tuple.

    Attributes:
        rows: rows of the map of queries.
        columns: columns of the map of queries.
        key_rows: rows of the map of keys.
        key_columns: columns of the map of keys.
        blocks_down: number of blocks down.
        blocks_across: number of blocks across.
        heads: number of heads.
    """

    rows: int
    columns: int
    key_rows: int
    key_columns: int
    blocks_down: int
    blocks_across: int
    heads: int


@triton.jit
def tile_of(program, heads, down, across, TOKENS: tl.constexpr, TILE: tl.constexpr):
    """Returns a program's image, head and block, and the indices (M,) of its tile among the TOKENS of a block.

    There are `down` times `across` blocks. Heads vary fastest, because their channels are adjacent in memory.
    """
    head = program % heads
    program = program // heads
    tiles: tl.constexpr = (TOKENS + TILE - 1) // TILE
    tokens = program % tiles * TILE + tl.arange(0, TILE)
    program = program // tiles
    column = program % across
    program = program // across
    return program // down, head, (program % down, column), tokens


@triton.jit
def queries_of(block, tokens, map_shape, AXES: tl.constexpr):
    """Returns the positions of a block's queries on the map, a pair, and whether the queries exist."""
    rows = block[0] * AXES[0].queries + tokens // AXES[1].queries
    columns = block[1] * AXES[1].queries + tokens % AXES[1].queries
    exist = tokens < AXES[0].queries * AXES[1].queries
    exist = exist & (rows < map_shape.rows) & (columns < map_shape.columns)
    return (rows, columns), exist


@triton.jit
def query_tile_of(program, map_shape, AXES: tl.constexpr, TILE: tl.constexpr):
    """Returns a program's image, head and block, and the positions (M,) of its queries and whether these exist."""
    queries: tl.constexpr = AXES[0].queries * AXES[1].queries
    image, head, block, tokens = tile_of(
        program, map_shape.heads, map_shape.blocks_down, map_shape.blocks_across, queries, TILE
    )
    positions, exist = queries_of(block, tokens, map_shape, AXES)
    return image, head, block, positions, exist


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
    exist = (rows >= 0) & (rows < map_shape.key_rows) & (columns >= 0) & (columns < map_shape.key_columns)
    exist &= numbers < AXES[0].window * AXES[1].window
    return (window_rows, window_columns), (rows, columns), exist


@triton.jit
def key_tiles_of(length, AXIS: tl.constexpr, SHIFT: tl.constexpr):
    """Returns the number of tiles of keys of an axis, each as large as a block, and SHIFT positions before one."""
    return tl.cdiv(length + SHIFT, AXIS.block)


@triton.jit
def neighbors_of(tile, count, AXIS: tl.constexpr, SHIFT: tl.constexpr):
    """Returns the start and end of the blocks of an axis whose windows contain keys of a tile."""
    start = tile * AXIS.block - SHIFT
    first = tl.maximum(start - AXIS.halo, 0) // AXIS.block
    return first, tl.minimum((start + AXIS.block - 1 + AXIS.halo) // AXIS.block + 1, count)


@triton.jit
def one_hot(positions, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    """Returns one-hot vectors (N, COUNT) of positions; a product with them selects or sums entries by position."""
    # via float32: the interpreter converts only float32 to bfloat16
    return (positions[:, None] == tl.arange(0, COUNT)[None, :]).to(tl.float32).to(DTYPE)
