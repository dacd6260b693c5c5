"""Windows that one program holds whole: what stays the same is read once, and the backward is one kernel.

A program takes one window of one head in several images. Mask and bias are the same in all of them and stay in
registers; so does the sum of score gradients, from which the bias' gradient follows. Larger windows take the kernels of
`kernels/intervals`.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; M tokens of a window;
wh ww window.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..intervals.triton_bias import add_offsets, make_tables, offsets_between
from ..intervals.triton_blocks import (
    across,
    attends,
    biased,
    down,
    load,
    number_of,
    places_of,
    ranks_of,
    store,
    tile_of,
)
from ..intervals.triton_problem import Problem, tokens
from ..triton_launch import Configuration, Launch, block
from ..triton_math import LOG2_E, dot

# tokens of the largest window that is held whole
LARGEST = 64
# warps and stages for that window, by bytes of a number and block of channels; where an entry is missing registers
# would spill, and the kernels for intervals take over
OPTIONS: dict[str, dict[str, dict[tuple[int, int], tuple[int, int]]]] = {
    "sm80": {
        "forward": {(2, 32): (4, 2), (2, 64): (4, 2), (2, 128): (4, 1), (4, 32): (8, 2), (4, 64): (16, 1)},
        "backward": {(2, 32): (8, 1)},
    },
    "sm90": {
        "forward": {(2, 32): (4, 2), (2, 64): (4, 2), (4, 32): (4, 2), (4, 64): (8, 2)},
        "backward": {(2, 32): (8, 2)},
    },
    "sm100": {
        "forward": {(2, 32): (4, 2), (2, 64): (4, 2), (2, 128): (4, 2), (4, 32): (4, 2), (4, 64): (8, 2)},
        "backward": {(2, 32): (4, 2)},
    },
    "gfx942": {
        "forward": {(2, 32): (4, 2), (2, 64): (4, 1), (2, 128): (4, 2), (4, 32): (4, 2), (4, 64): (4, 2)},
        "backward": {(2, 32): (4, 1)},
    },
}


@triton.jit
def _mask_and_bias(
    bias, head, ranks, segments, area, RULES: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr
):
    """(M, M) what is added to a window's scores: the bias, and -inf where a token does not see another."""
    counts = attends(down(ranks), across(ranks), segments, area, RULES)
    added = tl.zeros([TILE_ROWS * TILE_COLUMNS, TILE_ROWS * TILE_COLUMNS], tl.float32)
    added = biased(added, bias, head, down(ranks), across(ranks), counts, RULES)
    return tl.where(counts, added, -float("inf"))


