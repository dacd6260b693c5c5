"""Attention with an additional token per head, over a class token and the tokens of a map.

Shape legend: B batch, H W map, C channels, T tokens: 1 + H * W, h heads, D = C / h.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from .attention import SelfAttention, attended
from .cpu import linear


class HeadTokenAttention(SelfAttention):
    """Multi-head self-attention over all tokens and one additional token per head.

    The token of a head is computed from the mean of all tokens in the channels of that head. After attention, the mean
    of the head tokens is added to the class token.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: DHVT, arXiv 2210.05958, section 3.3.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, proj_drop: float = 0.0) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        self.ht_proj = nn.Linear(self.head_dim, dim)
        self.ht_norm = nn.LayerNorm(self.head_dim)
        self.act = nn.GELU()
        self.position = nn.Parameter(trunc_normal_(torch.zeros(1, num_heads, dim), std=0.02))

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        count = 1 + height * width
        x = torch.cat([x, self._head_tokens(x)], 1)
        # (B, T + h, 3C) -> (3, B, h, T + h, D)
        qkv = linear(self.qkv, x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        x = linear(self.proj, attended(qkv[0], qkv[1], qkv[2]))
        of_class = x[:, :1] + x[:, count:].mean(1, keepdim=True)
        return self.proj_drop(torch.cat([of_class, x[:, 1:count]], 1))

    def _head_tokens(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, h, C)."""
        # (B, C) -> (B, h, D) -> (B, h, C), normalized in groups of D channels
        tokens = self.ht_proj(x.mean(1).unflatten(1, (self.num_heads, self.head_dim)))
        tokens = self.ht_norm(tokens.unflatten(2, (self.num_heads, self.head_dim)))
        return self.act(tokens).flatten(2) + self.position
