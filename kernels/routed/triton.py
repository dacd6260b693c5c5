"""Routed attention with Triton kernels, as a torch operator. Triton is imported when the operator runs.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions, t regions on a
route.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..fallback import EXECUTIONS
from ..flops import register_flops
from ..fused import Extra, define_attention
from .geometry import Regions


def attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: Regions, scale: float, **how: Any) -> Tensor:
    """softmax(q k^T * scale) v over the regions on each query's route: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    return _attention(q, k, v, routes, list(regions.split), scale, **how)


def _kernels() -> Any:
    from . import triton_kernels

    return triton_kernels


def _eager(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: Regions, scale: float) -> Tensor:
    return EXECUTIONS["routed_attention"]["eager"](q, k, v, routes, regions, scale)


_attention = define_attention(
    "routed_attention",
    [Extra("routes", optional=False, differentiable=False)],
    "SymInt[] regions",
    lambda lengths, split: Regions((lengths[0], lengths[1]), (split[0], split[1])),
    _kernels,
    _eager,
)
register_flops(
    "routed_attention",
    lambda k, routes, regions, *rest: routes[-1] * math.prod(-(-k[i + 1] // regions[i]) for i in range(2)),
)
