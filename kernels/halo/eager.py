"""Fast halo attention in plain torch: windows are strided views until they are copied once.

On a CPU, a few blocks are computed at a time in the forward and in the backward pass, so that copies and scores stay in
cache and memory does not grow with the map. While a model is traced, or on another device, the whole batch is computed
at once.

Shape legend: B batch, H W map, h heads, D E width of keys and values, n blocks, q queries of a block, w window, of one
axis (suffix h: rows, suffix w: columns).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..saved import checked
from ..tracing import is_traced
from ..transforms import (
    differentiable_gradients,
    is_transformed,
    needs_differentiable_gradients,
    transformable,
)
from .blocks import attend_with_scores, windows
from .eager_backward import add_windows, gradients
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
    inputs = q, k, v, rel_rows, rel_columns
    if is_transformed():
        out = transformable(lambda: _attend(*_padded((q, k, v), axes), rel_rows, rel_columns, axes, scale))
    elif q.device.type != "cpu" or is_traced():
        out = checked(_attend(*_padded((q, k, v), axes), rel_rows, rel_columns, axes, scale), *inputs)
    elif torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        out = Attention.apply(*inputs, axes, scale)
    else:
        out = _attend_in_chunks(*inputs, axes, scale)
    return out[:, : rows.query_length, : columns.query_length]


def _padded(maps: Sequence[Tensor], axes: tuple[HaloAxis, HaloAxis]) -> tuple[Tensor, Tensor, Tensor]:
    """Pads q to whole blocks, and k and v also with the halo."""
    q, k, v = maps
    rows, columns = axes
    row_padding, column_padding = (axis.padded_queries - axis.query_length for axis in axes)
    q = F.pad(q, (0, 0, 0, 0, 0, column_padding, 0, row_padding))
    k, v = (F.pad(x, (0, 0, 0, 0, *columns.padding, *rows.padding)) for x in (k, v))
    return q, k, v


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
        *maps, rel_rows, rel_columns = inputs = ctx.saved_tensors
        rows, columns = axes = ctx.axes
        if needs_differentiable_gradients(grad):
            found = differentiable_gradients(
                lambda q, k, v, rows, columns: _attend(*_padded([q, k, v], axes), rows, columns, axes, ctx.scale),
                inputs,
                grad,
            )
            return *found, None, None
        q, k, v = _padded(maps, axes)
        of_q = torch.empty_like(q)
        # padded to whole blocks, since windows are added in parts of one block
        sums = [_zeros(x.shape[0], rows.whole_blocks, columns.whole_blocks, *x.shape[3:], like=x) for x in (k, v)]
        of_tables = [None if x is None else _zeros(*x.shape, like=x) for x in (rel_rows, rel_columns)]
        for of_queries, of_keys in _chunks(axes, len(grad), grad.shape[3]):
            pair = windows(k[of_keys], rows, columns), windows(v[of_keys], rows, columns)
            of_q[of_queries], *of_windows, of_parts = gradients(
                grad[of_queries], q[of_queries], pair, (rel_rows, rel_columns), axes, ctx.scale
            )
            images, lines = of_keys
            for total, of_window in zip(sums, of_windows, strict=True):
                add_windows(total[images, lines.start :], of_window, rows, columns)
            for table, part in zip(of_tables, of_parts, strict=True):
                if table is not None and part is not None:
                    table += part
        of_q = of_q[:, : rows.query_length, : columns.query_length]
        of_k, of_v = (
            total[:, rows.halo :, columns.halo :][:, : rows.length, : columns.length].to(q.dtype) for total in sums
        )
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
    """Same as `_attend`, chunk by chunk, for maps without padding."""
    q, k, v = _padded((q, k, v), axes)
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
    row_scores, column_scores = (
        None if table is None else relative_scores(q, table, axis, dim)
        for dim, axis, table in zip((1, 2), axes, (rel_rows, rel_columns), strict=True)
    )
    return attend_with_scores(q, k, v, row_scores, column_scores, axes, scale)
