"""From images to the first map. Shape legend: B batch, P channels of the image, H W its size, C channels of the map."""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .convolution import ConvNorm


class ConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2 with nothing between them, and a norm: (B, P, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, C).

    Args:
        in_chans: channels P of the image.
        dim: channels C, even.
        norm_layer: makes a norm over channels.

    Source: Neighborhood Attention Transformer, arXiv 2204.07143, section 3.3.
    """

    def __init__(self, in_chans: int, dim: int, norm_layer: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm = norm_layer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, C)."""
        x = self.conv2(self.conv1(x))
        return self.norm(x.permute(0, 2, 3, 1))


@register_notrace_module  # whether to pad depends on the size of the image
class PatchStem(nn.Module):
    """One convolution over patches that do not overlap, and a norm: (B, P, H, W) -> (B, ⌈H/p⌉, ⌈W/p⌉, C).

    An image that patches do not divide is padded with zeros at the bottom and right.

    Args:
        in_chans: channels P of the image.
        dim: channels C.
        patch_size: p, pixels per side of a patch.
        norm_layer: makes a norm over channels.

    Source: Swin Transformer, arXiv 2103.14030, section 3.1.
    """

    def __init__(
        self, in_chans: int, dim: int, patch_size: int, norm_layer: Callable[[int], nn.Module] = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.norm = norm_layer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, ⌈H/p⌉, ⌈W/p⌉, C)."""
        missing_rows, missing_columns = -x.shape[2] % self.patch_size, -x.shape[3] % self.patch_size
        if missing_rows > 0 or missing_columns > 0:
            x = F.pad(x, (0, missing_columns, 0, missing_rows))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class ConvNormStem(nn.Sequential):
    """3x3 convolutions, each with a batch norm, and GELU between them: (B, P, H, W) -> (B, H', W', C).

    Args:
        in_chans: channels P of the image.
        dims: channels after each convolution.
        strides: of the convolutions; a side is divided by each in turn and rounded up.

    Source: OverLoCK, arXiv 2502.20087, official code.
    """

    def __init__(self, in_chans: int, dims: Sequence[int], strides: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for before, dim, stride in zip((in_chans, *dims), dims, strides, strict=False):
            layers += [nn.GELU()] if layers else []
            layers.append(ConvNorm(before, dim, 3, stride))
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, H', W', C)."""
        # memory in the order of the shape from here on: what follows is fast for such maps only
        x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        for layer in self:
            x = layer(x)
        return x.contiguous()
