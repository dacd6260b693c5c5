"""Kernels for windows that one program holds whole: shared data is loaded once, and backward is one kernel.

One program computes one window of one head in several images. Mask and bias are the same in all images and stay in
registers. So does the sum of the score gradients, from which the gradient of the bias is computed. Larger windows use
the kernels of `kernels/intervals`.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; M tokens of a window; wh ww
window.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..intervals.triton_bias import add_offsets
from ..intervals.triton_blocks import as_column, as_row, attends, biased, positions_of, ranks_of, tile_of
from ..triton_blocks import load, number_of, store
from ..triton_launch import Configuration, block
from ..triton_math import LOG2_E, dot
from ..triton_problem import Problem
from ..triton_tables import read_table

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
    bias,
    out,
    dout,
    logsumexp,
    dq,
    dk,
    dv,
    tables,
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
    ROW_OFFSETS: tl.constexpr,
    COLUMN_OFFSETS: tl.constexpr,
):
    """Computes dq, dk and dv, and the sums of score gradients for the gradient of the bias.

    The sums are added to `tables` (programs / h, h, 2wh-1, 2ww-1), which must be zero.
    """
    part, head, segments, start, _ = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(ranks, segments, map_shape, AXES)
    added = _mask_and_bias(bias, head, ranks, segments, map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    score_sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, TILE_ROWS * TILE_COLUMNS], tl.float32)
    for step in range(tl.minimum(images_each, images - part * images_each)):
        image = part * images_each + step
        queries = load(q, image, head, positions, exist, WIDTH)
        keys = load(k, image, head, positions, exist, WIDTH)
        values = load(v, image, head, positions, exist, VALUE_WIDTH)
        outputs = load(out, image, head, positions, exist, VALUE_WIDTH)
        gradients = load(dout, image, head, positions, exist, VALUE_WIDTH)
        number = number_of(image, head, positions, map_shape)
        normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
        deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale + added
        weights = tl.exp2(scores - normalizer[:, None])
        value_sums = dot(tl.trans(weights.to(gradients.dtype)), gradients, PRECISION=PRECISION)
        store(dv, value_sums, image, head, positions, exist, VALUE_WIDTH)
        products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[:, None])
        score_sums += score_gradients
        score_gradients = score_gradients.to(queries.dtype)
        query_sums = dot(score_gradients, keys, PRECISION=PRECISION) * (scale / LOG2_E)
        store(dq, query_sums, image, head, positions, exist, WIDTH)
        key_sums = dot(tl.trans(score_gradients), queries, PRECISION=PRECISION) * (scale / LOG2_E)
        store(dk, key_sums, image, head, positions, exist, WIDTH)
    if tables is not None:
        table = tables + tl.program_id(0).to(tl.int64) * ((2 * AXES[0].kernel - 1) * (2 * AXES[1].kernel - 1))
        add_offsets(
            table,
            score_sums,
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
    entries = read_table("windows")["entries"][problem.architecture][direction]
    options = entries.get(str(problem.dtype.itemsize), {}).get(str(max(32, block(problem.widest))))
    if rows * columns > LARGEST or options is None:
        return None
    num_warps, num_stages = options
    constants = {"TILE_ROWS": rows, "TILE_COLUMNS": columns}
    return Configuration(constants, max(1, num_warps * rows * columns // LARGEST), num_stages)
