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

from ..intervals.geometry import AxisGeometry, Intervals
from ..library import Extra, define, define_attention, differentiate
from .geometry import Axis

_GEOMETRY = "SymInt[] kernel_size, SymInt[] dilation, SymInt[] stride, bool[] is_causal"


def attention(q: Tensor, k: Tensor, v: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias) v over each query's neighborhood: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    out, _ = _attention(q, k, v, bias, *_geometry(axes), scale)
    return out


def qk(q: Tensor, k: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """Scores of each query with its keys, row-major over the window: (B, H, W, h, k); -inf where there is no key."""
    return _qk(q, k, bias, *_geometry(axes), scale, -math.inf)


def av(weights: Tensor, v: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Weighted sum of each query's values: (B, H, W, h, k), (B, H, W, h, E) -> (B, H, W, h, E)."""
    return _av(weights, v, *_geometry(axes), 1.0)


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


def _run_qk(q: Tensor, k: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    from .triton_halves import scores

    *geometry, scale, fill = rest
    return scores(q, k, bias, _intervals(q.shape[1:3], *geometry), scale, fill)


def _run_av(weights: Tensor, v: Tensor, *rest: Any) -> Tensor:
    from .triton_halves import sums

    *geometry, scale = rest
    return sums(weights, v, _intervals(v.shape[1:3], *geometry), scale)


def _run_va(weights: Tensor, v: Tensor, *rest: Any) -> Tensor:
    from .triton_halves import sums_over_queries

    *geometry, scale = rest
    return sums_over_queries(weights, v, _intervals(v.shape[1:3], *geometry), scale)


def _run_table(scores: Tensor, *geometry: Any) -> Tensor:
    from .triton_halves import table

    return table(scores, _intervals(scores.shape[1:3], *geometry))


def _fake_qk(q: Tensor, k: Tensor, bias: Tensor | None, kernel_size: list[int], *rest: Any) -> Tensor:
    return q.new_empty(*q.shape[:4], kernel_size[0] * kernel_size[1])


def _fake_av(weights: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return v.new_empty(v.shape)


def _fake_table(scores: Tensor, kernel_size: list[int], *rest: Any) -> Tensor:
    sides = (2 * kernel - 1 for kernel in kernel_size)
    return scores.new_empty(scores.shape[3], *sides, dtype=torch.float32)


_attention = define_attention("neighborhood_attention", [Extra("bias")], _GEOMETRY, _intervals, _kernels)
_qk = define(
    "neighborhood_qk",
    f"(Tensor q, Tensor k, Tensor? bias, {_GEOMETRY}, float scale, float fill) -> Tensor",
    _run_qk,
    _fake_qk,
)
_av = define("neighborhood_av", f"(Tensor weights, Tensor v, {_GEOMETRY}, float scale) -> Tensor", _run_av, _fake_av)
# each key's sum over the queries that attend to it
_va = define("neighborhood_va", f"(Tensor weights, Tensor v, {_GEOMETRY}, float scale) -> Tensor", _run_va, _fake_av)
# scores summed by offset, a float32 (h, 2kh-1, 2kw-1)
_table = define("neighborhood_table", f"(Tensor scores, {_GEOMETRY}) -> Tensor", _run_table, _fake_table)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.rest = [x for x in inputs if x is not None and not isinstance(x, Tensor)]


def _qk_derivative(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    q, k, *bias = ctx.saved_tensors
    *geometry, scale, _ = ctx.rest
    of_q, of_k, of_bias, *_ = ctx.needs_input_grad
    return (
        _av(dout, k, *geometry, scale) if of_q else None,
        _va(dout, q, *geometry, scale) if of_k else None,
        _table(dout, *geometry).to(bias[0].dtype) if of_bias else None,
        *(None for _ in ctx.rest),
    )


def _av_derivative(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    weights, v = ctx.saved_tensors
    *geometry, scale = ctx.rest
    return (
        _qk(dout, v, None, *geometry, scale, 0.0) if ctx.needs_input_grad[0] else None,
        _va(weights, dout, *geometry, scale) if ctx.needs_input_grad[1] else None,
        *(None for _ in ctx.rest),
    )


def _va_derivative(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    weights, v = ctx.saved_tensors
    *geometry, scale = ctx.rest
    return (
        _qk(v, dout, None, *geometry, scale, 0.0) if ctx.needs_input_grad[0] else None,
        _av(weights, dout, *geometry, scale) if ctx.needs_input_grad[1] else None,
        *(None for _ in ctx.rest),
    )


def _table_derivative(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    (scores,) = ctx.saved_tensors
    nothing = scores.new_zeros(*scores.shape[:4], 1)
    return _qk(nothing, nothing, dout, *ctx.rest, 1.0, 0.0), *(None for _ in ctx.rest)


differentiate("neighborhood_qk", _qk_derivative, _save)
differentiate("neighborhood_av", _av_derivative, _save)
differentiate("neighborhood_va", _va_derivative, _save)
differentiate("neighborhood_table", _table_derivative, _save)
