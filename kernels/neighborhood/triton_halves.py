"""The unfused halves of neighborhood attention and their gradients.

Scores and weights (B, H, W, h, k) hold a query's window row-major, k = kh * kw. `scores` computes scores from queries
and keys, `sums` computes weighted sums over the keys of a query, and `sums_over_queries` over the queries of a key.
Each is the gradient of another:

    qk = scores(q, k)         dq = sums(dqk, k)          dk = sums_over_queries(dqk, q)
    av = sums(weights, v)     dweights = scores(dav, v)  dv = sums_over_queries(weights, dav)

Shape legend: B batch, H W map, h heads, D channels; M tokens of a program's tile, N tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..intervals.geometry import Intervals
from ..intervals.triton_axis import first_key
from ..intervals.triton_bias import add_offsets
from ..intervals.triton_blocks import (
    as_column,
    as_row,
    attends,
    biased,
    chunks_of,
    keys_of,
    positions_of,
    queries_of,
    ranks_of,
    ranks_of_chunk,
    tile_of,
)
from ..intervals.triton_launches import launch, map_shape_of, table_launch
from ..triton_blocks import load, number_of, store
from ..triton_launch import Launch
from ..triton_math import LOG2_E, dot
from ..triton_plan import Result, Workspace, run
from ..triton_problem import Problem, tokens


@triton.jit
def _window_positions(numbers, query_ranks, key_ranks, segments, map_shape, AXES: tl.constexpr):
    """Returns the indices of pairs in a contiguous tensor (B, H, W, h, k); `numbers` are the indices of the queries."""
    rows = key_ranks[0] - first_key(query_ranks[0], segments[0], map_shape.rows, map_shape.row_shift, AXES[0])
    columns = key_ranks[1] - first_key(query_ranks[1], segments[1], map_shape.columns, map_shape.column_shift, AXES[1])
    return numbers * (AXES[0].kernel * AXES[1].kernel) + rows * AXES[1].kernel + columns


@triton.jit
def neighborhood_scores_kernel(
    q,
    k,
    bias,
    scores,
    map_shape,
    scale,
    AXES: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
):
    """Computes scores = q k^T * scale + bias; entries of a window without a key are not written."""
    image, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    query_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(query_ranks, segments, map_shape, AXES)
    queries = load(q, image, head, positions, exist, WIDTH)
    numbers = number_of(image, head, positions, map_shape)[:, None]
    query_ranks = as_column(query_ranks)

    first, last = keys_of(start, end, segments, map_shape, AXES)
    chunks, per_row = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    for chunk in range(chunks):
        key_ranks = ranks_of_chunk(first, chunk, per_row, CHUNK_ROWS, CHUNK_COLUMNS)
        key_positions, keys_exist = positions_of(key_ranks, segments, map_shape, AXES)
        keys = load(k, image, head, key_positions, keys_exist, WIDTH)
        key_ranks = as_row(key_ranks)
        counts = attends(query_ranks, key_ranks, segments, map_shape, AXES) & exist[:, None]
        products = dot(queries, tl.trans(keys), PRECISION=PRECISION) * scale
        # `biased` multiplies the table by log2(e)
        products = biased(products * LOG2_E, bias, head, query_ranks, key_ranks, counts, AXES) / LOG2_E
        pointers = scores + _window_positions(numbers, query_ranks, key_ranks, segments, map_shape, AXES)
        tl.store(pointers, products.to(scores.dtype.element_ty), mask=counts)


@triton.jit
def neighborhood_sums_kernel(
    weights,
    v,
    out,
    map_shape,
    scale,
    AXES: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
):
    """Computes out = scale * each query's weighted sum of values; entries of `weights` without a key are not read."""
    image, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    query_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(query_ranks, segments, map_shape, AXES)
    numbers = number_of(image, head, positions, map_shape)[:, None]
    query_ranks = as_column(query_ranks)

    sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, VALUE_WIDTH.block], tl.float32)
    first, last = keys_of(start, end, segments, map_shape, AXES)
    chunks, per_row = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    for chunk in range(chunks):
        key_ranks = ranks_of_chunk(first, chunk, per_row, CHUNK_ROWS, CHUNK_COLUMNS)
        key_positions, keys_exist = positions_of(key_ranks, segments, map_shape, AXES)
        values = load(v, image, head, key_positions, keys_exist, VALUE_WIDTH)
        key_ranks = as_row(key_ranks)
        counts = attends(query_ranks, key_ranks, segments, map_shape, AXES) & exist[:, None]
        pointers = weights + _window_positions(numbers, query_ranks, key_ranks, segments, map_shape, AXES)
        sums = dot(tl.load(pointers, mask=counts, other=0.0), values, sums, PRECISION=PRECISION)
    store(out, sums * scale, image, head, positions, exist, VALUE_WIDTH)


