"""Attention between channels. Shape legend: B batch, H W map, C channels, h heads, D = C / h, T = H * W."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from torch import Tensor

from .attention import SelfAttention
from .cpu import linear


class ChannelAttention(SelfAttention):
    """Self-attention whose tokens are the channels of a head, over the whole map: (B, H, W, C) -> (B, H, W, C).

    As in the official code, k acts as the queries, v as the keys and q as the values, and scores are scaled by
    D ** -0.5 although the products are summed over T. The cost is linear in T.

    Args: as in `SelfAttention`.

    Source: DaViT, arXiv 2204.03645, section 3.2, equation 4.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        # (B, H, W, 3C) -> (B, T, 3, h, D) -> three of (B, h, T, D)
        qkv = linear(self.qkv, x).flatten(1, 2).unflatten(2, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.transpose(1, 3).unbind(2)
        # (B, h, D, D), one row per channel of k
        weights = ((k * k.shape[3] ** -0.5).transpose(-2, -1) @ v).softmax(3)
        # (B, h, T, D) -> (B, T, h, D) -> (B, H, W, C)
        out = (q @ weights.transpose(-2, -1)).transpose(1, 2).reshape(x.shape)
        return self.proj_drop(linear(self.proj, out))
