"""Kernels for windows that one program holds whole: shared data is loaded once, and backward is one kernel.

One program computes one window of one head in several images. Mask and bias are the same in all images: in the forward
pass they stay in registers. In the backward pass the sums of score gradients do, and mask and bias are read from a
table of classes, as in the kernels of `kernels/intervals`, which serve larger windows. The gradient of the bias is
computed from the sums of all programs by another kernel, because sums by offset need registers of their own.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; M tokens of a window; wh ww
window.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..intervals.triton_bias import add_offsets
from ..intervals.triton_blocks import as_column, as_row, attends, biased, positions_of, ranks_of, tile_of
from ..intervals.triton_masks import mask_of_tile
from ..triton_blocks import load, number_of, store
from ..triton_launch import Configuration, block
from ..triton_math import LOG2_E, dot
from ..triton_problem import Problem
from ..triton_tables import optional_entry

# tokens of the largest window that one program holds
LARGEST = 64


@triton.jit
def _mask_and_bias(
    bias, head, ranks, segments, map_shape, AXES: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr
):
    """Returns the additive mask of a window (M, M): the bias, and -inf where a query does not attend to a key."""
    counts = attends(as_column(ranks), as_row(ranks), segments, map_shape, AXES)
    added = tl.zeros([TILE_ROWS * TILE_COLUMNS, TILE_ROWS * TILE_COLUMNS], tl.float32)
    added = biased(added, bias, head, as_column(ranks), as_row(ranks), counts, AXES)
    return tl.where(counts, added, -float("inf"))


@triton.jit
def window_forward_kernel(
    q,
    k,
    v,
    bias,
    out,
    logsumexp,
    map_shape,
    scale,
    images,
    images_each,
    AXES: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    """Computes out = softmax(q k^T * scale + bias) v; `scale` and the logsumexp are in base 2."""
    part, head, segments, start, _ = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(ranks, segments, map_shape, AXES)
    added = _mask_and_bias(bias, head, ranks, segments, map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    for step in range(tl.minimum(images_each, images - part * images_each)):
        image = part * images_each + step
        queries = load(q, image, head, positions, exist, WIDTH)
        keys = load(k, image, head, positions, exist, WIDTH)
        values = load(v, image, head, positions, exist, VALUE_WIDTH)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale + added
        # the maximum must be finite, since slots beyond the window see no key
        maximum = tl.maximum(tl.max(scores, 1), -1e30)
        weights = tl.exp2(scores - maximum[:, None])
        total = tl.sum(weights, 1)
        sums = dot(weights.to(values.dtype), values, PRECISION=PRECISION)
        store(out, sums / total[:, None], image, head, positions, exist, VALUE_WIDTH)
        tl.store(logsumexp + number_of(image, head, positions, map_shape), maximum + tl.log2(total), mask=exist)


@triton.jit
def window_backward_kernel(
    q,
    k,
    v,
    masks,
    out,
    dout,
    logsumexp,
    dq,
    dk,
    dv,
    score_sums,
    map_shape,
    magnitude,
    chunks_each,
    images,
    images_each,
    AXES: tl.constexpr,
    CLASSES: tl.constexpr,
    BIASED: tl.constexpr,
    SIGN: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    """Computes dq, dk and dv, and score_sums (programs, M, M), the gradients of scores summed over images."""
    part, head, segments, start, _ = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    M: tl.constexpr = TILE_ROWS * TILE_COLUMNS
    positions, exist = positions_of(ranks_of(start, TILE_ROWS, TILE_COLUMNS), segments, map_shape, AXES)
    mask = mask_of_tile(
        masks, head, segments, start, map_shape, chunks_each, BIASED, AXES, CLASSES, TILE_ROWS, TILE_COLUMNS, M, M
    )
    sums = tl.zeros([M, M], tl.float32)
    for step in range(tl.minimum(images_each, images - part * images_each)):
        image = part * images_each + step
        queries = load(q, image, head, positions, exist, WIDTH)
        if SIGN != 1:
            queries = (queries * SIGN).to(queries.dtype)
        keys = load(k, image, head, positions, exist, WIDTH)
        values = load(v, image, head, positions, exist, VALUE_WIDTH)
        outputs = load(out, image, head, positions, exist, VALUE_WIDTH)
        gradients = load(dout, image, head, positions, exist, VALUE_WIDTH)
        number = number_of(image, head, positions, map_shape)
        normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
        deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
        # in every image from memory: registers are few
        added = tl.load(mask).to(tl.float32)
        scores = dot(queries, tl.trans(keys), added, PRECISION=PRECISION)
        weights = tl.exp2(scores * magnitude - normalizer[:, None])
        value_sums = dot(tl.trans(weights.to(gradients.dtype)), gradients, PRECISION=PRECISION)
        store(dv, value_sums, image, head, positions, exist, VALUE_WIDTH)
        differences = tl.zeros([M, M], tl.float32) - deltas[:, None]
        score_gradients = weights * dot(gradients, tl.trans(values), differences, PRECISION=PRECISION)
        sums += score_gradients
        score_gradients = score_gradients.to(queries.dtype)
        query_sums = dot(score_gradients, keys, PRECISION=PRECISION) * (SIGN * magnitude / LOG2_E)
        store(dq, query_sums, image, head, positions, exist, WIDTH)
        key_sums = dot(tl.trans(score_gradients), queries, PRECISION=PRECISION) * (magnitude / LOG2_E)
        store(dk, key_sums, image, head, positions, exist, WIDTH)
    if score_sums is not None:
        tl.store(score_sums + _pairs_of(tl.program_id(0), M), sums)


@triton.jit
def _pairs_of(number, TOKENS: tl.constexpr):
    """Returns the indices of the pairs of a window (M, M) in a contiguous tensor (.., M, M)."""
    pairs = tl.arange(0, TOKENS)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
    return number.to(tl.int64) * (TOKENS * TOKENS) + pairs


@triton.jit
def window_bias_kernel(
    score_sums,
    tables,
    heads,
    count,
    count_each,
    AXES: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    ROW_OFFSETS: tl.constexpr,
    COLUMN_OFFSETS: tl.constexpr,
):
    """Sums pairs of equal offset: adds score_sums (count, h, M, M) to `tables` (programs / h, h, 2wh-1, 2ww-1).

    A program takes `count_each` windows of one head. The tables must be zero.
    """
    tokens: tl.constexpr = TILE_ROWS * TILE_COLUMNS
    head, part = tl.program_id(0) % heads, tl.program_id(0) // heads
    sums = tl.zeros([tokens, tokens], tl.float32)
    for number in range(part * count_each, tl.minimum((part + 1) * count_each, count)):
        sums += tl.load(score_sums + _pairs_of(number * heads + head, tokens))
    table = tables + tl.program_id(0).to(tl.int64) * ((2 * AXES[0].kernel - 1) * (2 * AXES[1].kernel - 1))
    start = (head * 0, head * 0)
    add_offsets(
        table,
        sums,
        start,
        start,
        AXES,
        TILE_ROWS,
        TILE_COLUMNS,
        TILE_ROWS,
        TILE_COLUMNS,
        ROW_OFFSETS,
        COLUMN_OFFSETS,
    )


def small_configuration(problem: Problem, direction: str) -> Configuration | None:
    """Returns the configuration for a window that one program holds; None where the interval kernels are used."""
    # sums over offsets are matrix products over the pairs of an axis, which need 16 pairs
    rows, columns = (max(4, triton.next_power_of_2(axis.kernel)) for axis in problem.geometry.axes)
    # where an entry is missing, registers would spill
    keys = direction, str(problem.dtype.itemsize), str(max(32, block(problem.widest)))
    entry = optional_entry("windows", problem.architecture, *keys)
    if rows * columns > LARGEST or entry is None:
        return None
    num_warps, num_stages = entry
    constants = {"TILE_ROWS": rows, "TILE_COLUMNS": columns}
    return Configuration(constants, max(1, num_warps * rows * columns // LARGEST), num_stages)
