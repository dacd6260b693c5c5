"""Projections shared by the self-attention mixers."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.kernels import is_exporting

from .cpu import linear


def head_width(dim: int, num_heads: int, name: str = "dim") -> int:
    """Returns the channels D of each head.

    Args:
        dim: channels of all heads.
        num_heads: heads.
        name: name of `dim` in the error message.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.
    """
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"{name} must be a multiple of num_heads, got {dim} channels for {num_heads} heads")
    return dim // num_heads


def attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes softmax(q k^T / sqrt(D) + bias) v and concatenates the heads.

    Args:
        q: queries (B, h, T, D).
        k: keys (B, h, S, D).
        v: values (B, h, S, D).
        bias: added to the scores, (1 or B, h, T, S).

    Returns:
        (B, T, h * D).
    """
    out = F.scaled_dot_product_attention(q, k, v, bias)
    if is_exporting():
        # the operators that the exporter decomposes attention into return other strides than attention itself
        out = out.clone(memory_format=torch.contiguous_format)
    return out.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Base class of attention layers: the projection to queries, keys and values, and the output projection.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.
        gated: whether the projection has a fourth output, the gates of the result, after queries, keys and values.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool = True, proj_drop: float = 0.0, gated: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_width(dim, num_heads)
        self.qkv = nn.Linear(dim, (4 if gated else 3) * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)


class MapAttention(SelfAttention):
    """Attention between all pixels of a map: (B, H, W, C) -> (B, H, W, C).

    Source: An Image is Worth 16x16 Words, arXiv 2010.11929, appendix A.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        q, k, v = self._split(x)
        return self.proj_drop(linear(self.proj, attended(q, k, v).reshape(x.shape)))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, C) -> queries, keys and values (B, h, T, D)."""
        # (B, T, 3C) -> (3, B, h, T, D)
        qkv = linear(self.qkv, x).flatten(1, 2).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]
