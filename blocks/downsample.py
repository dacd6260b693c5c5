"""From one level of a pyramid to the next: half the size, other channels. Maps are (B, H, W, C), or as a class says."""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from collections.abc import Callable

import torch
from timm.layers import SqueezeExcite, register_notrace_module
from torch import Tensor, nn

from .convolution import ConvNorm
from .cpu import Linear
from .resizing import multiple_of, pad_to


@register_notrace_module  # whether to pad depends on the size of the map
class ConvDownsample(nn.Module):
    """A convolution of stride 2 and a norm: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim).

    Kernels of 3x3 overlap. Kernels of 2x2 do not, and an odd side is padded with zeros at the bottom or right.

    Args:
        dim: channels C of the map.
        out_dim: channels of the result.
        norm_layer: makes a norm over channels.
        kernel_size: side of the kernel, 2 or 3.
        bias: whether the convolution has a bias.
        norm_first: whether the norm comes before the convolution, and before the padding.

    Source: Neighborhood Attention Transformer, arXiv 2204.07143, section 3.3, for 3x3; Pyramid Vision Transformer,
    arXiv 2102.12122, section 3.2, for 2x2; DaViT, arXiv 2204.03645, official code, for the norm first.
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
    """Joins the pixels of each 2x2 square and projects them: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim).

    An odd side is padded with zeros at the bottom or right.

    Args:
        dim: channels C of the map.
        out_dim: channels of the result.
        norm_layer: makes a norm over channels.

    Source: Swin Transformer, arXiv 2103.14030, section 3.1.
    """

    def __init__(self, dim: int, out_dim: int, norm_layer: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm_layer(4 * dim)
        self.reduction = Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        x = pad_to(x, multiple_of(x.shape[1], 2), multiple_of(x.shape[2], 2))
        batch, height, width, channels = x.shape
        # (B, H/2, 2, W/2, 2, C) -> (B, H/2, W/2, 4C), the column of the square before its row
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class InvertedDownsample(nn.Module):
    """Widens, takes a depthwise step of 2, gates channels, narrows: (B, C, H, W) -> (B, out_dim, ⌈H/2⌉, ⌈W/2⌉).

    Args:
        dim: channels C of the map.
        out_dim: channels of the result.
        expansion: channels in between, over C. A quarter of them, rounded to a multiple of 8, decide the gates.

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
    """3x3 convolutions of stride 2 with a norm, of a map and of its context: (B, H, W, C + S) -> (B, H', W', D + S).

    Args:
        dim: channels C of the map.
        out_dim: channels D of the result, without the context.
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
