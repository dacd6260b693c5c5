"""Squeeze-and-excitation. Shape legend: B batch, H W map, C channels."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from timm.layers.squeeze_excite import SqueezeExciteCl
from torch import Tensor, nn


class SqueezeExcite(SqueezeExciteCl):
    """timm's `SqueezeExciteCl` with OverLoCK's widths, for TorchScript: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.

    Source: Squeeze-and-Excitation Networks, arXiv 1709.01507.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, rd_channels=max(16, dim // 8), act_layer=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return x * self.gate(self.fc2(self.act(self.fc1(x.mean((1, 2), keepdim=True)))))
