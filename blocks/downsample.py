"""Downsamplers between stages of a pyramid. Maps are (B, H, W, C) unless a class documents another layout."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Callable

import torch
from timm.layers import SqueezeExcite, register_notrace_module
from torch import Tensor, nn

from .convolution import ConvNorm, channels_last_conv
from .cpu import linear
from .resizing import multiple_of, pad_to


@register_notrace_module  # whether to pad depends on the size of the map
class ConvDownsample(nn.Module):
    """A convolution of stride 2 and a norm: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim).

    3x3 kernels overlap. 2x2 kernels do not; for them an odd side is padded with zeros at the bottom or right.

    Args:
        dim: input channels C.
        out_dim: output channels.
        norm_layer: builds a norm over the channels.
        kernel_size: kernel size, 2 or 3.
        bias: whether the convolution has a bias.
        norm_first: whether the norm comes before the padding and the convolution.

    Source: Neighborhood Attention Transformer, arXiv 2204.07143, section 3.3, for 3x3; Pyramid Vision Transformer,
    arXiv 2102.12122, section 3.2, for 2x2; DaViT, arXiv 2204.03645, official code, for `norm_first`.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        kernel_size: int = 3,
        bias: bool = False,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.reduction = nn.Conv2d(dim, out_dim, kernel_size, stride=2, padding=kernel_size // 3, bias=bias)
        self.norm = norm_layer(dim if norm_first else out_dim)
        self.pads = kernel_size == 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        if self.norm_first:
            x = self.norm(x)
        if self.pads:
            x = pad_to(x, multiple_of(x.shape[1], 2), multiple_of(x.shape[2], 2))
        x = self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x if self.norm_first else self.norm(x)


@register_notrace_module  # whether to pad depends on the size of the map
class PatchMerging(nn.Module):
    """Concatenates the pixels of each 2x2 square and projects them: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim).

    An odd side is padded with zeros at the bottom or right.

    Args:
        dim: input channels C.
        out_dim: output channels.
        norm_layer: builds a norm over the channels.

    Source: Swin Transformer, arXiv 2103.14030, section 3.1.
    """

    def __init__(self, dim: int, out_dim: int, norm_layer: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm_layer(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        x = pad_to(x, multiple_of(x.shape[1], 2), multiple_of(x.shape[2], 2))
        batch, height, width, channels = x.shape
        # (B, H/2, 2, W/2, 2, C) -> (B, H/2, W/2, 4C), ordered by the column of the square, then by its row
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return linear(self.reduction, self.norm(x))


class NormConv(nn.Sequential):
    """A norm and a convolution of a map (B, H, W, C).

    Args:
        norm: keeps the shape of the map.
        conv: the convolution.
    """

    def __init__(self, norm: nn.Module, conv: nn.Conv2d) -> None:
        super().__init__(norm, conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', out_channels)."""
        return channels_last_conv(self[1], self[0](x))


class InvertedDownsample(nn.Module):
    """Inverted bottleneck of stride 2 with squeeze-and-excitation: (B, C, H, W) -> (B, out_dim, ⌈H/2⌉, ⌈W/2⌉).

    Args:
        dim: input channels C.
        out_dim: output channels.
        expansion: hidden channels divided by C. The squeeze-and-excitation has a quarter of them, rounded to a multiple
            of 8.

    Source: SHViT, arXiv 2401.16456, figure 4.
    """

    def __init__(self, dim: int, out_dim: int, expansion: int = 4) -> None:
        super().__init__()
        hidden_dim = dim * expansion
        self.conv1 = ConvNorm(dim, hidden_dim, channels_last=False)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = ConvNorm(hidden_dim, hidden_dim, 3, stride=2, groups=hidden_dim, channels_last=False)
        self.act2 = nn.ReLU(inplace=True)
        self.se = SqueezeExcite(hidden_dim, 0.25)
        self.conv3 = ConvNorm(hidden_dim, out_dim, channels_last=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_dim, ⌈H/2⌉, ⌈W/2⌉)."""
        x = self.act2(self.conv2(self.act1(self.conv1(x))))
        return self.conv3(self.se(x))


class ContextDownsample(nn.Module):
    """Separate 3x3 convolutions of stride 2 with a norm for map and context: (B, H, W, C + S) -> (B, H', W', D + S).

    Args:
        dim: channels C of the map.
        out_dim: output channels D, without the context.
        context_dim: channels S of the context.

    Source: OverLoCK, arXiv 2502.20087, official code.
    """

    def __init__(self, dim: int, out_dim: int, context_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.map = ConvNorm(dim, out_dim, 3, 2)
        self.context = ConvNorm(context_dim, context_dim, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C + S) -> (B, ⌈H/2⌉, ⌈W/2⌉, D + S)."""
        return torch.cat([self.map(x[..., : self.dim]), self.context(x[..., self.dim :])], -1)
