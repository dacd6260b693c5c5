"""Residual units and the attention module of Residual Attention Network. Maps are (B, C, H, W).

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import DropPath, register_notrace_function
from torch import Tensor, nn

from attnzoo.kernels import is_dynamic

from .convolution import ConvNorm
from .cpu import pointwise_conv


class PreactBottleneck(nn.Module):
    """shortcut + widen(3x3(narrow(act(norm(x))))): (B, dim, H, W) -> (B, out_dim, ⌈H/stride⌉, ⌈W/stride⌉).

    A norm and a ReLU precede every convolution. The shortcut is x, or a 1x1 convolution of the first activation where
    channels or stride change.

    Args:
        dim: input channels.
        out_dim: output channels, a multiple of 4.
        stride: stride of the 3x3 convolution and the shortcut.
        drop_path: probability that a sample skips the branch in training.

    Source: Identity Mappings in Deep Residual Networks, arXiv 1603.05027, figure 4e.
    """

    def __init__(self, dim: int, out_dim: int, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = out_dim // 4
        self.act = nn.ReLU(inplace=True)
        self.norm1 = nn.BatchNorm2d(dim)
        # with the norms that follow them
        self.conv1 = ConvNorm(dim, hidden, channels_last=False)
        self.conv2 = ConvNorm(hidden, hidden, 3, stride, channels_last=False)
        self.conv3 = nn.Conv2d(hidden, out_dim, 1, bias=False)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.is_projected = stride > 1 or dim != out_dim
        self.shortcut = nn.Conv2d(dim, out_dim, 1, stride, bias=False) if self.is_projected else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, out_dim, ⌈H/stride⌉, ⌈W/stride⌉)."""
        first = self.act(self.norm1(x))
        branch = pointwise_conv(self.conv3, self.act(self.conv2(self.act(self.conv1(first)))))
        return self.shortcut(first if self.is_projected else x) + self.drop_path(branch)


class AttentionModule(nn.Module):
    """last(trunk(x) * (1 + mask)): (B, C, H, W) -> (B, C, H, W).

    The mask is computed from the first unit of the trunk by an hourglass: max pooling and a unit, `depth` times, then
    bilinear interpolation to the size of the map before, to which a unit of that map is added. The pools have no
    padding: a map must have at least 2 ** depth rows and columns, or a ValueError is raised.

    Args:
        dim: channels C.
        depth: how often the map is halved.
        unit: builds a residual unit that keeps the shape of the map.
        norm_mask: whether a norm and a ReLU precede the two convolutions of the mask.

    Source: Residual Attention Network for Image Classification, arXiv 1704.06904, section 3; the official code differs
    from its figure 2: nothing of the trunk is added to the mask.
    """

    def __init__(self, dim: int, depth: int, unit: Callable[[], nn.Module], norm_mask: bool = True) -> None:
        super().__init__()
        self.depth = depth
        self.trunk1 = unit()
        self.trunk2 = nn.Sequential(unit(), unit())
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.down = nn.ModuleList(unit() for _ in range(depth))
        self.bottom = unit()
        # from the smallest map to the largest
        self.skip = nn.ModuleList(unit() for _ in range(depth - 1))
        self.up = nn.ModuleList(unit() for _ in range(depth - 1))
        self.norm = nn.Sequential(nn.BatchNorm2d(dim), nn.ReLU(inplace=True)) if norm_mask else nn.Identity()
        self.conv1 = ConvNorm(dim, dim, channels_last=False)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(dim, dim, 1, bias=False)
        self.last = unit()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        check_size(x, self.depth)
        x = self.trunk1(x)
        mask = x
        maps = [x]
        for unit in self.down:
            mask = unit(self.pool(mask))
            maps.append(mask)
        x = self.trunk2(x)
        mask = self.bottom(mask)
        for i, (skip, unit) in enumerate(zip(self.skip, self.up)):  # noqa: B905  (TorchScript)
            before = maps[-2 - i]
            mask = unit(skip(before) + resize_like(mask, before))
        mask = self.norm(resize_like(mask, x))
        mask = pointwise_conv(self.conv2, self.act(self.conv1(mask)))
        return self.last(torch.addcmul(x, x, mask.sigmoid()))


@register_notrace_function
def check_size(x: Tensor, depth: int) -> None:
    """Checks that a map (B, C, H, W) can be halved `depth` times."""
    height, width = x.shape[2], x.shape[3]
    if not is_dynamic([height, width]) and min(height, width) < 2**depth:
        raise ValueError(
            f"an attention module halves its map {depth} times, so it needs {2**depth} rows and columns or more, got "
            f"{height}x{width}: pass a larger image"
        )


@register_notrace_function
def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Interpolates a map bilinearly, with its corners kept, to the size of another."""
    return F.interpolate(x, size=[like.shape[2], like.shape[3]], mode="bilinear", align_corners=True)
