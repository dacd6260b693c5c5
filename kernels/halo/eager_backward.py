"""Explicit gradients of halo attention for some rows of blocks: matrix products and sums of overlapping windows.

Shape legend: B batch, H W map, h heads, D E width of keys and values, n blocks, q queries of a block, w window, of one
axis (suffix h: rows, suffix w: columns); N blocks together, T queries and S keys of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import dtype_of_scores
from .blocks import blocks
from .geometry import HaloAxis
from .relative import relative_scores


def gradients(
    dout: Tensor,
    q: Tensor,
    windows: tuple[Tensor, Tensor],
    tables: tuple[Tensor | None, Tensor | None],
    axes: tuple[HaloAxis, HaloAxis],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor | None]]:
    """Computes the gradients of queries, of windows of keys and values, and of tables.

    Args:
        dout: gradient of the output (dout), whole blocks (B, H', W', h, E).
        q: queries, whole blocks (B, H', W', h, D).
        windows: windows of keys (N, h, S, D) and of values (N, h, S, E).
        tables: tables of rows and columns, or None.
        axes: the geometry of both axes.
        scale: factor of the products of queries and keys.

    Returns:
        The gradients of queries (B, H', W', h, D), of windows of keys (N, h, S, D) and of values (N, h, S, E), and a
        gradient for each table, None for a missing table.
    """
    rows, columns = axes
    precise = dtype_of_scores(q.dtype)
    dout, q = dout.to(precise), q.to(precise)
    keys, values = (x.flatten(0, 1).to(precise) for x in windows)
    queries, upstream_blocks = (blocks(x, rows, columns).flatten(0, 1) for x in (q, dout))
    leaf = q.detach().requires_grad_()
    leaves = [None if table is None else table.detach().requires_grad_() for table in tables]
    with torch.enable_grad():
        relative = [
            None if table is None else relative_scores(leaf, table, axis, dim)
            for dim, axis, table in zip((1, 2), axes, leaves, strict=True)
        ]
    # (N * h, T, S)
    scores = torch.bmm(queries, keys.mT).mul_(scale)
    by_place = scores.unflatten(2, (rows.window, columns.window))
    for i, part in enumerate(relative):
        if part is not None:
            # rows (.., wh, 1), columns (.., 1, ww)
            by_place += blocks(part.detach(), rows, columns).flatten(0, 1).unsqueeze(3 - i)
    weights = scores.softmax(2)
    of_weights = torch.bmm(upstream_blocks, values.mT)
    of_values = torch.bmm(weights.mT, upstream_blocks)
    of_scores = torch._softmax_backward_data(of_weights, weights, 2, weights.dtype)
    of_keys = torch.bmm(of_scores.mT, queries).mul_(scale)
    of_queries = unblocked(torch.bmm(of_scores, keys).mul_(scale), q, rows, columns)
    of_tables: list[Tensor | None] = []
    by_place = of_scores.unflatten(2, (rows.window, columns.window))
    for i, (part, table) in enumerate(zip(relative, leaves, strict=True)):
        if part is None or table is None:
            of_tables.append(None)
            continue
        of_part = unblocked(by_place.sum(3 - i), q, rows, columns)
        more, of_table = torch.autograd.grad(part, (leaf, table), of_part)
        of_queries = of_queries + more
        of_tables.append(of_table)
    heads = q.shape[3]
    return of_queries, of_keys.unflatten(0, (-1, heads)), of_values.unflatten(0, (-1, heads)), of_tables


def unblocked(x: Tensor, like: Tensor, rows: HaloAxis, columns: HaloAxis) -> Tensor:
    """(N * h, T, D) -> (B, H', W', h, D), with the batch, map and heads of `like`."""
    count = like.shape[1] // rows.queries, like.shape[2] // columns.queries
    # (B, nh, nw, h, qh, qw, D) -> (B, nh, qh, nw, qw, h, D)
    x = x.unflatten(1, (rows.queries, columns.queries)).unflatten(0, (like.shape[0], *count, like.shape[3]))
    return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)


def add_windows(target: Tensor, windows: Tensor, rows: HaloAxis, columns: HaloAxis) -> None:
    """Adds windows to the map at their positions.

    Neighboring windows overlap, so each part of a block is added separately.

    Args:
        target: the map (B, H, W, h, D) in whole blocks, from the first row of the first window on.
        windows: (N, h, S, D), for as many rows of blocks as begin in the map.
        rows, columns: the geometry.
    """
    # (B, nh, nw, h, wh, ww, D) -> (B, nh, wh, nw, ww, h, D)
    windows = windows.unflatten(2, (rows.window, columns.window))
    windows = windows.unflatten(0, (target.shape[0], -1, columns.count)).permute(0, 1, 4, 2, 5, 3, 6)
    lines = windows.shape[1]
    for row in range(0, rows.window, rows.block):
        for column in range(0, columns.window, columns.block):
            part = windows[:, :, row : row + rows.block, :, column : column + columns.block]
            # (B, nh, bh, nw, bw, h, D)
            place = target[:, row : row + lines * rows.block, column : column + columns.count * columns.block]
            place = place.unflatten(2, (-1, columns.block)).unflatten(1, (-1, rows.block))
            place[:, :, : part.shape[2], :, : part.shape[4]] += part
