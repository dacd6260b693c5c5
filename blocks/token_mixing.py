"""Mixing of tokens by an MLP, and gates computed from it.

Shape legend: B batch, H W map, C channels, N = rows * columns tokens of the map that the weights are learned on.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .cpu import linear
from .mlp import Mlp
from .resizing import has_size
from .shortcuts import Layer, is_plain_cpu, is_unmodified


@register_notrace_module  # whether to interpolate depends on the size of the map
class TokenMlp(nn.Module):
    """Linear, GELU, linear over the tokens of each channel: (B, H, W, C) -> (B, H, W, C).

    On a map of another size, the weights are interpolated bilinearly over the map. Those of the first layer are scaled
    by the ratio of the numbers of tokens, so that a constant map has the same hidden values on all sizes.

    Args:
        map_size: the map (rows, columns) that the weights are learned on.
        hidden_dim: hidden values of each channel.
        drop: dropout rate after GELU and at the end.

    Source: MLP-Mixer, arXiv 2105.01601, section 2; it takes one size only.
    """

    def __init__(self, map_size: tuple[int, int], hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.map_size = map_size
        self.fc1 = nn.Linear(map_size[0] * map_size[1], hidden_dim)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_dim, map_size[0] * map_size[1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        # (B, H, W, C) -> (B, H * W, C)
        tokens = x.flatten(1, 2)
        if has_size(height, width, self.map_size[0], self.map_size[1]):
            tokens = over_tokens(self.fc2, self.drop(self.act(over_tokens(self.fc1, tokens))))
        else:
            tokens = self._resized(tokens.transpose(1, 2), height, width).transpose(1, 2)
        return self.drop(tokens).reshape(x.shape)

    def _resized(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Computes the linear layers with interpolated weights: (B, C, H * W) -> (B, C, H * W)."""
        learned = self.map_size[0] * self.map_size[1]
        first = _resize(self.fc1.weight, self.map_size, height, width) * (learned / (height * width))
        # not as linear layers, which are not exported with weights of a dynamic size
        hidden = self.drop(self.act(tokens @ first.t() + self.fc1.bias))
        second = _resize(self.fc2.weight.t(), self.map_size, height, width).t()
        bias = _resize(self.fc2.bias.unsqueeze(0), self.map_size, height, width).squeeze(0)
        return hidden @ second.t() + bias


def over_tokens(layer: Layer, x: Tensor) -> Tensor:
    """Calls a `torch.nn.Linear`, or what replaced it, for every channel: (B, tokens, C) -> (B, out_features, C).

    On a CPU the weights are multiplied from the left, so that the tokens stay in their layout.
    """
    if torch.jit.is_scripting():
        return layer.forward(x.transpose(1, 2)).transpose(1, 2)
    return _over_tokens(layer, x)


@torch.jit.unused
def _over_tokens(layer: nn.Module, x: Tensor) -> Tensor:
    if not is_plain_cpu(x) or not is_unmodified(layer, nn.Linear):
        return layer(x.transpose(1, 2)).transpose(1, 2)
    return torch.baddbmm(layer.bias.unsqueeze(1), layer.weight.expand(len(x), -1, -1), x)


def _resize(weight: Tensor, map_size: tuple[int, int], height: int, width: int) -> Tensor:
    """(outputs, N) -> (outputs, H * W)."""
    maps = weight.reshape(1, -1, map_size[0], map_size[1])
    return F.interpolate(maps, [height, width], mode="bilinear")[0].flatten(1)


class MixerGate(nn.Module):
    """A linear map times the output of a mixer of tokens and channels: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        map_size: the map (rows, columns) that the weights are learned on, see `TokenMlp`.
        token_dim: hidden values of each channel in the MLP over tokens.
        channel_dim: hidden channels of the MLP over channels.
        drop: dropout rate inside both MLPs.

    Source: NiNformer, arXiv 2403.02411, section 3.
    """

    def __init__(
        self, dim: int, map_size: tuple[int, int], token_dim: int, channel_dim: int, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.tokens = TokenMlp(map_size, token_dim, drop)
        self.norm2 = nn.LayerNorm(dim)
        self.channels = Mlp(dim, channel_dim, drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        mixed = x + self.tokens(self.norm1(x))
        return linear(self.proj, x) * (mixed + self.channels(self.norm2(mixed)))
