"""Neighborhood attention on a CPU: chunks of tiles, one image or a few at a time, so that everything stays in cache.

Shape legend: H W map, h heads, D E width of keys and values, N images at once; nh tiles down a column, whose keys are
regions of one strip, T queries of a tile, R keys of its region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import dtype_of_scores
from ..transforms import differentiable_gradients, needs_differentiable_gradients
from .eager_batch import add_keys, attend, class_mask, select, sum_rows
from .plan import Chunk, Plan

# makes the plan of a map from the number of scores to compute at once, over all heads; None for all of them
Plans = Callable[[int | None], Plan]

# Scores computed at once, over all heads: enough to hide the overhead of a call, few enough to stay in cache. The
# backward pass keeps about six arrays of that size, the forward pass only the mask.
FORWARD_SCORES = 2048 * 1024
BACKWARD_SCORES = 512 * 1024


def _steps(plan: Plan, chunk: Chunk, batch: int) -> Iterator[slice]:
    """Yields slices of images: one image where regions overlap in their strip, else as many as fill a chunk."""
    scores = chunk.columns * plan.rows * plan.queries * plan.keys
    step = 1 if plan.rows > 1 or plan.chunk_scores is None else max(1, plan.chunk_scores // scores)
    return (slice(i, min(i + step, batch)) for i in range(0, batch, step))


def _chunk_mask(mask: Tensor | None, chunk: Chunk) -> Tensor | None:
    """(h, classes, T, R) -> (h * columns, nh, T, R)."""
    if mask is None:
        return None
    return mask.index_select(1, chunk.tile_class).unflatten(1, (chunk.columns, -1)).flatten(0, 1)


def _select(x: Tensor, tokens: Tensor, chunk: Chunk) -> Tensor:
    """(N, h, H * W, D) -> (N * h, slots, D), for tokens that are counted from the chunk's first."""
    # index_select copies a tensor that is not contiguous before it reads it
    return select(x, tokens + chunk.first) if x.is_contiguous() else select(x[:, :, chunk.first :], tokens)


def _chunk_queries(x: Tensor, chunk: Chunk, plan: Plan, repeats: bool = True) -> Tensor:
    """(N, h, H * W, D) -> (N, h * columns, nh, T, D); zeros in the slots that repeat a query unless `repeats`."""
    tiles = _select(x, chunk.query_tokens, chunk)
    if not repeats and chunk.repeats.numel():
        tiles.index_fill_(1, chunk.repeats, 0)
    return tiles.reshape(len(x), -1, plan.rows, plan.queries, x.shape[-1])


def _chunk_keys(x: Tensor, chunk: Chunk, plan: Plan) -> Tensor:
    """(N, h, H * W, D) -> (N, h * columns, nh, R, D), regions that overlap in memory."""
    strips = _select(x, chunk.strip_tokens, chunk).reshape(len(x), -1, plan.strip, x.shape[-1])
    images, columns, token, channel = strips.stride()
    size = (*strips.shape[:2], plan.rows, plan.keys, x.shape[-1])
    return strips.as_strided(size, (images, columns, plan.strip_step * token, token, channel))


def _fusible(x: Tensor, plan: Plan) -> Tensor:
    """Drops the axis of length 1 of (N, h * columns, nh, ., .): the fused CPU kernel takes four dimensions."""
    return x[0] if plan.rows > 1 else x[:, :, 0]


def _tokens(x: Tensor, plan: Plan) -> Tensor:
    """(B, H, W, h, D) -> (B, h, H * W, D), contiguous where several chunks read one image."""
    x = x.flatten(1, 2).transpose(1, 2)
    # index_select copies what is not contiguous, every time; more images would be more memory
    return x.contiguous() if len(x) == 1 and len(plan.chunks) > 1 else x


