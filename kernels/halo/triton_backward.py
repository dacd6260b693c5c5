"""Backward pass of halo attention: weights are recomputed from the logsumexp, once for queries and once for keys.

One program computes a tile of queries over the window of their block, for dq and the gradients of the relative scores.
One program computes a tile of keys over the blocks whose windows contain them, for dk and dv. A tile is as large as a
block, and lies around the corner of four blocks if there are several: with a halo of up to half a block, only their
windows contain keys of the tile, whereas nine contain keys of a block. There are no atomic additions, so the results
are the same in every run.

Shape legend: B batch, H' W' map of queries, h heads, D width of queries and keys, E width of values, w window; M tokens
of a tile, N of a chunk.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, load_for_columns, number_of, store
from ..triton_math import LOG2_E, dot
from .triton_blocks import key_tiles_of, keys_of, neighbors_of, one_hot, queries_of, query_tile_of, tile_of


@triton.jit
def halo_dq_kernel(
    q,
    k,
    v,
    row_scores,
    column_scores,
    out,
    dout,
    logsumexp,
    delta,
    dq,
    drow_scores,
    dcolumn_scores,
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
    """Computes dq, the gradients of the relative scores, and delta = sum(out * dout), which the other kernel reads."""
    image, head, block, positions, exist = query_tile_of(tl.program_id(0), map_shape, AXES, TILE)
    queries = load(q, image, head, positions, exist, WIDTH)
    gradients = load(dout, image, head, positions, exist, VALUE_WIDTH)
    outputs = load(out, image, head, positions, exist, VALUE_WIDTH)
    number = number_of(image, head, positions, map_shape)
    # the weights of a query that does not exist are 0
    normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
    deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
    tl.store(delta + number, deltas, mask=exist)
    if row_scores is not None:
        query_row_scores = load(row_scores, image, head, positions, exist, ROWS)
        row_sums = tl.zeros([TILE, ROWS.block], tl.float32)
    if column_scores is not None:
        query_column_scores = load(column_scores, image, head, positions, exist, COLUMNS)
        column_sums = tl.zeros([TILE, COLUMNS.block], tl.float32)

    sums = tl.zeros([TILE, WIDTH.block], tl.float32)
    end: tl.constexpr = AXES[0].window * AXES[1].window
    for first in range(0, end, CHUNK):
        key_numbers = first + tl.arange(0, CHUNK)
        window_positions, key_positions, keys_exist = keys_of(block, key_numbers, map_shape, AXES)
        keys = load(k, image, head, key_positions, keys_exist, WIDTH)
        values = load(v, image, head, key_positions, keys_exist, VALUE_WIDTH)
        relative = tl.where((key_numbers < end)[None, :], tl.zeros([TILE, CHUNK], tl.float32), -float("inf"))
        if row_scores is not None:
            picked_rows = one_hot(window_positions[0], ROWS.block, queries.dtype)
            relative = dot(query_row_scores, tl.trans(picked_rows), relative, PRECISION=PRECISION)
        if column_scores is not None:
            picked_columns = one_hot(window_positions[1], COLUMNS.block, queries.dtype)
            relative = dot(query_column_scores, tl.trans(picked_columns), relative, PRECISION=PRECISION)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale + relative * LOG2_E
        weights = tl.exp2(scores - normalizer[:, None])
        differences = tl.zeros([TILE, CHUNK], tl.float32) - deltas[:, None]
        differences = dot(gradients, tl.trans(values), differences, PRECISION=PRECISION)
        score_gradients = (weights * differences).to(queries.dtype)
        sums = dot(score_gradients, keys, sums, PRECISION=PRECISION)
        if row_scores is not None:
            row_sums = dot(score_gradients, picked_rows, row_sums, PRECISION=PRECISION)
        if column_scores is not None:
            column_sums = dot(score_gradients, picked_columns, column_sums, PRECISION=PRECISION)
    store(dq, sums * (scale / LOG2_E), image, head, positions, exist, WIDTH)
    if row_scores is not None:
        store(drow_scores, row_sums, image, head, positions, exist, ROWS)
    if column_scores is not None:
        store(dcolumn_scores, column_sums, image, head, positions, exist, COLUMNS)


@triton.jit
def halo_dkdv_kernel(
    q,
    k,
    v,
    row_scores,
    column_scores,
    dout,
    logsumexp,
    delta,
    dk,
    dv,
    map_shape,
    scale,
    AXES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    SHIFTS: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Computes dk and dv. Tiles of keys begin SHIFTS rows and columns before blocks."""
    image, head, tile, numbers = tile_of(
        tl.program_id(0),
        map_shape.heads,
        key_tiles_of(map_shape.key_rows, AXES[0], SHIFTS[0]),
        key_tiles_of(map_shape.key_columns, AXES[1], SHIFTS[1]),
        AXES[0].block * AXES[1].block,
        TILE,
    )
    rows = tile[0] * AXES[0].block - SHIFTS[0] + numbers // AXES[1].block
    columns = tile[1] * AXES[1].block - SHIFTS[1] + numbers % AXES[1].block
    exist = (rows >= 0) & (rows < map_shape.key_rows) & (columns >= 0) & (columns < map_shape.key_columns)
    exist &= numbers < AXES[0].block * AXES[1].block
    keys = load(k, image, head, (rows, columns), exist, WIDTH)
    values = load(v, image, head, (rows, columns), exist, VALUE_WIDTH)

    key_sums = tl.zeros([TILE, WIDTH.block], tl.float32)
    value_sums = tl.zeros([TILE, VALUE_WIDTH.block], tl.float32)
    first_row, end_row = neighbors_of(tile[0], map_shape.blocks_down, AXES[0], SHIFTS[0])
    first_column, end_column = neighbors_of(tile[1], map_shape.blocks_across, AXES[1], SHIFTS[1])
    for row in range(first_row, end_row):
        for column in range(first_column, end_column):
            # positions of the keys in the window of that block
            window_rows = rows - row * AXES[0].block + AXES[0].halo
            window_columns = columns - column * AXES[1].block + AXES[1].halo
            seen = exist & (window_rows >= 0) & (window_rows < AXES[0].window)
            seen &= (window_columns >= 0) & (window_columns < AXES[1].window)
            for first in range(0, AXES[0].queries * AXES[1].queries, CHUNK):
                query_positions, queries_exist = queries_of((row, column), first + tl.arange(0, CHUNK), map_shape, AXES)
                queries = load(q, image, head, query_positions, queries_exist, WIDTH)
                gradients = load(dout, image, head, query_positions, queries_exist, VALUE_WIDTH)
                number = number_of(image, head, query_positions, map_shape)
                normalizer = load_for_columns(logsumexp, number, queries_exist, float("inf"))
                deltas = load_for_columns(delta, number, queries_exist, 0.0)
                relative = tl.where(seen[:, None], tl.zeros([TILE, CHUNK], tl.float32), -float("inf"))
                if row_scores is not None:
                    query_row_scores = load(row_scores, image, head, query_positions, queries_exist, ROWS)
                    picked = one_hot(window_rows, ROWS.block, queries.dtype)
                    relative = dot(picked, tl.trans(query_row_scores), relative, PRECISION=PRECISION)
                if column_scores is not None:
                    query_column_scores = load(column_scores, image, head, query_positions, queries_exist, COLUMNS)
                    picked = one_hot(window_columns, COLUMNS.block, queries.dtype)
                    relative = dot(picked, tl.trans(query_column_scores), relative, PRECISION=PRECISION)
                scores = dot(keys, tl.trans(queries), PRECISION=PRECISION) * scale + relative * LOG2_E
                weights = tl.exp2(scores - normalizer[None, :])
                value_sums = dot(weights.to(gradients.dtype), gradients, value_sums, PRECISION=PRECISION)
                differences = tl.zeros([TILE, CHUNK], tl.float32) - deltas[None, :]
                differences = dot(values, tl.trans(gradients), differences, PRECISION=PRECISION)
                score_gradients = weights * differences
                key_sums = dot(score_gradients.to(queries.dtype), queries, key_sums, PRECISION=PRECISION)
    store(dk, key_sums * (scale / LOG2_E), image, head, (rows, columns), exist, WIDTH)
    store(dv, value_sums, image, head, (rows, columns), exist, VALUE_WIDTH)
