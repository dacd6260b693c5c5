"""Forward pass of halo attention: one program computes a tile of queries of one block and head over its window.

Shape legend: B batch, H' W' map of queries, h heads, D width of queries and keys, E width of values, w window; M
queries of a tile, N keys of a chunk.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, store
from ..triton_math import LOG2_E, dot, softmax_step
from .triton_blocks import keys_of, one_hot, query_tile_of


@triton.jit
def halo_forward_kernel(
    q,
    k,
    v,
    row_scores,
    column_scores,
    out,
    logsumexp,
    map_shape,
    scale,
    AXES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Computes out = softmax(q k^T * scale + relative scores) v; `scale` and the logsumexp are in base 2."""
    image, head, block, positions, exist = query_tile_of(tl.program_id(0), map_shape, AXES, TILE)
    queries = load(q, image, head, positions, exist, WIDTH)
    if row_scores is not None:
        query_row_scores = load(row_scores, image, head, positions, exist, ROWS)
    if column_scores is not None:
        query_column_scores = load(column_scores, image, head, positions, exist, COLUMNS)

    maximum = tl.full([TILE], -1e30, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    sums = tl.zeros([TILE, VALUE_WIDTH.block], tl.float32)
    end: tl.constexpr = AXES[0].window * AXES[1].window
    for first in range(0, end, CHUNK):
        key_numbers = first + tl.arange(0, CHUNK)
        window_positions, key_positions, keys_exist = keys_of(block, key_numbers, map_shape, AXES)
        keys = load(k, image, head, key_positions, keys_exist, WIDTH)
        values = load(v, image, head, key_positions, keys_exist, VALUE_WIDTH)
        relative = tl.where((key_numbers < end)[None, :], tl.zeros([TILE, CHUNK], tl.float32), -float("inf"))
        if row_scores is not None:
            picked = one_hot(window_positions[0], ROWS.block, queries.dtype)
            relative = dot(query_row_scores, tl.trans(picked), relative, PRECISION=PRECISION)
        if column_scores is not None:
            picked = one_hot(window_positions[1], COLUMNS.block, queries.dtype)
            relative = dot(query_column_scores, tl.trans(picked), relative, PRECISION=PRECISION)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale + relative * LOG2_E
        weights, rescale, maximum, total = softmax_step(scores, maximum, total)
        sums = dot(weights.to(values.dtype), values, sums * rescale[:, None], PRECISION=PRECISION)
    store(out, sums / total[:, None], image, head, positions, exist, VALUE_WIDTH)
    tl.store(logsumexp + number_of(image, head, positions, map_shape), maximum + tl.log2(total), mask=exist)
