"""Backward pass over intervals: weights are recomputed from the logsumexp, once for queries and once for keys.

One program computes a tile of queries over its rectangle of keys, for dq. One program computes a tile of keys over the
rectangle of queries that attend to them, for dk and dv. There are no atomic additions, so the results are the same in
every run.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; M tokens of a tile, N of a
chunk.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, store
from ..triton_math import LOG2_E, dot
from .triton_blocks import (
    as_column,
    as_row,
    attends,
    biased,
    chunks_of,
    keys_of,
    positions_of,
    queries_of,
    ranks_of,
    ranks_of_chunk,
    tile_of,
)


@triton.jit
def interval_dq_kernel(
    q,
    k,
    v,
    bias,
    out,
    dout,
    logsumexp,
    delta,
    dq,
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
    """Computes dq, and delta = sum(out * dout), which the other kernels read."""
    image, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    query_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(query_ranks, segments, map_shape, AXES)
    queries = load(q, image, head, positions, exist, WIDTH)
    gradients = load(dout, image, head, positions, exist, VALUE_WIDTH)
    outputs = load(out, image, head, positions, exist, VALUE_WIDTH)
    number = number_of(image, head, positions, map_shape)
    normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
    deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
    tl.store(delta + number, deltas, mask=exist)
    query_ranks = as_column(query_ranks)

    sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, WIDTH.block], tl.float32)
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
        weights = tl.exp2(tl.where(counts, scores, -float("inf")) - normalizer[:, None])
        products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[:, None])
        sums = dot(score_gradients.to(keys.dtype), keys, sums, PRECISION=PRECISION)
    store(dq, sums * (scale / LOG2_E), image, head, positions, exist, WIDTH)


@triton.jit
def interval_dkdv_kernel(
    q,
    k,
    v,
    bias,
    dout,
    logsumexp,
    delta,
    dk,
    dv,
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
    """Computes dk and dv."""
    image, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    key_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(key_ranks, segments, map_shape, AXES)
    keys = load(k, image, head, positions, exist, WIDTH)
    values = load(v, image, head, positions, exist, VALUE_WIDTH)
    key_ranks = as_column(key_ranks)

    key_sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, WIDTH.block], tl.float32)
    value_sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, VALUE_WIDTH.block], tl.float32)
    first, last = queries_of(start, end, segments, map_shape, AXES)
    chunks, per_row = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    for chunk in range(chunks):
        query_ranks = ranks_of_chunk(first, chunk, per_row, CHUNK_ROWS, CHUNK_COLUMNS)
        query_positions, queries_exist = positions_of(query_ranks, segments, map_shape, AXES)
        queries = load(q, image, head, query_positions, queries_exist, WIDTH)
        gradients = load(dout, image, head, query_positions, queries_exist, VALUE_WIDTH)
        number = number_of(image, head, query_positions, map_shape)
        normalizer = tl.load(logsumexp + number, mask=queries_exist, other=float("inf"))
        deltas = tl.load(delta + number, mask=queries_exist, other=0.0)
        query_ranks = as_row(query_ranks)
        counts = attends(query_ranks, key_ranks, segments, map_shape, AXES) & queries_exist[None, :]
        scores = dot(keys, tl.trans(queries), PRECISION=PRECISION) * scale
        scores = biased(scores, bias, head, query_ranks, key_ranks, counts, AXES)
        weights = tl.exp2(tl.where(counts, scores, -float("inf")) - normalizer[None, :])
        value_sums = dot(weights.to(gradients.dtype), gradients, value_sums, PRECISION=PRECISION)
        products = dot(values, tl.trans(gradients), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[None, :])
        key_sums = dot(score_gradients.to(queries.dtype), queries, key_sums, PRECISION=PRECISION)
    store(dk, key_sums * (scale / LOG2_E), image, head, positions, exist, WIDTH)
    store(dv, value_sums, image, head, positions, exist, VALUE_WIDTH)
