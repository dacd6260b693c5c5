"""Relative scores of halo attention, shared by executions: products of queries and relative position vectors.

Shape legend: B batch, H' W' queries of all blocks, h heads, D width, q queries of a block, w window, of one axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .geometry import HaloAxis


def relative_scores(q: Tensor, table: Tensor, axis: HaloAxis, dim: int) -> Tensor:
    """Computes the scores of queries with the learned relative position vectors of an axis.

    Args:
        q: queries, whole blocks (B, H', W', h, D).
        table: relative position vectors (2w - 1, D).
        axis: the geometry of the axis.
        dim: dimension of the axis in q, 1 for rows, 2 for columns.

    Returns:
        (B, H', W', h, w).
    """
    query = torch.arange(axis.queries, device=q.device).unsqueeze(1)
    positions = torch.arange(axis.window, device=q.device)
    entries = positions - query + axis.window - 1
    # (q, w, D)
    vectors = table.to(q.dtype).index_select(0, entries.flatten()).unflatten(0, (axis.queries, axis.window))
    # queries with the same index in their block use the same vectors: (q, B, .., h, D), one product per index
    moved = q.unflatten(dim, (-1, axis.queries)).movedim(dim + 1, 0)
    scores = moved.flatten(1, 4) @ vectors.transpose(1, 2)
    return scores.unflatten(1, moved.shape[1:5]).movedim(0, dim + 1).flatten(dim, dim + 1)
