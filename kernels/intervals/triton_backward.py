"""Backward pass over intervals: weights are recomputed from the logsumexp, once for queries and once for keys.

One program computes a tile of queries over its rectangle of keys, for dq and the sums of score gradients over images.
One program computes a tile of keys over the rectangle of queries that attend to them, for dk and dv. A program computes
its tile in several images. There are no atomic additions, so the results are the same in every run.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; M queries, N keys; kh kw
kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, pointers_to, store
from ..triton_math import LOG2_E, dot
from .triton_bias import add_offsets
from .triton_blocks import (
    chunks_of,
    ends_on_map,
    keys_of,
    load_chunk,
    next_chunk,
    positions_of,
    queries_of,
    ranks_of,
    steps_between_chunks,
    tile_of,
)
from .triton_masks import mask_of_tile


@triton.jit
def interval_dq_kernel(
    q,
    k,
    v,
    masks,
    out,
    dout,
    logsumexp,
    delta,
    dq,
    score_sums,
    tables,
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
    ROW_OFFSETS: tl.constexpr,
    COLUMN_OFFSETS: tl.constexpr,
):
    """Computes dq, delta = sum(out * dout) for the other kernel, and the gradient of a bias.

    With `score_sums`, a float32 buffer (programs, chunks_each, M, N), the score gradients of the images are summed, and
    added to the program's table in `tables` (programs / h, h, 2kh-1, 2kw-1), which must be zero.
    """
    part, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    M: tl.constexpr = TILE_ROWS * TILE_COLUMNS
    N: tl.constexpr = CHUNK_ROWS * CHUNK_COLUMNS
    positions, exist = positions_of(ranks_of(start, TILE_ROWS, TILE_COLUMNS), segments, map_shape, AXES)
    first, last = keys_of(start, end, segments, map_shape, AXES)
    chunks, across = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    first_mask = mask_of_tile(
        masks, head, segments, start, map_shape, chunks_each, BIASED, AXES, CLASSES, TILE_ROWS, TILE_COLUMNS, M, N
    )
    key_ranks = ranks_of(first, CHUNK_ROWS, CHUNK_COLUMNS)
    key_positions, _exist = positions_of(key_ranks, segments, map_shape, AXES)
    ends = ends_on_map(segments, map_shape, AXES)
    width = last[1] - first[1]
    key_step, key_step_down = steps_between_chunks(k, width, AXES, CHUNK_ROWS, CHUNK_COLUMNS, STEP)
    value_step, value_step_down = steps_between_chunks(v, width, AXES, CHUNK_ROWS, CHUNK_COLUMNS, STEP)
    if score_sums is not None:
        pairs = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
        first_sums = score_sums + tl.program_id(0).to(tl.int64) * chunks_each * (M * N) + pairs
    for step in range(tl.minimum(images_each, images - part * images_each)):
        image = part * images_each + step
        queries = load(q, image, head, positions, exist, WIDTH)
        if SIGN != 1:
            queries = (queries * SIGN).to(queries.dtype)
        gradients = load(dout, image, head, positions, exist, VALUE_WIDTH)
        outputs = load(out, image, head, positions, exist, VALUE_WIDTH)
        number = number_of(image, head, positions, map_shape)
        normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
        deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
        tl.store(delta + number, deltas, mask=exist)
        sums = tl.zeros([M, WIDTH.block], tl.float32)
        key_pointers = pointers_to(k, image, head, key_positions, WIDTH)
        value_pointers = pointers_to(v, image, head, key_positions, VALUE_WIDTH)
        mask = first_mask
        place = (segments[0] * 0, segments[1] * 0)
        for chunk in range(chunks):
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
            weights = tl.exp2(scores * magnitude - normalizer[:, None])
            products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
            score_gradients = weights * (products - deltas[:, None])
            if score_sums is not None:
                sums_of_chunk = first_sums + chunk * (M * N)
                before = tl.load(sums_of_chunk, mask=step > 0, other=0.0)
                tl.store(sums_of_chunk, before + score_gradients)
            sums = dot(score_gradients.to(keys.dtype), keys, sums, PRECISION=PRECISION)
        store(dq, sums * (magnitude * SIGN / LOG2_E), image, head, positions, exist, WIDTH)
    if score_sums is not None:
        table = tables + tl.program_id(0).to(tl.int64) * ((2 * AXES[0].kernel - 1) * (2 * AXES[1].kernel - 1))
        for chunk in range(chunks):
            key_start = first[0] + chunk // across * CHUNK_ROWS, first[1] + chunk % across * CHUNK_COLUMNS
            add_offsets(
                table,
                tl.load(first_sums + chunk * (M * N)),
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


@triton.jit
def interval_dkdv_kernel(
    q,
    k,
    v,
    masks,
    dout,
    logsumexp,
    delta,
    dk,
    dv,
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
    """Computes dk and dv. The pairs are those of a chunk of queries with a tile of keys."""
    part, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    M: tl.constexpr = CHUNK_ROWS * CHUNK_COLUMNS
    N: tl.constexpr = TILE_ROWS * TILE_COLUMNS
    positions, exist = positions_of(ranks_of(start, TILE_ROWS, TILE_COLUMNS), segments, map_shape, AXES)
    first, last = queries_of(start, end, segments, map_shape, AXES)
    chunks, _across = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    first_mask = mask_of_tile(
        masks, head, segments, start, map_shape, chunks_each, BIASED, AXES, CLASSES, TILE_ROWS, TILE_COLUMNS, M, N
    )
    query_ranks = ranks_of(first, CHUNK_ROWS, CHUNK_COLUMNS)
    query_positions, _exist = positions_of(query_ranks, segments, map_shape, AXES)
    ends = ends_on_map(segments, map_shape, AXES)
    width = last[1] - first[1]
    query_step, query_step_down = steps_between_chunks(q, width, AXES, CHUNK_ROWS, CHUNK_COLUMNS, STEP)
    gradient_step, gradient_step_down = steps_between_chunks(dout, width, AXES, CHUNK_ROWS, CHUNK_COLUMNS, STEP)
    for step in range(tl.minimum(images_each, images - part * images_each)):
        image = part * images_each + step
        keys = load(k, image, head, positions, exist, WIDTH)
        values = load(v, image, head, positions, exist, VALUE_WIDTH)
        key_sums = tl.zeros([N, WIDTH.block], tl.float32)
        value_sums = tl.zeros([N, VALUE_WIDTH.block], tl.float32)
        query_pointers = pointers_to(q, image, head, query_positions, WIDTH)
        gradient_pointers = pointers_to(dout, image, head, query_positions, VALUE_WIDTH)
        mask = first_mask
        place = (segments[0] * 0, segments[1] * 0)
        for _chunk in range(chunks):
            queries = load_chunk(
                q, query_pointers, image, head, query_ranks, place, ends, segments, map_shape, AXES, WIDTH
            )
            if SIGN != 1:
                queries = (queries * SIGN).to(queries.dtype)
            gradients = load_chunk(
                dout, gradient_pointers, image, head, query_ranks, place, ends, segments, map_shape, AXES, VALUE_WIDTH
            )
            ranks = query_ranks[0] + place[0], query_ranks[1] + place[1]
            of_queries, exist_here = positions_of(ranks, segments, map_shape, AXES)
            number = number_of(image, head, of_queries, map_shape)
            normalizer = tl.load(logsumexp + number, mask=exist_here, other=float("inf"))
            deltas = tl.load(delta + number, mask=exist_here, other=0.0)
            added = tl.load(mask).to(tl.float32)
            place, is_first = next_chunk(place, width, CHUNK_ROWS, CHUNK_COLUMNS)
            query_pointers += tl.where(is_first, query_step_down, query_step)
            gradient_pointers += tl.where(is_first, gradient_step_down, gradient_step)
            mask += M * N
            scores = dot(queries, tl.trans(keys), added, PRECISION=PRECISION)
            weights = tl.exp2(scores * magnitude - normalizer[:, None])
            value_sums = dot(tl.trans(weights.to(gradients.dtype)), gradients, value_sums, PRECISION=PRECISION)
            products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
            score_gradients = weights * (products - deltas[:, None])
            key_sums = dot(tl.trans(score_gradients.to(queries.dtype)), queries, key_sums, PRECISION=PRECISION)
        store(dk, key_sums * (magnitude / LOG2_E), image, head, positions, exist, WIDTH)
        store(dv, value_sums, image, head, positions, exist, VALUE_WIDTH)
