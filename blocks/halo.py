"""Halo attention, the spatial layer of a bottleneck.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, E channels of a head's values, s stride.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from .attention import head_width
from .cpu import pointwise_conv
from .operators import attend_halo


@register_notrace_module  # blocks depend on the size of the map
class HaloAttention(nn.Module):
    """Attention of each block to itself and a halo around it: (B, C, H, W) -> (B, h * E, ⌈H/s⌉, ⌈W/s⌉).

    Learned relative position vectors, shared by all heads, add to the scores. There is no output projection. A map that
    is not a multiple of the block size is padded with zeros at the bottom and right, and every map is padded with zeros
    by the halo on all sides. The padding is attended to.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        block_size: side of a block on the key map.
        halo: pixels around a block that it also attends to.
        stride: s, spacing of the queries in pixels, a divisor of block_size.
        value_dim: output channels h * E; None for C.

    Raises:
        ValueError: channels are not a multiple of `num_heads`, or `block_size` is not a multiple of `stride`.

    Source: Scaling Local Self-Attention for Parameter Efficient Visual Backbones, arXiv 2103.12731, section 2.2.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        block_size: int = 8,
        halo: int = 3,
        stride: int = 1,
        value_dim: int | None = None,
    ) -> None:
        super().__init__()
        value_dim = dim if value_dim is None else value_dim
        head_dim = head_width(dim, num_heads)
        if stride < 1 or block_size % stride:
            raise ValueError(f"block_size must be a multiple of stride, got {block_size} for a stride of {stride}")
        self.num_heads = num_heads
        # channels of keys and of values
        self.widths = [head_dim, head_width(value_dim, num_heads, "value_dim")]
        self.block_size = block_size
        self.halo = halo
        self.stride = stride
        self.q = nn.Conv2d(dim, dim, 1, bias=False)
        self.kv = nn.Conv2d(dim, dim + value_dim, 1, bias=False)
        entries = 2 * (block_size + 2 * halo) - 1
        self.rel_rows = nn.Parameter(torch.empty(entries, head_dim))
        self.rel_columns = nn.Parameter(torch.empty(entries, head_dim))
        for projection in (self.q, self.kv):
            trunc_normal_(projection.weight, std=dim**-0.5)
        for table in (self.rel_rows, self.rel_columns):
            trunc_normal_(table, std=head_dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h * E, ⌈H/s⌉, ⌈W/s⌉)."""
        # (B, C, H', W') -> (B, H', W', h, D)
        q = (
            pointwise_conv(self.q, x[:, :, :: self.stride, :: self.stride])
            .permute(0, 2, 3, 1)
            .unflatten(3, (self.num_heads, -1))
        )
        # (B, C + h * E, H, W) -> (B, H, W, h, D + E)
        kv = pointwise_conv(self.kv, x).permute(0, 2, 3, 1).unflatten(3, (self.num_heads, -1))
        k, v = kv.split(self.widths, 4)
        out = attend_halo(q, k, v, self.block_size, self.halo, self.stride, self.rel_rows, self.rel_columns)
        # (B, H', W', h, E) -> (B, h * E, H', W')
        return out.flatten(3).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, block_size={self.block_size}, halo={self.halo}, stride={self.stride}"
