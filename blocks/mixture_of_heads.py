"""Mixture-of-head attention: every token weights the heads, and may skip some of them.

The attention itself is that of TransNeXt: L2-normalized queries and keys, a learned temperature and, for large maps,
keys from the neighbors of a pixel and from the means of a grid of cells.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, T tokens: H * W, S cells of a grid.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from .attention import attended, head_width
from .continuous_bias import ContinuousBias
from .cpu import linear
from .resizing import at_least, pool_to
from .shifts import neighbor_scores, neighbor_sums, neighbors_inside

# initial value of the inverse temperature
SHARPNESS = 1 / 0.24


class HeadGates(nn.Module):
    """Computes the weight of each head for each token: (B, H, W, C) -> (B, H, W, h).

    Shared heads come first and are active for every token. Of the other heads, those with the highest scores are active
    for a token. The weights of each group sum to its number of active heads, and a pair of weights balances the two
    groups.

    Args:
        dim: channels C.
        num_heads: heads h.
        shared_heads: number of shared heads, at least 1.
        active_heads: number of the other heads that are active for a token; 0 if all heads are shared.

    Raises:
        ValueError: the numbers of heads are not consistent.

    Source: MoH, arXiv 2410.11842, section 3.2. The softmax over the shared heads is from the official code.
    """

    # rounding decides between close scores; code that compares outputs checks this flag
    chooses_by_rank = True

    def __init__(self, dim: int, num_heads: int, shared_heads: int, active_heads: int) -> None:
        super().__init__()
        others = num_heads - shared_heads
        if shared_heads < 1 or not min(others, 1) <= active_heads <= others:
            raise ValueError(
                f"of {num_heads} heads at least one must be shared, and of the others, if any, at least one active, "
                f"got {shared_heads} shared and {active_heads} active"
            )
        self.shared_heads = shared_heads
        self.active_heads = active_heads
        self.shared = nn.Linear(dim, shared_heads, bias=False) if shared_heads > 1 else None
        self.routed = nn.Linear(dim, others, bias=False) if others > 0 else None
        self.balance = nn.Linear(dim, 2, bias=False) if others > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, h)."""
        shared = torch.ones_like(x[..., :1])
        if self.shared is not None:
            shared = linear(self.shared, x).softmax(3) * self.shared_heads
        if self.routed is None or self.balance is None:
            return shared
        shares = linear(self.routed, x).softmax(3)
        best, chosen = shares.topk(self.active_heads, 3)
        # the largest weight is never small, so the sum cannot be zero
        best = best / best.sum(3, keepdim=True) * self.active_heads
        routed = torch.zeros_like(shares).scatter(3, chosen, best)
        balance = linear(self.balance, x).softmax(3) * 2
        return torch.cat([balance[..., :1] * shared, balance[..., 1:] * routed], 3)


class MixtureAttention(nn.Module):
    """Base class of the attention layers below: normalized queries, biases, gates, output projection.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        shared_heads, active_heads: as in `HeadGates`.
        map_size: as in `ContinuousBias`.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or the numbers of heads are not consistent.

    Source: TransNeXt, arXiv 2311.17132, section 3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        shared_heads: int,
        active_heads: int,
        map_size: tuple[int, int] | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_width(dim, num_heads)
        self.temperature = nn.Parameter(torch.full((num_heads, 1), SHARPNESS).expm1().log())
        self.query_embedding = nn.Parameter(trunc_normal_(torch.zeros(num_heads, self.head_dim), std=0.02))
        self.position_bias = ContinuousBias(num_heads, map_size)
        self.gates = HeadGates(dim, num_heads, shared_heads, active_heads)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def _sharpened(self, q: Tensor, keys: Tensor) -> Tensor:
        """Scales normalized queries (.., h, D) by the temperature and the number of their keys (.., 1, 1)."""
        return (q + self.query_embedding) * (F.softplus(self.temperature) * keys.log().to(q.dtype))

    def _gated(self, out: Tensor, x: Tensor) -> Tensor:
        """The results of the heads (B, H, W, h, D) and the input (B, H, W, C) -> (B, H, W, C)."""
        out = out * self.gates(x).unsqueeze(4)
        return self.proj_drop(linear(self.proj, out.flatten(3)))


@register_notrace_module  # positions depend on the size of the map
class CosineAttention(MixtureAttention):
    """Attention to the whole map, with the cosine similarity of queries and keys: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        shared_heads: int,
        active_heads: int,
        map_size: tuple[int, int] | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, shared_heads, active_heads, map_size, proj_drop)
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        # (B, H, W, 3C) -> three of (B, T, h, D)
        q, k, v = linear(self.qkv, x).unflatten(3, [3, self.num_heads, self.head_dim]).flatten(1, 2).unbind(2)
        q = self._sharpened(F.normalize(q, dim=3), torch.ones(1, device=x.device) * (height * width))
        # attention divides by sqrt(D)
        q = q * self.head_dim**0.5
        k = F.normalize(k, dim=3)
        bias = self.position_bias(height, width, height, width).to(q.dtype).unsqueeze(0)
        out = attended(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias)
        # (B, T, C) -> (B, H, W, h, D)
        return self._gated(out.unflatten(1, [height, width]).unflatten(3, [self.num_heads, self.head_dim]), x)


