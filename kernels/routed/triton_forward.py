"""Forward pass of routed attention: one program computes a tile of queries of a region and head over its route.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions, t regions on a
route.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, store
from ..triton_math import dot, softmax_step
from .triton_blocks import positions_of, positions_of_chunk, tile_of


@triton.jit
def routed_forward_kernel(
    q,
    k,
    v,
    routes,
    out,
    logsumexp,
    map_shape,
    steps,
    scale,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Computes out = softmax(q k^T * scale) v; `scale` and the logsumexp are in base 2."""
    image, head, region, query_tokens = tile_of(tl.program_id(0), map_shape, TILE)
    tokens_of_region = map_shape.region_rows * map_shape.region_columns
    exist = query_tokens < tokens_of_region
    positions = positions_of(region, query_tokens, map_shape)
    queries = load(q, image, head, positions, exist, WIDTH)

    maximum = tl.full([TILE], -1e30, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    sums = tl.zeros([TILE, VALUE_WIDTH.block], tl.float32)
    route = routes + (image.to(tl.int64) * map_shape.regions_down * map_shape.regions_across + region) * steps
    end = steps * tokens_of_region
    for first in range(0, end, CHUNK):
        key_positions, keys_exist = positions_of_chunk(route, first, end, map_shape, CHUNK)
        keys = load(k, image, head, key_positions, keys_exist, WIDTH)
        values = load(v, image, head, key_positions, keys_exist, VALUE_WIDTH)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale
        scores = tl.where(keys_exist[None, :], scores, -float("inf"))
        weights, rescale, maximum, total = softmax_step(scores, maximum, total)
        sums = dot(weights.to(values.dtype), values, sums * rescale[:, None], PRECISION=PRECISION)
    store(out, sums / total[:, None], image, head, positions, exist, VALUE_WIDTH)
    tl.store(logsumexp + number_of(image, head, positions, map_shape), maximum + tl.log2(total), mask=exist)
