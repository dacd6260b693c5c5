"""NATTEN 0.14.1 to 0.14.5 where it differs from 0.14.6: functions without a kernel size, other constructors.

The kernel size is read from the table of biases or from the number of weights. Source: SHI-Labs/NATTEN, releases 0.14.1
to 0.14.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from . import classic
from .operators import scores, sums


def natten1dqkrpb(query: Tensor, key: Tensor, rpb: Tensor, dilation: int) -> Tensor:
    """Scores with a table (heads, 2k-1), (B, heads, L, D) -> (B, heads, L, k)."""
    return scores(1, query, key, _kernel_of(rpb), dilation, rpb=rpb)


def natten2dqkrpb(query: Tensor, key: Tensor, rpb: Tensor, dilation: int) -> Tensor:
    """Scores with a table (heads, 2k-1, 2k-1), (B, heads, H, W, D) -> (B, heads, H, W, k * k)."""
    return scores(2, query, key, _kernel_of(rpb), dilation, rpb=rpb)


def natten1dav(attn: Tensor, value: Tensor, dilation: int) -> Tensor:
    """Weighted sums, (B, heads, L, k), (B, heads, L, E) -> (B, heads, L, E)."""
    return sums(1, attn, value, attn.shape[-1], dilation)


def natten2dav(attn: Tensor, value: Tensor, dilation: int) -> Tensor:
    """Weighted sums, (B, heads, H, W, k * k), (B, heads, H, W, E) -> (B, heads, H, W, E)."""
    return sums(2, attn, value, math.isqrt(attn.shape[-1]), dilation)


def _kernel_of(rpb: Tensor | None) -> int:
    if rpb is None:
        raise ValueError(
            "rpb must be a table: in NATTEN 0.14.1 to 0.14.4 the kernel size is read from it; install a later release"
        )
    return (rpb.shape[-1] + 1) // 2


class EarliestLayer(classic.ClassicLayer):
    """The constructor of NATTEN 0.14.1 to 0.14.4, with a table of biases always.

    Args:
        dim, kernel_size, num_heads, qkv_bias, qk_scale, attn_drop, proj_drop: as in later releases.
        dilation: a number, None for 1, or any string for the largest one that the map has room for.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        dilation: int | str | None = None,
    ) -> None:
        number = None if isinstance(dilation, str) else dilation
        super().__init__(dim, num_heads, kernel_size, number, True, qkv_bias, qk_scale, attn_drop, proj_drop)
        if isinstance(dilation, str):
            self.dilation = self.window_size = None

    def _dilation(self, size: Sequence[int]) -> int:
        return max(min(size) // self.kernel_size, 1) if self.dilation is None else int(self.dilation)


class NeighborhoodAttention1D(EarliestLayer):
    """Neighborhood attention of a sequence (B, L, C), as in NATTEN 0.14.1 to 0.14.4."""

    axes = 1


class NeighborhoodAttention2D(EarliestLayer):
    """Neighborhood attention of a map (B, H, W, C), as in NATTEN 0.14.1 to 0.14.4."""

    axes = 2
