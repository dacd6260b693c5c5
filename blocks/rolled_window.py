"""Window attention with any shift and shape of windows, shifted before the map is padded, as in timm.

Shape legend: B batch, H W map, C channels, h heads, D = C / h.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from .attention import SelfAttention
from .cpu import linear
from .operators import attend_packed_windows
from .resizing import has_size, multiple_of, pad_to


@register_notrace_module  # whether to pad depends on the size of the map
class RolledWindowAttention(SelfAttention):
    """Multi-head self-attention within windows, with a constant shift that comes before the padding.

    For a map that is a multiple of the window it computes the same as `WindowAttention` with that shift. Other maps are
    rolled first and then padded with zeros at the bottom and right, so the padding is in other windows.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        window_size: rows and columns of a window.
        shift: rows and columns that windows are shifted by, for maps of every size.
        qkv_bias: whether the projection to queries, keys and values has a bias.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: Swin Transformer, arXiv 2103.14030, section 3.2; the order of shift and padding: timm.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: tuple[int, int], shift: tuple[int, int], qkv_bias: bool = True
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias)
        self.window_size = window_size
        self.shift = shift
        table = torch.zeros(num_heads, 2 * window_size[0] - 1, 2 * window_size[1] - 1)
        self.rpb = nn.Parameter(trunc_normal_(table, std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        rows, columns = multiple_of(height, self.window_size[0]), multiple_of(width, self.window_size[1])
        is_rolled = max(self.shift) > 0 and not has_size(height, width, rows, columns)
        if is_rolled:
            x = pad_to(x.roll([-self.shift[0], -self.shift[1]], [1, 2]), rows, columns)
            # the operator rolls the padded map, too
            x = x.roll([self.shift[0], self.shift[1]], [1, 2])
        else:
            x = pad_to(x, rows, columns)
        # (B, H, W, 3C) -> (B, H, W, 3, h, D)
        qkv = linear(self.qkv, x).unflatten(3, (3, self.num_heads, self.head_dim))
        # (B, padded H, padded W, h, D) -> (B, padded H, padded W, C)
        out = attend_packed_windows(qkv, self.window_size, self.shift, self.rpb).flatten(3)
        if is_rolled:
            out = out.roll([-self.shift[0], -self.shift[1]], [1, 2])[:, :height, :width]
            out = out.roll([self.shift[0], self.shift[1]], [1, 2])
        return self.proj_drop(linear(self.proj, out[:, :height, :width]))

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, window_size={self.window_size}, shift={self.shift}"
