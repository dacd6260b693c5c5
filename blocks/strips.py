"""Attention of rows and columns. Shape legend: B batch, C channels, H W map."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from torch import Tensor, nn


class StripAttention(nn.Module):
    """Weights rows and columns of each channel, without a reduction of channels: (B, C, H, W) -> (B, C, H, W).

    The means of rows and of columns go through the same convolution, group norm and sigmoid. There is no official code;
    the published sizes are T (kernel 5, depthwise, 32 groups of the norm), B (7, depthwise, 16), S (5, groups of 8
    channels, 16) and L (7, groups of 8 channels, 16).

    Args:
        dim: channels C.
        kernel_size: positions of the convolution along a strip, odd.
        group_width: channels of a group of the convolution.
        norm_groups: groups of the norm.

    Raises:
        ValueError: `kernel_size` is even, or `dim` cannot be divided into the groups, which the paper does not treat.

    Source: ELA, Efficient Local Attention, arXiv 2403.01123.
    """

    def __init__(self, dim: int, kernel_size: int = 5, group_width: int = 1, norm_groups: int = 32) -> None:
        super().__init__()
        for name, unit in (("group_width", group_width), ("norm_groups", norm_groups)):
            if dim % unit:
                raise ValueError(f"the channels must be a multiple of {name}, got {dim} for {unit}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        groups = dim // group_width
        self.conv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
        self.norm = nn.GroupNorm(norm_groups, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        rows = self.norm(self.conv(x.mean(3))).sigmoid()
        columns = self.norm(self.conv(x.mean(2))).sigmoid()
        return x * (rows.unsqueeze(3) * columns.unsqueeze(2))
