"""Classifiers beside timm's. Shape legend: B batch, H W map, C channels."""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from timm.layers import trunc_normal_
from torch import Tensor, nn


class AuxiliaryHead(nn.Module):
    """A second classifier, of the overview: norm, mean, linear.

    Args:
        dim: channels C.
        num_classes: classes.

    Source: OverLoCK, arXiv 2502.20087, official code.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """A new linear layer, the norm stays."""
        self.fc = nn.Linear(len(self.norm.weight), num_classes)
        trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, num_classes)."""
        return self.fc(self.norm(x.permute(0, 3, 1, 2)).mean((2, 3)))
