"""Reference for routed attention: every region gathers the tokens on its route. Slow, exact, twice differentiable.

Shape legend: B batch, H W map, h heads, D E width of keys and values, P regions of R tokens, t regions on a route.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..saved import checked
from .geometry import Regions


def attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: Regions, scale: float) -> Tensor:
    """softmax(q k^T * scale) v over the regions on each query's route: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    # (P, R) positions of the tokens of every region, (H, W) region of every position
    rows, columns = torch.tensor(
        [regions.positions(region) for region in range(regions.count)], device=q.device
    ).unbind(-1)
    # (B, P, R, h, D); (B, P, t, R, h, D) -> (B, P, t * R, h, D)
    queries = q[:, rows, columns]
    images = torch.arange(q.shape[0], device=q.device)[:, None, None, None]
    positions = images, rows[routes.long()], columns[routes.long()]
    keys, values = (x[positions].flatten(2, 3) for x in (k, v))
    scores = torch.einsum("bprhd,bpkhd->bphrk", queries * scale, keys)
    out = torch.einsum("bphrk,bpkhe->bprhe", scores.softmax(-1), values)
    # back to the map: positions are ordered by region, and their argsort inverts that order
    order = (rows * regions.size[1] + columns).flatten().argsort()
    return checked(out.flatten(1, 2)[:, order].unflatten(1, regions.size), q, k, v, routes)
