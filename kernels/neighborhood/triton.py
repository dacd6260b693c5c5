"""Neighborhood attention by fused kernels: the interval operators of torch, in this operator's terms.

Nothing here imports Triton; the kernels do, when they first run.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..intervals.library import define_attention
from ..intervals.rule import Rule
from .geometry import Axis


def _rules(
    kernel_size: list[int], dilation: list[int], stride: list[int], is_causal: list[bool]
) -> tuple[tuple[Rule, Rule], tuple[int, int]]:
    rows, columns = (Rule(*axis) for axis in zip(kernel_size, dilation, stride, is_causal, strict=True))
    return (rows, columns), (0, 0)


_GEOMETRY = "SymInt[] kernel_size, SymInt[] dilation, SymInt[] stride, bool[] is_causal"
define_attention("neighborhood_attention", _GEOMETRY, _rules)


def attention(q: Tensor, k: Tensor, v: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias) v over each query's neighborhood: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    out, _ = torch.ops.attnzoo.neighborhood_attention(q, k, v, bias, *_geometry(axes), scale)
    return out


def _geometry(axes: tuple[Axis, Axis]) -> tuple[list[int], list[int], list[int], list[bool]]:
    return (
        [axis.kernel for axis in axes],
        [axis.dilation for axis in axes],
        [axis.stride for axis in axes],
        [axis.is_causal for axis in axes],
    )
