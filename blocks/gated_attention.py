"""Gated attention with rotary positions: softmax attention, and linear attention with augmented rank.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, T tokens: H * W.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor

from .attention import SelfAttention, attended
from .convolution import channels_last_conv, depthwise
from .cpu import linear
from .rotary import rotary_angles, rotate


@register_notrace_module  # positions depend on the size of the map
class GatedAttention(SelfAttention):
    """Multi-head self-attention with rotary positions: (B, H, W, C) -> (B, H, W, C).

    A depthwise convolution of the values is added to the result of attention. The sum is multiplied with a gate, a
    linear function of the input.

    Args:
        dim: channels C, a multiple of 4 * num_heads.
        num_heads: heads h.
        lepe_kernel: odd kernel size of the convolution.
        qkv_bias: whether the projection to queries, keys, values and gates has a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or the channels of a head are not a multiple of 4.

    Source: RALA, arXiv 2411.07635, official code.
    """

    def __init__(
        self, dim: int, num_heads: int, lepe_kernel: int = 5, qkv_bias: bool = True, proj_drop: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop, gated=True)
        if self.head_dim % 4:
            raise ValueError(
                f"rotary positions need heads with a multiple of 4 channels, got {dim} channels for {num_heads} heads, "
                f"{self.head_dim} each"
            )
        self.lepe = depthwise(dim, lepe_kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        # (B, H, W, 4C) -> four of (B, H, W, C)
        q, k, v, gate = linear(self.qkv, x).chunk(4, 3)
        cosines, sines = rotary_angles(height, width, self.head_dim, q)
        out = self._attend(self._by_head(q), self._by_head(k), self._by_head(v), cosines, sines)
        # (B, T, C) -> (B, H, W, C)
        x = (out.unflatten(1, [height, width]) + channels_last_conv(self.lepe, v)) * gate
        return self.proj_drop(linear(self.proj, x))

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, h, T, D)."""
        return x.unflatten(3, [self.num_heads, self.head_dim]).flatten(1, 2).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """q, k and v (B, h, T, D), and the rotary angles -> (B, T, C)."""
        return attended(rotate(q, cosines, sines), rotate(k, cosines, sines), v)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}"


@register_notrace_module
class RankAugmentedAttention(GatedAttention):
    """`GatedAttention` with linear attention, in time linear in the number of tokens.

    Keys are weighted by their similarity to the mean query, which raises the rank of the sum of all key-value products;
    the gate raises the rank of the result. Rotary positions are applied in the numerator of attention only.

    Source: RALA, arXiv 2411.07635, section 3.
    """

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """q, k and v (B, h, T, D), and the rotary angles -> (B, T, C)."""
        q, k = F.elu(q) + 1, F.elu(k) + 1
        # (B, h, 1, D) with (B, h, D, T) -> (B, h, T, 1): the weights of all tokens sum to one
        scores = q.mean(2, keepdim=True) @ k.transpose(2, 3) * self.head_dim**-0.5
        k = k * scores.softmax(3).transpose(2, 3)
        # (B, h, T, D) with (B, h, D, 1) -> (B, h, T, 1)
        total = q @ k.sum(2).unsqueeze(3)
        # (B, h, D, T) with (B, h, T, D) -> (B, h, D, D)
        summary = rotate(k, cosines, sines).transpose(2, 3) @ v
        out = rotate(q, cosines, sines) @ summary / (total + 1e-6)
        # (B, h, T, D) -> (B, T, C)
        return out.transpose(1, 2).flatten(2)
