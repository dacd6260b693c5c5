"""Reference for halo attention: pads, takes the window of every block, attends, and reverts. Twice differentiable.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, n blocks, q queries of a block,
w window, of one axis (suffix h: rows, suffix w: columns).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..saved import checked
from .geometry import HaloAxis


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: tuple[HaloAxis, HaloAxis],
    rel_rows: Tensor | None,
    rel_columns: Tensor | None,
    scale: float,
) -> Tensor:
    """softmax(q k^T * scale + relative scores) v of each block: (B, H', W', h, D), .. -> (B, H', W', h, E)."""
    rows, columns = axes
    padding = columns.padded_queries - columns.query_length, rows.padded_queries - rows.query_length
    queries = F.pad(q, (0, 0, 0, 0, 0, padding[0], 0, padding[1]))
    # (B, nh, qh, nw, qw, h, D)
    queries = queries.unflatten(2, (columns.count, columns.queries)).unflatten(1, (rows.count, rows.queries))
    keys, values = (_windows(x, rows, columns) for x in (k, v))
    # (B, nh, nw, h, qh, qw, wh, ww)
    scores = torch.einsum("bimjnhd,bikjlhd->bijhmnkl", queries * scale, keys)
    if rel_rows is not None:
        scores = scores + torch.einsum("bimjnhd,mkd->bijhmnk", queries, rel_rows[_relation(rows, q)]).unsqueeze(7)
    if rel_columns is not None:
        table = rel_columns[_relation(columns, q)]
        scores = scores + torch.einsum("bimjnhd,nld->bijhmnl", queries, table).unsqueeze(6)
    weights = scores.flatten(6).softmax(-1).unflatten(6, (rows.window, columns.window))
    out = torch.einsum("bijhmnkl,bikjlhe->bimjnhe", weights, values)
    # (B, nh, qh, nw, qw, h, E) -> (B, H', W', h, E)
    out = out.flatten(3, 4).flatten(1, 2)[:, : rows.query_length, : columns.query_length]
    return checked(out, q, k, v, rel_rows, rel_columns)


def _windows(x: Tensor, rows: HaloAxis, columns: HaloAxis) -> Tensor:
    """(B, H, W, h, D) -> (B, nh, wh, nw, ww, h, D), zeros outside of the map."""
    x = F.pad(x, (0, 0, 0, 0, *columns.padding, *rows.padding))
    row_places, column_places = (
        [axis.position(block, place) + axis.halo for block in range(axis.count) for place in range(axis.window)]
        for axis in (rows, columns)
    )
    x = x[:, row_places][:, :, column_places]
    return x.unflatten(2, (columns.count, columns.window)).unflatten(1, (rows.count, rows.window))


def _relation(axis: HaloAxis, like: Tensor) -> Tensor:
    """Returns the indices into a table, (q, w)."""
    entries = [[axis.relation(query, place) for place in range(axis.window)] for query in range(axis.queries)]
    return torch.tensor(entries, device=like.device)
