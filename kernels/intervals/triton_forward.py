"""Forward pass over intervals: one program computes a tile of queries of one head in several images.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; M queries, N keys at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, pointers_to, store
from ..triton_math import dot
from .triton_blocks import (
    chunks_of,
    ends_on_map,
    keys_of,
    load_chunk,
    next_chunk,
    positions_of,
    ranks_of,
    steps_between_chunks,
    tile_of,
)
from .triton_masks import mask_of_tile


@triton.jit
def interval_forward_kernel(
    q,
    k,
    v,
    masks,
    out,
    logsumexp,
    map_shape,
    magnitude,
    chunks_each,
    images,
    images_each,
    AXES: tl.constexpr,
    CLASSES: tl.constexpr,
    BIASED: tl.constexpr,
    SIGN: tl.constexpr,
    STEP: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
):
    """Computes out = softmax((SIGN * q k^T + masks) * magnitude) v; magnitude, masks and logsumexp are in base 2."""
    part, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    M: tl.constexpr = TILE_ROWS * TILE_COLUMNS
    N: tl.constexpr = CHUNK_ROWS * CHUNK_COLUMNS
    positions, exist = positions_of(ranks_of(start, TILE_ROWS, TILE_COLUMNS), segments, map_shape, AXES)
    first, last = keys_of(start, end, segments, map_shape, AXES)
    chunks, _across = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    first_mask = mask_of_tile(
        masks, head, segments, start, map_shape, chunks_each, BIASED, AXES, CLASSES, TILE_ROWS, TILE_COLUMNS, M, N
    )
    key_ranks = ranks_of(first, CHUNK_ROWS, CHUNK_COLUMNS)
    key_positions, _exist = positions_of(key_ranks, segments, map_shape, AXES)
    ends = ends_on_map(segments, map_shape, AXES)
    width = last[1] - first[1]
    key_step, key_step_down = steps_between_chunks(k, width, AXES, CHUNK_ROWS, CHUNK_COLUMNS, STEP)
    value_step, value_step_down = steps_between_chunks(v, width, AXES, CHUNK_ROWS, CHUNK_COLUMNS, STEP)
    for step in range(tl.minimum(images_each, images - part * images_each)):
        image = part * images_each + step
        queries = load(q, image, head, positions, exist, WIDTH)
        if SIGN != 1:
            queries = (queries * SIGN).to(queries.dtype)
        # finite, since the first chunks may contain none of a query's keys
        maximum = tl.full([M], -1e30, tl.float32)
        total = tl.zeros([M], tl.float32)
        sums = tl.zeros([M, VALUE_WIDTH.block], tl.float32)
        key_pointers = pointers_to(k, image, head, key_positions, WIDTH)
        value_pointers = pointers_to(v, image, head, key_positions, VALUE_WIDTH)
        mask = first_mask
        place = (segments[0] * 0, segments[1] * 0)
        for _chunk in range(chunks):
            keys = load_chunk(k, key_pointers, image, head, key_ranks, place, ends, segments, map_shape, AXES, WIDTH)
            values = load_chunk(
                v, value_pointers, image, head, key_ranks, place, ends, segments, map_shape, AXES, VALUE_WIDTH
            )
            added = tl.load(mask).to(tl.float32)
            place, is_first = next_chunk(place, width, CHUNK_ROWS, CHUNK_COLUMNS)
            key_pointers += tl.where(is_first, key_step_down, key_step)
            value_pointers += tl.where(is_first, value_step_down, value_step)
            mask += M * N
            scores = dot(queries, tl.trans(keys), added, PRECISION=PRECISION)
            larger = tl.maximum(maximum, tl.max(scores, 1) * magnitude)
            rescale = tl.exp2(maximum - larger)
            weights = tl.exp2(scores * magnitude - larger[:, None])
            maximum = larger
            total = total * rescale + tl.sum(weights, 1)
            sums = dot(weights.to(values.dtype), values, sums * rescale[:, None], PRECISION=PRECISION)
        store(out, sums * (1.0 / total)[:, None], image, head, positions, exist, VALUE_WIDTH)
        tl.store(logsumexp + number_of(image, head, positions, map_shape), maximum + tl.log2(total), mask=exist)
