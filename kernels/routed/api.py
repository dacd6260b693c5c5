"""Public operator of routed attention: checks the arguments and chooses an execution.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions, t regions on a
route.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arguments import (
    PerAxis,
    autocast,
    check_same_width,
    check_tensors,
    execution_of,
    operator,
    pair_of,
    scale_or_default,
)
from ..repeated import key_of, remember, repeated
from ..tracing import is_dynamic, is_traced
from ..transforms import is_transformed
from . import eager, reference, triton
from .geometry import Regions


@operator(reference=reference.attention, eager=eager.attention, triton=triton.attention)
def routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Tensor,
    regions: PerAxis,
    *,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Computes softmax(q k^T * scale) v over all tokens of the regions that each query's own region is routed to.

    The map is split into P equal regions, numbered row-major. The order of the regions on a route does not matter. A
    region that is on a route several times counts that many times.

    Args:
        q: queries (B, H, W, h, D), floating point, with any strides.
        k: keys (B, H, W, h, D).
        v: values (B, H, W, h, E).
        routes: (B, P, t) integer, indices 0 .. P-1 of the regions that the queries of each region attend to. Indices
            out of this range raise an error on a CPU. On other devices they are not checked, because that would wait
            for the device, and give undefined results. The same holds while a model is traced or compiled.
        regions: number of regions per axis, one number or (rows, columns); H and W must be multiples of it.
        scale: factor of the scores; D ** -0.5 by default.
        backend: `reference`, `eager` or `triton`, which runs or raises an error; None chooses, see
            `attnzoo.kernels.explain`.

    Returns:
        (B, H, W, h, E) in the dtype of v, or in the autocast dtype where autocast is on.

    Raises:
        TypeError: an argument has the wrong type, or the dtypes of tensors differ.
        ValueError: shapes do not fit, regions do not divide the map, routes are out of range, or the backend is
            unknown.

    Source: bi-level routing attention, BiFormer (arXiv 2303.08810, eq. 3-7 and algorithm 1).
    """
    q, k, v = autocast(q, k, v)
    key = key_of(routed_attention, (q, k, v, routes), regions, scale, backend)
    again = repeated(key)
    if again is not None:
        _check_range(routes)
        return again(q, k, v, routes)
    check_tensors(q=q, k=k, v=v)
    check_same_width(q, k)
    cut = _regions(q, regions)
    _check_routes(routes, q, cut)
    execution, factor = execution_of(routed_attention, backend, q, v), scale_or_default(scale, q)

    def attend(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, **how: Any) -> Tensor:
        return execution(q, k, v, routes, cut, factor, **how)

    out = attend(q, k, v, routes)
    remember(key, routed_attention, execution, attend)
    return out


def _regions(q: Tensor, regions: PerAxis) -> Regions:
    rows, columns = pair_of("regions", regions, int)
    for axis, (count, length) in enumerate(((rows, q.shape[1]), (columns, q.shape[2]))):
        name = f"on axis {axis} ({'rows' if axis == 0 else 'columns'})"
        if count < 1:
            raise ValueError(f"regions must be at least 1, got {count} {name}")
        # a dynamic size cannot be checked
        if not is_dynamic([length]) and (length % count or length == 0):
            raise ValueError(
                f"regions must divide the map, {length} {name}, got {count}: pad the map to a multiple of it"
            )
    return Regions((q.shape[1], q.shape[2]), (rows, columns))


def _check_routes(routes: Tensor, q: Tensor, regions: Regions) -> None:
    if not isinstance(routes, Tensor):
        raise TypeError(f"routes must be an integer tensor (B, regions, topk), got {type(routes).__name__}")
    if routes.is_floating_point() or routes.is_complex() or routes.dtype == torch.bool:
        raise TypeError(f"routes must be integer region indices, got {routes.dtype}")
    if routes.ndim != 3 or routes.shape[:2] != (q.shape[0], regions.count) or routes.shape[2] < 1:
        raise ValueError(
            f"routes must be (B, regions, topk) = ({q.shape[0]}, {regions.count}, 1 or more) for "
            f"{regions.split[0]} x {regions.split[1]} regions, got {tuple(routes.shape)}"
        )
    if routes.device != q.device:
        raise ValueError(f"routes must be on the device of q, {q.device}, got {routes.device}")
    _check_range(routes)


def _check_range(routes: Tensor) -> None:
    """Checks the indices (B, regions, topk) on a CPU; on other devices that would wait for the device."""
    if routes.device.type == "cpu" and routes.numel() and not is_traced() and not is_transformed():
        low, high = (int(x) for x in routes.aminmax())
        if low < 0 or high >= routes.shape[1]:
            raise ValueError(
                f"routes must be region indices, 0 .. {routes.shape[1] - 1}, got {low if low < 0 else high}"
            )
