"""Attention of every pixel to a subsampled map.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, r ratio, T = H * W, S = ⌊H/r⌋ * ⌊W/r⌋.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .attention import attended, head_width
from .convolution import channels_last_conv
from .cpu import linear
from .resizing import at_least, pad_to


@register_notrace_module  # whether to pad depends on the size of the map
class SubsampledAttention(nn.Module):
    """Multi-head attention of all pixels to keys and values of a smaller map: (B, H, W, C) -> (B, H, W, C).

    A convolution and a norm reduce each square of r x r pixels to one pixel. Incomplete squares at the bottom and right
    are dropped, as in the official code; a map smaller than a square is padded with zeros.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        ratio: side r of the squares; 1 for attention to the full map.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: Pyramid Vision Transformer, arXiv 2102.12122, section 3.3; "global sub-sampled attention" of Twins,
    arXiv 2104.13840, section 3.2.
    """

    def __init__(self, dim: int, num_heads: int, ratio: int = 1, qkv_bias: bool = True, proj_drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_width(dim, num_heads)
        self.ratio = ratio
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.reduction = nn.Conv2d(dim, dim, ratio, stride=ratio) if ratio > 1 else nn.Identity()
        self.norm = nn.LayerNorm(dim) if ratio > 1 else nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        # (B, H, W, C) -> (B, h, T, D)
        q = linear(self.q, x).flatten(1, 2).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
        squares = pad_to(x, at_least(x.shape[1], self.ratio), at_least(x.shape[2], self.ratio))
        # (B, ⌊H/r⌋, ⌊W/r⌋, 2C) -> (B, S, 2, h, D) -> two of (B, h, S, D)
        kv = linear(self.kv, self.norm(channels_last_conv(self.reduction, squares)))
        kv = kv.flatten(1, 2).unflatten(2, (2, self.num_heads, self.head_dim))
        k, v = kv.transpose(1, 3).unbind(2)
        # (B, T, C) -> (B, H, W, C)
        out = attended(q, k, v).reshape(x.shape)
        return self.proj_drop(linear(self.proj, out))

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, ratio={self.ratio}"
