"""Attention over intervals, forward: a program takes a tile of queries of one head and walks its rectangle of keys.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; M queries, N keys at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, store
from ..triton_math import dot, softmax_step
from .triton_blocks import (
    across,
    attends,
    biased,
    chunks_of,
    down,
    keys_of,
    places_of,
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
    area,
    scale,
    RULES: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
):
    """out = softmax(q k^T * scale + bias) v; `scale` and the logsumexp are in powers of two."""
    image, head, segments, start, end = tile_of(tl.program_id(0), area, RULES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    query_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    places, exist = places_of(query_ranks, segments, area, RULES)
    queries = load(q, image, head, places, exist, WIDTH)
    query_ranks = down(query_ranks)

    # finite, for a query's first chunks may hold none of its keys
    maximum = tl.full([TILE_ROWS * TILE_COLUMNS], -1e30, tl.float32)
    total = tl.zeros([TILE_ROWS * TILE_COLUMNS], tl.float32)
    sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, VALUE_WIDTH.block], tl.float32)
    first, last = keys_of(start, end, segments, area, RULES)
    chunks, beside = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    for chunk in range(chunks):
        key_ranks = ranks_of_chunk(first, chunk, beside, CHUNK_ROWS, CHUNK_COLUMNS)
        key_places, keys_exist = places_of(key_ranks, segments, area, RULES)
        keys = load(k, image, head, key_places, keys_exist, WIDTH)
        values = load(v, image, head, key_places, keys_exist, VALUE_WIDTH)
        key_ranks = across(key_ranks)
        counts = attends(query_ranks, key_ranks, segments, area, RULES)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale
        scores = biased(scores, bias, head, query_ranks, key_ranks, counts, RULES)
        scores = tl.where(counts, scores, -float("inf"))
        weights, rescale, maximum, total = softmax_step(scores, maximum, total)
        sums = dot(weights.to(values.dtype), values, sums * rescale[:, None], PRECISION=PRECISION)
    store(out, sums / total[:, None], image, head, places, exist, VALUE_WIDTH)
    tl.store(logsumexp + number_of(image, head, places, area), maximum + tl.log2(total), mask=exist)
