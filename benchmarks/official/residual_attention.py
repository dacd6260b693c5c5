"""Residual Attention Network as its Caffe files compute it: layer by layer on maps (B, C, H, W), norms apart.

Rewritten after fwang91/residual-attention-network.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.blocks import AttentionModule, Bottleneck, ConvNorm, ConvNormStem, PreactBottleneck
from attnzoo.residual_attention import ResidualAttentionNetwork

from .swapping import swapped


def official(model: nn.Module) -> nn.Module:
    """Builds the official formulation with the weights of one of our networks.

    Args:
        model: the network in evaluation mode, not fused.

    Returns:
        The network in evaluation mode; images (B, P, H, W) -> logits (B, num_classes).

    Raises:
        TypeError: the model is not a `ResidualAttentionNetwork`.
    """
    if not isinstance(model, ResidualAttentionNetwork):
        raise TypeError(f"model must be a ResidualAttentionNetwork, got {type(model).__name__}")
    units = {PreactBottleneck: _Preactivation, Bottleneck: _Unit}
    # modules hold units, which are replaced first; both hold convolutions
    model = swapped(swapped(model, units), {AttentionModule: _Module})
    return swapped(model, {ConvNormStem: lambda stem: nn.Sequential(_plain(stem[0]))})


def _plain(layer: ConvNorm) -> nn.Module:
    return nn.Sequential(layer.conv, layer.norm)


class _Preactivation(nn.Module):
    def __init__(self, unit: PreactBottleneck) -> None:
        super().__init__()
        self.first = nn.Sequential(unit.norm1, nn.ReLU(inplace=True))
        relus = [nn.ReLU(inplace=True) for _ in range(2)]
        self.branch = nn.Sequential(_plain(unit.conv1), relus[0], _plain(unit.conv2), relus[1], unit.conv3)
        self.shortcut = unit.shortcut if unit.is_projected else None

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return (x if self.shortcut is None else self.shortcut(first)) + self.branch(first)


class _Unit(nn.Module):
    def __init__(self, unit: Bottleneck) -> None:
        super().__init__()
        layers = [_plain(layer) for layer in (unit.conv1, unit.mixer, unit.conv3)]
        self.branch = nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1], nn.ReLU(inplace=True), layers[2])
        self.shortcut = _plain(unit.shortcut) if isinstance(unit.shortcut, ConvNorm) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x), inplace=True)


class _Module(nn.Module):
    def __init__(self, module: AttentionModule) -> None:
        super().__init__()
        self.layers = module
        self.linear = nn.Sequential(_plain(module.conv1), nn.ReLU(inplace=True), module.conv2, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers
        x = layers.trunk1(x)
        down = []
        mask = x
        for unit in layers.down:
            mask = unit(layers.pool(mask))
            down.append(mask)
        x = layers.trunk2(x)
        mask = layers.bottom(mask)
        for skip, up, before in zip(layers.skip, layers.up, reversed(down[:-1]), strict=True):
            mask = up(skip(before) + _enlarged(mask, before))
        mask = self.linear(layers.norm(_enlarged(mask, x)))
        return layers.last(x * mask + x)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)
