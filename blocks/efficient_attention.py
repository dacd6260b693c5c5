"""Attention of linear cost with two softmaxes. Shape legend: B batch, C channels, H W map, T = H * W, h heads."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from torch import Tensor, nn


class EfficientAttention(nn.Module):
    """Attention that sums values into one context per head before the queries read it: (B, C, H, W) -> (B, C, H, W).

    Keys are normalized over positions and queries over the channels of a head, so the cost is linear in T. Scores are
    not scaled. Heads, which the paper does not have, are consecutive runs of channels, as in the official code.

    Args:
        dim: channels C.
        num_heads: heads h; None for the largest of 1, 2, 4 and 8 that divides the channels of keys and values.
        key_dim: channels of keys and queries; None for half of `dim`.
        value_dim: channels of the values; None for `dim`.
        residual: whether the map is added to the output, as in the official module; not for `attn_layer`, where the
            block has a shortcut.

    Raises:
        ValueError: the channels of keys or values are not a multiple of `num_heads`.

    Source: Efficient Attention: Attention with Linear Complexities, arXiv 1812.01243, and its official code.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        key_dim, value_dim = key_dim or max(dim // 2, 1), value_dim or dim
        if num_heads is None:
            num_heads = max(heads for heads in (1, 2, 4, 8) if key_dim % heads == value_dim % heads == 0)
        for name, channels in (("key_dim", key_dim), ("value_dim", value_dim)):
            if channels % num_heads:
                raise ValueError(f"{name} must be a multiple of num_heads, got {channels} channels for {num_heads}")
        self.num_heads = num_heads
        self.residual = residual
        self.queries = nn.Conv2d(dim, key_dim, 1)
        self.keys = nn.Conv2d(dim, key_dim, 1)
        self.values = nn.Conv2d(dim, value_dim, 1)
        self.proj = nn.Conv2d(value_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        # (B, h, channels, T)
        queries = self._heads(self.queries(x)).softmax(2)
        keys = self._heads(self.keys(x)).softmax(3)
        # (B, h, value channels, key channels)
        context = self._heads(self.values(x)) @ keys.transpose(2, 3)
        out = self.proj((context @ queries).flatten(1, 2).unflatten(2, x.shape[2:]))
        return out + x if self.residual else out

    def _heads(self, x: Tensor) -> Tensor:
        return x.flatten(2).unflatten(1, (self.num_heads, -1))
