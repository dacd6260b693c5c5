"""Routed attention on tensors: which kernels run, and on what memory.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions, t of
them on a route.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..triton_launch import readable
from .triton_backward import key_gradient_launch, query_gradient_launch
from .triton_forward import forward_launch
from .triton_problem import Problem


def forward(
    q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int], scale: float
) -> tuple[Tensor, Tensor]:
    """The output (B, H, W, h, E) and, for the backward, the logsumexp of the scores (B, H, W, h) in powers of two."""
    problem = Problem.of(q, v, regions)
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    logsumexp = torch.empty(q.shape[:4], dtype=torch.float32, device=q.device)
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
    needs_keys: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; those of keys and values are empty where they are not needed."""
    problem = Problem.of(q, v, regions)
    q, k, v, upstream = readable(q), readable(k), readable(v), readable(upstream)
    routes = routes.to(torch.int32).contiguous()
    delta = torch.empty_like(logsumexp)
    q_gradient = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    query_gradient_launch(problem, q, k, v, routes, out, upstream, logsumexp, delta, q_gradient, scale).run()
    k_gradient = torch.empty(k.shape if needs_keys else 0, dtype=k.dtype, device=k.device)
    v_gradient = torch.empty(v.shape if needs_keys else 0, dtype=v.dtype, device=v.device)
    if needs_keys:
        lists = sources_of(routes)
        key_gradient_launch(problem, q, k, v, *lists, upstream, logsumexp, delta, k_gradient, v_gradient, scale).run()
    return q_gradient, k_gradient, v_gradient


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
