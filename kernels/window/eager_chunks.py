"""Window attention on a CPU, a few windows at a time, so that everything stays in cache.

Tokens are rows of h * D channels. One index_select gathers them directly from the output of a packed projection, and
another one writes the results back. index_select is fast only over two axes, so batch and map are one axis.

Shape legend: H W map, h heads, D E width of keys and values, N images at once, n windows of them in a chunk, T tokens
of a window, M = n * h.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import dtype_of_scores
from ..transforms import differentiable_gradients, needs_differentiable_gradients
from .eager_batch import attend, class_mask
from .plan import Chunk, Plan

# Scores computed at once, over all heads: enough to hide the overhead of a call, few enough to stay in cache. The
# backward pass keeps about four arrays of that size, the forward pass none. Several images need copies of their masks,
# so IMAGE_SCORES is smaller.
FORWARD_SCORES = 256 * 1024
BACKWARD_SCORES = IMAGE_SCORES = 128 * 1024


def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan) -> Tensor:
    """softmax(q k^T * scale + bias) v within each window: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    if plan.is_identity:
        # nothing to copy, so nothing to keep in cache
        return attend(q, k, v, bias, scale, plan)
    heads = q.shape[3]
    out = v.new_empty(v.shape)
    tokens, tokens_out = [_rows(x) for x in (q, k, v)], _rows(out)
    mask = class_mask(plan, bias, q.dtype, heads)
    for images, of_map in _steps(plan, len(q), heads):
        slots = []
        for chunk in plan.chunks:
            queries, keys, values = (_take(x[of_map], images, chunk, plan, heads) for x in tokens)
            # (n, h, T, T), or one mask for all windows
            added = None if mask is None else _added(mask, images, chunk, plan)
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=added, scale=scale)
            # (n, h, T, E) -> (n * T, h * E), the order in memory
            slots.append(attended.transpose(1, 2).reshape(-1, heads * attended.shape[3]))
        _to_map(tokens_out[of_map], slots[0] if len(slots) == 1 else torch.cat(slots), images, plan)
    return out


class Attention(torch.autograd.Function):
    """Attention that saves only its inputs and recomputes the weights in the backward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan, backward_plan: Plan
    ) -> Tensor:
        """Same as the function `forward`; `backward_plan` has the chunks of the backward pass."""
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale, ctx.plan = scale, backward_plan
        return forward(q, k, v, bias, scale, plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of q, k, v and the bias."""
        q, k, v, bias = ctx.saved_tensors
        plan: Plan = ctx.plan
        if needs_differentiable_gradients(grad):
            gradients = differentiable_gradients(
                lambda q, k, v, bias: attend(q, k, v, bias, ctx.scale, plan), (q, k, v, bias), grad
            )
            return *gradients, None, None, None
        heads = q.shape[3]
        grads = [x.new_empty(x.shape) for x in (q, k, v)]
        tokens, tokens_grads = [_rows(x) for x in (q, k, v, grad)], [_rows(x) for x in grads]
        precise = dtype_of_scores(q.dtype)
        mask = class_mask(plan, bias, precise, heads)
        needs_bias = bias is not None and ctx.needs_input_grad[3]
        sum_dtype = torch.promote_types(q.dtype, torch.float32)
        # thousands of terms cancel in a table's gradient, so it is accumulated in float64
        dbias = torch.zeros(heads, plan.tokens, plan.tokens, dtype=torch.float64) if needs_bias else None
        for images, of_map in _steps(plan, len(q), heads):
            slots = [_slots(x[of_map], images, plan) for x in tokens_grads]
            for chunk in plan.chunks:
                taken = [_take(x[of_map], images, chunk, plan, heads).flatten(0, 1).to(precise) for x in tokens]
                of_chunk = [x if len(plan.chunks) == 1 else x[chunk.slots] for x in slots]
                added = None if mask is None else _added(mask, images, chunk, plan, is_copy=True).flatten(0, 1)
                dscores = _backward_step(taken, of_chunk, added, ctx.scale, heads)
                if dbias is not None:
                    dbias += dscores.unflatten(0, (-1, heads)).sum(0, dtype=sum_dtype)
            for x, of_x in zip(tokens_grads, slots, strict=True):
                if not plan.is_identity:
                    _to_map(x[of_map], of_x, images, plan)
        if bias is None or dbias is None:
            return *grads, None, None, None, None
        # (h, T * T) -> (entries, h): index_add is fast over the first of two axes
        table = torch.zeros(bias[0].numel(), heads, dtype=torch.float64)
        table.index_add_(0, plan.position, dbias.flatten(1).T.contiguous())
        return *grads, table.T.reshape(bias.shape).to(bias.dtype), None, None, None


