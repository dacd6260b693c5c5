"""GFNet, SpectFormer and FFTNet as computed by the official code.

Maps are tokens (B, N, C) between layers. Filters multiply torch's Fourier transform of a map, attention is two products
with a softmax between them, and linear layers are torch's own. Rewritten after raoyongming/GFNet,
badripatro/SpectFormers and jacobfa/fft.

Shape legend: B batch, H W map, C channels, T tokens, h heads, D = C / h, K = ⌊T / 2⌋ + 1 frequencies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.base import PlainMlp
from attnzoo.blocks import (
    AdaptiveSpectralFilter,
    ClassAttention,
    ConvDownsample,
    LocalMlp,
    MapAttention,
    Mlp,
    ScaledMlp,
    SpectralFilter,
    SubsampledAttention,
)
from attnzoo.fftnet import FFTNet
from attnzoo.gfnet import GFNet
from attnzoo.spectformer import SpectFormer
from attnzoo.spectformer_h import SpectFormerPyramid

from .swapping import swapped


def official(model: nn.Module) -> nn.Module:
    """Builds the official formulation with the weights of one of our GFNets, SpectFormers or FFTNets.

    Args:
        model: the network in evaluation mode, not fused.

    Returns:
        The network in evaluation mode; images (B, P, H, W) of the size of its filters -> logits (B, num_classes).

    Raises:
        TypeError: the model is of another family.
    """
    if not isinstance(model, (GFNet, SpectFormer, SpectFormerPyramid, FFTNet)):
        raise TypeError(f"model must be a GFNet, SpectFormer or FFTNet, got {type(model).__name__}")
    return swapped(
        model,
        {
            SpectralFilter: _Filter,
            AdaptiveSpectralFilter: _AdaptiveFilter,
            MapAttention: _Attention,
            SubsampledAttention: _SplitAttention,
            ClassAttention: _ClassAttention,
            Mlp: _mlp,
            PlainMlp: _mlp,
            ScaledMlp: _ScaledMlp,
            LocalMlp: _LocalMlp,
            ConvDownsample: _Downsample,
        },
    )


class _Filter(nn.Module):
    """(B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, ours: SpectralFilter) -> None:
        super().__init__()
        self.complex_weight = nn.Parameter(ours.table.detach().movedim(0, -1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        spectrum = torch.fft.rfft2(x.to(torch.float32), dim=(1, 2), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(self.complex_weight)
        return torch.fft.irfft2(spectrum, s=(height, width), dim=(1, 2), norm="ortho")


class _AdaptiveFilter(nn.Module):
    """(B, T, C) -> (B, T, C)."""

    def __init__(self, ours: AdaptiveSpectralFilter) -> None:
        super().__init__()
        self.heads, self.scale, self.shift = ours.num_heads, ours.scale, ours.shift
        self.adaptive = nn.Sequential(ours.fc1, nn.GELU(), ours.fc2)

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        batch, length, channels = x.shape
        changes = self.adaptive(x.mean(dim=1)).view(batch, self.heads, -1, 2)
        scale, shift = self.scale * (1 + changes[..., 0:1]), self.shift + changes[..., 1:2]
        # (B, T, C) -> (B, h, T, D) -> (B, h, K, D)
        x = x.view(batch, length, self.heads, channels // self.heads).permute(0, 2, 1, 3)
        spectrum = torch.fft.rfft(x, dim=2, norm="ortho") * scale + shift
        magnitude = torch.abs(spectrum)
        spectrum = spectrum * (F.gelu(magnitude) / (magnitude + 1e-6))
        x = torch.fft.irfft(spectrum, dim=2, n=length, norm="ortho")
        return x.permute(0, 2, 1, 3).reshape(batch, length, channels)


class _Attention(nn.Module):
    """(B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, ours: MapAttention) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = ours.num_heads, ours.qkv, ours.proj

    def forward(self, x: Tensor) -> Tensor:
        # (B, N, 3C) -> three of (B, h, N, D)
        qkv = self.qkv(x.flatten(1, 2)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(_attended(*qkv.unbind(0)).reshape(x.shape))


class _SplitAttention(nn.Module):
    """(B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, ours: SubsampledAttention) -> None:
        super().__init__()
        self.heads, self.q, self.kv, self.proj = ours.num_heads, ours.q, ours.kv, ours.proj

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        return self.proj(_attended(*_split(self, tokens, tokens)).reshape(x.shape))


class _ClassAttention(_SplitAttention):
    """(B, T, C) -> (B, 1, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_attended(*_split(self, x[:, :1], x)))


def _split(layer: Any, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q = layer.q(queries).unflatten(2, (layer.heads, -1)).permute(0, 2, 1, 3)
    k, v = layer.kv(tokens).unflatten(2, (2, layer.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, h, T, D) -> (B, T, C)."""
    weights = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def _mlp(ours: Any) -> nn.Module:
    return nn.Sequential(ours.fc1, nn.GELU(), ours.fc2)


class _ScaledMlp(nn.Module):
    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.mlp, self.gamma = nn.Sequential(ours.fc1, nn.GELU(), ours.fc2.fc), ours.fc2.scale.gamma

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * self.mlp(x)


class _LocalMlp(nn.Module):
    """(B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.fc1, self.conv, self.fc2 = ours.fc1, ours.conv, ours.fc2

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        # (B, N, C) -> (B, C, H, W) -> (B, N, C)
        x = self.fc1(x.flatten(1, 2)).transpose(1, 2).reshape(batch, -1, height, width)
        x = self.conv(x).flatten(2).transpose(1, 2)
        return self.fc2(F.gelu(x)).unflatten(1, (height, width))


class _Downsample(nn.Module):
    """(B, H, W, C) -> (B, H', W', C')."""

    def __init__(self, ours: ConvDownsample) -> None:
        super().__init__()
        self.proj, self.norm = ours.reduction, ours.norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x.permute(0, 3, 1, 2))
        return self.norm(x.flatten(2).transpose(1, 2)).unflatten(1, x.shape[2:])
