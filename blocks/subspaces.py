"""Attention of positions in subspaces of channels. Shape legend: B batch, C channels, H W map, g subspaces."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from torch import Tensor, nn


class SubspaceAttention(nn.Module):
    """Adds, in each run of channels, the map weighted by a softmax over its positions: (B, C, H, W) -> (B, C, H, W).

    The subspaces are groups of channels of the same layers here.

    Args:
        dim: channels C.
        subspaces: runs of channels, each with its own attention.

    Raises:
        ValueError: `dim` is not a multiple of `subspaces`.

    Source: ULSAM, arXiv 2006.15102, and its official code.
    """

    def __init__(self, dim: int, subspaces: int = 4) -> None:
        super().__init__()
        if dim % subspaces:
            raise ValueError(f"the channels must be a multiple of subspaces, got {dim} for {subspaces}")
        self.depthwise = nn.Conv2d(dim, dim, 1, groups=dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.pointwise = nn.Conv2d(dim, subspaces, 1, groups=subspaces)
        self.norm2 = nn.BatchNorm2d(subspaces)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        pooled = self.pool(self.act(self.norm1(self.depthwise(x))))
        scores = self.act(self.norm2(self.pointwise(pooled)))
        # (B, g, H, W)
        weights = scores.flatten(2).softmax(2).unflatten(2, x.shape[2:])
        # (B, C, H, W) -> (B, g, C / g, H, W)
        groups = x.unflatten(1, (weights.shape[1], -1))
        return (groups * (1 + weights.unsqueeze(2))).flatten(1, 2)
