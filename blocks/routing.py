"""Bi-level routing attention as a token mixer, and the dense attention used for small maps.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, P = Pr * Pc regions, in Pr rows and Pc columns.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from timm.layers import register_notrace_module, to_2tuple
from torch import Tensor

from attnzoo.kernels import is_dynamic

from .attention import SelfAttention, attended
from .convolution import channels_last_conv, depthwise
from .cpu import linear
from .operators import attend_regions
from .resizing import at_least, at_most, pad_to, pool_cells


@register_notrace_module  # whether to pad depends on the size of the map
class BiLevelRoutingAttention(SelfAttention):
    """Multi-head self-attention of every pixel to the regions with the highest affinity to its own region.

    The map is split into a fixed number of regions, whatever its size. The products of the mean query of a region and
    the mean keys of all regions select the `topk` regions that its pixels attend to. All heads share that selection,
    and it has no gradient. A depthwise convolution of the values is added to the result. Scores are multiplied with
    C ** -0.5, not D ** -0.5, as in the official code that the published weights were trained with.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        regions: regions of the map, one number for both sides or (rows, columns).
        topk: regions that each region attends to, 1 .. P.
        auto_pad: whether a map that the regions do not divide is padded with zeros at the bottom and right, and cropped
            afterwards. The padding is attended to.
        pad_projected: what is padded. False: the input is padded, so the keys and values of the padding are the bias of
            the projection, and the padding is included in the means of regions. True: queries, keys and values are
            padded, and the padding is not included in the means; regions then have ⌊H/Pr⌋ x ⌊W/Pc⌋ pixels, and regions
            are added until they cover the map. The published dense tasks use False, `biformer_stl_nchw` uses True.
        lepe_kernel: odd kernel size of the depthwise convolution.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or there are fewer regions than `topk`. In the forward
            pass: the regions do not divide the map, and `auto_pad` is off.

    Source: BiFormer, arXiv 2303.08810, equations 1 to 7 and algorithm 1.
    """

    # rounding decides between close scores; code that compares outputs checks this flag
    chooses_by_rank = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        regions: int | tuple[int, int] = 7,
        topk: int = 4,
        auto_pad: bool = False,
        pad_projected: bool = False,
        lepe_kernel: int = 5,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        self.regions: tuple[int, int] = to_2tuple(regions)
        if min(self.regions) < 1:
            raise ValueError(f"regions must be at least 1 per side, got {regions}")
        if not 1 <= topk <= self.regions[0] * self.regions[1]:
            raise ValueError(
                f"topk must be 1 .. {self.regions[0] * self.regions[1]}, the number of regions, got {topk} for "
                f"{self.regions[0]} x {self.regions[1]} regions"
            )
        self.topk = topk
        self.auto_pad = auto_pad
        self.pad_projected = pad_projected
        self.scale = dim**-0.5
        self.lepe = depthwise(dim, lepe_kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        rows, region_height = self._cut(height, 0)
        columns, region_width = self._cut(width, 1)
        padded_height, padded_width = rows * region_height, columns * region_width
        if not self.pad_projected:
            x = pad_to(x, padded_height, padded_width)
        qkv = linear(self.qkv, x)
        routes = self._route(qkv.detach(), region_height, region_width)
        if self.pad_projected:
            qkv = pad_to(qkv, padded_height, padded_width)
        # (B, H, W, 3C) -> three of (B, H, W, h, D)
        queries, keys, values = qkv.unflatten(3, (3, self.num_heads, self.head_dim)).unbind(3)
        out = attend_regions(queries, keys, values, routes, (rows, columns), self.scale)
        # (B, padded H, padded W, h, D) -> (B, padded H, padded W, C)
        x = (out.flatten(3) + channels_last_conv(self.lepe, values.flatten(3)))[:, :height, :width]
        return self.proj_drop(linear(self.proj, x))

    def _cut(self, length: int, axis: int) -> tuple[int, int]:
        """Returns the number of regions along an axis of the map, and their length including padding."""
        count = self.regions[axis]
        if not self.auto_pad and self._is_cut_off(length, count):
            side = "rows" if axis == 0 else "columns"
            raise ValueError(
                f"regions must divide the map, got {length} {side} and {count} regions: choose another size or other "
                f"regions, or pass auto_pad=True to pad the map"
            )
        if self.pad_projected:
            size = at_least(length // count, 1)
            return (length + size - 1) // size, size
        return count, (length + count - 1) // count

    def _route(self, qkv: Tensor, region_height: int, region_width: int, is_whole: bool = False) -> Tensor:
        """(B, H, W, 3C) -> (B, P, topk), the indices of the regions that each region attends to."""
        # the mean of all of qkv: leaving out the values would copy the rest. A region that the map cuts off is averaged
        # over its existing pixels.
        means = pool_cells(qkv, region_height, region_width)
        # (B, Pr, Pc, 3C) -> three of (B, P, C)
        queries, keys, _ = means.flatten(1, 2).chunk(3, 2)
        scores = (queries * self.scale) @ keys.transpose(1, 2)
        return scores.topk(at_most(self.topk, scores.shape[2]), sorted=False)[1]

    def _is_cut_off(self, length: int, count: int) -> bool:
        """Returns whether the map ends within a region; False if the size is dynamic."""
        return not is_dynamic([length]) and length % count != 0

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, regions={self.regions}, topk={self.topk}, auto_pad={self.auto_pad}"


class LepeAttention(SelfAttention):
    """Multi-head self-attention to all pixels, plus a depthwise convolution.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        lepe_of_values: whether the convolution takes the values instead of the input. Of the published BiFormers only
            `biformer_stl_nchw` takes the values.
        lepe_kernel: odd kernel size of the convolution.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: the last stage of BiFormer, arXiv 2303.08810, section 4.2; the convolution is from CSWin
        Transformer, arXiv 2107.00652, equation 9.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        lepe_of_values: bool = False,
        lepe_kernel: int = 5,
        qkv_bias: bool = False,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        self.lepe_of_values = lepe_of_values
        # for the few pixels and many channels of a last stage, oneDNN is slow and needs 12 MiB for the gradient of a
        # channel-last 5x5 kernel
        self.lepe = depthwise(dim, lepe_kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        qkv = linear(self.qkv, x)
        # (B, H, W, 3C) -> three of (B, h, H * W, D)
        tokens = qkv.unflatten(3, (3, self.num_heads, self.head_dim)).flatten(1, 2)
        queries, keys, values = tokens.permute(2, 0, 3, 1, 4).unbind(0)
        # (B, H * W, C) -> (B, H, W, C)
        out = attended(queries, keys, values).unflatten(1, (height, width))
        source = qkv.chunk(3, -1)[2] if self.lepe_of_values else x
        lepe = self.lepe(source.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)
        return self.proj_drop(linear(self.proj, out + lepe))

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, lepe_of_values={self.lepe_of_values}"