@triton.jit
def neighborhood_sums_over_queries_kernel(
    weights,
    v,
    out,
    map_shape,
    scale,
    AXES: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
):
    """Computes out = scale * each key's weighted sum over the queries that attend to it.

    The sum is over `v` at these queries, with their weights for the key.
    """
    image, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    key_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(key_ranks, segments, map_shape, AXES)
    key_ranks = as_column(key_ranks)

    sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, VALUE_WIDTH.block], tl.float32)
    first, last = queries_of(start, end, segments, map_shape, AXES)
    chunks, per_row = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    for chunk in range(chunks):
        query_ranks = ranks_of_chunk(first, chunk, per_row, CHUNK_ROWS, CHUNK_COLUMNS)
        query_positions, queries_exist = positions_of(query_ranks, segments, map_shape, AXES)
        values = load(v, image, head, query_positions, queries_exist, VALUE_WIDTH)
        numbers = number_of(image, head, query_positions, map_shape)[None, :]
        query_ranks = as_row(query_ranks)
        counts = attends(query_ranks, key_ranks, segments, map_shape, AXES) & queries_exist[None, :] & exist[:, None]
        pointers = weights + _window_positions(numbers, query_ranks, key_ranks, segments, map_shape, AXES)
        sums = dot(tl.load(pointers, mask=counts, other=0.0), values, sums, PRECISION=PRECISION)
    store(out, sums * scale, image, head, positions, exist, VALUE_WIDTH)


