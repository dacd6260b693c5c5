"""Flow attention: attention of linear cost in which keys compete, as flows that are conserved.

Shape legend: B batch, T queries, S keys, h heads, D channels per head, C = h * D, n chunks of queries.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from .attention import SelfAttention, head_width
from .cpu import linear
from .precision import exact, without_autocast

_EPS = 1e-6
# queries that are compared with their keys one by one in causal attention; earlier keys are summed
_CHUNK = 64


@register_notrace_function
def flow_attended(q: Tensor, k: Tensor, v: Tensor, num_heads: int, eps: float = 0.0) -> Tensor:
    """Attends by flows, at a cost linear in the number of tokens.

    The flow into each query and out of each key, sums of products of their sigmoids, are both normalized to one. Then
    the flow that is left for a key, given the normalized queries, is its weight in a softmax over the keys
    (competition), and the sigmoid of the flow into a query is its gate (allocation).

    Args:
        q: queries (B, T, C), before the sigmoid.
        k: keys (B, S, C), before the sigmoid.
        v: values (B, S, C).
        num_heads: heads h, consecutive runs of channels.
        eps: added to all flows, as in the official code for images, but not in that for other tasks.

    Returns:
        (B, T, C).

    Source: Flowformer, arXiv 2202.06258, section 3.2, equations 5 to 8.
    """
    if torch.jit.is_scripting():
        return _flow_attended(q, k, v, num_heads, eps)
    return _flow_attended_without_autocast(q, k, v, num_heads, eps)


@torch.jit.ignore
def causal_flow_attended(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Attends by flows to the keys up to each query's own position, at a cost linear in the number of tokens.

    All sums over tokens are those up to a position, divided by their number where they stand for a total. Later tokens
    do not change an output as long as values are finite. A value that is infinite or NaN also makes the outputs of the
    queries before it in its chunk of 64 tokens NaN, in the same channel, because it is multiplied by a weight of zero.

    Args:
        q: queries (B, T, C), before the sigmoid.
        k: keys (B, T, C), before the sigmoid.
        v: values (B, T, C).
        num_heads: heads h, consecutive runs of channels.

    Returns:
        (B, T, C).

    Raises:
        ValueError: the numbers of queries and keys differ.

    Source: Flowformer, arXiv 2202.06258, appendix, and its official code.
    """
    if q.shape[1] != k.shape[1]:
        raise ValueError(f"causal attention needs a key for each query, got {q.shape[1]} queries, {k.shape[1]} keys")
    with without_autocast(q.device.type):
        return _causal_flow_attended(q, k, v, num_heads)


@torch.jit.unused
def _flow_attended_without_autocast(q: Tensor, k: Tensor, v: Tensor, num_heads: int, eps: float) -> Tensor:
    with without_autocast(q.device.type):
        return _flow_attended(q, k, v, num_heads, eps)


