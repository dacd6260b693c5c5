"""Routed attention on tensors: which kernels run, and on what memory.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions, t of
them on a route.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..intervals.triton_attention import empty_gradients, empty_outputs
from ..triton_launch import readable
from .triton_backward import key_gradient_launch, query_gradient_launch
from .triton_forward import forward_launch
from .triton_problem import Problem


def forward(
    q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int], scale: float
) -> tuple[Tensor, Tensor]:
    """The output (B, H, W, h, E) and, for the backward, the logsumexp of the scores (B, H, W, h) in powers of two."""
    problem = Problem.of(q, v, regions)
    out, logsumexp = empty_outputs(q, v)
    routes = routes.to(torch.int32).contiguous()
    forward_launch(problem, readable(q), readable(k), readable(v), routes, out, logsumexp, scale).run()
    return out, logsumexp


def backward(
    upstream: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    routes: Tensor,
    regions: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    problem = Problem.of(q, v, regions)
    q, k, v, upstream = readable(q), readable(k), readable(v), readable(upstream)
    routes = routes.to(torch.int32).contiguous()
    delta = torch.empty_like(logsumexp)
    of_q, of_k, of_v = empty_gradients(q, k, v)
    query_gradient_launch(problem, q, k, v, routes, out, upstream, logsumexp, delta, of_q, scale).run()
    lists = sources_of(routes)
    key_gradient_launch(problem, q, k, v, *lists, upstream, logsumexp, delta, of_k, of_v, scale).run()
    return of_q, of_k, of_v


def sources_of(routes: Tensor) -> tuple[Tensor, Tensor]:
    """The regions routed to each region, from routes (B, P, t).

    Returns:
        sources (B, P * t), in the order of the region they are routed to, and starts (B, P + 1) of each region's.
    """
    batch, regions, steps = routes.shape
    targets, order = routes.flatten(1).sort(stable=True)
    every = torch.arange(regions + 1, dtype=targets.dtype, device=targets.device).expand(batch, -1)
    starts = torch.searchsorted(targets, every.contiguous(), out_int32=True)
    return (order // steps).to(torch.int32), starts
