"""Neighborhood attention over a whole batch at once, with operators that tracers, compilers and exporters support.

Shape legend: B batch, H W map, h heads, D E width of keys and values, n tiles, T queries of a tile, R keys of its
region, M = B * h.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tracing import is_traced
from ..transforms import is_transformed, needs_differentiable_gradients
from .plan import Chunk, Plan


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan) -> Tensor:
    """softmax(q k^T * scale + bias) v over each query's neighborhood: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    size, heads = q.shape[1:3], q.shape[3]
    mask = class_mask(plan, bias, q.dtype, heads)
    if mask is not None:
        # (h, classes, T, R) -> (1, h * n, T, R); fused kernels do not take masks of three dimensions
        mask = mask.index_select(1, plan.whole.tile_class).flatten(0, 1).unsqueeze(0)
    out = F.scaled_dot_product_attention(
        take_queries(q, plan), take_keys(k, plan), take_keys(v, plan), attn_mask=mask, scale=scale
    )
    if torch.compiler.is_exporting():
        # exporters decompose the fused kernel into operators with another layout; views must fit both
        out = out.clone(memory_format=torch.contiguous_format)
    return untile(out, plan, heads, size)


def take_queries(x: Tensor, plan: Plan) -> Tensor:
    """(B, H, W, h, D) -> (B, h * n, T, D)."""
    x = x.flatten(1, 2).transpose(1, 2)
    return x if plan.is_identity else _tiles(select(x, plan.whole.query_tokens), x.shape[1], plan.queries)


def take_keys(x: Tensor, plan: Plan) -> Tensor:
    """(B, H, W, h, D) -> (B, h * n, R, D)."""
    x = x.flatten(1, 2).transpose(1, 2)
    if plan.is_identity:
        return x
    has_own_sum = x.device.type == "cpu" and not is_traced() and not is_transformed()
    if has_own_sum and x.requires_grad and torch.is_grad_enabled():
        keys = _TakeKeys.apply(x, plan)
    else:
        keys = select(x, plan.region_tokens)
    return _tiles(keys, x.shape[1], plan.keys)


def select(x: Tensor, tokens: Tensor) -> Tensor:
    """(B, h, H * W, D) -> (M, slots, D)."""
    # index_select is far slower when it steps over two axes
    return x.flatten(0, 1).index_select(1, tokens)


def _tiles(x: Tensor, heads: int, slots: int) -> Tensor:
    """(M, n * slots, D) -> (B, h * n, slots, D)."""
    return x.unflatten(1, (-1, slots)).unflatten(0, (-1, heads)).flatten(1, 2)


def untile(x: Tensor, plan: Plan, heads: int, size: torch.Size) -> Tensor:
    """(B, h * n, T, E) -> (B, H, W, h, E)."""
    x = x.unflatten(1, (heads, -1)).flatten(2, 3)
    if not plan.is_identity:
        x = select(x, plan.query_slots).unflatten(0, (-1, heads))
    return x.transpose(1, 2).unflatten(1, size)


def class_mask(plan: Plan, bias: Tensor | None, dtype: torch.dtype, heads: int) -> Tensor | None:
    """Returns the additive mask (h, classes, T, R): the bias, and -inf where a query does not attend to a key."""
    mask = None if plan.mask is None else plan.mask.to(dtype)
    if bias is None:
        return None if mask is None else mask.expand(heads, -1, -1, -1)
    table = bias.to(dtype).flatten(1).index_select(1, plan.position).view(heads, -1, plan.queries, plan.keys)
    return table if mask is None else table + mask


class _TakeKeys(torch.autograd.Function):
    """Copies tokens into region slots, (B, h, H * W, D) -> (M, n * R, D), with a fast sum in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan) -> Tensor:
        ctx.plan, ctx.shape = plan, x.shape
        return select(x, plan.region_tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.new_zeros(ctx.shape)
        if needs_differentiable_gradients(grad):
            # batched gradients have no rule for unflatten
            grad = grad.reshape(*ctx.shape[:2], *grad.shape[1:])
            return total.index_add(2, ctx.plan.region_tokens, grad), None
        add_keys(total, grad, ctx.plan.whole)
        return total, None


def add_keys(total: Tensor, x: Tensor, chunk: Chunk) -> None:
    """Adds region slots, (N * h * columns * nh * R, D) in any shape, to their tokens in (N, h, H * W, D)."""
    images, heads, _, width = total.shape
    sums = sum_rows(x.reshape(images * heads, chunk.region_slots, width), chunk.key_slots, chunk.key_starts)
    total[:, :, chunk.first :].index_add_(2, chunk.key_tokens, sums.unflatten(0, (images, heads)).to(total.dtype))


def sum_rows(x: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    """Sums runs of rows, on a CPU: (M, slots, D) -> (M, len(starts), D), run i is rows[starts[i] : starts[i + 1]]."""
    repeats, slots, width = x.shape
    # embedding_bag gathers and sums in one pass, whereas index_add_ adds row by row
    offset = torch.arange(repeats)[:, None]
    bags = F.embedding_bag(
        (rows + offset * slots).flatten(), x.reshape(-1, width), (starts + offset * len(rows)).flatten(), mode="sum"
    )
    return bags.view(repeats, len(starts), width)
