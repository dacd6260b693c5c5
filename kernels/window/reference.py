"""Reference for window attention: pads, shifts, partitions, attends under a mask, reverts. Twice differentiable.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, w window, n windows, of one
axis (suffix h: rows, suffix w: columns).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..saved import checked
from .geometry import WindowAxis


def attention(
    q: Tensor, k: Tensor, v: Tensor, axes: tuple[WindowAxis, WindowAxis], bias: Tensor | None, scale: float
) -> Tensor:
    """softmax(q k^T * scale + bias) v within each window: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    rows, columns = axes
    queries, keys, values = (_windows(x, rows, columns) for x in (q, k, v))
    # (B, nh, nw, h, wh, ww, wh, ww)
    scores = torch.einsum("bimjnhd,bikjlhd->bijhmnkl", queries * scale, keys)
    if bias is not None:
        row_relation, column_relation = (_relation(axis, bias.device) for axis in axes)
        scores = scores + bias[:, row_relation[:, None, :, None], column_relation[None, :, None, :]]
    # (nh, wh, wh) x (nw, ww, ww) -> (nh, nw, 1, wh, ww, wh, ww)
    row_sees, column_sees = (_sees(axis, q.device) for axis in axes)
    sees = row_sees[:, None, None, :, None, :, None] & column_sees[None, :, None, None, :, None, :]
    weights = scores.masked_fill(~sees, -torch.inf).flatten(-2).softmax(-1).unflatten(-1, sees.shape[-2:])
    out = torch.einsum("bijhmnkl,bikjlhe->bimjnhe", weights, values)
    # (B, nh, wh, nw, ww, h, E) -> (B, H, W, h, E)
    row_ranks, column_ranks = ([axis.rank(position) for position in range(axis.length)] for axis in axes)
    return checked(out.flatten(3, 4).flatten(1, 2)[:, row_ranks][:, :, column_ranks], q, k, v, bias)


def _windows(x: Tensor, rows: WindowAxis, columns: WindowAxis) -> Tensor:
    """(B, H, W, h, D) -> (B, nh, wh, nw, ww, h, D), zeros in the padding."""
    padding = columns.padded_length - columns.length, rows.padded_length - rows.length
    x = F.pad(x, (0, 0, 0, 0, 0, padding[0], 0, padding[1]))
    row_positions, column_positions = (
        [axis.position(rank) for rank in range(axis.padded_length)] for axis in (rows, columns)
    )
    x = x[:, row_positions][:, :, column_positions]
    return x.unflatten(2, (columns.count, columns.window)).unflatten(1, (rows.count, rows.window))


def _relation(axis: WindowAxis, device: torch.device) -> Tensor:
    """Returns the indices into the bias table, (w, w): key - query + w - 1."""
    positions = torch.arange(axis.window, device=device)
    return positions[None, :] - positions[:, None] + axis.window - 1


def _sees(axis: WindowAxis, device: torch.device) -> Tensor:
    """Returns whether a query of a window attends to a key of the same window, (n, w, w)."""
    ranks = torch.arange(axis.padded_length, device=device)
    bounds = torch.tensor([axis.interval(rank) for rank in range(axis.padded_length)], device=device)
    keys = ranks.view(-1, 1, axis.window)
    start, end = bounds.view(-1, axis.window, 1, 2).unbind(-1)
    return (start <= keys) & (keys < end)
