"""Attention of a class token alone to all tokens.

Shape legend: B batch, T tokens, class token first, C channels, h heads, D = C / h.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import attended, head_width
from .cpu import linear
from .mlp import Mlp


class ClassAttention(nn.Module):
    """Multi-head attention of the first token to all tokens: (B, T, C) -> (B, 1, C).

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: Going deeper with Image Transformers, arXiv 2103.17239, section 3.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, proj_drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_width(dim, num_heads)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, 1, C)."""
        # (B, 1, C) -> (B, h, 1, D)
        q = linear(self.q, x[:, :1]).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
        # (B, T, 2C) -> (B, T, 2, h, D) -> two of (B, h, T, D)
        k, v = linear(self.kv, x).unflatten(2, (2, self.num_heads, self.head_dim)).transpose(1, 3).unbind(2)
        return self.proj_drop(linear(self.proj, attended(q, k, v)))


class ClassAttentionBlock(nn.Module):
    """The residual block around class attention and an MLP, which only change the class token: (B, T, C) -> (B, T, C).

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads of attention.
        mlp_ratio: hidden channels of the MLP divided by C.
        proj_drop: dropout rate after the projection of attention and inside the MLP.
        norm_layer: builds a norm over the channels.

    Source: as for `ClassAttention`; without a layer scale: VOLO, arXiv 2106.13112, section 3.3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        proj_drop: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = ClassAttention(dim, num_heads, proj_drop=proj_drop)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        token = x[:, :1] + self.attn(self.norm1(x))
        return torch.cat([token + self.mlp(self.norm2(token)), x[:, 1:]], 1)
