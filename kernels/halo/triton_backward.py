"""Halo attention, backward: weights are recomputed from the logsumexp, once for each side.

A tile of queries walks its block's window for dq and the gradients of its relative scores; a tile of keys walks the
blocks whose windows show them for dk and dv. Nothing is added atomically, so that results are the same in every run.

Shape legend: B batch, H' W' map of queries, h heads, D width of queries and keys, E width of values, w window; M tokens
of a tile, N of a chunk.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_blocks import load, number_of, store
from ..triton_math import LOG2_E, dot
from .triton_blocks import keys_of, neighbors_of, queries_of, tile_of, units


@triton.jit
def halo_query_gradient_kernel(
    q,
    k,
    v,
    of_rows,
    of_columns,
    out,
    upstream,
    logsumexp,
    delta,
    q_gradient,
    row_gradient,
    column_gradient,
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
    """dq, gradients of the relative scores, and delta = sum(out * upstream), which the other kernel reads."""
    image, head, block, numbers = tile_of(tl.program_id(0), area, RULES[0].queries * RULES[1].queries, TILE)
    places, exist = queries_of(block, numbers, area, RULES)
    queries = load(q, image, head, places, exist, WIDTH)
    gradients = load(upstream, image, head, places, exist, VALUE_WIDTH)
    outputs = load(out, image, head, places, exist, VALUE_WIDTH)
    number = number_of(image, head, places, area)
    # the weights of a query that does not exist are 0
    normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
    deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
    tl.store(delta + number, deltas, mask=exist)
    if of_rows is not None:
        row_scores = load(of_rows, image, head, places, exist, ROWS)
        row_sums = tl.zeros([TILE, ROWS.block], tl.float32)
    if of_columns is not None:
        column_scores = load(of_columns, image, head, places, exist, COLUMNS)
        column_sums = tl.zeros([TILE, COLUMNS.block], tl.float32)

    sums = tl.zeros([TILE, WIDTH.block], tl.float32)
    end: tl.constexpr = RULES[0].window * RULES[1].window
    for first in range(0, end, CHUNK):
        key_numbers = first + tl.arange(0, CHUNK)
        window_places, key_places, keys_exist = keys_of(block, key_numbers, area, RULES)
        keys = load(k, image, head, key_places, keys_exist, WIDTH)
        values = load(v, image, head, key_places, keys_exist, VALUE_WIDTH)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale
        if of_rows is not None:
            picked_rows = units(window_places[0], ROWS.block, queries.dtype)
            scores += dot(row_scores, tl.trans(picked_rows), PRECISION=PRECISION) * LOG2_E
        if of_columns is not None:
            picked_columns = units(window_places[1], COLUMNS.block, queries.dtype)
            scores += dot(column_scores, tl.trans(picked_columns), PRECISION=PRECISION) * LOG2_E
        scores = tl.where((key_numbers < end)[None, :], scores, -float("inf"))
        weights = tl.exp2(scores - normalizer[:, None])
        products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
        score_gradients = (weights * (products - deltas[:, None])).to(queries.dtype)
        sums = dot(score_gradients, keys, sums, PRECISION=PRECISION)
        if of_rows is not None:
            row_sums = dot(score_gradients, picked_rows, row_sums, PRECISION=PRECISION)
        if of_columns is not None:
            column_sums = dot(score_gradients, picked_columns, column_sums, PRECISION=PRECISION)
    store(q_gradient, sums * (scale / LOG2_E), image, head, places, exist, WIDTH)
    if of_rows is not None:
        store(row_gradient, row_sums, image, head, places, exist, ROWS)
    if of_columns is not None:
        store(column_gradient, column_sums, image, head, places, exist, COLUMNS)


@triton.jit
def halo_key_gradient_kernel(
    q,
    k,
    v,
    of_rows,
    of_columns,
    upstream,
    logsumexp,
    delta,
    k_gradient,
    v_gradient,
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
    """dk and dv."""
    image, head, block, numbers = tile_of(tl.program_id(0), area, RULES[0].block * RULES[1].block, TILE)
    rows = block[0] * RULES[0].block + numbers // RULES[1].block
    columns = block[1] * RULES[1].block + numbers % RULES[1].block
    exist = (numbers < RULES[0].block * RULES[1].block) & (rows < area.key_lengths[0]) & (columns < area.key_lengths[1])
    keys = load(k, image, head, (rows, columns), exist, WIDTH)
    values = load(v, image, head, (rows, columns), exist, VALUE_WIDTH)

    key_sums = tl.zeros([TILE, WIDTH.block], tl.float32)
    value_sums = tl.zeros([TILE, VALUE_WIDTH.block], tl.float32)
    first_row, end_row = neighbors_of(block[0], area.counts[0], RULES[0])
    first_column, end_column = neighbors_of(block[1], area.counts[1], RULES[1])
    for row in range(first_row, end_row):
        for column in range(first_column, end_column):
            # where keys lie in the window of that block
            window_rows = rows - row * RULES[0].block + RULES[0].halo
            window_columns = columns - column * RULES[1].block + RULES[1].halo
            seen = exist & (window_rows >= 0) & (window_rows < RULES[0].window)
            seen &= (window_columns >= 0) & (window_columns < RULES[1].window)
            # of most neighbors' windows, most tiles see nothing
            queries_end = tl.where(tl.max(seen.to(tl.int32), 0) > 0, RULES[0].queries * RULES[1].queries, 0)
            for first in range(0, queries_end, CHUNK):
                query_places, queries_exist = queries_of((row, column), first + tl.arange(0, CHUNK), area, RULES)
                queries = load(q, image, head, query_places, queries_exist, WIDTH)
                gradients = load(upstream, image, head, query_places, queries_exist, VALUE_WIDTH)
                number = number_of(image, head, query_places, area)
                normalizer = tl.load(logsumexp + number, mask=queries_exist, other=float("inf"))
                deltas = tl.load(delta + number, mask=queries_exist, other=0.0)
                scores = dot(keys, tl.trans(queries), PRECISION=PRECISION) * scale
                if of_rows is not None:
                    row_scores = load(of_rows, image, head, query_places, queries_exist, ROWS)
                    picked = units(window_rows, ROWS.block, queries.dtype)
                    scores += dot(picked, tl.trans(row_scores), PRECISION=PRECISION) * LOG2_E
                if of_columns is not None:
                    column_scores = load(of_columns, image, head, query_places, queries_exist, COLUMNS)
                    picked = units(window_columns, COLUMNS.block, queries.dtype)
                    scores += dot(picked, tl.trans(column_scores), PRECISION=PRECISION) * LOG2_E
                weights = tl.exp2(tl.where(seen[:, None], scores, -float("inf")) - normalizer[None, :])
                value_sums = dot(weights.to(gradients.dtype), gradients, value_sums, PRECISION=PRECISION)
                products = dot(values, tl.trans(gradients), PRECISION=PRECISION)
                score_gradients = weights * (products - deltas[None, :])
                key_sums = dot(score_gradients.to(queries.dtype), queries, key_sums, PRECISION=PRECISION)
    store(k_gradient, key_sums * (scale / LOG2_E), image, head, (rows, columns), exist, WIDTH)
    store(v_gradient, value_sums, image, head, (rows, columns), exist, VALUE_WIDTH)
