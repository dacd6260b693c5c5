"""The public operator of routed attention: arguments are checked here, once, and an execution is chosen.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions, t of them on a
route.
"""

from __future__ import annotations

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
from ..tracing import is_dynamic, is_traced
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
    """softmax(q k^T * scale) v over all tokens of the regions that each query's own region is routed to.

    The map is cut into P equal regions, numbered row-major. The order of a route makes no difference; a region that
    stands in it several times counts as often.

    Args:
        q: queries (B, H, W, h, D), any strides, floating point.
        k: keys (B, H, W, h, D).
        v: values (B, H, W, h, E).
        routes: (B, P, t) integer, the regions 0 .. P-1 that the queries of each region attend to. Numbers out of this
            range raise on a CPU; on other devices they are not looked for, which would wait for the device, and give
            undefined results. The same holds while a model is traced or compiled.
        regions: regions of the map, one number per side or (rows, columns); H and W must be multiples of it.
        scale: what the scores are multiplied with; D ** -0.5 by default.
        backend: `reference`, `eager` or `triton`; it runs or raises. None chooses, `attnzoo.kernels.explain` tells.

    Returns:
        (B, H, W, h, E) in the dtype of v, or of autocast where it is on.

    Raises:
        TypeError: an argument of the wrong kind, or tensors whose dtypes differ.
        ValueError: shapes that do not fit, regions that do not divide the map, routes out of range, an unknown backend.

    Source: bi-level routing attention, BiFormer (arXiv 2303.08810, eq. 3-7 and algorithm 1).
    """
    q, k, v = autocast(q, k, v)
    check_tensors(q=q, k=k, v=v)
    check_same_width(q, k)
    cut = _regions(q, regions)
    _check_routes(routes, q, cut)
    return execution_of(routed_attention, backend, q, v)(q, k, v, routes, cut, scale_or_default(scale, q))


def _regions(q: Tensor, regions: PerAxis) -> Regions:
    rows, columns = pair_of("regions", regions, int)
    for axis, (count, length) in enumerate(((rows, q.shape[1]), (columns, q.shape[2]))):
        name = f"on axis {axis} ({'rows' if axis == 0 else 'columns'})"
        if count < 1:
            raise ValueError(f"regions must be at least 1, got {count} {name}")
        # of a size that an exporter leaves dynamic nothing is known
        if not is_dynamic([length]) and (length % count or length == 0):
            raise ValueError(
                f"regions must divide the map, {length} {name}, got {count}: pad the map to a multiple of it"
            )
    return Regions((q.shape[1], q.shape[2]), (rows, columns))


def _check_routes(routes: Tensor, q: Tensor, regions: Regions) -> None:
    if not isinstance(routes, Tensor):
        raise TypeError(f"routes must be an integer tensor (B, regions, topk), got {type(routes).__name__}")
    if routes.is_floating_point() or routes.is_complex() or routes.dtype == torch.bool:
        raise TypeError(f"routes must be integers, numbers of regions, got {routes.dtype}")
    if routes.ndim != 3 or routes.shape[:2] != (q.shape[0], regions.count) or routes.shape[2] < 1:
        raise ValueError(
            f"routes must be (B, regions, topk) = ({q.shape[0]}, {regions.count}, 1 or more) for "
            f"{regions.split[0]} x {regions.split[1]} regions, got {tuple(routes.shape)}"
        )
    if routes.device != q.device:
        raise ValueError(f"routes must be on the device of q, {q.device}, got {routes.device}")
    if routes.device.type == "cpu" and routes.numel() and not is_traced():
        low, high = (int(x) for x in routes.aminmax())
        if low < 0 or high >= regions.count:
            raise ValueError(
                f"routes must be numbers of regions, 0 .. {regions.count - 1}, got {low if low < 0 else high}"
            )
