"""What every mixer of self-attention here begins and ends with."""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from torch import nn

from .linear import Linear


class SelfAttention(nn.Module):
    """Projections to queries, keys and values and of the result, around whatever attends.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, proj_drop: float = 0.0) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} channels for {num_heads} heads")
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
