"""Neighborhood attention as a token mixer, with the relative position bias of the published weights.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, kh kw kernel.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple, trunc_normal_
from torch import Tensor, nn

from attnzoo.kernels import neighborhood_qk

from .attention import SelfAttention
from .cpu import linear
from .operators import attend_neighborhood
from .resizing import pad_to


@register_notrace_module  # whether to pad depends on the size of the map
class NeighborhoodAttention(SelfAttention):
    """Multi-head self-attention in which every pixel attends to a window around it.

    A map smaller than kernel_size * dilation is padded with zeros at the bottom and right, before the projection to
    queries, keys and values, and cropped afterwards. The padding is attended to, as in the version of the official
    package that the published weights were trained with (NATTEN before 0.17).

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        kernel_size: window size, one number or (rows, columns), at least 1.
        dilation: spacing of the keys of a window, one number or (rows, columns), at least 1.
        stride: number of queries that share a window, at most kernel_size.
        is_causal: whether a pixel attends only to itself and to pixels before it, per axis or for both.
        bias: whether a learned table (h, 2kh-1, 2kw-1), `rpb` as in the published weights, is added to scores.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: Neighborhood Attention Transformer, arXiv 2204.07143; dilated, arXiv 2209.15001.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int | tuple[int, int] = 7,
        dilation: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        is_causal: bool | tuple[bool, bool] = False,
        bias: bool = True,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        self.kernel_size: tuple[int, int] = to_2tuple(kernel_size)
        self.dilation: tuple[int, int] = to_2tuple(dilation)
        self.stride: tuple[int, int] = to_2tuple(stride)
        self.is_causal: tuple[bool, bool] = to_2tuple(is_causal)
        table = torch.zeros(num_heads, 2 * self.kernel_size[0] - 1, 2 * self.kernel_size[1] - 1)
        self.rpb: nn.Parameter | None = nn.Parameter(trunc_normal_(table, std=0.02)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        qkv = self._project(x)
        padding = self.padding(qkv.dtype)
        # (B, H, W, h, D) -> (B, H, W, C)
        x = attend_neighborhood(
            qkv, self.kernel_size, self.dilation, self.stride, self.is_causal, self.rpb, padding
        ).flatten(3)
        return self.proj_drop(linear(self.proj, x))

    @torch.jit.ignore
    def weights(self, x: Tensor) -> Tensor:
        """Returns the attention weights, (B, H, W, C) -> (B, H, W, h, kh * kw), each window in row-major order."""
        height, width = x.shape[1:3]
        least = [kernel * dilation for kernel, dilation in zip(self.kernel_size, self.dilation, strict=True)]
        queries, keys, _ = self._project(pad_to(x, max(height, least[0]), max(width, least[1]))).unbind(3)
        scores = neighborhood_qk(
            queries,
            keys,
            self.kernel_size,
            dilation=self.dilation,
            stride=self.stride,
            is_causal=self.is_causal,
            bias=self.rpb,
        )
        return scores.softmax(-1)[:, :height, :width]

    def _project(self, x: Tensor) -> Tensor:
        """Returns queries, keys and values, (B, H, W, C) -> (B, H, W, 3, h, D)."""
        return linear(self.qkv, x).reshape(x.shape[0], x.shape[1], x.shape[2], 3, self.num_heads, self.head_dim)

    def padding(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Returns the key and value (h, D) of the padding of a map smaller than its window: projections of zeros."""
        bias = self.qkv.bias
        if bias is None:
            bias = self.qkv.weight.new_zeros(self.qkv.weight.shape[0])
        # (3C,) -> three of (h, D)
        _, key, value = bias.to(dtype).view(3, self.num_heads, -1).unbind(0)
        return key, value

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, kernel_size={self.kernel_size}, dilation={self.dilation}"


def resize_bias_table(table: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """Interpolates a relative position table bicubically to another kernel size, like the official weights.

    Args:
        table: (h, 2a-1, 2b-1), learned with an a x b kernel.
        kernel_size: the new kernel (rows, columns).

    Returns:
        (h, 2 * rows - 1, 2 * columns - 1); the table itself if it already has that size.
    """
    size = 2 * kernel_size[0] - 1, 2 * kernel_size[1] - 1
    if tuple(table.shape[1:]) == size:
        return table
    return F.interpolate(table.float().unsqueeze(0), size=size, mode="bicubic").squeeze(0).to(table.dtype)
