"""MLPs that look at the neighbors of a pixel with a depthwise convolution between their linear layers.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .convolution import ResidualConv, depthwise
from .linear import Linear, Mlp


@register_notrace_module  # it runs another way where gradients are wanted
class LocalMlp(Mlp):
    """Linear, 3x3 depthwise convolution, GELU, linear: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        hidden_dim: channels in between.
        drop: dropout before the last linear layer and at the end.
        residual: whether the convolution comes after GELU and is added to its input.

    Source: PVT v2, arXiv 2106.13797, section 3.2; residual: RALA, arXiv 2411.07635, official code.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0, residual: bool = False) -> None:
        super().__init__(dim, hidden_dim, drop)
        self.residual = residual
        self.conv: nn.Module = ResidualConv(hidden_dim) if residual else depthwise(hidden_dim, 3)

    def _expand(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return x if self.residual else self.conv(x)

    def _contract(self, x: Tensor) -> Tensor:
        if self.residual:
            x = self.conv(x)
        return self.drop(self.fc2(self.drop(x)))


class GatedLocalMlp(nn.Module):
    """Linear to two maps, GELU of a 3x3 depthwise convolution of one times the other, linear: (B, H, W, C) to the same.

    Args:
        dim: channels C.
        hidden_dim: channels of either map.
        drop: dropout before the last linear layer and at the end.

    Source: convolutional GLU of TransNeXt, arXiv 2311.17132, section 3.4.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(dim, 2 * hidden_dim)
        self.conv = depthwise(hidden_dim, 3)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        gate, x = self.fc1(x).chunk(2, 3)
        return self.drop(self.fc2(self.drop(self.act(self.conv(gate)) * x)))
