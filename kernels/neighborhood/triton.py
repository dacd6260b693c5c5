"""Neighborhood attention and its halves with Triton kernels, as torch operators. Triton is imported when one runs.

The derivatives of the halves are also halves, so they can be differentiated any number of times.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, k = kh * kw keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..fallback import EXECUTIONS, gradients, with_fallback
from ..flops import register_flops
from ..fused import Extra, define_attention
from ..intervals.geometry import AxisGeometry, Intervals
from ..library import define, differentiate
from .geometry import Axis

_GEOMETRY = "SymInt[] kernel_size, SymInt[] dilation, SymInt[] stride, bool[] is_causal"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: tuple[Axis, Axis],
    bias: Tensor | None,
    scale: float,
    **how: Any,
) -> Tensor:
    """softmax(q k^T * scale + bias) v over each query's neighborhood: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    return _attention(q, k, v, bias, *_geometry(axes), scale, **how)


def packed_attention(
    qkv: Tensor,
    axes: tuple[Axis, Axis],
    bias: Tensor | None,
    scale: float,
    **how: Any,
) -> Tensor:
    """`attention` of (B, H, W, 3, h, D) -> (B, H, W, h, D)."""
    return _packed_attention(qkv, bias, *_geometry(axes), scale, **how)


def qk(
    q: Tensor, k: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float, may_fall_back: bool = False
) -> Tensor:
    """Scores of each query with its keys, row-major over the window: (B, H, W, h, k); -inf where there is no key."""
    return _qk(q, k, bias, *_geometry(axes), scale, -math.inf, may_fall_back=may_fall_back)


def av(weights: Tensor, v: Tensor, axes: tuple[Axis, Axis], may_fall_back: bool = False) -> Tensor:
    """Weighted sum of each query's values: (B, H, W, h, k), (B, H, W, h, E) -> (B, H, W, h, E)."""
    return _av(weights, v, *_geometry(axes), 1.0, may_fall_back=may_fall_back)


def _geometry(axes: tuple[Axis, Axis]) -> tuple[list[int], list[int], list[int], list[bool]]:
    return (
        [axis.kernel for axis in axes],
        [axis.dilation for axis in axes],
        [axis.stride for axis in axes],
        [axis.is_causal for axis in axes],
    )


def _intervals(
    lengths: Sequence[int], kernel_size: list[int], dilation: list[int], stride: list[int], is_causal: list[bool]
) -> Intervals:
    rows, columns = (AxisGeometry(*axis) for axis in zip(kernel_size, dilation, stride, is_causal, strict=True))
    return Intervals((rows, columns), (lengths[0], lengths[1]))


def _kernels() -> Any:
    from ..intervals import triton_kernels

    return triton_kernels


def _axes(intervals: Intervals) -> tuple[Axis, Axis]:
    rows, columns = (
        Axis(length, axis.kernel, axis.dilation, axis.stride, axis.is_causal)
        for length, axis in zip(intervals.lengths, intervals.axes, strict=True)
    )
    return rows, columns


def _eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, intervals: Intervals, scale: float) -> Tensor:
    return EXECUTIONS["neighborhood_attention"]["eager"](q, k, v, _axes(intervals), bias, scale)


def _run_qk(q: Tensor, k: Tensor, bias: Tensor | None, *rest: Any, may_fall_back: bool = False) -> Tensor:
    *geometry, scale, fill = rest
    intervals = _intervals(q.shape[1:3], *geometry)

    def start() -> Tensor:
        from .triton_halves import scores

        return scores(q, k, bias, intervals, scale, fill)

    def substitute() -> Tensor:
        scores = EXECUTIONS["neighborhood_qk"]["eager"](q, k, _axes(intervals), bias, scale).contiguous()
        return scores if fill == -math.inf else scores.masked_fill(scores == -math.inf, fill)

    return with_fallback("neighborhood_qk", q.device, may_fall_back, start, substitute)


def _run_av(weights: Tensor, v: Tensor, *rest: Any, may_fall_back: bool = False) -> Tensor:
    *geometry, scale = rest
    intervals = _intervals(v.shape[1:3], *geometry)

    def start() -> Tensor:
        from .triton_halves import sums

        return sums(weights, v, intervals, scale)

    def substitute() -> Tensor:
        return EXECUTIONS["neighborhood_av"]["eager"](weights, v, _axes(intervals)).mul(scale).contiguous()

    return with_fallback("neighborhood_av", v.device, may_fall_back, start, substitute)


def _run_va(weights: Tensor, v: Tensor, *rest: Any, may_fall_back: bool = False) -> Tensor:
    *geometry, scale = rest
    intervals = _intervals(v.shape[1:3], *geometry)

    def start() -> Tensor:
        from .triton_halves import sums_over_queries

        return sums_over_queries(weights, v, intervals, scale)

    def substitute() -> Tensor:
        # the transpose of the sum over keys
        found = gradients(
            lambda v: EXECUTIONS["neighborhood_av"]["eager"](weights, v, _axes(intervals)),
            {"v": torch.zeros_like(v)},
            v,
        )
        return found["v"].mul(scale).contiguous()

    return with_fallback("neighborhood_va", v.device, may_fall_back, start, substitute)


