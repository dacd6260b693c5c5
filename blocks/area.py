"""Area attention: self-attention within a few long runs of a map.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, a areas, n = ⌈H * W / a⌉ positions of an area.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from attnzoo.kernels import is_dynamic

from .attention import attended, head_width
from .convolution import ConvNorm
from .resizing import multiple_of


@register_notrace_module  # whether to pad depends on the size of the map
class AreaAttention(nn.Module):
    """Multi-head self-attention within areas, and a depthwise convolution of the values, all with batch norms.

    The positions of a map, row by row, are cut into runs of equal length, the areas: horizontal bands, where their
    number divides the rows. In a map that cannot be cut evenly, the last area is shorter, and with few positions some
    are empty; the official code takes no such map.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        areas: areas a; with one, attention sees the whole map.
        kernel_size: odd kernel size of the convolution, which sees the whole map.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: YOLOv12, arXiv 2502.12524, section 3.2; the projections and the convolution: official code.
    """

    def __init__(self, dim: int, num_heads: int, areas: int = 1, kernel_size: int = 5) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_width(dim, num_heads)
        self.areas = areas
        self.qk = ConvNorm(dim, 2 * dim)
        self.v = ConvNorm(dim, dim)
        self.local = ConvNorm(dim, dim, kernel_size, groups=dim)
        self.proj = ConvNorm(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, count, dim = x.shape[0], x.shape[1] * x.shape[2], x.shape[3]
        v = self.v(x)
        q, k = self._cut(self.qk(x)).chunk(2, 2)
        out = attended(self._heads(q), self._heads(k), self._heads(self._cut(v)), self._mask(x))
        # (B * a, n, C) -> (B, H, W, C)
        out = out.reshape(batch, multiple_of(count, self.areas), dim)[:, :count].reshape(x.shape)
        return self.proj(out + self.local(v))

    def _cut(self, x: Tensor) -> Tensor:
        """Splits a map into areas, with zeros at the end: (B, H, W, .) -> (B * a, n, .)."""
        count, channels = x.shape[1] * x.shape[2], x.shape[3]
        padded = multiple_of(count, self.areas)
        x = x.flatten(1, 2)
        if is_dynamic([count]) or padded > count:
            x = F.pad(x, [0, 0, 0, padded - count])
        return x.reshape(x.shape[0] * self.areas, padded // self.areas, channels)

    def _heads(self, x: Tensor) -> Tensor:
        """(B * a, n, C) -> (B * a, h, n, D)."""
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, x: Tensor) -> Tensor | None:
        """Returns which positions of the areas of a map x are keys, (B * a, 1, 1, n); None if all are."""
        count = x.shape[1] * x.shape[2]
        padded = multiple_of(count, self.areas)
        if self.areas == 1 or (not is_dynamic([count]) and padded == count):
            return None
        position = torch.arange(padded, device=x.device).reshape(self.areas, 1, 1, -1)
        # an empty area has a key, too: attention to none is not a number
        is_key = (position < count) | (position == position[:, :, :, :1])
        return is_key.repeat(x.shape[0], 1, 1, 1)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, areas={self.areas}"
