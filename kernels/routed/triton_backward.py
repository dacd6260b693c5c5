"""Backward pass of routed attention: weights are recomputed from the logsumexp, once for queries and once for keys.

One program computes a tile of queries over the route of their region, for dq. One program computes a tile of keys over
the regions that are routed to their region, for dk and dv. There are no atomic additions, so the results are the same
in every run.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions, t regions on a
route.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, load_for_columns, number_of, store
from ..triton_math import LOG2_E, dot
from .triton_blocks import positions_of, positions_of_chunk, tile_of


@triton.jit
def routed_dq_kernel(
    q,
    k,
    v,
    routes,
    out,
    dout,
    logsumexp,
    delta,
    dq,
    map_shape,
    steps,
    scale,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Computes dq, and delta = sum(out * dout), which the other kernel reads."""
    image, head, region, query_tokens = tile_of(tl.program_id(0), map_shape, TILE)
    tokens_of_region = map_shape.region_rows * map_shape.region_columns
    exist = query_tokens < tokens_of_region
    positions = positions_of(region, query_tokens, map_shape)
    queries = load(q, image, head, positions, exist, WIDTH)
    gradients = load(dout, image, head, positions, exist, VALUE_WIDTH)
    outputs = load(out, image, head, positions, exist, VALUE_WIDTH)
    number = number_of(image, head, positions, map_shape)
    # the weights of a token that does not exist are 0
    normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
    deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
    tl.store(delta + number, deltas, mask=exist)

    sums = tl.zeros([TILE, WIDTH.block], tl.float32)
    route = routes + (image.to(tl.int64) * map_shape.regions_down * map_shape.regions_across + region) * steps
    end = steps * tokens_of_region
    for first in range(0, end, CHUNK):
        key_positions, keys_exist = positions_of_chunk(route, first, end, map_shape, CHUNK)
        # a key that does not exist is zero, and so is its contribution
        keys = load(k, image, head, key_positions, keys_exist, WIDTH)
        values = load(v, image, head, key_positions, keys_exist, VALUE_WIDTH)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale
        weights = tl.exp2(tl.where(keys_exist[None, :], scores, -float("inf")) - normalizer[:, None])
        products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[:, None])
        sums = dot(score_gradients.to(keys.dtype), keys, sums, PRECISION=PRECISION)
    store(dq, sums * (scale / LOG2_E), image, head, positions, exist, WIDTH)


@triton.jit
def routed_dkdv_kernel(
    q,
    k,
    v,
    sources,
    starts,
    dout,
    logsumexp,
    delta,
    dk,
    dv,
    map_shape,
    steps,
    scale,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Computes dk and dv."""
    image, head, region, key_tokens = tile_of(tl.program_id(0), map_shape, TILE)
    tokens_of_region = map_shape.region_rows * map_shape.region_columns
    exist = key_tokens < tokens_of_region
    positions = positions_of(region, key_tokens, map_shape)
    keys = load(k, image, head, positions, exist, WIDTH)
    values = load(v, image, head, positions, exist, VALUE_WIDTH)

    key_sums = tl.zeros([TILE, WIDTH.block], tl.float32)
    value_sums = tl.zeros([TILE, VALUE_WIDTH.block], tl.float32)
    regions = map_shape.regions_down * map_shape.regions_across
    bounds = starts + image.to(tl.int64) * (regions + 1) + region
    start = tl.load(bounds)
    end = (tl.load(bounds + 1) - start) * tokens_of_region
    source = sources + image.to(tl.int64) * regions * steps + start
    for first in range(0, end, CHUNK):
        query_positions, queries_exist = positions_of_chunk(source, first, end, map_shape, CHUNK)
        queries = load(q, image, head, query_positions, queries_exist, WIDTH)
        gradients = load(dout, image, head, query_positions, queries_exist, VALUE_WIDTH)
        number = number_of(image, head, query_positions, map_shape)
        normalizer = load_for_columns(logsumexp, number, queries_exist, float("inf"))
        deltas = load_for_columns(delta, number, queries_exist, 0.0)
        scores = dot(keys, tl.trans(queries), PRECISION=PRECISION) * scale
        weights = tl.exp2(scores - normalizer[None, :])
        value_sums = dot(weights.to(gradients.dtype), gradients, value_sums, PRECISION=PRECISION)
        products = dot(values, tl.trans(gradients), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[None, :])
        key_sums = dot(score_gradients.to(queries.dtype), queries, key_sums, PRECISION=PRECISION)
    store(dk, key_sums * (scale / LOG2_E), image, head, positions, exist, WIDTH)
    store(dv, value_sums, image, head, positions, exist, VALUE_WIDTH)
