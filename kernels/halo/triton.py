"""Halo attention by Triton kernels, as an operator of torch. Triton is imported when it runs.

The operator takes the relative scores of every query, (B, H', W', h, w) for the w rows and columns of its window: they
are a small product, which torch multiplies and differentiates.

Shape legend: B batch, H' W' map of queries, h heads, D width of queries and keys, E width of values, w window.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..library import define, differentiate, refuse_to_differentiate
from .geometry import HaloAxis, halo_axes
from .relative import relative_scores


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
    row_padding, column_padding = (axis.padded_queries - axis.query_length for axis in axes)
    whole = F.pad(q, (0, 0, 0, 0, 0, column_padding, 0, row_padding))
    of_rows, of_columns = (
        None if table is None else relative_scores(whole, table, axis, dim)[:, : q.shape[1], : q.shape[2]]
        for dim, axis, table in zip((1, 2), axes, (rel_rows, rel_columns), strict=True)
    )
    geometry = [[getattr(axis, name) for axis in axes] for name in ("block", "halo", "stride")]
    out, _ = _attention(q, k, v, of_rows, of_columns, *geometry, scale)
    return out


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    of_rows: Tensor | None,
    of_columns: Tensor | None,
    blocks: list[int],
    halos: list[int],
    strides: list[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    from . import triton_attention

    return triton_attention.forward(
        q, k, v, of_rows, of_columns, halo_axes(k.shape[1:3], blocks, halos, strides), scale
    )


def _backward(
    upstream: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    of_rows: Tensor | None,
    of_columns: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    blocks: list[int],
    halos: list[int],
    strides: list[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from . import triton_attention

    axes = halo_axes(k.shape[1:3], blocks, halos, strides)
    return triton_attention.backward(upstream, q, k, v, of_rows, of_columns, out, logsumexp, axes, scale)


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return v.new_empty(*q.shape[:4], v.shape[4]), q.new_empty(q.shape[:4], dtype=torch.float32)


def _fake_backward(
    upstream: Tensor, q: Tensor, k: Tensor, v: Tensor, of_rows: Tensor | None, of_columns: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    of_tables = (q.new_empty(0 if scores is None else scores.shape) for scores in (of_rows, of_columns))
    of_row_scores, of_column_scores = of_tables
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), of_row_scores, of_column_scores


_TENSORS = "Tensor q, Tensor k, Tensor v, Tensor? of_rows, Tensor? of_columns"
_GEOMETRY = "SymInt[] blocks, SymInt[] halos, SymInt[] strides, float scale"
_attention = define("halo_attention", f"({_TENSORS}, {_GEOMETRY}) -> (Tensor, Tensor)", _forward, _fake_forward)
_attention_backward = define(
    "halo_attention_backward",
    f"(Tensor upstream, {_TENSORS}, Tensor out, Tensor logsumexp, {_GEOMETRY}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, of_rows, of_columns, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, of_rows, of_columns, *output)


def _derivative(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad[:5]
    found = _attention_backward(upstream, *ctx.saved_tensors, *ctx.rest)
    gradients = [gradient if needed else None for gradient, needed in zip(found, needs, strict=True)]
    return *gradients, *(None for _ in ctx.rest)


differentiate("halo_attention", _derivative, _save)
refuse_to_differentiate("halo_attention_backward", "halo_attention")
