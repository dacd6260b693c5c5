"""Attention of whole blocks in plain torch, given the relative scores.

Shape legend: B batch, H W map, h heads, D E width of keys and values, n blocks, q queries of a block, w window, of one
axis (suffix h: rows, suffix w: columns); N blocks, T queries and S keys of a block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import HaloAxis


def blocks(x: Tensor, rows: HaloAxis, columns: HaloAxis) -> Tensor:
    """(B, H', W', h, D) -> (N, h, T, D)."""
    # (B, nh, qh, nw, qw, h, D) -> (B, nh, nw, h, qh, qw, D)
    x = x.unflatten(2, (-1, columns.queries)).unflatten(1, (-1, rows.queries)).permute(0, 1, 3, 5, 2, 4, 6)
    return x.flatten(4, 5).flatten(0, 2)


def attend_with_scores(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    row_scores: Tensor | None,
    column_scores: Tensor | None,
    axes: tuple[HaloAxis, HaloAxis],
    scale: float,
) -> Tensor:
    """Computes the attention of whole rows of blocks.

    Args:
        q: queries, whole blocks (B, H', W', h, D).
        k, v: keys (B, H, W, h, D) and values (B, H, W, h, E), with the halo around them.
        row_scores, column_scores: scores of the rows and columns of each query's window, (B, H', W', h, w), or None.
        axes: geometry of rows and columns.
        scale: factor of the products of queries and keys.

    Returns:
        (B, H', W', h, E).
    """
    rows, columns = axes
    queries = blocks(q, rows, columns)
    relative = [None if x is None else blocks(x, rows, columns) for x in (row_scores, column_scores)]
    mask = _sum(relative[0], relative[1], rows, columns)
    keys, values = (windows(x, rows, columns) for x in (k, v))
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    if torch.compiler.is_exporting():
        # exporters decompose the fused kernel into operators with another layout; views must fit both
        out = out.clone(memory_format=torch.contiguous_format)
    # (N, h, T, E) -> (B, nh, nw, h, qh, qw, E) -> (B, nh, qh, nw, qw, h, E)
    count = q.shape[1] // rows.queries, q.shape[2] // columns.queries
    out = out.unflatten(2, (rows.queries, columns.queries)).unflatten(0, (q.shape[0], *count))
    return out.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)


def windows(x: Tensor, rows: HaloAxis, columns: HaloAxis) -> Tensor:
    """Padded maps (B, H, W, h, D) -> (N, h, S, D)."""
    if torch.compiler.is_exporting():
        # with dynamic sizes, exporters do not support overlapping windows
        for dim, axis in ((1, rows), (2, columns)):
            x = x.index_select(dim, _places(x.shape[dim], axis, x)).unflatten(dim, (-1, axis.window))
            # (B, n, .., h, D, w): the window axis of rows moves to the end, then the window axis of columns
            x = x.movedim(dim + 1, -1)
    else:
        x = x.unfold(1, rows.window, rows.block).unfold(2, columns.window, columns.block)
    # (B, nh, nw, h, D, wh, ww) -> (B, nh, nw, h, wh, ww, D)
    return x.permute(0, 1, 2, 3, 5, 6, 4).flatten(4, 5).flatten(0, 2)


def _places(length: int, axis: HaloAxis, like: Tensor) -> Tensor:
    """Returns the positions of a padded axis that the windows of its blocks contain, (n * w,)."""
    count = (length - 2 * axis.halo) // axis.block
    first = torch.arange(count, device=like.device) * axis.block
    return (first.unsqueeze(1) + torch.arange(axis.window, device=like.device)).flatten()


def _sum(of_rows: Tensor | None, of_columns: Tensor | None, rows: HaloAxis, columns: HaloAxis) -> Tensor | None:
    """Sums the scores of rows (N, h, T, wh) and columns (N, h, T, ww) to (N, h, T, S); None if both are None."""
    if of_rows is None and of_columns is None:
        return None
    if of_columns is None:
        assert of_rows is not None
        return of_rows.repeat_interleave(columns.window, 3)
    if of_rows is None:
        return of_columns.repeat(1, 1, 1, rows.window)
    return (of_rows.unsqueeze(4) + of_columns.unsqueeze(3)).flatten(3)