def _backward_step(
    taken: list[Tensor], gradients: list[Tensor], added: Tensor | None, scale: float, heads: int
) -> Tensor:
    """Writes the gradients of a chunk into the slots of dq, dk and dv; returns the score gradients, (M, T, T).

    `taken` holds q, k, v and dout, all (M, T, .). `added` is the additive mask and is overwritten.
    """
    queries, keys, values, dout = taken
    dqueries, dkeys, dvalues = gradients
    if added is None:
        scores = torch.bmm(queries, keys.mT).mul_(scale)
    else:
        scores = added.baddbmm_(queries, keys.mT, alpha=scale)
    weights = scores.softmax(-1)
    _put(dvalues, torch.bmm(weights.mT, dout), heads)
    dscores = torch._softmax_backward_data(torch.bmm(dout, values.mT), weights, -1, weights.dtype)
    _put(dqueries, torch.bmm(dscores, keys).mul_(scale), heads)
    _put(dkeys, torch.bmm(dscores.mT, queries).mul_(scale), heads)
    return dscores


def _steps(plan: Plan, batch: int, heads: int) -> Iterator[tuple[int, slice]]:
    """Yields the number of images to compute together and their tokens: several only where a chunk holds the map."""
    step = max(1, IMAGE_SCORES // (heads * plan.slots * plan.tokens)) if len(plan.chunks) == 1 else 1
    size = len(plan.slot_of_token)
    for first in range(0, batch, step):
        images = min(step, batch - first)
        yield images, slice(first * size, (first + images) * size)


def _rows(x: Tensor) -> Tensor:
    """(B, H, W, h, D) -> (B * H * W, h * D), a view where the strides allow."""
    return x.flatten(3).flatten(0, 2)


def _of_images(index: Tensor, images: int, step: int) -> Tensor:
    """Expands an index into one image's rows to several images, whose rows are `step` apart."""
    return index if images == 1 else (index + step * torch.arange(images)[:, None]).flatten()


def _slots(x: Tensor, images: int, plan: Plan) -> Tensor:
    """Allocates the slots (N * n * T, h * D) for the windows of a map (N * H * W, h * D)."""
    return x if plan.is_identity else x.new_empty(images * plan.slots, x.shape[1])


def _take(x: Tensor, images: int, chunk: Chunk, plan: Plan, heads: int) -> Tensor:
    """(N * H * W, h * D) -> (n, h, T, D), zeros in the padding."""
    if not plan.is_identity:
        x = x.index_select(0, _of_images(chunk.tokens, images, len(plan.slot_of_token)))
        if chunk.padding.numel():
            x.index_fill_(0, _of_images(chunk.padding, images, len(chunk.tokens)), 0)
    return x.view(-1, plan.tokens, heads, x.shape[1] // heads).transpose(1, 2)


def _added(mask: Tensor, images: int, chunk: Chunk, plan: Plan, is_copy: bool = False) -> Tensor:
    """Returns the additive mask of a chunk: (classes, h, T, T) -> (n, h, T, T), or one for all unless `is_copy`."""
    if chunk.only_class is not None and not is_copy:
        return mask[chunk.only_class : chunk.only_class + 1]
    if images == len(plan.chunks) == 1 and len(chunk.window_class) == len(mask) and not is_copy:
        # every class occurs once, and windows are ordered by class
        return mask
    return mask.index_select(0, chunk.window_class.repeat(images) if images > 1 else chunk.window_class)


def _put(place: Tensor, x: Tensor, heads: int) -> None:
    """Writes (M, T, D) into slots (n * T, h * D)."""
    tokens, width = x.shape[1:]
    place.view(-1, tokens, heads, width).copy_(x.view(-1, heads, tokens, width).transpose(1, 2))


def _to_map(out: Tensor, slots: Tensor, images: int, plan: Plan) -> None:
    """Writes slots (N * n * T, h * D) to the map (N * H * W, h * D)."""
    torch.index_select(slots, 0, _of_images(plan.slot_of_token, images, plan.slots), out=out)
