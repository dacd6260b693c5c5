"""Fast routed attention in plain torch: the regions on a route are copied as long rows, or not at all.

Following a route is one index_select. In the forward pass of `eager_chunks` it selects tokens with all their heads, and
the map is read in its original layout. In `eager_batch`, and in every backward pass, it selects whole regions of a
head, and the map is laid out region by region; the backward pass sums over these rows.

Regions of few tokens make inefficient matrix products, and long routes require large copies. In these cases the whole
map attends to itself under a mask. On a CPU, images are computed one by one, so that memory does not grow with the
batch (`eager_chunks`). While a model is traced, or on another device, the whole batch is computed at once
(`eager_batch`).

Shape legend: B batch, H W map, h heads, D E width of keys and values, P regions, t regions on a route.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..saved import checked
from ..tracing import is_traced
from ..transforms import is_transformed, transformable
from . import eager_batch, eager_chunks
from .geometry import Regions


def attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: Regions, scale: float) -> Tensor:
    """softmax(q k^T * scale) v over the regions on each query's route: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    routes = routes.long()
    if is_transformed():
        return transformable(
            lambda: eager_batch.attend(q, k, v, eager_batch.best_form(routes, regions, q.dtype), scale)
        )
    if q.device.type != "cpu" or is_traced():
        form = eager_batch.best_form(routes, regions, q.dtype)
        return checked(eager_batch.attend(q, k, v, form, scale), q, k, v, routes)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return eager_chunks.Attention.apply(q, k, v, routes, regions, scale)
    return eager_chunks.forward(q, k, v, routes, regions, scale)
