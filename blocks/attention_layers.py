"""Attention layers by name, for the slot `attn_layer` of timm's convolutional networks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from .channel_gate import EfficientChannelAttention, FrequencyChannelAttention
from .deformable_gate import DeformableGate
from .efficient_attention import EfficientAttention
from .gaussian import GaussianBlock
from .polarized import PolarizedAttention
from .strips import StripAttention
from .subspaces import SubspaceAttention

LAYERS: dict[str, Callable[..., nn.Module]] = {
    "das": DeformableGate,
    "eca": EfficientChannelAttention,
    "efficient": EfficientAttention,
    "ela_b": partial(StripAttention, kernel_size=7, group_width=1, norm_groups=16),
    "ela_l": partial(StripAttention, kernel_size=7, group_width=8, norm_groups=16),
    "ela_s": partial(StripAttention, kernel_size=5, group_width=8, norm_groups=16),
    "ela_t": partial(StripAttention, kernel_size=5, group_width=1, norm_groups=32),
    "fca": FrequencyChannelAttention,
    "gaussian": GaussianBlock,
    "psa_p": partial(PolarizedAttention, parallel=True),
    "psa_s": partial(PolarizedAttention, parallel=False),
    "ulsam": SubspaceAttention,
}


@dataclass(frozen=True)
class AttentionLayer:
    """A constructor with the signature that timm calls an `attn_layer` or `se_layer` with.

    Attributes:
        layer: builds the layer from the number of channels.
        arguments: further arguments of the layer.
    """

    layer: Callable[..., nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        channels: int,
        *,
        act_layer: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """Builds a layer (B, channels, H, W) -> (B, channels, H, W).

        Args:
            channels: channels of the map.
            act_layer: activation of the network, which some networks of timm pass; the layers keep their own.
            device: device of the parameters; None for torch's default.
            dtype: dtype of the parameters; None for torch's default.

        Raises:
            ValueError: the layer cannot have so many channels.
        """
        with torch.device(device or torch.get_default_device()):
            return self.layer(channels, **self.arguments).to(dtype=dtype)


def attention_layer(name: str, **arguments: Any) -> AttentionLayer:
    """Returns the constructor of an attention layer, which timm's networks take as `attn_layer` or `se_layer`.

    Example:
        >>> from timm.models.resnet import Bottleneck, ResNet
        >>> network = ResNet(Bottleneck, (3, 4, 6, 3), block_args={"attn_layer": attention_layer("psa_s")})

    Args:
        name: a key of `LAYERS`: `das`, `eca`, `efficient`, `ela_b`, `ela_l`, `ela_s`, `ela_t`, `fca`, `gaussian`,
            `psa_p`, `psa_s` or `ulsam`.
        arguments: further arguments of the layer's class, other than the channels.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in LAYERS:
        near = difflib.get_close_matches(name, LAYERS, cutoff=0.4) or sorted(LAYERS)
        raise ValueError(f"unknown attention layer {name!r}: the nearest names are {', '.join(near)}")
    return AttentionLayer(LAYERS[name], arguments)
