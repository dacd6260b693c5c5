"""Neighborhood attention in plain torch, fast: tiles of queries against small regions of keys.

Three things make it fast on a CPU. Tiles are small (4x4 queries see 10x10 keys when the kernel is 7x7), so little
is computed that the mask throws away. Keys are copied once per column of tiles into a strip; the regions down the
strip overlap in memory and are never copied. And images are taken one by one, so that everything stays in cache
and memory does not grow with the batch. While a model is traced, or on another device, the whole batch goes
through at once, made of operators that every compiler and exporter knows.

Shape legend: B batch, H W map, h heads, D E width of keys and values, n tiles, T queries of a tile, R keys of its
region, N images at once.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .geometry import Axis
from .plan import AxisArguments, Chunk, Plan, best_plan, windows

# Scores computed at once, in elements: enough to hide the cost of a call, few enough to stay in cache.
_CHUNK_SCORES = 512 * 1024


def attention(q: Tensor, k: Tensor, v: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias) v over each query's neighborhood: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    plan = plan_for(axes, q.shape[3], q.device)
    if q.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _attend_batch(q, k, v, bias, scale, plan)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias)):
        return _Attention.apply(q, k, v, bias, scale, plan)
    return _forward(q, k, v, bias, scale, plan)


def qk(q: Tensor, k: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """Scores of each query with its keys, row-major over the window: (B, H, W, h, k); -inf where there is no key."""
    plan, places = plan_for(axes, q.shape[3], q.device), windows(*_arguments(axes), str(q.device))
    size, heads = q.shape[1:3], q.shape[3]
    q, k = (x.flatten(1, 2).transpose(1, 2) for x in (q * scale, k))
    scores = _take_tiles(q, plan.whole.query_tokens, plan.queries) @ _take_keys(k, plan).mT
    # (classes, T, k) -> (B, h * n, T, k): of a region's scores, the window's
    slots = places.slots[plan.whole.tile_class].repeat(heads, 1, 1).expand(len(q), -1, -1, -1)
    scores = _untile(scores.gather(-1, slots), plan, heads, size)
    if bias is not None:
        # (h, H * W * k) -> (H, W, h, k)
        on_map = bias.to(q.dtype).flatten(1).index_select(1, places.position_on_map)
        scores = scores + on_map.unflatten(1, (*size, -1)).permute(1, 2, 0, 3)
    if places.exists_on_map is not None:
        scores = scores.masked_fill(~places.exists_on_map.unflatten(0, size).unsqueeze(2), -torch.inf)
    return scores


def av(weights: Tensor, v: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Each query's values summed with its weights: (B, H, W, h, k), (B, H, W, h, E) -> (B, H, W, h, E)."""
    plan, places = plan_for(axes, v.shape[3], v.device), windows(*_arguments(axes), str(v.device))
    size, heads = v.shape[1:3], v.shape[3]
    weights, v = (x.flatten(1, 2).transpose(1, 2) for x in (weights, v))
    tiles = _take_tiles(weights, plan.whole.query_tokens, plan.queries)
    slots = places.slots[plan.whole.tile_class].repeat(heads, 1, 1).expand(len(v), -1, -1, -1)
    spread = tiles.new_zeros(*tiles.shape[:-1], plan.keys)
    if places.exists is None:
        spread = spread.scatter(-1, slots, tiles)
    else:
        # places without a key all point at slot 0: add nothing there
        exists = places.exists[plan.whole.tile_class].repeat(heads, 1, 1)
        spread = spread.scatter_add(-1, slots, tiles.masked_fill(~exists, 0))
    return _untile(spread @ _take_keys(v, plan), plan, heads, size)


