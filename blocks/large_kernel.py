"""Large-kernel attention, with the large convolution decomposed into small ones.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from torch import Tensor, nn

from .convolution import channels_last_conv, depthwise
from .cpu import linear


class LargeKernelAttention(nn.Module):
    """x + projection of u * weights(u), where u is a projection of x: (B, H, W, C) -> (B, H, W, C).

    The weights, one per pixel and channel, are computed by a depthwise 5x5 convolution, a depthwise 7x7 convolution
    with dilation 3 and a 1x1 convolution, instead of one 21x21 convolution. They are not normalized.

    Args:
        dim: channels C.

    Source: Visual Attention Network, arXiv 2202.09741, section 3.1, equations 1 and 2, figure 3.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj1 = nn.Linear(dim, dim)
        self.act = nn.GELU()
        self.conv1 = depthwise(dim, 5)
        self.conv2 = depthwise(dim, 7, dilation=3)
        self.fc = nn.Linear(dim, dim)
        self.proj2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        gated = self.act(linear(self.proj1, x))
        weights = linear(self.fc, channels_last_conv(self.conv2, channels_last_conv(self.conv1, gated)))
        return x + linear(self.proj2, gated * weights)
