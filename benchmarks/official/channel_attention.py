"""ECA-Net and FcaNet as computed by the official code: attention with pooling modules and weights that are expanded.

FcaNet's filters are multiplied with the map and summed, one per channel. Rewritten after BangguWu/ECANet and
cfzd/FcaNet.

Shape legend: B batch, C channels, H W map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.base import AttentionResNet
from attnzoo.blocks import EfficientChannelAttention, FrequencyChannelAttention

from .swapping import swapped


def official(model: nn.Module) -> nn.Module:
    """Builds the official formulation with the weights of one of our ECA-Nets or FcaNets.

    Args:
        model: the network in evaluation mode, not fused.

    Returns:
        The network in evaluation mode; images (B, P, H, W) -> logits (B, num_classes).

    Raises:
        TypeError: the model is not an `AttentionResNet`.
    """
    if not isinstance(model, AttentionResNet):
        raise TypeError(f"model must be an AttentionResNet, got {type(model).__name__}")
    return swapped(model, {EfficientChannelAttention: _Efficient, FrequencyChannelAttention: _Frequency})


class _Efficient(nn.Module):
    def __init__(self, layer: EfficientChannelAttention) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = layer.conv
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * self.sigmoid(y).expand_as(x)


class _Frequency(nn.Module):
    filters: Tensor

    def __init__(self, layer: FrequencyChannelAttention) -> None:
        super().__init__()
        rows, columns = layer.waves.unbind(0)
        basis = rows.unsqueeze(2) * columns.unsqueeze(1)
        channels = layer.fc2.out_channels
        self.register_buffer("filters", basis.repeat_interleave(channels // len(basis), 0))
        weights = [conv.weight.detach().flatten(1) for conv in (layer.fc1, layer.fc2)]
        first, second = (nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in weights)
        with torch.no_grad():
            first.weight.copy_(weights[0])
            second.weight.copy_(weights[1])
        self.fc = nn.Sequential(first, nn.ReLU(inplace=True), second, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        pooled, size = x, tuple(self.filters.shape[1:])
        if x.shape[2:] != size:
            pooled = F.adaptive_avg_pool2d(x, size)
        weights = self.fc((pooled * self.filters).sum([2, 3]))
        return x * weights.unsqueeze(2).unsqueeze(3).expand_as(x)
