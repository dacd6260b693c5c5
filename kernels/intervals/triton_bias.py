"""Gradient of a relative position table: sums of score gradients over all pairs of tokens at the same offset.

A program first sums the score gradients of several images, whose offsets are the same, and then sums pairs of equal
offset with two products with 0/1 matrices. Every program has its own table, so there are no atomic additions, and the
results are the same in every run.

Shape legend: M queries of a tile, N keys of a chunk; kh kw kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_math import dot


@triton.jit
def _equal_offsets(QUERIES: tl.constexpr, KEYS: tl.constexpr, OFFSETS: tl.constexpr):
    """Returns a matrix (QUERIES * KEYS, OFFSETS) that is 1 where key - query + QUERIES - 1 is the offset, else 0."""
    pairs = tl.arange(0, QUERIES * KEYS)
    offsets = pairs % KEYS - pairs // KEYS + QUERIES - 1
    return (offsets[:, None] == tl.arange(0, OFFSETS)[None, :]).to(tl.float32).to(tl.bfloat16)


@triton.jit
def _sum_over(x, ones):
    """Computes x @ ones for float32 (M, K) and 0/1 (K, N) with exact products: x is the sum of three bfloat16."""
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    return dot(high, ones, dot(middle, ones, dot(low, ones)))


@triton.jit
def add_offsets(
    table,
    pairs,
    query_start,
    key_start,
    AXES: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
    ROW_OFFSETS: tl.constexpr,
    COLUMN_OFFSETS: tl.constexpr,
):
    """Adds pairs (M, N) of a tile and a chunk to the program's table (2kh-1, 2kw-1), each at its offset."""
    pairs = tl.reshape(pairs, (TILE_ROWS, TILE_COLUMNS, CHUNK_ROWS, CHUNK_COLUMNS))
    pairs = tl.permute(pairs, (0, 2, 1, 3))
    pairs = tl.reshape(pairs, (TILE_ROWS * CHUNK_ROWS, TILE_COLUMNS * CHUNK_COLUMNS))
    of_columns = _equal_offsets(TILE_COLUMNS, CHUNK_COLUMNS, COLUMN_OFFSETS)
    of_rows = _equal_offsets(TILE_ROWS, CHUNK_ROWS, ROW_OFFSETS)
    sums = _sum_over(pairs, of_columns)
    if TILE_ROWS * CHUNK_ROWS < 16:
        # too few for a matrix unit
        sums = tl.sum(of_rows.to(tl.float32)[:, :, None] * sums[:, None, :], 0)
    else:
        sums = tl.trans(_sum_over(tl.trans(sums), of_rows))
    rows = key_start[0] - query_start[0] + AXES[0].kernel - TILE_ROWS + tl.arange(0, ROW_OFFSETS)
    columns = key_start[1] - query_start[1] + AXES[1].kernel - TILE_COLUMNS + tl.arange(0, COLUMN_OFFSETS)
    exist = ((rows >= 0) & (rows < 2 * AXES[0].kernel - 1))[:, None]
    exist = exist & ((columns >= 0) & (columns < 2 * AXES[1].kernel - 1))[None, :]
    positions = table + rows[:, None] * (2 * AXES[1].kernel - 1) + columns[None, :]
    tl.store(positions, tl.load(positions, mask=exist, other=0.0) + sums, mask=exist)
    # other threads may add the sums of the next chunk
    tl.debug_barrier()
