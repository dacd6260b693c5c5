"""Reference for neighborhood attention: every query gathers its keys. Slow, exact, twice differentiable.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, k = kh * kw keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..saved import checked
from .geometry import Axis


def attention(q: Tensor, k: Tensor, v: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias) v over each query's neighborhood: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    return av(qk(q, k, axes, bias, scale).softmax(-1), v, axes)


def qk(q: Tensor, k: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """Scores of each query with its keys, row-major over the window: (B, H, W, h, k); -inf where there is no key."""
    rows, columns = (_neighbors(axis, q.device) for axis in axes)
    scores = torch.einsum("bijhd,bijkhd->bijhk", q * scale, _gather(k, rows, columns))
    if bias is not None:
        # a key's index in the table: (key rank - query rank) + kernel - 1, on each axis
        row_places, column_places = (
            (keys - torch.arange(axis.length, device=keys.device)[:, None]) // axis.dilation + axis.kernel - 1
            for axis, keys in zip(axes, (rows, columns), strict=True)
        )
        # (h, H, kh, 1) x (1, 1, W, kw) -> (h, H, W, kh, kw) -> (H, W, h, k)
        places = row_places.clamp(min=0)[:, None, :, None], column_places.clamp(min=0)[None, :, None, :]
        scores = scores + bias[:, places[0], places[1]].flatten(-2).permute(1, 2, 0, 3)
    return checked(scores.masked_fill(~_exists(rows, columns), -torch.inf), q, k, bias)


def av(weights: Tensor, v: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Weighted sum of each query's values: (B, H, W, h, k), (B, H, W, h, E) -> (B, H, W, h, E)."""
    rows, columns = (_neighbors(axis, v.device) for axis in axes)
    present = weights.masked_fill(~_exists(rows, columns), 0)
    return checked(torch.einsum("bijhk,bijkhe->bijhe", present, _gather(v, rows, columns)), weights, v)


def _neighbors(axis: Axis, device: torch.device) -> Tensor:
    """Returns the positions of each query's keys, (L, k); negative, below -2L, where a causal window ends early."""
    missing = -4 * axis.length * axis.dilation
    return torch.tensor(
        [[missing if key is None else key for key in axis.neighbors(position)] for position in range(axis.length)],
        device=device,
    )


def _exists(rows: Tensor, columns: Tensor) -> Tensor:
    """Returns whether the window has a key at each index, (H, W, 1, k)."""
    exists = (rows >= 0)[:, None, :, None] & (columns >= 0)[None, :, None, :]
    return exists.flatten(-2).unsqueeze(2)


def _gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, H, W, h, D) -> (B, H, W, k, h, D), the keys of every query."""
    keys = x[:, rows.clamp(min=0)[:, None, :, None], columns.clamp(min=0)[None, :, None, :]]
    return keys.flatten(3, 4)
