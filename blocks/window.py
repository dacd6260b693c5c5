"""Window attention as a token mixer: the shifted windows of Swin, and the stripes of CSWin.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, w window.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import register_notrace_module, to_2tuple, trunc_normal_
from torch import Tensor, nn

from attnzoo.kernels import is_dynamic

from .attention import SelfAttention
from .convolution import channels_last_conv, depthwise
from .cpu import linear
from .operators import attend_packed_windows, attend_windows
from .resizing import at_most, has_size, multiple_of, pad_to


@register_notrace_module  # whether to pad and to shift depends on the size of the map
class WindowAttention(SelfAttention):
    """Multi-head self-attention within windows, which may be shifted by half a window.

    A map that is not a multiple of the window is padded with zeros at the bottom and right, before the projection to
    queries, keys and values, and cropped afterwards. The padding is attended to, as in the official code for dense
    prediction. Windows are not shifted for a map that fits into one window.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        window_size: side w of a window, or (rows, columns).
        shifted: whether windows are shifted by half of their rows and columns, rounded down.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.
        position_bias: whether a learned table of relative positions is added to the scores.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: Swin Transformer, arXiv 2103.14030, section 3.2.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int | tuple[int, int] = 7,
        shifted: bool = False,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        position_bias: bool = True,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        self.window_size = window_size
        self.rows, self.columns = to_2tuple(window_size)
        self.shifted = shifted
        self.rpb: nn.Parameter | None = None
        if position_bias:
            table = torch.zeros(num_heads, 2 * self.rows - 1, 2 * self.columns - 1)
            self.rpb = nn.Parameter(trunc_normal_(table, std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        shift = self._shift(height, width)
        x = pad_to(x, multiple_of(height, self.rows), multiple_of(width, self.columns))
        # (B, H, W, 3C) -> (B, H, W, 3, h, D)
        qkv = linear(self.qkv, x).unflatten(3, (3, self.num_heads, self.head_dim))
        # (B, padded H, padded W, h, D) -> (B, H, W, C)
        out = attend_packed_windows(qkv, (self.rows, self.columns), shift, self.rpb)
        return self.proj_drop(linear(self.proj, out[:, :height, :width].flatten(3)))

    def _shift(self, height: int, width: int) -> tuple[int, int]:
        if not self.shifted:
            return 0, 0
        rows, columns = self.rows // 2, self.columns // 2
        if is_dynamic([height, width]):
            is_larger = at_most((height - 1) // self.rows + (width - 1) // self.columns, 1)
            return rows * is_larger, columns * is_larger
        return (rows, columns) if height > self.rows or width > self.columns else (0, 0)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, window_size={self.window_size}, shifted={self.shifted}"


@register_notrace_module  # the length of stripes depends on the size of the map
class CrossShapedAttention(SelfAttention):
    """Multi-head self-attention within stripes: vertical for half of the heads, horizontal for the other half.

    A depthwise convolution of the values, within each stripe, is added. A map that is not a multiple of the stripe
    width is padded with zeros at the bottom and right, before the projection to queries, keys and values, and cropped
    afterwards.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h, even unless `stripe_width` is None.
        stripe_width: width of the stripes, which are as long as the map; None for a single stripe, the whole map.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or `num_heads` is odd with stripes in two directions.

    Source: CSWin Transformer, arXiv 2107.00652, sections 3.2 and 3.3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        stripe_width: int | None = 7,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        branches = 1 if stripe_width is None else 2
        if num_heads % branches:
            raise ValueError(f"num_heads must be even for stripes in two directions, got {num_heads}")
        self.stripe_width = stripe_width
        self.dwc = nn.ModuleList(depthwise(dim // branches, 3) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        if self.stripe_width is not None:
            x = pad_to(x, multiple_of(height, self.stripe_width), multiple_of(width, self.stripe_width))
        # (B, H, W, 3C) -> (B, H, W, 3, h, D), split by heads into one tensor per direction
        qkv = linear(self.qkv, x).unflatten(3, (3, self.num_heads, self.head_dim)).chunk(len(self.dwc), dim=4)
        out = []
        for i, dwc in enumerate(self.dwc):
            rows, columns = self._stripe(i, x.shape[1], x.shape[2])
            q, k, v = qkv[i].unbind(3)
            values = _cut(v.flatten(3), rows, columns)
            local = _join(channels_last_conv(dwc, values), x.shape[1], x.shape[2])
            out.append(attend_windows(q, k, v, (rows, columns), (0, 0), None).flatten(3) + local)
        # (B, padded H, padded W, C) -> (B, H, W, C)
        return self.proj_drop(linear(self.proj, torch.cat(out, 3)[:, :height, :width]))

    def _stripe(self, direction: int, height: int, width: int) -> tuple[int, int]:
        """Returns rows and columns of the stripes of a map: direction 0 is vertical, 1 horizontal."""
        if self.stripe_width is None:
            return height, width
        return (height, self.stripe_width) if direction == 0 else (self.stripe_width, width)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, stripe_width={self.stripe_width}"


def _cut(x: Tensor, rows: int, columns: int) -> Tensor:
    """Splits a map (B, H, W, C) into its windows (windows, rows, columns, C)."""
    batch, height, width, channels = x.shape
    if has_size(rows, columns, height, width):
        return x
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return x.transpose(2, 3).reshape(-1, rows, columns, channels)


def _join(x: Tensor, height: int, width: int) -> Tensor:
    """Joins windows (windows, rows, columns, C) to the map (B, H, W, C) that they were split from."""
    rows, columns, channels = x.shape[1], x.shape[2], x.shape[3]
    if has_size(rows, columns, height, width):
        return x
    x = x.reshape(-1, height // rows, width // columns, rows, columns, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels)
