"""Attention over intervals, backward: weights are recomputed from the logsumexp, once for each side.

A tile of queries walks its rectangle of keys for dq; a tile of keys walks the rectangle of queries that see it for dk
and dv. Nothing is added atomically, so that results are the same in every run.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; M tokens of a tile, N of a
chunk.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, store
from ..triton_math import LOG2_E, dot
from .triton_blocks import (
    across,
    attends,
    biased,
    chunks_of,
    down,
    keys_of,
    places_of,
    queries_of,
    ranks_of,
    ranks_of_chunk,
    tile_of,
)


@triton.jit
def interval_query_gradient_kernel(
    q,
    k,
    v,
    bias,
    out,
    upstream,
    logsumexp,
    delta,
    q_gradient,
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
    """dq, and delta = sum(out * upstream), which the other kernels read."""
    image, head, segments, start, end = tile_of(tl.program_id(0), area, RULES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    query_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    places, exist = places_of(query_ranks, segments, area, RULES)
    queries = load(q, image, head, places, exist, WIDTH)
    gradients = load(upstream, image, head, places, exist, VALUE_WIDTH)
    outputs = load(out, image, head, places, exist, VALUE_WIDTH)
    number = number_of(image, head, places, area)
    normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
    deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
    tl.store(delta + number, deltas, mask=exist)
    query_ranks = down(query_ranks)

    sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, WIDTH.block], tl.float32)
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
        weights = tl.exp2(tl.where(counts, scores, -float("inf")) - normalizer[:, None])
        products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[:, None])
        sums = dot(score_gradients.to(keys.dtype), keys, sums, PRECISION=PRECISION)
    store(q_gradient, sums * (scale / LOG2_E), image, head, places, exist, WIDTH)


@triton.jit
def interval_key_gradient_kernel(
    q,
    k,
    v,
    bias,
    upstream,
    logsumexp,
    delta,
    k_gradient,
    v_gradient,
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
    """dk and dv."""
    image, head, segments, start, end = tile_of(tl.program_id(0), area, RULES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    key_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    places, exist = places_of(key_ranks, segments, area, RULES)
    keys = load(k, image, head, places, exist, WIDTH)
    values = load(v, image, head, places, exist, VALUE_WIDTH)
    key_ranks = down(key_ranks)

    key_sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, WIDTH.block], tl.float32)
    value_sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, VALUE_WIDTH.block], tl.float32)
    first, last = queries_of(start, end, segments, area, RULES)
    chunks, beside = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    for chunk in range(chunks):
        query_ranks = ranks_of_chunk(first, chunk, beside, CHUNK_ROWS, CHUNK_COLUMNS)
        query_places, queries_exist = places_of(query_ranks, segments, area, RULES)
        queries = load(q, image, head, query_places, queries_exist, WIDTH)
        gradients = load(upstream, image, head, query_places, queries_exist, VALUE_WIDTH)
        number = number_of(image, head, query_places, area)
        normalizer = tl.load(logsumexp + number, mask=queries_exist, other=float("inf"))
        deltas = tl.load(delta + number, mask=queries_exist, other=0.0)
        query_ranks = across(query_ranks)
        counts = attends(query_ranks, key_ranks, segments, area, RULES) & queries_exist[None, :]
        scores = dot(keys, tl.trans(queries), PRECISION=PRECISION) * scale
        scores = biased(scores, bias, head, query_ranks, key_ranks, counts, RULES)
        weights = tl.exp2(tl.where(counts, scores, -float("inf")) - normalizer[None, :])
        value_sums = dot(weights.to(gradients.dtype), gradients, value_sums, PRECISION=PRECISION)
        products = dot(values, tl.trans(gradients), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[None, :])
        key_sums = dot(score_gradients.to(queries.dtype), queries, key_sums, PRECISION=PRECISION)
    store(k_gradient, key_sums * (scale / LOG2_E), image, head, places, exist, WIDTH)
    store(v_gradient, value_sums, image, head, places, exist, VALUE_WIDTH)
