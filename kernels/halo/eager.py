"""Fast halo attention in plain torch: windows are strided views until they are copied once.

On a CPU, a few blocks are computed at a time in the forward and in the backward pass, so that copies and scores stay in
cache and memory does not grow with the map. While a model is traced, or on another device, the whole batch is computed
at once.

Shape legend: B batch, H W map, h heads, D E width of keys and values, n blocks, q queries of a block, w window, of one
axis (suffix h: rows, suffix w: columns); N blocks of a chunk, T queries and S keys of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..second_derivatives import differentiable_gradients
from ..tracing import is_traced
from .eager_backward import add_windows, blocks, gradients
from .geometry import HaloAxis
from .relative import relative_scores

# scores computed at once, over all heads
CHUNK_SCORES = 512 * 1024


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: tuple[HaloAxis, HaloAxis],
    rel_rows: Tensor | None,
    rel_columns: Tensor | None,
    scale: float,
) -> Tensor:
    """softmax(q k^T * scale + relative scores) v of each block: (B, H', W', h, D), .. -> (B, H', W', h, E)."""
    rows, columns = axes
    row_padding, column_padding = (axis.padded_queries - axis.query_length for axis in axes)
    q = F.pad(q, (0, 0, 0, 0, 0, column_padding, 0, row_padding))
    k, v = (F.pad(x, (0, 0, 0, 0, *columns.padding, *rows.padding)) for x in (k, v))
    inputs = q, k, v, rel_rows, rel_columns
    if q.device.type != "cpu" or is_traced():
        out = _attend(*inputs, axes, scale)
    elif torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        out = Attention.apply(*inputs, axes, scale)
    else:
        out = _attend_in_chunks(*inputs, axes, scale)
    return out[:, : rows.query_length, : columns.query_length]


class Attention(torch.autograd.Function):
    """Attention that saves only its inputs and recomputes the weights in the backward pass, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        """Same as `_attend_in_chunks`."""
        *inputs, ctx.axes, ctx.scale = arguments
        ctx.save_for_backward(*inputs)
        return _attend_in_chunks(*arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of q, k, v and the tables."""
        q, k, v, rel_rows, rel_columns = inputs = ctx.saved_tensors
        rows, columns = axes = ctx.axes
        if torch.is_grad_enabled():
            found = differentiable_gradients(
                lambda: _attend(q, k, v, rel_rows, rel_columns, axes, ctx.scale), inputs, grad
            )
            return *found, None, None
        of_q = torch.empty_like(q)
        # padded to whole blocks, since windows are added in parts of one block
        sums = [_zeros(x.shape[0], rows.whole_blocks, columns.whole_blocks, *x.shape[3:], like=x) for x in (k, v)]
        of_tables = [None if x is None else _zeros(*x.shape, like=x) for x in (rel_rows, rel_columns)]
        for of_queries, of_keys in _chunks(axes, len(grad), grad.shape[3]):
            windows = _windows(k[of_keys], rows, columns), _windows(v[of_keys], rows, columns)
            of_q[of_queries], *of_windows, of_parts = gradients(
                grad[of_queries], q[of_queries], windows, (rel_rows, rel_columns), axes, ctx.scale
            )
            images, lines = of_keys
            for total, of_window in zip(sums, of_windows, strict=True):
                add_windows(total[images, lines.start :], of_window, rows, columns)
            for table, part in zip(of_tables, of_parts, strict=True):
                if table is not None and part is not None:
                    table += part
        of_k, of_v = (total[:, : x.shape[1], : x.shape[2]].to(x.dtype) for total, x in zip(sums, (k, v), strict=True))
        of_rows, of_columns = (
            None if x is None or total is None else total.to(x.dtype)
            for total, x in zip(of_tables, (rel_rows, rel_columns), strict=True)
        )
        return of_q, of_k, of_v, of_rows, of_columns, None, None


# slices of images and rows
Places = tuple[slice, slice]


def _chunks(axes: tuple[HaloAxis, HaloAxis], batch: int, heads: int) -> Iterator[tuple[Places, Places]]:
    """Yields slices of the queries and of the padded keys and values, for some images or some rows of blocks."""
    rows, columns = axes
    scores = rows.queries * columns.queries * rows.window * columns.window * columns.count * heads
    lines = max(1, CHUNK_SCORES // scores)
    images, lines = max(1, lines // rows.count), min(lines, rows.count)
    for image in range(0, batch, images):
        for line in range(0, rows.count, lines):
            last = min(line + lines, rows.count)
            of_images = slice(image, image + images)
            of_keys = slice(line * rows.block, last * rows.block + 2 * rows.halo)
            yield (of_images, slice(line * rows.queries, last * rows.queries)), (of_images, of_keys)


def _zeros(*shape: int, like: Tensor) -> Tensor:
    """Returns zeros to accumulate gradients in, in float32 or higher precision."""
    return torch.zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32))


def _attend_in_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_rows: Tensor | None,
    rel_columns: Tensor | None,
    axes: tuple[HaloAxis, HaloAxis],
    scale: float,
) -> Tensor:
    """Same as `_attend`, chunk by chunk."""
    out = v.new_empty(*q.shape[:4], v.shape[4])
    for of_queries, of_keys in _chunks(axes, len(q), q.shape[3]):
        out[of_queries] = _attend(q[of_queries], k[of_keys], v[of_keys], rel_rows, rel_columns, axes, scale)
    return out


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_rows: Tensor | None,
    rel_columns: Tensor | None,
    axes: tuple[HaloAxis, HaloAxis],
    scale: float,
) -> Tensor:
    """Computes the attention of whole rows of blocks; keys and values include the halo around them."""
    rows, columns = axes
    queries = blocks(q, rows, columns)
    relative = [
        None if table is None else blocks(relative_scores(q, table, axis, dim), rows, columns)
        for dim, axis, table in zip((1, 2), axes, (rel_rows, rel_columns), strict=True)
    ]
    mask = _sum(relative[0], relative[1], rows, columns)
    keys, values = (_windows(x, rows, columns) for x in (k, v))
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    if torch.compiler.is_exporting():
        # exporters decompose the fused kernel into operators with another layout; views must fit both
        out = out.clone(memory_format=torch.contiguous_format)
    # (N, h, T, E) -> (B, nh, nw, h, qh, qw, E) -> (B, nh, qh, nw, qw, h, E)
    count = q.shape[1] // rows.queries, q.shape[2] // columns.queries
    out = out.unflatten(2, (rows.queries, columns.queries)).unflatten(0, (q.shape[0], *count))
    return out.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)


def _windows(x: Tensor, rows: HaloAxis, columns: HaloAxis) -> Tensor:
    """Padded maps (B, H, W, h, D) -> (N, h, S, D)."""
    if torch.compiler.is_exporting():
        # with dynamic sizes, exporters do not support overlapping windows
        for dim, axis in ((1, rows), (2, columns)):
            x = x.index_select(dim, _places(x.shape[dim], axis, x)).unflatten(dim, (-1, axis.window))
            # (B, n, .., h, D, w): the window axis of rows moves to the end, then the window axis of columns
            x = x.movedim(dim + 1, -1)
    else:
        x = x.unfold(1, rows.window, rows.block).unfold(2, columns.window, columns.block)
    # (B, nh, nw, h, D, wh, ww) -> (B, nh, nw, h, wh, ww, D)
    return x.permute(0, 1, 2, 3, 5, 6, 4).flatten(4, 5).flatten(0, 2)


def _places(length: int, axis: HaloAxis, like: Tensor) -> Tensor:
    """Returns the positions of a padded axis that the windows of its blocks contain, (n * w,)."""
    count = (length - 2 * axis.halo) // axis.block
    first = torch.arange(count, device=like.device) * axis.block
    return (first.unsqueeze(1) + torch.arange(axis.window, device=like.device)).flatten()


def _sum(of_rows: Tensor | None, of_columns: Tensor | None, rows: HaloAxis, columns: HaloAxis) -> Tensor | None:
    """Sums the scores of rows (N, h, T, wh) and columns (N, h, T, ww) to (N, h, T, S); None if both are None."""
    if of_rows is None and of_columns is None:
        return None
    if of_columns is None:
        assert of_rows is not None
        return of_rows.repeat_interleave(columns.window, 3)
    if of_rows is None:
        return of_columns.repeat(1, 1, 1, rows.window)
    return (of_rows.unsqueeze(4) + of_columns.unsqueeze(3)).flatten(3)