def _run_table(scores: Tensor, *geometry: Any, may_fall_back: bool = False) -> Tensor:
    intervals = _intervals(scores.shape[1:3], *geometry)

    def start() -> Tensor:
        from .triton_halves import table

        return table(scores, intervals)

    def substitute() -> Tensor:
        # the transpose of the expansion of a table
        sides = (2 * axis.kernel - 1 for axis in intervals.axes)
        empty = scores.new_zeros(scores.shape[3], *sides, dtype=torch.float32)
        nothing = scores.new_zeros(*scores.shape[:4], 1)
        found = gradients(
            lambda bias: EXECUTIONS["neighborhood_qk"]["eager"](nothing, nothing, _axes(intervals), bias, 1.0),
            {"bias": empty},
            scores,
        )
        return found["bias"]

    return with_fallback("neighborhood_table", scores.device, may_fall_back, start, substitute)


def _fake_qk(
    q: Tensor, k: Tensor, bias: Tensor | None, kernel_size: list[int], *rest: Any, may_fall_back: bool = False
) -> Tensor:
    return q.new_empty(*q.shape[:4], kernel_size[0] * kernel_size[1])


def _fake_av(weights: Tensor, v: Tensor, *rest: Any, may_fall_back: bool = False) -> Tensor:
    return v.new_empty(v.shape)


def _fake_table(scores: Tensor, kernel_size: list[int], *rest: Any, may_fall_back: bool = False) -> Tensor:
    sides = (2 * kernel - 1 for kernel in kernel_size)
    return scores.new_empty(scores.shape[3], *sides, dtype=torch.float32)


_DEFINITION = [Extra("bias")], _GEOMETRY, _intervals, _kernels, _eager
_attention = define_attention("neighborhood_attention", *_DEFINITION)
_packed_attention = define_attention("packed_neighborhood_attention", *_DEFINITION, is_packed=True)
register_flops("neighborhood_attention", lambda k, bias, kernel_size, *rest: math.prod(kernel_size))
register_flops("packed_neighborhood_attention", lambda k, bias, kernel_size, *rest: math.prod(kernel_size))
_qk = define(
    "neighborhood_qk",
    f"(Tensor q, Tensor k, Tensor? bias, {_GEOMETRY}, float scale, float fill, *, bool may_fall_back=False) -> Tensor",
    _run_qk,
    _fake_qk,
)
_SUMS = f"(Tensor weights, Tensor v, {_GEOMETRY}, float scale, *, bool may_fall_back=False) -> Tensor"
_av = define("neighborhood_av", _SUMS, _run_av, _fake_av)
# each key's sum over the queries that attend to it
_va = define("neighborhood_va", _SUMS, _run_va, _fake_av)
# scores summed by offset, a float32 (h, 2kh-1, 2kw-1)
_table = define(
    "neighborhood_table",
    f"(Tensor scores, {_GEOMETRY}, *, bool may_fall_back=False) -> Tensor",
    _run_table,
    _fake_table,
)


def _save(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.rest = [x for x in inputs if x is not None and not isinstance(x, Tensor)]
    ctx.keywords = keyword_only_inputs


def _qk_derivative(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    q, k, *bias = ctx.saved_tensors
    *geometry, scale, _ = ctx.rest
    of_q, of_k, of_bias, *_ = ctx.needs_input_grad
    return (
        _av(dout, k, *geometry, scale, **ctx.keywords) if of_q else None,
        _va(dout, q, *geometry, scale, **ctx.keywords) if of_k else None,
        _table(dout, *geometry, **ctx.keywords).to(bias[0].dtype) if of_bias else None,
        *(None for _ in ctx.rest),
    )


def _av_derivative(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    weights, v = ctx.saved_tensors
    *geometry, scale = ctx.rest
    return (
        _qk(dout, v, None, *geometry, scale, 0.0, **ctx.keywords) if ctx.needs_input_grad[0] else None,
        _va(weights, dout, *geometry, scale, **ctx.keywords) if ctx.needs_input_grad[1] else None,
        *(None for _ in ctx.rest),
    )


def _va_derivative(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    weights, v = ctx.saved_tensors
    *geometry, scale = ctx.rest
    return (
        _qk(v, dout, None, *geometry, scale, 0.0, **ctx.keywords) if ctx.needs_input_grad[0] else None,
        _av(weights, dout, *geometry, scale, **ctx.keywords) if ctx.needs_input_grad[1] else None,
        *(None for _ in ctx.rest),
    )


def _table_derivative(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    (scores,) = ctx.saved_tensors
    nothing = scores.new_zeros(*scores.shape[:4], 1)
    return _qk(nothing, nothing, dout, *ctx.rest, 1.0, 0.0, **ctx.keywords), *(None for _ in ctx.rest)


differentiate("neighborhood_qk", _qk_derivative, _save)
differentiate("neighborhood_av", _av_derivative, _save)
differentiate("neighborhood_va", _va_derivative, _save)
differentiate("neighborhood_table", _table_derivative, _save)