def _flow_attended(q: Tensor, k: Tensor, v: Tensor, num_heads: int, eps: float) -> Tensor:
    dtype = q.dtype
    # sums over many tokens overflow float16, and epsilon is lost in it
    q, k, v = exact(q).sigmoid(), exact(k).sigmoid(), exact(v)
    # (C, h): which channel is in which head
    heads = torch.eye(num_heads, dtype=q.dtype, device=q.device).repeat_interleave(q.shape[2] // num_heads, 0)
    inward = _flow(q, k.sum(1), heads, eps).reciprocal()
    outward = _flow(k, q.sum(1), heads, eps).reciprocal()
    gate = torch.sigmoid(_flow(q, _weighted_sum(k, outward, heads), heads, eps) * (q.shape[1] / k.shape[1]))
    rest = _flow(k, _weighted_sum(q, inward, heads), heads, eps).clamp(-1, 1)
    # (B, S, h) -> (B, h, S, 1)
    competition = (rest.softmax(1) * k.shape[1]).transpose(1, 2).unsqueeze(3)
    # (B, h, D, D)
    context = (_split(k, num_heads) * competition).transpose(2, 3) @ _split(v, num_heads)
    out = (_split(q, num_heads) @ context).transpose(1, 2) * (inward * gate).unsqueeze(3)
    return out.flatten(2).to(dtype)


def _causal_flow_attended(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    dtype = q.dtype
    # (B, h, T, D)
    q, k = _split(exact(q).sigmoid(), num_heads), _split(exact(k).sigmoid(), num_heads)
    v = _split(exact(v), num_heads)
    # (T, 1): how many keys each query has
    count = torch.arange(1, q.shape[2] + 1, device=q.device, dtype=q.dtype).unsqueeze(1)
    inward = count / _product(q, k.cumsum(2))
    outward = count / _product(k, q.cumsum(2))
    gate = torch.sigmoid(_product(q, (k * outward).cumsum(2)) / count)
    rest = (_product(k, (q * inward).cumsum(2)) / count).clamp(-1, 1).exp()
    competition = rest / rest.cumsum(2) * count
    out = _causal_product(q, k * competition, v) * (inward / count * gate)
    return out.transpose(1, 2).flatten(2).to(dtype)


def _split(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, C) -> (B, h, T, D)."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def _flow(x: Tensor, total: Tensor, heads: Tensor, eps: float, shift: float = _EPS) -> Tensor:
    """Returns (x + shift)(total + shift) + eps, summed per head: tokens (B, T, C), total (B, C) -> (B, T, h)."""
    # (B, C, h), with zeros for the channels of other heads: one product of matrices for all heads
    totals = (total + shift).unsqueeze(2) * heads
    return torch.baddbmm(shift * totals.sum(1, keepdim=True) + eps, x, totals)


def _weighted_sum(x: Tensor, weights: Tensor, heads: Tensor) -> Tensor:
    """Sums tokens with a weight per head: (B, T, C), (B, T, h) -> (B, C)."""
    # (B, h, C), of which each head needs its own channels
    return ((weights.transpose(1, 2) @ x) * heads.t()).sum(1)


def _product(x: Tensor, total: Tensor) -> Tensor:
    """Returns the products of shifted vectors: (.., D), (.., D) -> (.., 1)."""
    return ((x + _EPS) * (total + _EPS)).sum(-1, keepdim=True)


def _causal_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Sums k^T v up to each query and multiplies it by the query, (B, h, T, D), without a sum for every query."""
    length = q.shape[2]
    padding = [0, 0, 0, -length % _CHUNK]
    # (B, h, n, chunk, D)
    q, k, v = (F.pad(x, padding).unflatten(2, (-1, _CHUNK)) for x in (q, k, v))
    sums = k.transpose(3, 4) @ v
    # of the chunks before; no difference of sums, in which later values would not cancel entirely
    before = F.pad(sums.cumsum(2)[:, :, :-1], [0, 0, 0, 0, 1, 0])
    out = (q @ k.transpose(3, 4)).tril() @ v + q @ before
    return out.flatten(2, 3)[:, :, :length]


class FlowAttention(SelfAttention):
    """Flow attention of a map to itself: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: Flowformer, arXiv 2202.06258, section 3.2, and its official code for images.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, proj_drop: float = 0.0) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        self.eps = _EPS

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.forward_tokens(x.flatten(1, 2), x.shape[1], x.shape[2]).reshape(x.shape)

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        q, k, v = linear(self.qkv, x).chunk(3, 2)
        return self.proj_drop(linear(self.proj, flow_attended(q, k, v, self.num_heads, self.eps)))


class FlowCrossAttention(nn.Module):
    """Flow attention of queries to keys and values that may come from other tokens.

    Args:
        dim: channels of queries, keys and values before their projections.
        inner_dim: channels C of all heads, a multiple of num_heads; None for `dim`.
        out_dim: channels of the output; None for `dim`.
        num_heads: heads h.
        causal: whether a query attends to the keys up to its own position only.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `inner_dim` is not a multiple of `num_heads`.

    Source: Flowformer, arXiv 2202.06258, section 3.2, and its official code.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        inner_dim: int | None = None,
        out_dim: int | None = None,
        causal: bool = False,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        inner_dim = inner_dim or dim
        head_width(inner_dim, num_heads, "inner_dim")
        self.num_heads, self.causal = num_heads, causal
        self.query = nn.Linear(dim, inner_dim)
        self.key = nn.Linear(dim, inner_dim)
        self.value = nn.Linear(dim, inner_dim)
        self.proj = nn.Linear(inner_dim, out_dim or dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, T, dim), (B, S, dim), (B, S, dim) -> (B, T, out_dim); causal attention needs T = S."""
        q, k, v = linear(self.query, queries), linear(self.key, keys), linear(self.value, values)
        if self.causal:
            out = causal_flow_attended(q, k, v, self.num_heads)
        else:
            out = flow_attended(q, k, v, self.num_heads)
        return self.proj_drop(linear(self.proj, out))
