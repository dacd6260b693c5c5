"""Cross-attention of a few queries to many tokens, and the classifier whose only query is learned.

Shape legend: B batch, T queries, S tokens, C channels of queries, E channels of tokens, h heads, D channels of a head.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import DropPath, get_device_dtype, global_pool_nlc, trunc_normal_
from torch import Tensor, nn

from .attention import attended, head_width
from .cpu import linear
from .mlp import Mlp


class CrossAttention(nn.Module):
    """Multi-head attention of queries (B or 1, T, C) to tokens (B, S, E) -> (B, T, C).

    Args:
        dim: channels C of the queries.
        context_dim: channels E of the tokens.
        num_heads: heads h.
        width: channels of queries, keys and values in all heads.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `width` is not a multiple of `num_heads`.

    Source: Attention Is All You Need, arXiv 1706.03762, section 3.2.3.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, width: int, proj_drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_width(width, num_heads, "width")
        self.q = nn.Linear(dim, width)
        self.kv = nn.Linear(context_dim, 2 * width)
        self.proj = nn.Linear(width, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B or 1, T, C), (B, S, E) -> (B, T, C)."""
        # (B or 1, T, h * D) -> (B, h, T, D)
        q = linear(self.q, x).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
        q = q.expand(context.shape[0], -1, -1, -1)
        # (B, S, 2 * h * D) -> (2, B, h, S, D)
        kv = linear(self.kv, context).unflatten(2, (2, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return self.proj_drop(linear(self.proj, attended(q, kv[0], kv[1])))


class CrossBlock(nn.Module):
    """x + attention(norm(x), norm(tokens)), then x + mlp(norm(x)): (B or 1, T, C), (B, S, E) -> (B, T, C).

    Args:
        dim: channels C of the queries.
        context_dim: channels E of the tokens.
        num_heads: heads.
        width: channels of queries, keys and values in all heads.
        mlp_ratio: hidden channels of the MLP divided by C.
        drop_path: probability that a sample skips a branch in training.
        proj_drop: dropout rate after the projection and in the MLP.

    Source: Perceiver, arXiv 2103.03206, section 3.1.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        num_heads: int,
        width: int,
        mlp_ratio: float = 1.0,
        drop_path: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(context_dim)
        self.attn = CrossAttention(dim, context_dim, num_heads, width, proj_drop)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), proj_drop)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B or 1, T, C), (B, S, E) -> (B, T, C)."""
        x = x + self.drop_path1(self.attn(self.norm1(x), self.norm_context(context)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class QueryHead(nn.Module):
    """A learned query attends to all tokens, then a linear classifier: (B, S, C) -> (B, num_classes).

    Args:
        dim: channels C.
        num_classes: classes; 0 for no classifier.
        pool_type: `query`, or `avg`, `max` or `avgmax` of the tokens in its place, or an empty string for none.
        drop_rate: dropout rate before the linear layer.

    Source: Perceiver IO, arXiv 2107.14795, section 3.2.
    """

    def __init__(self, dim: int, num_classes: int, pool_type: str = "query", drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_features = dim
        self.query: nn.Parameter | None = None
        self.decoder: CrossBlock | None = None
        self.drop = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Linear(dim, dim)
        self.reset(num_classes, pool_type)

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replaces the linear layer, and the pooling unless `pool_type` is None."""
        place, dim = get_device_dtype(self), self.num_features
        if pool_type is not None:
            self.pool_type = pool_type
            if pool_type != "query":
                self.query, self.decoder = None, None
            elif self.decoder is None:
                self.query = nn.Parameter(trunc_normal_(torch.zeros(1, dim, **place), std=0.02))
                self.decoder = CrossBlock(dim, dim, 1, dim).to(**place)
        self.fc = nn.Linear(dim, num_classes, **place) if num_classes > 0 else nn.Identity()
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, S, C) -> (B, num_classes), or the input of the linear layer."""
        if self.decoder is not None and self.query is not None:
            x = self.decoder(self.query.unsqueeze(0), x).squeeze(1)
        else:
            x = global_pool_nlc(x, pool_type=self.pool_type, num_prefix_tokens=0)
        x = self.drop(x)
        return x if pre_logits else self.fc(x)
