"""Images as sequences of tokens that contain their positions, learned or as Fourier features.

Shape legend: B batch, P image channels, H W image size, H' W' map size, N = H' * W' tokens, E their channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math

import torch
from timm.layers import pad_same, register_notrace_function
from torch import Tensor, nn

from attnzoo.kernels import is_dynamic

from .convolution import ConvNorm, channels_last_conv
from .cpu import linear
from .position import PositionEmbedding


class LearnedTokens(nn.Module):
    """A 1x1 convolution, beside a linear layer of learned positions: (B, P, H, W) -> (B, H * W, 2 * dim).

    Args:
        in_chans: channels P of the image.
        dim: channels of the convolution, and of the positions before and after the linear layer.
        map_size: image size (rows, columns) that positions are learned at; they are interpolated to others.
    """

    def __init__(self, in_chans: int, dim: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, 1)
        self.position = PositionEmbedding(dim, map_size, "bicubic")
        self.position_proj = nn.Linear(dim, dim)
        self.num_features = 2 * dim

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, H * W, 2 * dim)."""
        pixels = channels_last_conv(self.proj, x.permute(0, 2, 3, 1)).flatten(1, 2)
        positions = linear(self.position_proj, self.position.at(x.shape[2], x.shape[3]))
        return torch.cat([pixels, positions.expand(x.shape[0], -1, -1)], 2)


class FourierTokens(nn.Module):
    """The pixels of an image or of a map of it, beside Fourier features of their positions.

    Args:
        stem: maps images (B, P, H, W) to the map (B, ., H', W'); None for the image itself.
        channels: channels of the map.
        resolution: side of the map, in pixels, of whose frequency the highest is one half.
        bands: frequencies per axis.

    Source: Perceiver, arXiv 2103.03206, section 3.2.
    """

    def __init__(self, stem: nn.Module | None, channels: int, resolution: int, bands: int = 64) -> None:
        super().__init__()
        self.stem = nn.Identity() if stem is None else stem
        self.resolution = resolution
        self.bands = bands
        self.num_features = channels + 2 + 4 * bands

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, H' * W', E)."""
        x = self.stem(x)
        positions = fourier_positions(x.shape[2], x.shape[3], self.resolution / 2, self.bands, x)
        # (B, ., H', W') -> (B, N, .)
        return torch.cat([x.flatten(2).transpose(1, 2), positions.expand(x.shape[0], -1, -1)], 2)


@register_notrace_function
def fourier_positions(height: int, width: int, highest: float, bands: int, like: Tensor) -> Tensor:
    """Returns Fourier features of the positions of a map, (1, H' * W', 2 + 4 * bands).

    Coordinates of pixels are -1 .. 1 on both axes. The features are the row and the column, then sines for the row and
    for the column, and cosines in the same order. They are computed in float32, as the published networks do.

    Args:
        height, width: size of the map.
        highest: the highest frequency; the lowest is 1.
        bands: frequencies per axis.
        like: a tensor of the wanted dtype and device.
    """
    row, row_sines, row_cosines = _waves(height, highest, bands, like)
    column, column_sines, column_cosines = _waves(width, highest, bands, like)
    parts = [
        row.unsqueeze(1).expand(-1, width, -1),
        column.unsqueeze(0).expand(height, -1, -1),
        row_sines.unsqueeze(1).expand(-1, width, -1),
        column_sines.unsqueeze(0).expand(height, -1, -1),
        row_cosines.unsqueeze(1).expand(-1, width, -1),
        column_cosines.unsqueeze(0).expand(height, -1, -1),
    ]
    return torch.cat(parts, 2).flatten(0, 1).unsqueeze(0)


def _waves(length: int, highest: float, bands: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the coordinates of an axis (length, 1), their sines and their cosines (length, bands)."""
    if is_dynamic([length]):
        # ONNX Runtime cannot compute a linear space of any length
        steps = torch.arange(length, dtype=torch.float32, device=like.device)
        position = (2 * steps / steps[-1:].clamp(min=1) - 1).unsqueeze(1)
    else:
        position = torch.linspace(-1.0, 1.0, length, dtype=torch.float32, device=like.device).unsqueeze(1)
    frequencies = torch.linspace(1.0, highest, bands, dtype=torch.float32, device=like.device)
    phases = math.pi * (position * frequencies)
    return position.to(like.dtype), phases.sin().to(like.dtype), phases.cos().to(like.dtype)


class PooledConv(nn.Module):
    """A 7x7 convolution of stride 2, batch norm, ReLU and max pooling of stride 2: (B, P, H, W) -> (B, dim, H', W').

    Args:
        in_chans: channels P of the image.
        dim: output channels.
        same: whether both layers pad as in TensorFlow, so that H' is ⌈⌈H/2⌉/2⌉. Otherwise the convolution pads three
            zeros on all sides, and the pooling nothing.
    """

    def __init__(self, in_chans: int, dim: int, same: bool = False) -> None:
        super().__init__()
        self.same = same
        self.conv = ConvNorm(in_chans, dim, 7, 2, channels_last=False, padding=0 if same else 3)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, dim, H', W')."""
        if not self.same:
            return self.pool(self.act(self.conv(x)))
        x = self.act(self.conv(pad_same(x, [7, 7], [2, 2])))
        # after ReLU, zeros are never larger than what is pooled
        return self.pool(pad_same(x, [3, 3], [2, 2]))
