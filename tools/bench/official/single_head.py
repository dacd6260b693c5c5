"""SHViT as its authors wrote it: channel-first maps, attention on flattened maps with transposes.

Shape legend: B batch, C channels, H W map, D width of queries and keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.blocks import ConvNormStem, SingleHeadAttention

from .swapping import swapped


def official(model: nn.Module) -> nn.Module:
    """A copy of one of our networks, in evaluation mode, that computes as the official code does.

    Args:
        model: SHViT, not fused; it keeps its own layers.
    """
    return swapped(model, {ConvNormStem: _ChannelFirst, SingleHeadAttention: _Attention})


class _ChannelFirst(nn.Module):
    """The stem without a change of memory layout: all that follows keeps that of the image."""

    def __init__(self, stem: ConvNormStem) -> None:
        super().__init__()
        self.layers = nn.Sequential(*stem)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.contiguous())


class _Attention(nn.Module):
    def __init__(self, layer: SingleHeadAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        batch, channels, height, width = x.shape
        key_dim, _, attended = layer.widths
        first, rest = torch.split(x, [attended, channels - attended], dim=1)
        q, k, v = layer.qkv(layer.norm(first)).split(layer.widths, dim=1)
        # (B, D, H, W) -> (B, D, HW)
        q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
        weights = ((q.transpose(-2, -1) @ k) * key_dim**-0.5).softmax(dim=-1)
        out = (v @ weights.transpose(-2, -1)).reshape(batch, attended, height, width)
        return layer.proj(F.relu(torch.cat([out, rest], dim=1)))
