"""Layers of robust vision transformers: pooling of tokens, masked attention, and an MLP of normed convolutions.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, T = H * W, N = tokens of the map that a mask is learned
on.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from .attention import MapAttention, attended
from .cache import Cache
from .convolution import ConvNorm, channels_last_conv
from .cpu import linear
from .resizing import has_size


@register_notrace_module  # slices depend on the size of the map
class TokenPooling(nn.Module):
    """Means of 3x3 neighborhoods of several dilations, weighted for each token: (B, H, W, C) -> (B, H, W, C).

    The first scale is the token itself; scale i > 0 has dilation i. Zeros around the map count in the means.

    Args:
        dim: channels C.
        num_scales: scales.

    Source: token-aware average pooling, Robustifying Token Attention for Vision Transformers, arXiv 2303.11126,
    section 3.1.
    """

    def __init__(self, dim: int, num_scales: int = 4) -> None:
        super().__init__()
        self.num_scales = num_scales
        self.conv1 = ConvNorm(dim, num_scales, 3)
        self.conv2 = nn.Conv2d(num_scales, num_scales, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        # (B, H, W, scales)
        weights = channels_last_conv(self.conv2, self.conv1(x)).softmax(3)
        out = x * weights[..., :1]
        for i in range(1, self.num_scales):
            padded = F.pad(x, [0, 0, i, i, i, i])
            rows = padded[:, :height] + padded[:, i : i + height] + padded[:, 2 * i : 2 * i + height]
            sums = rows[:, :, :width] + rows[:, :, i : i + width] + rows[:, :, 2 * i : 2 * i + width]
            out = torch.addcmul(out, sums, weights[..., i : i + 1], value=1 / 9)
        return out


@register_notrace_module  # whether to interpolate depends on the size of the map
class AttentionMask(nn.Module):
    """A learned factor between 0 and 1 for each pair of tokens, the sigmoid of a table (h, N, N).

    For a map of another size the table is interpolated bilinearly over keys and queries. In evaluation mode without
    gradients the factors are cached for the last map size.

    Args:
        num_heads: heads h.
        map_size: the map (rows, columns) that the table is learned on.

    Source: position-aware attention scaling, Towards Robust Vision Transformer, arXiv 2105.07926, section 4.2.
    """

    def __init__(self, num_heads: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.map_size = map_size
        tokens = map_size[0] * map_size[1]
        self.table = nn.Parameter(trunc_normal_(torch.zeros(num_heads, tokens, tokens), std=0.02))
        self._cache = Cache()

    def forward(self, height: int, width: int) -> Tensor:
        """Returns the factors of a map of a size, (h, H * W, H * W)."""
        if torch.jit.is_scripting():
            return self._computed(height, width)
        return self._cached(height, width)

    @torch.jit.unused
    def _cached(self, height: int, width: int) -> Tensor:
        return self._cache.get(self, (height, width), partial(self._computed, height, width))

    def _computed(self, height: int, width: int) -> Tensor:
        table: Tensor = self.table
        if not has_size(height, width, self.map_size[0], self.map_size[1]):
            # over keys, then over queries
            table = self._resized(self._resized(table, height, width).transpose(1, 2), height, width).transpose(1, 2)
        return table.sigmoid()

    def _resized(self, table: Tensor, height: int, width: int) -> Tensor:
        """(h, any, N) -> (h, any, H * W)."""
        maps = table.reshape(table.shape[0], -1, self.map_size[0], self.map_size[1])
        return F.interpolate(maps, [height, width], mode="bilinear").flatten(2)

    def train(self, mode: bool = True) -> "AttentionMask":
        """Switches to training or evaluation mode, and clears the cached factors."""
        self._cache.clear()
        return super().train(mode)


class MaskedAttention(MapAttention):
    """Attention of all tokens of a map, with scores times a learned mask: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        map_size: the map (rows, columns) that the mask is learned on; None for no mask.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: Towards Robust Vision Transformer, arXiv 2105.07926, section 4.2.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        map_size: tuple[int, int] | None = None,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        self.mask = None if map_size is None else AttentionMask(num_heads, map_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        q, k, v = self._split(x)
        if self.mask is None:
            out = attended(q, k, v)
        else:
            out = (self._weights(q, k, x.shape[1], x.shape[2]) @ v).transpose(1, 2).flatten(2)
        return self.proj_drop(linear(self.proj, out.reshape(x.shape)))

    def with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> the output (B, H, W, C), and the weights of all pairs of tokens (B, h, T, T)."""
        q, k, v = self._split(x)
        weights = self._weights(q, k, x.shape[1], x.shape[2])
        out = (weights @ v).transpose(1, 2).reshape(x.shape)
        return self.proj_drop(linear(self.proj, out)), weights

    def _weights(self, q: Tensor, k: Tensor, height: int, width: int) -> Tensor:
        scores = (q * self.head_dim**-0.5) @ k.transpose(2, 3)
        if self.mask is not None:
            scores = scores * self.mask(height, width)
        return scores.softmax(3)


def diversification_loss(weights: Tensor) -> Tensor:
    """Returns how similar the attention of all queries is: the loss of one layer, a scalar.

    It is the mean cosine between the attention of each query, averaged over heads, and the mean attention of all
    queries. Weights of at most 2 / T count as zero in both.

    Args:
        weights: attention (B, h, T, T), queries before keys.

    Source: attention diversification loss, arXiv 2303.11126, section 3.2.
    """
    attention = weights.mean(1)
    mean = attention.mean(1, keepdim=True)
    threshold = 2 / attention.shape[2]
    attention, mean = attention * (attention > threshold), mean * (mean > threshold)
    return F.cosine_similarity(mean, attention, dim=2).mean()


class NormedMlp(nn.Module):
    """1x1, 3x3 depthwise and 1x1 convolutions with batch norms, and GELU between them: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        hidden_dim: hidden channels.
        drop: dropout rate after the first GELU and at the end.

    Source: robust feed-forward network, Towards Robust Vision Transformer, arXiv 2105.07926, section 3.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, hidden_dim, bias=True)
        self.conv2 = ConvNorm(hidden_dim, hidden_dim, 3, groups=hidden_dim, bias=True)
        self.conv3 = ConvNorm(hidden_dim, dim, bias=True)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.drop(self.act(self.conv1(x)))
        return self.drop(self.conv3(self.act(self.conv2(x))))
