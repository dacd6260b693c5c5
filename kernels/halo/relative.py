"""What queries say to the rows or columns of their window: a product with learned vectors, shared by executions.

Shape legend: B batch, H' W' queries of all blocks, h heads, D width, q queries of a block, w window, of one axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .geometry import HaloAxis


def relative_scores(q: Tensor, table: Tensor, axis: HaloAxis, dim: int) -> Tensor:
    """Scores of queries with the vectors of a table that stand for the positions of their window along an axis.

    Args:
        q: (B, H', W', h, D), whole blocks.
        table: (2w - 1, D).
        axis: the geometry of the axis.
        dim: where it is, 1 for rows, 2 for columns.

    Returns:
        (B, H', W', h, w).
    """
    query = torch.arange(axis.queries, device=q.device).unsqueeze(1)
    positions = torch.arange(axis.window, device=q.device)
    entries = positions - query + axis.window - 1
    # (q, w, D)
    vectors = table.to(q.dtype).index_select(0, entries.flatten()).unflatten(0, (axis.queries, axis.window))
    # queries of the same number in their block see the same vectors: (q, B, .., h, D), one product for each number
    moved = q.unflatten(dim, (-1, axis.queries)).movedim(dim + 1, 0)
    scores = moved.flatten(1, 4) @ vectors.mT
    return scores.unflatten(1, moved.shape[1:5]).movedim(0, dim + 1).flatten(dim, dim + 1)