@triton.jit
def neighborhood_scores_bias_kernel(
    gradients,
    tables,
    map_shape,
    images,
    images_each,
    AXES: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
    ROW_OFFSETS: tl.constexpr,
    COLUMN_OFFSETS: tl.constexpr,
):
    """Adds the gradients of scores to `tables` (programs / h, h, 2kh-1, 2kw-1), which must be zero."""
    part, head, segments, start, end = tile_of(tl.program_id(0), map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    table = tables + tl.program_id(0).to(tl.int64) * ((2 * AXES[0].kernel - 1) * (2 * AXES[1].kernel - 1))
    query_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    positions, exist = positions_of(query_ranks, segments, map_shape, AXES)
    query_ranks = as_column(query_ranks)
    first, last = keys_of(start, end, segments, map_shape, AXES)
    chunks, per_row = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    for chunk in range(chunks):
        key_ranks = as_row(ranks_of_chunk(first, chunk, per_row, CHUNK_ROWS, CHUNK_COLUMNS))
        counts = attends(query_ranks, key_ranks, segments, map_shape, AXES) & exist[:, None]
        sums = tl.zeros([TILE_ROWS * TILE_COLUMNS, CHUNK_ROWS * CHUNK_COLUMNS], tl.float32)
        for step in range(tl.minimum(images_each, images - part * images_each)):
            numbers = number_of(part * images_each + step, head, positions, map_shape)[:, None]
            pointers = gradients + _window_positions(numbers, query_ranks, key_ranks, segments, map_shape, AXES)
            sums += tl.load(pointers, mask=counts, other=0.0).to(tl.float32)
        key_start = first[0] + chunk // per_row * CHUNK_ROWS, first[1] + chunk % per_row * CHUNK_COLUMNS
        add_offsets(
            table,
            sums,
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


def scores_launch(problem: Problem, q: Tensor, k: Tensor, bias: Tensor | None, scores: Tensor, scale: float) -> Launch:
    """Returns the launch that fills the contiguous `scores` (B, H, W, h, k) where windows have keys."""
    arguments = {"q": tokens(q), "k": tokens(k), "bias": bias, "scores": scores, "scale": scale}
    return _launch(problem, neighborhood_scores_kernel, "scores", arguments)


def sums_launch(problem: Problem, weights: Tensor, v: Tensor, out: Tensor, scale: float) -> Launch:
    """Returns the launch that fills `out` (B, H, W, h, E) with sums over keys; `weights` are contiguous."""
    arguments = {"weights": weights, "v": tokens(v), "out": tokens(out), "scale": scale}
    return _launch(problem, neighborhood_sums_kernel, "sums", arguments)


def sums_over_queries_launch(problem: Problem, weights: Tensor, v: Tensor, out: Tensor, scale: float) -> Launch:
    """Returns the launch that fills `out` (B, H, W, h, E) with sums over queries; `weights` are contiguous."""
    arguments = {"weights": weights, "v": tokens(v), "out": tokens(out), "scale": scale}
    return _launch(problem, neighborhood_sums_over_queries_kernel, "sums", arguments)


def scores_bias_launch(problem: Problem, gradients: Tensor) -> tuple[Launch, Tensor]:
    """Returns the launch, and the float32 tables (n, h, 2kh-1, 2kw-1) that it adds to.

    The sum of the tables is the gradient of the bias.
    """
    arguments = {"gradients": gradients, "map_shape": map_shape_of(problem)}
    return table_launch(problem, neighborhood_scores_bias_kernel, "bias_of_scores", arguments, gradients.device)


def _launch(problem: Problem, kernel: Any, direction: str, arguments: dict[str, Any]) -> Launch:
    return launch(problem, kernel, direction, {**arguments, "map_shape": map_shape_of(problem)})


def scores(q: Tensor, k: Tensor, bias: Tensor | None, geometry: Intervals, scale: float, fill: float) -> Tensor:
    """Computes q k^T * scale + bias in windows, (B, H, W, h, k); `fill` where a window has no key."""
    rows, columns = geometry.axes
    shape = *q.shape[:4], rows.kernel * columns.kernel
    is_full = not (rows.is_causal or columns.is_causal)

    def build(workspace: Workspace) -> tuple[list[Launch], list[Result]]:
        q, k, bias = workspace.given
        assert q is not None
        assert k is not None
        if is_full:
            out = workspace.empty(shape, q.dtype, q.device)
        else:
            out = workspace.make(partial(torch.full, shape, fill, dtype=q.dtype, device=q.device))
        problem = Problem.of(q, k, geometry, workspace)
        bias = None if bias is None else bias.contiguous()
        return [scores_launch(problem, q, k, bias, out, scale)], [Result(out)]

    return run(("scores", geometry, scale, fill), (q, k, bias), build)[0]


def sums(weights: Tensor, v: Tensor, geometry: Intervals, scale: float) -> Tensor:
    """Computes scale * each query's weighted sum of the values of its keys, (B, H, W, h, E)."""
    return _sums(sums_launch, weights, v, geometry, scale)


def sums_over_queries(weights: Tensor, v: Tensor, geometry: Intervals, scale: float) -> Tensor:
    """Computes scale * each key's weighted sum of `v` at the queries that attend to it, (B, H, W, h, E)."""
    return _sums(sums_over_queries_launch, weights, v, geometry, scale)


def _sums(launch: Callable[..., Launch], weights: Tensor, v: Tensor, geometry: Intervals, scale: float) -> Tensor:
    def build(workspace: Workspace) -> tuple[list[Launch], list[Result]]:
        weights, v = workspace.given
        assert weights is not None
        assert v is not None
        out = workspace.empty(v.shape, v.dtype, v.device)
        return [launch(Problem.of(v, v, geometry, workspace), weights, v, out, scale)], [Result(out)]

    return run((launch, geometry, scale), (weights.contiguous(), v), build)[0]


def table(scores: Tensor, geometry: Intervals) -> Tensor:
    """Sums scores over images and over pairs of equal offset, to a float32 (h, 2kh-1, 2kw-1)."""

    def build(workspace: Workspace) -> tuple[list[Launch], list[Result]]:
        (scores,) = workspace.given
        assert scores is not None
        of_bias, tables = scores_bias_launch(Problem.of(scores, scores, geometry, workspace), scores)
        return [of_bias], [Result(tables, lambda tables: tables.sum(0))]

    return run(("table", geometry), (scores.contiguous(),), build)[0]
