"""Window attention with Triton kernels, as a torch operator. Triton is imported when the operator runs.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..fallback import EXECUTIONS
from ..flops import register_flops
from ..fused import Extra, define_attention
from ..intervals.geometry import AxisGeometry, Intervals
from .geometry import WindowAxis


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: tuple[WindowAxis, WindowAxis],
    bias: Tensor | None,
    scale: float,
    **how: Any,
) -> Tensor:
    """softmax(q k^T * scale + bias) v within each window: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    geometry = [axis.window for axis in axes], [axis.shift for axis in axes]
    return _attention(q, k, v, bias, *geometry, scale, **how)


def packed_attention(
    qkv: Tensor,
    axes: tuple[WindowAxis, WindowAxis],
    bias: Tensor | None,
    scale: float,
    **how: Any,
) -> Tensor:
    """`attention` of (B, H, W, 3, h, D) -> (B, H, W, h, D)."""
    geometry = [axis.window for axis in axes], [axis.shift for axis in axes]
    return _packed_attention(qkv, bias, *geometry, scale, **how)


def _geometry(lengths: Sequence[int], window_size: list[int], shift: list[int]) -> Intervals:
    rows, columns = (
        AxisGeometry(window, is_window=True, is_shifted=step > 0)
        for window, step in zip(window_size, shift, strict=True)
    )
    return Intervals((rows, columns), (lengths[0], lengths[1]), (shift[0], shift[1]))


def _kernels() -> Any:
    from . import triton_kernels

    return triton_kernels


def _eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, intervals: Intervals, scale: float) -> Tensor:
    rows, columns = (
        WindowAxis(length, axis.kernel, shift)
        for length, axis, shift in zip(intervals.lengths, intervals.axes, intervals.shifts, strict=True)
    )
    return EXECUTIONS["window_attention"]["eager"](q, k, v, (rows, columns), bias, scale)


_DEFINITION = [Extra("bias")], "SymInt[] window_size, SymInt[] shift", _geometry, _kernels, _eager
_attention = define_attention("window_attention", *_DEFINITION)
_packed_attention = define_attention("packed_window_attention", *_DEFINITION, is_packed=True)
register_flops("window_attention", lambda k, bias, window_size, *rest: math.prod(window_size))
register_flops("packed_window_attention", lambda k, bias, window_size, *rest: math.prod(window_size))
