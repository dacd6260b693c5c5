"""How each kind of layer is read: where its values enter, where their weighted sum leaves, and what is no attention.

The output of attention is linear in the values. With everything else held constant, the derivative of the output of a
position with respect to the values of another position is the weight between them. So no formula of attention is
written a second time, and windows, shifts, dilations, routes and padding are exactly those of the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm.layers
import torch
from timm.models import _efficientnet_blocks
from torch import Tensor, nn

from attnzoo.blocks import (
    AdditiveAttention,
    AgentAttention,
    AggregatedAttention,
    AreaAttention,
    AttentionModule,
    BiLevelRoutingAttention,
    ChannelAttention,
    ClassAttention,
    ContMix,
    ConvolutionalAttention,
    CosineAttention,
    CrossAttention,
    CrossShapedAttention,
    CrossStageChannelAttention,
    DeformableGate,
    EfficientAttention,
    EfficientChannelAttention,
    FlowAttention,
    FrequencyChannelAttention,
    GatedAttention,
    HaloAttention,
    HeadTokenAttention,
    HiLoAttention,
    LargeKernelAttention,
    LepeAttention,
    MapAttention,
    MaskedAttention,
    MixerGate,
    NeighborhoodAttention,
    PolarizedAttention,
    QuantizableAttention,
    RankAugmentedAttention,
    RolledWindowAttention,
    SingleHeadAttention,
    SparseAttention,
    SqueezeExcite,
    StripAttention,
    SubsampledAttention,
    SubspaceAttention,
    WindowAttention,
)
from attnzoo.blocks.hilo import HighFrequencies, LowFrequencies

from ..base import PlainAttention


@dataclass(frozen=True)
class Part:
    """Some of the channels that a layer returns.

    Attributes:
        index, of: the channels are one of a number of equal runs.
    """

    index: int = 0
    of: int = 1

    def mask(self, layer: Any, channels: int) -> Tensor:
        """Returns which of the channels belong to the part, (channels,)."""
        return torch.arange(channels) * self.of // channels == self.index


@dataclass(frozen=True)
class LastOfHeads(Part):
    """The last channels of each head.

    Attributes:
        width: returns the number of heads and of the channels that each of them has in the part.
    """

    width: Callable[[Any], tuple[int, int]] = lambda layer: (1, 1)

    def mask(self, layer: Any, channels: int) -> Tensor:
        """Returns which of the channels belong to the part, (channels,)."""
        heads, width = self.width(layer)
        of_head = channels // heads
        return torch.arange(channels) % of_head >= of_head - width


@dataclass(frozen=True)
class Values:
    """A layer that sums values with weights.

    Attributes:
        source: the submodule that returns the values.
        part: the values among the channels that it returns.
        sums: the submodule whose input is the weighted sum; empty for the output of the layer itself.
        heads: returns the number of heads.
        constant: submodules whose outputs are no attention: they are held constant.
        ones: submodules that gate the result: their outputs are replaced by ones.
        gate: channels of the source that gate the result: they are replaced by ones.
        cell: attribute with the side of the squares of the map that are one key each; empty for one pixel, or for maps
            that are pooled to a number of keys.
        channels_first: whether source and sums are (B, C, H, W).
        is_softmax: whether the weights of a query are at least 0 and sum to 1, over the padding of the map, too.
        over_channels: whether the weights are those of channels, not of positions.
        agents: whether two attentions follow each other, to a few agents and from them.
        of_latents: whether the queries are no positions, but a class token or latents; their mean is explained.
        prefix: tokens before those of the map among the keys of such queries.
    """

    source: str = "qkv"
    part: Part = Part(2, 3)
    sums: str = "proj"
    heads: Callable[[Any], int] = lambda layer: int(layer.num_heads)
    constant: tuple[str, ...] = ()
    ones: tuple[str, ...] = ()
    gate: Part | None = None
    cell: str = ""
    channels_first: bool = False
    is_softmax: bool = True
    over_channels: bool = False
    agents: bool = False
    of_latents: bool = False
    prefix: int = 0


@dataclass(frozen=True)
class Gate:
    """A layer that multiplies its input with factors per channel, per position, or both.

    Attributes:
        source: the submodule whose output is multiplied; empty for the input of the layer.
        result: the submodule whose input is the product; empty for the output of the layer.
        channels_first: whether both are (B, C, H, W).
    """

    source: str = ""
    result: str = ""
    channels_first: bool = True


@dataclass(frozen=True)
class Shared:
    """A layer in which all queries read one sum over the map.

    Attributes:
        weights: returns the weights of the sum, (B, heads, H, W), from the layer and its input.
    """

    weights: Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Factors:
    """A layer that returns the factors of channels, (B, C, 1, 1)."""


@dataclass(frozen=True)
class Compound:
    """A layer of several attentions, whose heads follow each other.

    Attributes:
        parts: the submodules; one that is None is left out.
    """

    parts: tuple[str, ...]


Reading = Values | Gate | Shared | Factors


def _of_queries(layer: AdditiveAttention, x: Tensor) -> Tensor:
    """Returns the share of each position in the global query, (B, H, W, C) -> (B, 1, H, W)."""
    q = nn.functional.normalize(layer.q(x.flatten(1, 2)), dim=2)
    weights = (q @ layer.score).abs()
    return (weights / weights.sum(1, keepdim=True)).transpose(1, 2).unflatten(2, x.shape[1:3])


_SELF = Values()
_LOCAL = Values(constant=("lepe",))
READINGS: dict[type[nn.Module], Reading | Compound] = {
    NeighborhoodAttention: _SELF,
    WindowAttention: _SELF,
    RolledWindowAttention: _SELF,
    CrossShapedAttention: Values(constant=("dwc",)),
    AgentAttention: Values(constant=("dwc",), agents=True),
    BiLevelRoutingAttention: _LOCAL,
    LepeAttention: _LOCAL,
    MaskedAttention: _SELF,
    HeadTokenAttention: _SELF,
    SparseAttention: _SELF,
    MapAttention: _SELF,
    PlainAttention: _SELF,
    QuantizableAttention: Values(ones=("gate",), is_softmax=False),
    FlowAttention: Values(is_softmax=False),
    timm.layers.Attention: _SELF,
    GatedAttention: Values(part=Part(2, 4), gate=Part(3, 4), constant=("lepe",)),
    RankAugmentedAttention: Values(part=Part(2, 4), gate=Part(3, 4), constant=("lepe",), is_softmax=False),
    HighFrequencies: _SELF,
    LowFrequencies: Values("kv", Part(1, 2), cell="window_size"),
    HiLoAttention: Compound(("high", "low")),
    SubsampledAttention: Values("kv", Part(1, 2), cell="ratio"),
    AreaAttention: Values("v", Part(), constant=("local",)),
    ClassAttention: Values("kv", Part(1, 2), of_latents=True, prefix=1),
    CrossAttention: Values("kv", Part(1, 2), of_latents=True),
    ConvolutionalAttention: Values("value", Part(), is_softmax=False),
    CosineAttention: Values(ones=("gates",)),
    AggregatedAttention: Values("kv", Part(1, 2), ones=("gates",), is_softmax=False),
    HaloAttention: Values(
        "kv", LastOfHeads(width=lambda layer: (layer.num_heads, layer.widths[1])), sums="", channels_first=True
    ),
    SingleHeadAttention: Values(
        part=LastOfHeads(width=lambda layer: (1, layer.widths[2])),
        sums="act",
        heads=lambda layer: 1,
        channels_first=True,
    ),
    EfficientAttention: Values("values", Part(), channels_first=True),
    ContMix: Values("fusion", Part(), sums="dynamic_proj", heads=lambda layer: 2 * layer.num_heads),
    AdditiveAttention: Shared(_of_queries),
    # keys, queries and values in the order of the official code
    ChannelAttention: Values(part=Part(0, 3), over_channels=True),
    AttentionModule: Gate("trunk2", "last"),
    LargeKernelAttention: Gate("act", "proj2", channels_first=False),
    MixerGate: Gate("proj", channels_first=False),
    SqueezeExcite: Gate(channels_first=False),
    EfficientChannelAttention: Gate(),
    FrequencyChannelAttention: Gate(),
    CrossStageChannelAttention: Factors(),
    PolarizedAttention: Gate(),
    StripAttention: Gate(),
    SubspaceAttention: Gate(),
    DeformableGate: Gate(),
    timm.layers.SEModule: Gate(),
    _efficientnet_blocks.SqueezeExcite: Gate(),
    timm.layers.EffectiveSEModule: Gate(),
    timm.layers.EcaModule: Gate(),
    timm.layers.CecaModule: Gate(),
}


def softmax_weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """Returns the weights of scaled dot-product attention, (B, h, queries, keys)."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias
    return scores.softmax(-1)
