"""Halo attention, forward: a program takes a tile of queries of one block and head, and walks the block's window.

Shape legend: B batch, H' W' map of queries, h heads, D width of queries and keys, E width of values, w window; M
queries of a tile, N keys of a chunk.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, store
from ..triton_math import LOG2_E, dot, softmax_step
from .triton_blocks import keys_of, queries_of, tile_of, units


@triton.jit
def halo_forward_kernel(
    q,
    k,
    v,
    of_rows,
    of_columns,
    out,
    logsumexp,
    area,
    scale,
    RULES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """out = softmax(q k^T * scale + relative scores) v; `scale` and the logsumexp are in powers of two."""
    image, head, block, numbers = tile_of(tl.program_id(0), area, RULES[0].queries * RULES[1].queries, TILE)
    places, exist = queries_of(block, numbers, area, RULES)
    queries = load(q, image, head, places, exist, WIDTH)
    if of_rows is not None:
        row_scores = load(of_rows, image, head, places, exist, ROWS)
    if of_columns is not None:
        column_scores = load(of_columns, image, head, places, exist, COLUMNS)

    maximum = tl.full([TILE], -1e30, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    sums = tl.zeros([TILE, VALUE_WIDTH.block], tl.float32)
    end: tl.constexpr = RULES[0].window * RULES[1].window
    for first in range(0, end, CHUNK):
        key_numbers = first + tl.arange(0, CHUNK)
        window_places, key_places, keys_exist = keys_of(block, key_numbers, area, RULES)
        keys = load(k, image, head, key_places, keys_exist, WIDTH)
        values = load(v, image, head, key_places, keys_exist, VALUE_WIDTH)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale
        if of_rows is not None:
            picked = units(window_places[0], ROWS.block, queries.dtype)
            scores += dot(row_scores, tl.trans(picked), PRECISION=PRECISION) * LOG2_E
        if of_columns is not None:
            picked = units(window_places[1], COLUMNS.block, queries.dtype)
            scores += dot(column_scores, tl.trans(picked), PRECISION=PRECISION) * LOG2_E
        scores = tl.where((key_numbers < end)[None, :], scores, -float("inf"))
        weights, rescale, maximum, total = softmax_step(scores, maximum, total)
        sums = dot(weights.to(values.dtype), values, sums * rescale[:, None], PRECISION=PRECISION)
    store(out, sums / total[:, None], image, head, places, exist, VALUE_WIDTH)
    tl.store(logsumexp + number_of(image, head, places, area), maximum + tl.log2(total), mask=exist)
