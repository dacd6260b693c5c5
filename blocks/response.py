"""Layers that scale a channel by its response over the whole map, and an MLP with one of them.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
import torch
from timm.layers import register_notrace_module
from timm.layers.squeeze_excite import SqueezeExciteCl
from torch import Tensor, nn

from .convolution import ResidualConv
from .linear import Linear


@register_notrace_module  # the arithmetic depends on the dtype of the map
class GlobalResponseNorm(nn.Module):
    """x * (1 + gamma * N) + beta, where N is a channel's norm over the map, relative to the mean of all channels'.

    The norms are computed in float32 at least: the squares of a map overflow float16, and its smallest number is
    larger than epsilon.

    Args:
        dim: channels C.

    Source: ConvNeXt V2, arXiv 2301.00808, section 3.2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        exact = x if x.dtype == torch.float64 else x.float()
        # several times faster than the norm of torch; the least number keeps the gradient of a map of zeros finite
        norms = exact.square().sum((1, 2), keepdim=True).clamp(min=1e-37).sqrt()
        scale = 1 + self.gamma * (norms / (norms.mean(-1, keepdim=True) + 1e-6))
        return (x * scale + self.beta).to(x.dtype)


class SqueezeExcite(SqueezeExciteCl):
    """timm's layer of the name with OverLoCK's widths, in a form that TorchScript reads: (B, H, W, C) to the same.

    Args:
        dim: channels C.

    Source: Squeeze-and-Excitation Networks, arXiv 1709.01507.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, rd_channels=max(16, dim // 8), act_layer=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return x * self.gate(self.fc2(self.act(self.fc1(x.mean((1, 2), keepdim=True)))))


class ResponseMlp(nn.Module):
    """Linear, GELU, 3x3 depthwise convolution, global response norm, linear: (B, H, W, C) -> (B, H, W, out_dim).

    Args:
        dim: channels C.
        hidden_dim: channels in between.

    Source: OverLoCK, arXiv 2502.20087, section 3.2.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.conv = ResidualConv(hidden_dim)
        self.norm = GlobalResponseNorm(hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.fc2(self.norm(self.conv(self.act(self.fc1(x)))))
