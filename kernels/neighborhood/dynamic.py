"""Neighborhood attention on a map of dynamic size, exported or compiled: one node of the graph.

With an unknown map size, tracers spend minutes on the arithmetic of tiles and do not succeed. So these operators are
opaque to them: the trace contains one node with the shape of its result. At run time the node runs the eager execution,
and another node its backward pass; the exporter decides how to write the node to a file.

Shape legend: B batch, H W map, h heads, D E width of keys and values, k = kh * kw keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..library import define_dynamic
from . import eager
from .geometry import Axis
from .padding import Padding, padded
from .windows import table_on_map

_GEOMETRY = "int[2] kernel, int[2] dilation, int[2] stride, bool[2] is_causal"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: tuple[Axis, Axis],
    bias: Tensor | None,
    scale: float,
    padding: Padding | None,
) -> Tensor:
    """softmax(q k^T * scale + bias) v over each query's neighborhood: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    return _attention(q, k, v, bias, *(padding or (None, None)), scale, *_geometry(axes))


def qk(q: Tensor, k: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """Scores of each query with its keys, row-major over the window: (B, H, W, h, k)."""
    return _qk(q, k, bias, scale, *_geometry(axes))


def av(weights: Tensor, v: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Weighted sum of each query's values: (B, H, W, h, k), (B, H, W, h, E) -> (B, H, W, h, E)."""
    return _av(weights, v, *_geometry(axes))


def bias_on_map(bias: Tensor, height: int, width: int) -> Tensor:
    """Expands a table over a map: (h, 2kh-1, 2kw-1) -> (H, W, h, k)."""
    return _bias(bias, height, width)


def _geometry(axes: tuple[Axis, Axis]) -> tuple[Sequence[Any], ...]:
    return tuple([getattr(axis, name) for axis in axes] for name in ("kernel", "dilation", "stride", "is_causal"))


def _axes(size: Sequence[int], *geometry: Sequence[Any]) -> tuple[Axis, Axis]:
    rows, columns = (Axis(*arguments) for arguments in zip(size, *geometry, strict=True))
    return rows, columns


def _run_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    key: Tensor | None,
    value: Tensor | None,
    scale: float,
    *geometry: Sequence[Any],
) -> Tensor:
    padding = None if key is None or value is None else (key, value)
    axes = _axes(q.shape[1:3], *geometry)
    out = padded(lambda q, k, v, axes: eager.attention(q, k, v, axes, bias, scale), q, k, v, axes, padding)
    return out.contiguous()


def _run_qk(q: Tensor, k: Tensor, bias: Tensor | None, scale: float, *geometry: Sequence[Any]) -> Tensor:
    return eager.qk(q, k, _axes(q.shape[1:3], *geometry), bias, scale).contiguous()


def _run_av(weights: Tensor, v: Tensor, *geometry: Sequence[Any]) -> Tensor:
    return eager.av(weights, v, _axes(v.shape[1:3], *geometry)).contiguous()


def _run_bias(bias: Tensor, height: int, width: int) -> Tensor:
    return table_on_map(bias, height, width).contiguous()


_attention = define_dynamic(
    "neighborhood_attention",
    f"(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? key, Tensor? value, float scale, {_GEOMETRY}) -> Tensor",
    _run_attention,
    lambda q, k, v, *others: v.new_empty(v.shape),
)
_qk = define_dynamic(
    "neighborhood_qk",
    f"(Tensor q, Tensor k, Tensor? bias, float scale, {_GEOMETRY}) -> Tensor",
    _run_qk,
    lambda q, k, bias, scale, kernel, *others: q.new_empty(*q.shape[:4], kernel[0] * kernel[1]),
)
_av = define_dynamic(
    "neighborhood_av",
    f"(Tensor weights, Tensor v, {_GEOMETRY}) -> Tensor",
    _run_av,
    lambda weights, v, *geometry: v.new_empty(v.shape),
)
_bias = define_dynamic(
    "neighborhood_bias",
    "(Tensor bias, SymInt height, SymInt width) -> Tensor",
    _run_bias,
    lambda bias, height, width: bias.new_empty(
        height, width, bias.shape[0], (bias.shape[1] + 1) // 2 * ((bias.shape[2] + 1) // 2)
    ),
)
