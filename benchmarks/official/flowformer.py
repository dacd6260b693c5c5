"""Flowformer as computed by the official code: flows as products of maps that are summed, in tensors per head.

Rewritten after thuml/Flowformer.

Shape legend: B batch, C channels, H W map, T tokens, h heads, D channels per head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnzoo.blocks import FlowAttention, ScaledMlp

from .swapping import swapped

_EPS = 1e-6


def official(model: nn.Module) -> nn.Module:
    """Builds the official formulation with the weights of one of our networks.

    Args:
        model: a Flowformer in evaluation mode, not fused.

    Returns:
        The network in evaluation mode; images (B, P, H, W) -> logits (B, num_classes).
    """
    return swapped(model, {FlowAttention: _Attention, ScaledMlp: _Mlp})


class _Mlp(nn.Module):
    def __init__(self, layer: ScaledMlp) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2, self.gamma = layer.fc1, nn.GELU(), layer.fc2.fc, layer.fc2.scale.gamma

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * self.fc2(self.act(self.fc1(x)))


class _Attention(nn.Module):
    def __init__(self, layer: FlowAttention) -> None:
        super().__init__()
        self.qkv, self.proj, self.num_heads = layer.qkv, layer.proj, layer.num_heads

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        # (B, T, 3C) -> (3, B, h, T, D)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = torch.sigmoid(q), torch.sigmoid(k)
        inward = 1 / (_flow(q, k.sum(2)) + _EPS)
        outward = 1 / (_flow(k, q.sum(2)) + _EPS)
        kept = _flow(q, (k * outward[:, :, :, None]).sum(2)) + _EPS
        rest = _flow(k, (q * inward[:, :, :, None]).sum(2)) + _EPS
        rest = torch.clamp(rest, min=-1, max=1)
        gate = torch.sigmoid(kept * (q.shape[2] / k.shape[2]))
        competition = torch.softmax(rest, -1) * k.shape[2]
        context = k.transpose(2, 3) @ (v * competition[:, :, :, None])
        out = ((q @ context) * inward[:, :, :, None]) * gate[:, :, :, None]
        return self.proj(out.transpose(1, 2).flatten(2)).reshape(x.shape)


def _flow(x: Tensor, total: Tensor) -> Tensor:
    return ((x + _EPS) * (total + _EPS)[:, :, None, :]).sum(-1)
