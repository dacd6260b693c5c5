"""Routed attention by Triton kernels, as an operator of torch. Triton is imported when it runs.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions, t of
them on a route.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..library import define, differentiate, refuse_to_differentiate
from .geometry import Regions


def attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: Regions, scale: float) -> Tensor:
    """softmax(q k^T * scale) v over the regions on each query's route: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    out, _ = _attention(q, k, v, routes, list(regions.split), scale)
    return out


def _forward(
    q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: list[int], scale: float
) -> tuple[Tensor, Tensor]:
    from . import triton_attention

    return triton_attention.forward(q, k, v, routes, (regions[0], regions[1]), scale)


def _backward(
    upstream: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    routes: Tensor,
    regions: list[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    from . import triton_attention

    split = regions[0], regions[1]
    return triton_attention.backward(upstream, q, k, v, out, logsumexp, routes, split, scale)


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), q.new_empty(q.shape[:4], dtype=torch.float32)


def _fake_backward(upstream: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


_attention = define(
    "routed_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor routes, SymInt[] regions, float scale) -> (Tensor, Tensor)",
    _forward,
    _fake_forward,
)
_attention_backward = define(
    "routed_attention_backward",
    "(Tensor upstream, Tensor q, Tensor k, Tensor v, Tensor out, Tensor logsumexp, Tensor routes, SymInt[] regions, "
    "float scale) -> (Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, routes, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, *output, routes)


def _derivative(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad[:3]
    found = _attention_backward(upstream, *ctx.saved_tensors, *ctx.rest)
    gradients = [gradient if needed else None for gradient, needed in zip(found, needs, strict=True)]
    return *gradients, None, *(None for _ in ctx.rest)


differentiate("routed_attention", _derivative, _save)
refuse_to_differentiate("routed_attention_backward", "routed_attention")
