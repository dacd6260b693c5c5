"""Additive attention: one global query, a weighted sum of all queries, is multiplied with each key.

Shape legend: B batch, H W map, N = H * W, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cpu import linear


class AdditiveAttention(nn.Module):
    """linear(q + projection(k * g)), where g is a weighted sum of all queries q: (B, H, W, C) -> (B, H, W, C).

    Queries and keys are L2-normalized. The weight of a query is its product with a learned vector, divided by the L2
    norm of all these products over the map. There are no values, no softmax and a single head. Time and memory are
    linear in N.

    Args:
        dim: channels C.

    Source: SwiftFormer, arXiv 2303.15446, section 3.2, equations 4 to 6. The L2 norms are from the official code.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.score = nn.Parameter(torch.randn(dim, 1))
        self.proj1 = nn.Linear(dim, dim)
        self.proj2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        # (B, H, W, C) -> (B, N, C)
        x = x.flatten(1, 2)
        q = F.normalize(linear(self.q, x), dim=2)
        k = F.normalize(linear(self.k, x), dim=2)
        # (B, N, 1); a common factor would cancel
        weights = F.normalize(q @ self.score, dim=1)
        # (B, 1, N) with (B, N, C) -> (B, 1, C)
        query = weights.transpose(1, 2) @ q
        # (B, N, C) -> (B, H, W, C)
        return linear(self.proj2, linear(self.proj1, k * query) + q).unflatten(1, (height, width))
