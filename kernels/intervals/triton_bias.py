"""Gradient of a relative position table: sums of score gradients over all pairs of tokens at the same offset.

One program computes a tile of queries of one head in several images. For each chunk of keys it first sums the score
gradients of the images, whose offsets are the same, and then sums pairs of equal offset with two products with 0/1
matrices. Every program has its own table, so there are no atomic additions, and the results are the same in every run.

Shape legend: B batch, H W map, h heads; M queries of a tile, N keys of a chunk; kh kw kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of
from ..triton_math import dot
from .triton_blocks import (
    as_column,
    as_row,
    attends,
    biased,
    chunks_of,
    keys_of,
    positions_of,
    ranks_of,
    ranks_of_chunk,
    tile_of,
)


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
    sums = tl.trans(_sum_over(tl.trans(_sum_over(pairs, of_columns)), of_rows))
    rows = key_start[0] - query_start[0] + AXES[0].kernel - TILE_ROWS + tl.arange(0, ROW_OFFSETS)
    columns = key_start[1] - query_start[1] + AXES[1].kernel - TILE_COLUMNS + tl.arange(0, COLUMN_OFFSETS)
    exist = ((rows >= 0) & (rows < 2 * AXES[0].kernel - 1))[:, None]
    exist = exist & ((columns >= 0) & (columns < 2 * AXES[1].kernel - 1))[None, :]
    positions = table + rows[:, None] * (2 * AXES[1].kernel - 1) + columns[None, :]
    tl.store(positions, tl.load(positions, mask=exist, other=0.0) + sums, mask=exist)
    # other threads may add the sums of the next chunk
    tl.debug_barrier()


@triton.jit
def interval_dbias_kernel(
    q,
    k,
    v,
    bias,
    dout,
    logsumexp,
    delta,
    tables,
    map_shape,
    scale,
    images,
    images_each,
    AXES: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
    ROW_OFFSETS: tl.constexpr,
    COLUMN_OFFSETS: tl.constexpr,
):
    """Adds the bias gradient to `tables` (programs / h, h, 2kh-1, 2kw-1), which must be zero."""
    part, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    table = tables + tl.program_id(0).to(tl.int64) * ((2 * AXES[0].kernel - 1) * (2 * AXES[1].kernel - 1))
    query_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(query_ranks, segments, map_shape, AXES)
    query_ranks = as_column(query_ranks)
    first, last = keys_of(start, end, segments, map_shape, AXES)
    chunks, per_row = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    for chunk in range(chunks):
        key_ranks = ranks_of_chunk(first, chunk, per_row, CHUNK_ROWS, CHUNK_COLUMNS)
        key_positions, keys_exist = positions_of(key_ranks, segments, map_shape, AXES)
        key_ranks = as_row(key_ranks)
        counts = attends(query_ranks, key_ranks, segments, map_shape, AXES) & exist[:, None]
        bias_scores = tl.zeros([TILE_ROWS * TILE_COLUMNS, CHUNK_ROWS * CHUNK_COLUMNS], tl.float32)
        bias_scores = biased(bias_scores, bias, head, query_ranks, key_ranks, counts, AXES)
        bias_scores = tl.where(counts, bias_scores, -float("inf"))
        sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, CHUNK_ROWS * CHUNK_COLUMNS], tl.float32)
        for step in range(tl.minimum(images_each, images - part * images_each)):
            image = part * images_each + step
            queries = load(q, image, head, positions, exist, WIDTH)
            gradients = load(dout, image, head, positions, exist, VALUE_WIDTH)
            keys = load(k, image, head, key_positions, keys_exist, WIDTH)
            values = load(v, image, head, key_positions, keys_exist, VALUE_WIDTH)
            number = number_of(image, head, positions, map_shape)
            normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
            deltas = tl.load(delta + number, mask=exist, other=0.0)
            scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale + bias_scores
            products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
            sums += tl.exp2(scores - normalizer[:, None]) * (products - deltas[:, None])
        key_start = first[0] + chunk // per_row * CHUNK_ROWS, first[1] + chunk % per_row * CHUNK_COLUMNS
        add_offsets(
            table,
            sums,
            start,
            key_start,
            AXES,
            TILE_ROWS,
            TILE_COLUMNS,
            CHUNK_ROWS,
            CHUNK_COLUMNS,
            ROW_OFFSETS,
            COLUMN_OFFSETS,
        )
