"""Deformable layers, which sample at offsets from the regular grid that they compute from the map.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .convolution import ConvNorm
from .resizing import multiple_of, pad_to


def warp(x: Tensor, offsets: Tensor) -> Tensor:
    """Samples a map bilinearly at an offset from each position; outside of the map are zeros.

    Args:
        x: map (B, C, H, W).
        offsets: offsets of each position down and to the right, in pixels, (B, H, W, 2).

    Returns:
        (B, C, H, W) in the dtype of x; coordinates are computed in float32 at least.
    """
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    height, width = x.shape[2], x.shape[3]
    rows = torch.arange(height, dtype=exact, device=x.device).unsqueeze(1) + offsets[..., 0].to(exact)
    columns = torch.arange(width, dtype=exact, device=x.device) + offsets[..., 1].to(exact)
    # torch expects coordinates from -1 to 1, the outer edges of the first and last pixels, and columns first
    places = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], 3)
    return F.grid_sample(x.to(exact), places, mode="bilinear", padding_mode="zeros", align_corners=False).to(x.dtype)


@register_notrace_module  # whether to pad depends on the size of the map
class DeformableMerging(nn.Module):
    """A deformable 2x2 convolution of stride 2, a batch norm and GELU: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim).

    2x2 kernels do not overlap, so every pixel belongs to one element of one kernel: the layer warps the map by the
    offsets and applies a plain convolution. Both are exported as standard operators. An odd side is padded with zeros
    at the bottom or right.

    Args:
        dim: input channels C.
        out_dim: output channels.

    Source: Deformable Convolutional Networks, arXiv 1703.06211, section 2.1. The downsampler is the
        deformable token merging of LIT, arXiv 2105.14217.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(dim, 8, 2, stride=2)
        # zero offsets: it starts as a plain convolution
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)
        self.merge = ConvNorm(dim, out_dim, 2, 2, bias=True, channels_last=False, padding=0)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        x = pad_to(x, multiple_of(x.shape[1], 2), multiple_of(x.shape[2], 2)).permute(0, 3, 1, 2)
        # (B, kernel row, kernel column, 2, H/2, W/2) -> (B, H/2, row, W/2, column, 2) -> (B, H, W, 2)
        offsets = self.offset(x).unflatten(1, [2, 2, 2]).permute(0, 4, 1, 5, 2, 3).flatten(1, 2).flatten(2, 3)
        return self.act(self.merge(warp(x, offsets))).permute(0, 2, 3, 1)