def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan) -> Tensor:
    """softmax(q k^T * scale + bias) v over each query's neighborhood: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    heads = q.shape[3]
    out = v.new_empty(v.shape)
    q, k, v = (_tokens(x, plan) for x in (q, k, v))
    tokens_out = out.flatten(1, 2).transpose(1, 2)
    of_classes = class_mask(plan, bias, q.dtype, heads)
    for chunk in plan.chunks:
        mask = _chunk_mask(of_classes, chunk)
        for images in _steps(plan, chunk, len(q)):
            keys, values = (_fusible(_chunk_keys(x[images], chunk, plan), plan) for x in (k, v))
            tiles = F.scaled_dot_product_attention(
                _fusible(_chunk_queries(q[images], chunk, plan), plan),
                keys,
                values,
                # the fused CPU kernel takes masks of four dimensions, not of three
                attn_mask=None if mask is None else mask if plan.rows > 1 else mask.transpose(0, 1),
                scale=scale,
            )
            tiles = tiles.reshape(-1, heads, chunk.query_tokens.numel(), tiles.shape[-1])
            tokens_out[images, :, chunk.first :].index_copy_(2, chunk.query_tokens, tiles)
    return out


class Attention(torch.autograd.Function):
    """Attention that saves only its inputs and recomputes the weights in the backward pass, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plans: Plans) -> Tensor:
        """Same as the function `forward`."""
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale, ctx.plans = scale, plans
        return forward(q, k, v, bias, scale, plans(FORWARD_SCORES))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of q, k, v and the bias."""
        q, k, v, bias = ctx.saved_tensors
        if needs_differentiable_gradients(grad):
            whole: Plan = ctx.plans(None)
            gradients = differentiable_gradients(
                lambda q, k, v, bias: attend(q, k, v, bias, ctx.scale, whole), (q, k, v, bias), grad
            )
            return *gradients, None, None
        plan: Plan = ctx.plans(BACKWARD_SCORES)
        heads, grads = q.shape[3], [x.new_zeros(x.shape) for x in (q, k, v)]
        tokens = [_tokens(x, plan) for x in (q, k, v, grad)] + [x.flatten(1, 2).transpose(1, 2) for x in grads]
        of_classes = class_mask(plan, bias, dtype_of_scores(q.dtype), heads)
        needs_bias = bias is not None and ctx.needs_input_grad[3]
        sum_dtype = torch.promote_types(q.dtype, torch.float32)
        dmask = torch.zeros(heads, plan.classes, plan.queries * plan.keys, dtype=torch.float64) if needs_bias else None
        for chunk in plan.chunks:
            mask = _chunk_mask(of_classes, chunk)
            dscores = None
            for images in _steps(plan, chunk, len(q)):
                step = _backward_step([x[images] for x in tokens], mask, ctx.scale, chunk, plan)
                if dmask is not None:
                    step = step.sum(0, dtype=sum_dtype)
                    dscores = step if dscores is None else dscores.add_(step)
            if dmask is not None and dscores is not None:
                # a product with a 0/1 matrix sums the tiles of a class, in float64, since thousands of terms cancel
                members = F.one_hot(chunk.tile_class, plan.classes).T.double()
                dmask += members @ dscores.view(heads, chunk.tile_class.numel(), -1).double()
        dbias = None
        if bias is not None and dmask is not None:
            table = sum_rows(dmask.view(heads, -1, 1), plan.table_slots, plan.table_starts).squeeze(2)
            dbias = torch.zeros_like(bias).flatten(1).index_copy_(1, plan.table_entries, table.to(bias.dtype))
            dbias = dbias.view_as(bias)
        return *grads, dbias, None, None


def _backward_step(tokens: list[Tensor], mask: Tensor | None, scale: float, chunk: Chunk, plan: Plan) -> Tensor:
    """Adds the gradients of some images to dq, dk and dv; returns score gradients, (N, h * columns * nh, T, R).

    `tokens` are q, k, v, dout, dq, dk and dv, all (N, h, H * W, .).
    """
    q, k, v, grad, dq, dk, dv = tokens
    images, heads = q.shape[:2]
    precise = dtype_of_scores(q.dtype)
    # (N * h * columns * nh, ., .); regions are copied, since a batched product cannot read overlapping ones
    queries = _chunk_queries(q, chunk, plan).flatten(0, 2).to(precise)
    keys, values = (_chunk_keys(x, chunk, plan).reshape(-1, plan.keys, x.shape[-1]).to(precise) for x in (k, v))
    dout = _chunk_queries(grad, chunk, plan, repeats=False).flatten(0, 2).to(precise)
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
    add_keys(dv, torch.bmm(weights.mT, dout), chunk)
    # the gradient of a softmax: w * (dw - sum(w * dw))
    dscores.sub_((weights * dscores).sum(-1, keepdim=True)).mul_(weights)
    dqueries = torch.bmm(dscores, keys).mul_(scale).view(images, heads, -1, dq.shape[-1])
    dq[:, :, chunk.first :].index_add_(2, chunk.query_tokens, dqueries.to(dq.dtype))
    add_keys(dk, torch.bmm(dscores.mT, queries).mul_(scale), chunk)
    return dscores.unflatten(0, (images, -1))
