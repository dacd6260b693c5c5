"""Perceiver as computed by transformers: queries, keys and values apart, explicit softmax, features for each batch.

Rewritten after huggingface/transformers.

Shape legend: B batch, T queries, S tokens, h heads, D = C / h.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attnzoo.base import PlainAttention
from attnzoo.blocks import CrossAttention, FourierTokens, Mlp
from attnzoo.perceiver import Perceiver

from .swapping import swapped


def official(model: nn.Module) -> nn.Module:
    """Builds the formulation of transformers with the weights of one of our networks.

    Args:
        model: the network in evaluation mode, not fused.

    Returns:
        The network in evaluation mode; images (B, P, H, W) -> logits (B, num_classes).

    Raises:
        TypeError: the model is not a `Perceiver`.
    """
    if not isinstance(model, Perceiver):
        raise TypeError(f"model must be a Perceiver, got {type(model).__name__}")
    return swapped(
        model,
        {
            CrossAttention: lambda layer: _Attention(layer.num_heads, [layer.q, *_split(layer.kv, 2)], layer.proj),
            PlainAttention: lambda layer: _Attention(layer.num_heads, _split(layer.qkv, 3), layer.proj),
            FourierTokens: _Tokens,
            Mlp: lambda layer: nn.Sequential(layer.fc1, layer.act, layer.fc2),
        },
    )


def _split(layer: nn.Linear, count: int) -> list[nn.Linear]:
    """Returns the parts of a linear layer as layers of their own."""
    parts = []
    for weight, bias in zip(layer.weight.detach().chunk(count), layer.bias.detach().chunk(count), strict=True):
        part = nn.Linear(weight.shape[1], weight.shape[0])
        part.load_state_dict({"weight": weight, "bias": bias})
        parts.append(part)
    return parts


class _Attention(nn.Module):
    def __init__(self, num_heads: int, projections: list[nn.Linear], proj: nn.Linear) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = projections
        self.proj = proj

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        x = x.expand(context.shape[0], -1, -1)
        q, k, v = self._heads(self.query(x)), self._heads(self.key(context)), self._heads(self.value(context))
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)
        # (B, h, T, D) -> (B, T, h * D)
        return self.proj((weights @ v).permute(0, 2, 1, 3).contiguous().flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, h * D) -> (B, h, T, D)."""
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1).permute(0, 2, 1, 3)


class _Tokens(nn.Module):
    def __init__(self, layer: FourierTokens) -> None:
        super().__init__()
        self.stem, self.resolution, self.bands = layer.stem, layer.resolution, layer.bands

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        axes = [torch.linspace(-1, 1, size) for size in x.shape[2:]]
        position = torch.stack(torch.meshgrid(*axes, indexing="ij"), 2).flatten(0, 1)
        frequencies = torch.linspace(1, self.resolution / 2, self.bands).expand(2, -1)
        phases = math.pi * (position[:, :, None] * frequencies).flatten(1)
        features = torch.cat([position, phases.sin(), phases.cos()], 1).expand(len(x), -1, -1)
        return torch.cat([x.flatten(2).transpose(1, 2), features], 2)
