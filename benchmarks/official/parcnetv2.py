"""ParCNetV2 as computed by the official code: maps whose memory is channel-first, and a norm of separate operations.

Rewritten after XuRuihan/ParCNetV2.

Shape legend: B batch, C channels, H W map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnzoo.blocks import CenteredNorm, GatedMlp, GatedOversizedConv

from .swapping import swapped


def official(model: nn.Module) -> nn.Module:
    """Builds the official formulation with the weights of one of our networks.

    Args:
        model: a ParCNetV2 in evaluation mode.

    Returns:
        The network in evaluation mode; images (B, P, H, W) -> logits (B, num_classes).
    """
    return swapped(model, {CenteredNorm: _Norm, GatedMlp: _Mlp, GatedOversizedConv: _Mixer})


def _joined(value: nn.Linear, gate: nn.Linear) -> nn.Linear:
    both = nn.Linear(value.in_features, 2 * value.out_features)
    with torch.no_grad():
        both.weight.copy_(torch.cat([value.weight, gate.weight]))
        both.bias.copy_(torch.cat([value.bias, gate.bias]))
    return both


def _pointwise(layer: nn.Linear) -> nn.Conv2d:
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None)
    conv.load_state_dict({name: x.view_as(conv.get_parameter(name)) for name, x in layer.state_dict().items()})
    return conv


class _Norm(nn.Module):
    def __init__(self, layer: CenteredNorm) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / x.norm(2, -1, keepdim=True).clamp_min(1e-6) * self.weight


class _Mlp(nn.Module):
    def __init__(self, layer: GatedMlp) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = _joined(layer.value, layer.gate), nn.GELU(), layer.proj

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fc1(x).chunk(2, -1)
        return self.fc2(value * self.act(gate))


class _Mixer(nn.Module):
    def __init__(self, layer: GatedOversizedConv) -> None:
        super().__init__()
        self.both, self.act, self.proj = _pointwise(_joined(layer.value, layer.gate)), nn.GELU(), _pointwise(layer.proj)
        self.oversized = nn.Sequential(layer.oversized.vertical, layer.oversized.horizontal)
        self.local = layer.local

    def forward(self, x: Tensor) -> Tensor:
        # (B, H, W, C) -> (B, C, H, W), and back
        value, gate = self.both(x.permute(0, 3, 1, 2)).chunk(2, 1)
        gate = self.act(gate)
        gate = self.oversized(gate) + self.local(gate)
        return self.proj(value * gate).permute(0, 2, 3, 1)
