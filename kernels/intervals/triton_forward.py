"""Forward pass over intervals: one program computes a tile of queries of one head over its rectangle of keys.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; M queries, N keys at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, store
from ..triton_math import dot, softmax_step
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
def interval_forward_kernel(
    q,
    k,
    v,
    bias,
    out,
    logsumexp,
    map_shape,
    scale,
    AXES: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
):
    """Computes out = softmax(q k^T * scale + bias) v; `scale` and the logsumexp are in base 2."""
    image, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    query_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(query_ranks, segments, map_shape, AXES)
    queries = load(q, image, head, positions, exist, WIDTH)
    query_ranks = as_column(query_ranks)

    # finite, since the first chunks may contain none of a query's keys
    maximum = tl.full([TILE_ROWS * TILE_COLUMNS], -1e30, tl.float32)
    total = tl.zeros([TILE_ROWS * TILE_COLUMNS], tl.float32)
    sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, VALUE_WIDTH.block], tl.float32)
    first, last = keys_of(start, end, segments, map_shape, AXES)
    chunks, per_row = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    for chunk in range(chunks):
        key_ranks = ranks_of_chunk(first, chunk, per_row, CHUNK_ROWS, CHUNK_COLUMNS)
        key_positions, keys_exist = positions_of(key_ranks, segments, map_shape, AXES)
        keys = load(k, image, head, key_positions, keys_exist, WIDTH)
        values = load(v, image, head, key_positions, keys_exist, VALUE_WIDTH)
        key_ranks = as_row(key_ranks)
        counts = attends(query_ranks, key_ranks, segments, map_shape, AXES)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale
        scores = biased(scores, bias, head, query_ranks, key_ranks, counts, AXES)
        scores = tl.where(counts, scores, -float("inf"))
        weights, rescale, maximum, total = softmax_step(scores, maximum, total)
        sums = dot(weights.to(values.dtype), values, sums * rescale[:, None], PRECISION=PRECISION)
    store(out, sums / total[:, None], image, head, positions, exist, VALUE_WIDTH)
    tl.store(logsumexp + number_of(image, head, positions, map_shape), maximum + tl.log2(total), mask=exist)
