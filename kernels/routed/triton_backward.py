"""Routed attention, backward: weights are recomputed from the logsumexp, once for each side.

A tile of queries walks its region's route for dq; a tile of keys walks the regions that are routed to its own for dk
and dv. Nothing is added atomically, so that results are the same in every run.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions, t of
them on a route.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, store
from ..triton_math import LOG2_E, dot
from .triton_blocks import places_of, places_of_chunk, tile_of


@triton.jit
def routed_query_gradient_kernel(
    q,
    k,
    v,
    routes,
    out,
    upstream,
    logsumexp,
    delta,
    q_gradient,
    area,
    steps,
    scale,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """dq, and delta = sum(out * upstream), which the other kernel reads."""
    image, head, region, query_tokens = tile_of(tl.program_id(0), area, TILE)
    tokens_of_region = area.region[0] * area.region[1]
    exist = query_tokens < tokens_of_region
    places = places_of(region, query_tokens, area)
    queries = load(q, image, head, places, exist, WIDTH)
    gradients = load(upstream, image, head, places, exist, VALUE_WIDTH)
    outputs = load(out, image, head, places, exist, VALUE_WIDTH)
    number = number_of(image, head, places, area)
    # the weights of a token that does not exist are 0
    normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
    deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
    tl.store(delta + number, deltas, mask=exist)

    sums = tl.zeros([TILE, WIDTH.block], tl.float32)
    route = routes + (image.to(tl.int64) * area.split[0] * area.split[1] + region) * steps
    end = steps * tokens_of_region
    for first in range(0, end, CHUNK):
        key_places, keys_exist = places_of_chunk(route, first, end, area, CHUNK)
        # a key that does not exist is zero, and so is what it adds
        keys = load(k, image, head, key_places, keys_exist, WIDTH)
        values = load(v, image, head, key_places, keys_exist, VALUE_WIDTH)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale
        weights = tl.exp2(tl.where(keys_exist[None, :], scores, -float("inf")) - normalizer[:, None])
        products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[:, None])
        sums = dot(score_gradients.to(keys.dtype), keys, sums, PRECISION=PRECISION)
    store(q_gradient, sums * (scale / LOG2_E), image, head, places, exist, WIDTH)


@triton.jit
def routed_key_gradient_kernel(
    q,
    k,
    v,
    sources,
    starts,
    upstream,
    logsumexp,
    delta,
    k_gradient,
    v_gradient,
    area,
    steps,
    scale,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """dk and dv."""
    image, head, region, key_tokens = tile_of(tl.program_id(0), area, TILE)
    tokens_of_region = area.region[0] * area.region[1]
    exist = key_tokens < tokens_of_region
    places = places_of(region, key_tokens, area)
    keys = load(k, image, head, places, exist, WIDTH)
    values = load(v, image, head, places, exist, VALUE_WIDTH)

    key_sums = tl.zeros([TILE, WIDTH.block], tl.float32)
    value_sums = tl.zeros([TILE, VALUE_WIDTH.block], tl.float32)
    regions = area.split[0] * area.split[1]
    bounds = starts + image.to(tl.int64) * (regions + 1) + region
    start = tl.load(bounds)
    end = (tl.load(bounds + 1) - start) * tokens_of_region
    source = sources + image.to(tl.int64) * regions * steps + start
    for first in range(0, end, CHUNK):
        query_places, queries_exist = places_of_chunk(source, first, end, area, CHUNK)
        queries = load(q, image, head, query_places, queries_exist, WIDTH)
        gradients = load(upstream, image, head, query_places, queries_exist, VALUE_WIDTH)
        number = number_of(image, head, query_places, area)
        normalizer = tl.load(logsumexp + number, mask=queries_exist, other=float("inf"))
        deltas = tl.load(delta + number, mask=queries_exist, other=0.0)
        scores = dot(keys, tl.trans(queries), PRECISION=PRECISION) * scale
        weights = tl.exp2(scores - normalizer[None, :])
        value_sums = dot(weights.to(gradients.dtype), gradients, value_sums, PRECISION=PRECISION)
        products = dot(values, tl.trans(gradients), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[None, :])
        key_sums = dot(score_gradients.to(queries.dtype), queries, key_sums, PRECISION=PRECISION)
    store(k_gradient, key_sums * (scale / LOG2_E), image, head, places, exist, WIDTH)
    store(v_gradient, value_sums, image, head, places, exist, VALUE_WIDTH)
