"""HiLo attention: high-frequency heads attend within windows, low-frequency heads attend to window means.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, w window.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .attention import attended, head_width
from .cpu import linear
from .operators import attend_packed_windows
from .resizing import multiple_of, pad_to, pool_cells


class HighFrequencies(nn.Module):
    """Attention within windows, for a map that is a multiple of the window: (B, H, W, C) -> (B, H, W, h * D).

    Args:
        dim: channels C.
        num_heads: heads h.
        head_dim: D.
        window_size: side w of a window.
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim)
        self.proj = nn.Linear(num_heads * head_dim, num_heads * head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, h * D)."""
        # (B, H, W, 3hD) -> (B, H, W, 3, h, D)
        qkv = linear(self.qkv, x).unflatten(3, [3, self.num_heads, -1])
        out = attend_packed_windows(qkv, (self.window_size, self.window_size), (0, 0), None)
        return linear(self.proj, out.flatten(3))


class LowFrequencies(nn.Module):
    """Attention to the means of windows, for a map that is a multiple of the window: (B, H, W, C) -> (B, H, W, h * D).

    Args:
        dim: channels C.
        num_heads: heads h.
        head_dim: D.
        window_size: side w of a window.
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.q = nn.Linear(dim, num_heads * head_dim)
        self.kv = nn.Linear(dim, 2 * num_heads * head_dim)
        self.proj = nn.Linear(num_heads * head_dim, num_heads * head_dim)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """The map of the queries (B, H, W, C), and the padded map (B, H', W', C) -> (B, H, W, h * D)."""
        means = pool_cells(padded, self.window_size, self.window_size) if self.window_size > 1 else padded
        # (B, H, W, hD) -> (B, h, H * W, D)
        q = linear(self.q, x).unflatten(3, [self.num_heads, -1]).flatten(1, 2).transpose(1, 2)
        # (B, window rows, window columns, 2hD) -> two of (B, h, windows, D)
        k, v = linear(self.kv, means).unflatten(3, [2, self.num_heads, -1]).flatten(1, 2).transpose(1, 3).unbind(2)
        # (B, H * W, hD) -> (B, H, W, hD)
        return linear(self.proj, attended(q, k, v).unflatten(1, [x.shape[1], x.shape[2]]))


@register_notrace_module  # whether to pad depends on the size of the map
class HiLoAttention(nn.Module):
    """Some heads attend within windows, the others to the means of all windows; the results are concatenated.

    A map that is not a multiple of the window is padded with zeros at the bottom and right, before the projections, and
    cropped afterwards. The padding is attended to and included in the means, as in the official code for dense
    prediction.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        window_size: side w of a window; with 1 every head attends to the whole map.
        alpha: share of the heads that attend to means, rounded down.
        proj_drop: dropout rate after the output projections.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or `alpha` is out of range.

    Source: Fast Vision Transformers with HiLo Attention, arXiv 2205.13213, section 4. The separate output projections
        of the two groups of heads are from the official code.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int = 2, alpha: float = 0.9, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        head_dim = head_width(dim, num_heads)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha, the share of low-frequency heads, must be from 0 to 1, got {alpha}")
        self.window_size = window_size
        low_heads = num_heads if window_size == 1 else int(num_heads * alpha)
        high_heads = num_heads - low_heads
        self.high = HighFrequencies(dim, high_heads, head_dim, window_size) if high_heads > 0 else None
        self.low = LowFrequencies(dim, low_heads, head_dim, window_size) if low_heads > 0 else None
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        padded = pad_to(x, multiple_of(x.shape[1], self.window_size), multiple_of(x.shape[2], self.window_size))
        parts: list[Tensor] = []
        if self.high is not None:
            parts.append(self.high(padded)[:, : x.shape[1], : x.shape[2]])
        if self.low is not None:
            parts.append(self.low(x, padded))
        return self.proj_drop(torch.cat(parts, 3) if len(parts) > 1 else parts[0])
