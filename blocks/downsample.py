"""From one level of a pyramid to the next: half the size, other channels. Maps are (B, H, W, C)."""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .convolution import ConvNorm


class ConvDownsample(nn.Module):
    """A 3x3 convolution of stride 2 and a norm: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim).

    Args:
        dim: channels C of the map.
        out_dim: channels of the result.
        norm_layer: makes a norm over channels.

    Source: Neighborhood Attention Transformer, arXiv 2204.07143, section 3.3.
    """

    def __init__(self, dim: int, out_dim: int, norm_layer: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1, bias=False)
        self.norm = norm_layer(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


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
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        odd_rows, odd_columns = x.shape[1] % 2, x.shape[2] % 2
        if odd_rows > 0 or odd_columns > 0:
            x = F.pad(x, (0, 0, 0, odd_columns, 0, odd_rows))
        batch, height, width, channels = x.shape
        # (B, H/2, 2, W/2, 2, C) -> (B, H/2, W/2, 4C), the column of the square before its row
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


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
