"""Window attention on a CPU: a few windows at a time, so that everything stays in cache.

The products are batched ones over windows and heads. They beat the fused attention of a CPU here: its blocks are made
for long sequences, and where the bias has a gradient it falls back to whole-batch products that leave the cache.

Shape legend: H W map, h heads, D E width of keys and values, N images at once, n windows of a chunk, T tokens of a
window, M = N * n * h.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..neighborhood.eager_batch import sum_rows
from .eager_batch import attend, class_mask
from .plan import Chunk, Plan

# Scores computed at once, over all heads: enough to hide the cost of a call, few enough to stay in cache.
SCORES = 128 * 1024


def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan) -> Tensor:
    """softmax(q k^T * scale + bias) v within each window: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    heads = q.shape[3]
    out = v.new_empty(v.shape)
    tokens = [x.flatten(1, 2) for x in (q, k, v)]
    mask = class_mask(plan, bias, q.dtype, heads)
    for images in _steps(plan, len(q), heads):
        slots = _slots(v[images], plan)
        for chunk in plan.chunks:
            queries, keys, values = (_take(x[images], chunk, plan) for x in tokens)
            weights = _weights(queries, keys, mask, scale, chunk)
            _put(slots, torch.bmm(weights, values), chunk, plan)
        _to_map(out[images], slots, plan)
    return out


class Attention(torch.autograd.Function):
    """Attention that keeps its inputs only, and computes the weights again on the way back, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan) -> Tensor:
        """As the function of this name."""
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale, ctx.plan = scale, plan
        return forward(q, k, v, bias, scale, plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and the bias."""
        q, k, v, bias = ctx.saved_tensors
        plan: Plan = ctx.plan
        if torch.is_grad_enabled():
            return *_differentiable_gradients(q, k, v, bias, ctx.scale, plan, grad), None, None
        heads = q.shape[3]
        grads = [x.new_empty(x.shape) for x in (q, k, v)]
        tokens = [x.flatten(1, 2) for x in (q, k, v, grad)]
        mask = class_mask(plan, bias, q.dtype, heads)
        needs_bias = bias is not None and ctx.needs_input_grad[3]
        # thousands of terms cancel in a table's gradient, so it is summed in double precision
        dtable = torch.zeros(heads, plan.tokens, plan.tokens, dtype=torch.float64) if needs_bias else None
        for images in _steps(plan, len(q), heads):
            slots = [_slots(x[images], plan) for x in grads]
            for chunk in plan.chunks:
                taken = [_take(x[images], chunk, plan) for x in tokens]
                dscores = _backward_step(taken, slots, mask, ctx.scale, chunk, plan)
                if dtable is not None:
                    sum_dtype = torch.promote_types(q.dtype, torch.float32)
                    dtable += dscores.unflatten(0, (-1, heads)).sum(0, dtype=sum_dtype)
            for x, of_x in zip(grads, slots, strict=True):
                _to_map(x[images], of_x, plan)
        dbias = None
        if bias is not None and dtable is not None:
            dbias = sum_rows(dtable.view(heads, -1, 1), plan.table_slots, plan.table_starts)
            dbias = dbias.view_as(bias).to(bias.dtype)
        return *grads, dbias, None, None


def _differentiable_gradients(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v and the bias that have gradients themselves, for a caller with `create_graph=True`."""
    # the fused kernels have no second derivative
    with sdpa_kernel(SDPBackend.MATH):
        out = attend(q, k, v, bias, scale, plan)
    inputs = (q, k, v, bias)
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return tuple(next(found) if x is not None and x.requires_grad else None for x in inputs)


def _backward_step(
    taken: list[Tensor], slots: list[Tensor], mask: Tensor | None, scale: float, chunk: Chunk, plan: Plan
) -> Tensor:
    """Puts the gradients of a chunk into the slots of dq, dk, dv; returns those of the scores, (M, T, T).

    `taken` are q, k, v and the gradient of the output, (M, T, .).
    """
    queries, keys, values, dout = taken
    dqueries, dkeys, dvalues = slots
    weights = _weights(queries, keys, mask, scale, chunk)
    _put(dvalues, torch.bmm(weights.mT, dout), chunk, plan)
    dscores = torch._softmax_backward_data(torch.bmm(dout, values.mT), weights, -1, weights.dtype)
    _put(dqueries, torch.bmm(dscores, keys).mul_(scale), chunk, plan)
    _put(dkeys, torch.bmm(dscores.mT, queries).mul_(scale), chunk, plan)
    return dscores


def _weights(queries: Tensor, keys: Tensor, mask: Tensor | None, scale: float, chunk: Chunk) -> Tensor:
    """softmax(q k^T * scale + mask): (M, T, D), (M, T, D), (classes, h, T, T) -> (M, T, T)."""
    if mask is None:
        scores = torch.bmm(queries, keys.mT).mul_(scale)
    else:
        windows = len(queries) // mask.shape[1]
        window_class = chunk.window_class
        if windows > len(window_class):
            window_class = window_class.repeat(windows // len(window_class))
        scores = mask.index_select(0, window_class).flatten(0, 1).baddbmm_(queries, keys.mT, alpha=scale)
    return torch.softmax(scores, -1, out=scores)


def _steps(plan: Plan, batch: int, heads: int) -> Iterator[slice]:
    """Images to take together: one, or where a chunk holds the map, what fills a chunk."""
    scores = heads * plan.whole.tokens.numel() * plan.tokens
    step = max(1, SCORES // scores) if len(plan.chunks) == 1 else 1
    return (slice(i, min(i + step, batch)) for i in range(0, batch, step))


def _slots(x: Tensor, plan: Plan) -> Tensor:
    """Room for all windows of some images (N, H, W, h, D), in the order of slots: (N, slots, h, D)."""
    return x.new_empty(len(x), plan.whole.tokens.numel(), *x.shape[3:])


def _take(x: Tensor, chunk: Chunk, plan: Plan) -> Tensor:
    """(N, H * W, h, D) -> (M, T, D), zeros in the padding."""
    if not plan.is_identity:
        x = x.index_select(1, chunk.tokens)
        if chunk.padding.numel():
            x.index_fill_(1, chunk.padding, 0)
    # (N, n * T, h, D) -> (N, n, h, T, D) -> (M, T, D)
    return x.unflatten(1, (-1, plan.tokens)).transpose(2, 3).flatten(0, 2)


def _put(slots: Tensor, x: Tensor, chunk: Chunk, plan: Plan) -> None:
    """Writes a chunk's (M, T, D) into the slots (N, slots, h, D)."""
    images, _, heads, width = slots.shape
    # (N, n, T, h, D)
    place = slots[:, chunk.slots].unflatten(1, (-1, plan.tokens))
    place.copy_(x.view(images, -1, heads, plan.tokens, width).transpose(2, 3))


def _to_map(out: Tensor, slots: Tensor, plan: Plan) -> None:
    """Slots (N, slots, h, D) to the map (N, H, W, h, D)."""
    torch.index_select(slots.flatten(2), 1, plan.slot_of_token, out=out.flatten(3).flatten(1, 2))