def plan_for(axes: tuple[Axis, Axis], heads: int, device: torch.device) -> Plan:
    """The cached plan of a neighborhood. Symbolic sizes become constants: a traced graph is for one map size."""
    return best_plan(*_arguments(axes), _CHUNK_SCORES // heads, str(device))


def _arguments(axes: tuple[Axis, Axis]) -> tuple[AxisArguments, AxisArguments]:
    rows, columns = (
        (operator.index(axis.length), axis.kernel, axis.dilation, axis.stride, axis.is_causal) for axis in axes
    )
    return rows, columns


# The whole batch at once, in operators that every tracer knows.


def _attend_batch(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan) -> Tensor:
    size, heads = q.shape[1:3], q.shape[3]
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    mask = _class_mask(plan, bias, q.dtype, heads)
    if mask is not None:
        # (h, classes, T, R) -> (h * n, T, R)
        mask = mask.index_select(1, plan.whole.tile_class).flatten(0, 1)
    queries = _take_tiles(q, plan.whole.query_tokens, plan.queries)
    out = F.scaled_dot_product_attention(queries, _take_keys(k, plan), _take_keys(v, plan), attn_mask=mask, scale=scale)
    return _untile(out, plan, heads, size)


def _take_tiles(x: Tensor, tokens: Tensor, slots: int) -> Tensor:
    """(B, h, H * W, D) -> (B, h * n, slots, D)."""
    return x.index_select(2, tokens).unflatten(2, (-1, slots)).flatten(1, 2)


def _take_keys(x: Tensor, plan: Plan) -> Tensor:
    """(B, h, H * W, D) -> (B, h * n, R, D)."""
    if x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        x = _TakeKeys.apply(x, plan)
        return x.unflatten(2, (-1, plan.keys)).flatten(1, 2)
    return _take_tiles(x, plan.whole.region_tokens, plan.keys)


class _TakeKeys(torch.autograd.Function):
    """Copies tokens into region slots, (B, h, H * W, D) -> (B, h, n * R, D), with the fast sum on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan) -> Tensor:
        ctx.plan, ctx.shape = plan, x.shape
        return x.index_select(2, plan.whole.region_tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.new_zeros(ctx.shape)
        _add_keys(total, grad, ctx.plan.whole)
        return total, None


def _untile(x: Tensor, plan: Plan, heads: int, size: torch.Size) -> Tensor:
    """(B, h * n, T, E) -> (B, H, W, h, E)."""
    x = x.unflatten(1, (heads, -1)).flatten(2, 3).index_select(2, plan.query_slots)
    return x.transpose(1, 2).unflatten(1, size)


def _class_mask(plan: Plan, bias: Tensor | None, dtype: torch.dtype, heads: int) -> Tensor | None:
    """What is added to the scores, (h, classes, T, R): the bias, and -inf where a query does not attend to a key."""
    mask = None if plan.mask is None else plan.mask.to(dtype)
    if bias is None:
        return None if mask is None else mask.expand(heads, -1, -1, -1)
    table = bias.to(dtype).flatten(1).index_select(1, plan.position).view(heads, -1, plan.queries, plan.keys)
    return table if mask is None else table + mask


# A CPU: chunks of tiles, one image or a few at a time, so that everything stays in cache.


def _steps(plan: Plan, chunk: Chunk, batch: int, heads: int) -> Iterator[slice]:
    """Images to take together: one where regions overlap in their strip, else what fills a chunk."""
    scores = heads * chunk.columns * plan.rows * plan.queries * plan.keys
    step = 1 if plan.rows > 1 else max(1, _CHUNK_SCORES // scores)
    return (slice(i, min(i + step, batch)) for i in range(0, batch, step))


def _chunk_mask(mask: Tensor | None, chunk: Chunk) -> Tensor | None:
    """(h, classes, T, R) -> (h * columns, nh, T, R)."""
    if mask is None:
        return None
    return mask.index_select(1, chunk.tile_class).unflatten(1, (chunk.columns, -1)).flatten(0, 1)


def _select(x: Tensor, tokens: Tensor, plan: Plan) -> Tensor:
    """(N, h, H * W, D) -> (N * h, slots, D)."""
    # index_select is some eight times slower when it must step over two axes
    x = x[0] if len(x) == 1 else x.flatten(0, 1)
    return x if plan.is_identity else x.index_select(1, tokens)


def _chunk_queries(x: Tensor, chunk: Chunk, plan: Plan, repeats: bool = True) -> Tensor:
    """(N, h, H * W, D) -> (N, h * columns, nh, T, D); zeros in the slots that repeat a query unless `repeats`."""
    tiles = _select(x, chunk.query_tokens, plan)
    if not repeats and chunk.repeats.numel():
        tiles.index_fill_(1, chunk.repeats, 0)
    return tiles.reshape(len(x), -1, plan.rows, plan.queries, x.shape[-1])


def _chunk_keys(x: Tensor, chunk: Chunk, plan: Plan) -> Tensor:
    """(N, h, H * W, D) -> (N, h * columns, nh, R, D), regions that overlap in memory."""
    strips = _select(x, chunk.strip_tokens, plan).reshape(len(x), -1, plan.strip, x.shape[-1])
    images, columns, token, channel = strips.stride()
    size = (*strips.shape[:2], plan.rows, plan.keys, x.shape[-1])
    return strips.as_strided(size, (images, columns, plan.strip_step * token, token, channel))


def _fusible(x: Tensor, plan: Plan) -> Tensor:
    """Drops the axis that is one of (N, h * columns, nh, ., .): the fused kernel of a CPU takes four dimensions."""
    return x[0] if plan.rows > 1 else x[:, :, 0]


def _forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan) -> Tensor:
    heads = q.shape[3]
    out = v.new_empty(v.shape)
    q, k, v, tokens_out = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v, out))
    class_mask = _class_mask(plan, bias, q.dtype, heads)
    for chunk in plan.chunks:
        mask = _chunk_mask(class_mask, chunk)
        for images in _steps(plan, chunk, len(q), heads):
            tiles = F.scaled_dot_product_attention(
                _fusible(_chunk_queries(q[images], chunk, plan), plan),
                *(_fusible(_chunk_keys(x[images], chunk, plan), plan) for x in (k, v)),
                attn_mask=None if mask is None else mask if plan.rows > 1 else mask[:, 0],
                scale=scale,
            )
            tiles = tiles.reshape(-1, heads, chunk.query_tokens.numel(), tiles.shape[-1])
            tokens_out[images].index_copy_(2, chunk.query_tokens, tiles)
    return out


class _Attention(torch.autograd.Function):
    """Attention that keeps its inputs only, and computes the weights again on the way back, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale, ctx.plan = scale, plan
        return _forward(q, k, v, bias, scale, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        plan: Plan = ctx.plan
        heads, grads = q.shape[3], [x.new_zeros(x.shape) for x in (q, k, v)]
        tokens = [x.flatten(1, 2).transpose(1, 2) for x in (q, k, v, grad, *grads)]
        class_mask = _class_mask(plan, bias, q.dtype, heads)
        needs_bias = bias is not None and ctx.needs_input_grad[3]
        sum_dtype = torch.promote_types(q.dtype, torch.float32)
        dmask = torch.zeros(heads, plan.classes, plan.queries * plan.keys, dtype=sum_dtype) if needs_bias else None
        for chunk in plan.chunks:
            mask = _chunk_mask(class_mask, chunk)
            dscores = None
            for images in _steps(plan, chunk, len(q), heads):
                step = _backward_step(*(x[images] for x in tokens), mask, ctx.scale, chunk, plan)
                if dmask is not None:
                    step = step.sum(0, dtype=sum_dtype)
                    dscores = step if dscores is None else dscores.add_(step)
            if dmask is not None and dscores is not None:
                # a product with 0 and 1 sums the tiles of a class
                members = F.one_hot(chunk.tile_class, plan.classes).T.to(sum_dtype)
                dmask += members @ dscores.view(heads, chunk.tile_class.numel(), -1)
        dbias = None
        if bias is not None and dmask is not None:
            table = _sum_rows(dmask.view(heads, -1, 1), plan.table_slots, plan.table_starts).squeeze(2)
            dbias = torch.zeros_like(bias).flatten(1).index_copy_(1, plan.table_entries, table.to(bias.dtype))
            dbias = dbias.view_as(bias)
        return *grads, dbias, None, None


def _backward_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    mask: Tensor | None,
    scale: float,
    chunk: Chunk,
    plan: Plan,
) -> Tensor:
    """Adds the gradients of some images, (N, h, H * W, .), to dq, dk, dv; returns those of the scores.

    The gradient of the scores is (N, h * columns * nh, T, R).
    """
    images, heads = q.shape[:2]
    # N * h * columns * nh first; regions as copies, since a batched product cannot read overlapping ones
    queries = _chunk_queries(q, chunk, plan).flatten(0, 2)
    keys, values = (_chunk_keys(x, chunk, plan).reshape(-1, plan.keys, x.shape[-1]) for x in (k, v))
    dout = _chunk_queries(grad, chunk, plan, repeats=False).flatten(0, 2)
    if mask is None:
        scores = torch.bmm(queries, keys.mT).mul_(scale)
    else:
        mask = mask.flatten(0, 1)
        added = mask if images == 1 else mask.expand(images, -1, -1, -1).flatten(0, 1)
        scores = torch.baddbmm(added, queries, keys.mT, alpha=scale)
    weights = scores.softmax(-1)
    del scores
    dscores = torch.bmm(dout, values.mT)
    del values
    _add_keys(dv, torch.bmm(weights.mT, dout), chunk)
    # the gradient of a softmax: w * (dw - sum(w * dw))
    dscores.sub_((weights * dscores).sum(-1, keepdim=True)).mul_(weights)
    dqueries = torch.bmm(dscores, keys).mul_(scale).view(images, heads, -1, dq.shape[-1])
    dq.index_add_(2, chunk.query_tokens, dqueries)
    _add_keys(dk, torch.bmm(dscores.mT, queries).mul_(scale), chunk)
    return dscores.unflatten(0, (images, -1))


def _add_keys(total: Tensor, x: Tensor, chunk: Chunk) -> None:
    """Adds region slots, (N * h * columns * nh * R, D) in any split, to their tokens in (N, h, H * W, D)."""
    images, heads, _, width = total.shape
    sums = _sum_rows(x.reshape(images * heads, chunk.region_tokens.numel(), width), chunk.key_slots, chunk.key_starts)
    total.index_add_(2, chunk.key_tokens, sums.unflatten(0, (images, heads)))


def _sum_rows(x: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    """Sums runs of rows, on a CPU: (M, slots, D) -> (M, len(starts), D), run i is rows[starts[i] : starts[i + 1]]."""
    repeats, slots, width = x.shape
    # an embedding bag is a gather and a sum in one pass, some ten times faster than index_add_
    offset = torch.arange(repeats)[:, None]
    bags = F.embedding_bag(
        (rows + offset * slots).flatten(), x.reshape(-1, width), (starts + offset * len(rows)).flatten(), mode="sum"
    )
    return bags.view(repeats, len(starts), width)
