"""NiNformer as computed by the official code.

Tokens are transposed for the MLP over tokens, and linear layers are torch's own. Rewritten after
Abdullah-88/NiNformer.

Shape legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import MixerGate, Mlp
from attnzoo.ninformer import NiNformer

from .swapping import swapped


def official(model: nn.Module) -> nn.Module:
    """Builds the official formulation with the weights of one of our NiNformers.

    Args:
        model: the network in evaluation mode, not fused.

    Returns:
        The network in evaluation mode; images (B, P, H, W) of the size of its weights -> logits (B, num_classes).

    Raises:
        TypeError: the model is not a `NiNformer`.
    """
    if not isinstance(model, NiNformer):
        raise TypeError(f"model must be a NiNformer, got {type(model).__name__}")
    return swapped(model, {MixerGate: _Gate, Mlp: _mlp})


class _Gate(nn.Module):
    """(B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, ours: MixerGate) -> None:
        super().__init__()
        self.proj, self.norm1, self.norm2 = ours.proj, ours.norm1, ours.norm2
        self.token_mix, self.channel_mix = _mlp(ours.tokens), _mlp(ours.channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        mixed = tokens + self.token_mix(self.norm1(tokens).transpose(1, 2)).transpose(1, 2)
        mixed = mixed + self.channel_mix(self.norm2(mixed))
        return (self.proj(tokens) * mixed).reshape(x.shape)


def _mlp(ours: Any) -> nn.Module:
    return nn.Sequential(ours.fc1, nn.GELU(), nn.Dropout(ours.drop.p), ours.fc2, nn.Dropout(ours.drop.p))
