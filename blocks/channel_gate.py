"""Attention of channels: one weight per channel, from descriptors of the whole map.

Shape legend: B batch, C channels, H W map. Maps are channel-first, as in timm's ResNets.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math
from collections.abc import Sequence

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .convolution import channels_last_conv
from .resizing import cells

# rows and columns of the 16 best frequencies of a 7x7 grid
FREQUENCIES = (
    (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2),
    (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2),
)


def neighbors_of(dim: int) -> int:
    """Returns the number of neighboring channels, odd, that determine a channel's weight, for a number of channels.

    Source: ECA-Net, arXiv 1910.03151, section 3.2.
    """
    size = int(abs(math.log2(dim) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)


def across_channels(kernel_size: int) -> nn.Conv1d:
    """Returns a convolution over neighboring channels, (B, 1, C) -> (B, 1, C)."""
    return nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)


class EfficientChannelAttention(nn.Module):
    """Weights channels by a sigmoid of a convolution over the means of neighboring channels.

    (B, C, H, W) -> (B, C, H, W).

    Args:
        dim: channels C.
        kernel_size: neighboring channels, odd; None for the number that the paper derives from `dim`.

    Raises:
        ValueError: `kernel_size` is even.

    Source: ECA-Net, arXiv 1910.03151, section 3.2.
    """

    def __init__(self, dim: int, kernel_size: int | None = None) -> None:
        super().__init__()
        kernel_size = kernel_size or neighbors_of(dim)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.conv = across_channels(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(3)


@register_notrace_module  # the frequencies depend on the size of the map
class FrequencyChannelAttention(nn.Module):
    """Weights channels by an MLP of their components at 16 frequencies: (B, C, H, W) -> (B, C, H, W).

    Sixteen equal runs of channels have one frequency each. A map of another size than `size` is averaged in
    `size` x `size` cells for the descriptors; here their weights are applied to the frequencies, not the map.

    Args:
        dim: channels C, a multiple of 16.
        size: side of the maps that the frequencies are made for, a multiple of 7.
        reduction: C divided by the hidden channels of the MLP.

    Raises:
        ValueError: `dim` or `size` cannot be divided.

    Source: FcaNet, arXiv 2012.11879, and its official code.
    """

    waves: Tensor

    def __init__(self, dim: int, size: int = 7, reduction: int = 16) -> None:
        super().__init__()
        if dim % len(FREQUENCIES[0]):
            raise ValueError(f"the channels must be a multiple of {len(FREQUENCIES[0])}, one run each, got {dim}")
        if size % 7:
            raise ValueError(f"size must be a multiple of 7, got {size}")
        self.size = size
        hidden = max(dim // reduction, 1)
        self.fc1 = nn.Conv2d(dim, hidden, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, dim, 1, bias=False)
        # (2, 16, size): the factors along rows and columns
        self.register_buffer("waves", torch.stack([_waves(axis, size) for axis in FREQUENCIES]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        rows, columns = self.waves.to(x.dtype).unbind(0)
        if x.shape[2] != self.size or x.shape[3] != self.size:
            rows, columns = rows @ cells(x.shape[2], self.size, rows), columns @ cells(x.shape[3], self.size, columns)
        # (16, H, 1) * (16, 1, W) -> (16, 1, H * W)
        waves = (rows.unsqueeze(2) * columns.unsqueeze(1)).flatten(1).unsqueeze(1)
        # (B, C, H, W) -> (B, 16, H * W, C / 16); a product with a row is several times faster than with a column
        runs = x.flatten(2).unflatten(1, (waves.shape[0], -1)).transpose(2, 3)
        # a map of one pixel, (B, 1, 1, C): the layers are convolutions, for timm's networks initialize them as such
        descriptors = (waves @ runs).reshape(-1, 1, 1, x.shape[1])
        weights = channels_last_conv(self.fc2, self.act(channels_last_conv(self.fc1, descriptors))).sigmoid()
        return x * weights.permute(0, 3, 1, 2)


def _waves(frequencies: Sequence[int], size: int) -> Tensor:
    """Returns samples of orthonormal cosines with these numbers of half periods in 7 samples, (16, size)."""
    u = torch.tensor(frequencies, dtype=torch.float64).unsqueeze(1)
    waves = torch.cos(math.pi * u * (torch.arange(size) + 0.5) / 7) * (u > 0).double().add(1).sqrt() / math.sqrt(size)
    return waves.float()


class CrossStageChannelAttention(nn.Module):
    """Weights channels, never below 1, by the means of their neighbors and by descriptors of earlier stages.

    Args:
        dim: channels C.
        stages: descriptors of earlier stages.
        is_first: whether the layer is in the first block of a stage, which in the official code uses the means of the
            channels only. Its other weights exist without being trained.

    Source: the official code of EMCA, eslambakr/EMCA, which grew from PKCAM, arXiv 2211.07521.
    """

    def __init__(self, dim: int, stages: int, is_first: bool = False) -> None:
        super().__init__()
        kernel_size = neighbors_of(dim)
        self.local = across_channels(kernel_size)
        self.fusion = nn.Conv1d(1, 1, stages + 1, stride=stages + 1, bias=False)
        self.act = nn.Identity() if is_first else nn.ReLU(inplace=True)
        self.across = across_channels(kernel_size)
        self.out_fusion = nn.Conv1d(1, 1, 2, stride=2, bias=False)
        self.is_first = is_first
        if is_first:
            for layer in (self.fusion, self.across, self.out_fusion):
                layer.requires_grad_(False)

    def forward(self, own: Tensor, earlier: list[Tensor]) -> Tensor:
        """Returns the weights of channels.

        Args:
            own: means of the channels of the map, (B, C).
            earlier: descriptors of earlier stages, (B, a divisor of C) each.

        Returns:
            (B, C, 1, 1), from 1 to 2.
        """
        weights = self.local(own.unsqueeze(1)).sigmoid()
        if not self.is_first:
            tiled = [x.repeat(1, own.shape[1] // x.shape[1]) for x in earlier]
            tiled.append(own)
            # (B, C, stages + 1) -> (B, 1, C * (stages + 1)) -> (B, 1, C)
            fused = self.act(self.fusion(torch.stack(tiled, 2).flatten(1).unsqueeze(1)))
            both = torch.stack([weights, self.across(fused).sigmoid()], 3)
            weights = self.out_fusion(both.flatten(2)).sigmoid()
        return (1 + weights).transpose(1, 2).unsqueeze(3)
