"""Tokens in the order of the steps that visit them, and back.

Shape legend: B batch, L tokens and steps, h heads, E channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def heads_of(*tensors: Tensor | None) -> int:
    """Returns the number of heads: that of the tensors which do not have one head for all."""
    # A (h, E, N), D (h, E) and routes (h, L) begin with their heads
    found = [x.shape[-2] if x.ndim == 4 else x.shape[0] for x in tensors if x is not None]
    return next((heads for heads in found if heads != 1), 1)


def by_step(x: Tensor, routes: Tensor | None, heads: int) -> Tensor:
    """Takes the token of every step: (B, L, h or 1, E) with routes (h, L) -> (B, L, h, E)."""
    if routes is None:
        return x.expand(-1, -1, heads, -1)
    if x.shape[2] == 1:
        tokens = routes.t().flatten()
        return x.squeeze(2).index_select(1, tokens).unflatten(1, (-1, heads))
    return x.flatten(1, 2).index_select(1, _entries(routes)).unflatten(1, (-1, heads))


def by_token(x: Tensor, routes: Tensor | None) -> Tensor:
    """Puts the result of every step in the place of its token: (B, L, h, E) -> (B, L, h, E)."""
    if routes is None:
        return x
    return x.flatten(1, 2).index_select(1, _entries(routes.argsort(1))).unflatten(1, (-1, x.shape[2]))


def _entries(routes: Tensor) -> Tensor:
    """Returns the places of tokens in a list of all heads of all tokens: (h, L) -> (L * h,)."""
    heads = routes.shape[0]
    return (routes.t() * heads + torch.arange(heads, device=routes.device)).flatten()
