"""Routed attention in plain torch, fast: what a route lists is copied as long rows, or not at all.

Following a route is one index_select: of tokens with all their heads, where the map is read as it lies (`eager_chunks`
forward); of whole regions of a head, where it is laid out region by region (`eager_batch`, and all ways back, on which
rows are added up). Regions of few tokens multiply badly, and long routes copy much: there the whole map attends to
itself under a mask. On a CPU images are taken one by one, so that memory does not grow with the batch (`eager_chunks`).
While a model is traced, or on another device, the whole batch goes through at once (`eager_batch`).

Shape legend: B batch, H W map, h heads, D E width of keys and values, P regions, t regions on a route.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..tracing import is_traced
from . import eager_batch, eager_chunks
from .geometry import Regions


def attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: Regions, scale: float) -> Tensor:
    """softmax(q k^T * scale) v over the regions on each query's route: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    routes = routes.long()
    if q.device.type != "cpu" or is_traced():
        return eager_batch.attend(q, k, v, eager_batch.best_form(routes, regions, q.dtype), scale)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return eager_chunks.Attention.apply(q, k, v, routes, regions, scale)
    return eager_chunks.forward(q, k, v, routes, regions, scale)