@triton.jit
def window_forward_kernel(
    q,
    k,
    v,
    bias,
    out,
    logsumexp,
    area,
    scale,
    images,
    images_each,
    RULES: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    """out = softmax(q k^T * scale + bias) v; `scale` and the logsumexp are in powers of two."""
    part, head, segments, start, _ = tile_of(tl.program_id(0), area, RULES, TILE_ROWS, TILE_COLUMNS)
    ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    places, exist = places_of(ranks, segments, area, RULES)
    added = _mask_and_bias(bias, head, ranks, segments, area, RULES, TILE_ROWS, TILE_COLUMNS)
    for step in range(tl.minimum(images_each, images - part * images_each)):
        image = part * images_each + step
        queries = load(q, image, head, places, exist, WIDTH)
        keys = load(k, image, head, places, exist, WIDTH)
        values = load(v, image, head, places, exist, VALUE_WIDTH)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale + added
        # finite, for slots beyond the window see nothing
        maximum = tl.maximum(tl.max(scores, 1), -1e30)
        weights = tl.exp2(scores - maximum[:, None])
        total = tl.sum(weights, 1)
        sums = dot(weights.to(values.dtype), values, PRECISION=PRECISION)
        store(out, sums / total[:, None], image, head, places, exist, VALUE_WIDTH)
        tl.store(logsumexp + number_of(image, head, places, area), maximum + tl.log2(total), mask=exist)


@triton.jit
def window_backward_kernel(
    q,
    k,
    v,
    bias,
    out,
    upstream,
    logsumexp,
    q_gradient,
    k_gradient,
    v_gradient,
    tables,
    area,
    scale,
    images,
    images_each,
    RULES: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    ROW_OFFSETS: tl.constexpr,
    COLUMN_OFFSETS: tl.constexpr,
):
    """dq, dk, dv, and sums of score gradients added to `tables` (programs / h, h, 2wh-1, 2ww-1), zero before."""
    part, head, segments, start, _ = tile_of(tl.program_id(0), area, RULES, TILE_ROWS, TILE_COLUMNS)
    ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    places, exist = places_of(ranks, segments, area, RULES)
    added = _mask_and_bias(bias, head, ranks, segments, area, RULES, TILE_ROWS, TILE_COLUMNS)
    score_sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, TILE_ROWS * TILE_COLUMNS], tl.float32)
    for step in range(tl.minimum(images_each, images - part * images_each)):
        image = part * images_each + step
        queries = load(q, image, head, places, exist, WIDTH)
        keys = load(k, image, head, places, exist, WIDTH)
        values = load(v, image, head, places, exist, VALUE_WIDTH)
        outputs = load(out, image, head, places, exist, VALUE_WIDTH)
        gradients = load(upstream, image, head, places, exist, VALUE_WIDTH)
        number = number_of(image, head, places, area)
        normalizer = tl.load(logsumexp + number, mask=exist, other=float("inf"))
        deltas = tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
        scores = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale + added
        weights = tl.exp2(scores - normalizer[:, None])
        value_sums = dot(tl.trans(weights.to(gradients.dtype)), gradients, PRECISION=PRECISION)
        store(v_gradient, value_sums, image, head, places, exist, VALUE_WIDTH)
        products = dot(gradients, tl.trans(values), PRECISION=PRECISION)
        score_gradients = weights * (products - deltas[:, None])
        score_sums += score_gradients
        score_gradients = score_gradients.to(queries.dtype)
        query_sums = dot(score_gradients, keys, PRECISION=PRECISION) * (scale / LOG2_E)
        store(q_gradient, query_sums, image, head, places, exist, WIDTH)
        key_sums = dot(tl.trans(score_gradients), queries, PRECISION=PRECISION) * (scale / LOG2_E)
        store(k_gradient, key_sums, image, head, places, exist, WIDTH)
    if tables is not None:
        table = tables + tl.program_id(0).to(tl.int64) * ((2 * RULES[0].kernel - 1) * (2 * RULES[1].kernel - 1))
        add_offsets(
            table,
            score_sums,
            start,
            start,
            RULES,
            TILE_ROWS,
            TILE_COLUMNS,
            TILE_ROWS,
            TILE_COLUMNS,
            ROW_OFFSETS,
            COLUMN_OFFSETS,
        )


def small_configuration(problem: Problem, direction: str) -> Configuration | None:
    """How a program holds a whole window; None where it does not, and the kernels for intervals are used."""
    # sums over offsets multiply the pairs of an axis, which takes 16 of them
    rows, columns = (max(4, triton.next_power_of_2(rule.kernel)) for rule in problem.rules)
    blocks = block(max(problem.width, problem.value_width))
    options = OPTIONS[problem.architecture][direction].get((problem.dtype.itemsize, max(32, blocks)))
    if rows * columns > LARGEST or options is None:
        return None
    num_warps, num_stages = options
    return Configuration(
        {"TILE_ROWS": rows, "TILE_COLUMNS": columns}, max(1, num_warps * rows * columns // LARGEST), num_stages
    )


def forward_launch(
    problem: Problem,
    configuration: Configuration,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
) -> Launch:
    """The launch that fills `out` (B, H, W, h, E) and the contiguous float32 `logsumexp` (B, H, W, h)."""
    arguments = {
        "q": tokens(q),
        "k": tokens(k),
        "v": tokens(v),
        "bias": bias,
        "out": tokens(out),
        "logsumexp": logsumexp,
        "scale": scale * LOG2_E.value,
    }
    return problem.launch_in_parts(window_forward_kernel, configuration, arguments)


def backward_launch(
    problem: Problem,
    configuration: Configuration,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    upstream: Tensor,
    logsumexp: Tensor,
    q_gradient: Tensor,
    k_gradient: Tensor,
    v_gradient: Tensor,
    scale: float,
    needs_bias: bool,
) -> tuple[Launch, Tensor | None]:
    """The launch that fills the gradients, and the tables whose sum is the bias' gradient, where it is needed."""
    tables = make_tables(problem, configuration, q.device) if needs_bias and bias is not None else None
    arguments = {
        "q": tokens(q),
        "k": tokens(k),
        "v": tokens(v),
        "bias": bias,
        "out": tokens(out),
        "upstream": tokens(upstream),
        "logsumexp": logsumexp,
        "q_gradient": tokens(q_gradient),
        "k_gradient": tokens(k_gradient),
        "v_gradient": tokens(v_gradient),
        "tables": tables,
        "scale": scale * LOG2_E.value,
    }
    rows, columns = configuration.constants.values()
    offsets = {"ROW_OFFSETS": offsets_between(rows, rows), "COLUMN_OFFSETS": offsets_between(columns, columns)}
    return problem.launch_in_parts(window_backward_kernel, configuration, arguments, offsets), tables