@register_notrace_module
class AggregatedAttention(MixtureAttention):
    """Attention to the 3x3 neighbors of a pixel and to a pooled map: (B, H, W, C) -> (B, H, W, C).

    A single softmax covers both. After the softmax, a function of the query is added to the weights of the neighbors.

    Args:
        dim, num_heads, shared_heads, active_heads, map_size, proj_drop: as in `MixtureAttention`.
        pool_ratio: side of the map divided by the side of the pooled map, which has at least one pixel.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        shared_heads: int,
        active_heads: int,
        map_size: tuple[int, int] | None = None,
        proj_drop: float = 0.0,
        pool_ratio: int = 8,
    ) -> None:
        super().__init__(dim, num_heads, shared_heads, active_heads, map_size, proj_drop)
        self.pool_ratio = pool_ratio
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.pool_proj = nn.Linear(dim, dim)
        self.act = nn.GELU()
        self.pool_norm = nn.LayerNorm(dim)
        self.rpb = nn.Parameter(trunc_normal_(torch.zeros(num_heads, 9), std=0.0004))
        self.tokens = nn.Parameter(trunc_normal_(torch.zeros(num_heads, self.head_dim, 9), std=0.02))
        self.token_bias = nn.Parameter(torch.zeros(num_heads, 1, 9))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        rows, columns = at_least(height // self.pool_ratio, 1), at_least(width // self.pool_ratio, 1)
        inside = neighbors_inside(height, width, x.device)
        keys = inside.sum(2) + rows * columns
        # (B, H, W, C) -> (B, H, W, h, D)
        direction = F.normalize(self._heads(linear(self.q, x)), dim=4)
        q = self._sharpened(direction, keys[:, :, None, None])
        # two of (B, H, W, h, D)
        k, v = self._keys(x)
        local = neighbor_scores(q, k) + self.rpb
        local = local.masked_fill(~inside.unsqueeze(2), float("-inf"))
        # two of (B, rows, columns, h, D) -> (B, h, S, D)
        pooled = self.pool_norm(pool_to(self.act(linear(self.pool_proj, x)), rows, columns))
        pool_k, pool_v = self._keys(pooled)
        pool_k, pool_v = self._by_head(pool_k), self._by_head(pool_v)
        # (B, h, T, D) with (B, h, D, S) -> (B, h, T, S)
        distant = self._by_head(q) @ pool_k.transpose(2, 3) + self.position_bias(height, width, rows, columns)
        weights = torch.cat([self._by_head(local), distant.to(local.dtype)], 3).softmax(3)
        near = weights[..., :9] + (self._by_head(direction) @ self.tokens + self.token_bias)
        # (B, h, T, D) -> (B, H, W, h, D)
        far = (weights[..., 9:] @ pool_v).transpose(1, 2).unflatten(1, [height, width])
        near = near.transpose(1, 2).unflatten(1, [height, width])
        return self._gated(neighbor_sums(near, v) + far, x)

    def _keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> normalized keys and values, each (B, H, W, h, D)."""
        k, v = linear(self.kv, x).chunk(2, 3)
        return F.normalize(self._heads(k), dim=4), self._heads(v)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, h, D)."""
        return x.unflatten(3, [self.num_heads, self.head_dim])

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, H, W, h, D) -> (B, h, T, D)."""
        return x.flatten(1, 2).transpose(1, 2)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, pool_ratio={self.pool_ratio}"
