"""Halo attention with Triton kernels, as a torch operator. Triton is imported when the operator runs.

The operator takes the relative scores of every query, (B, H', W', h, w) for the w rows or columns of its window. They
are a small product, which torch computes and differentiates.

Shape legend: B batch, H' W' map of queries, h heads, D width of queries and keys, E width of values, w window.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..flops import register_flops
from ..fused import Extra, define_attention
from ..saved import checked
from .blocks import attend_with_scores
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
    **how: Any,
) -> Tensor:
    """softmax(q k^T * scale + relative scores) v of each block: (B, H', W', h, D), .. -> (B, H', W', h, E)."""
    row_padding, column_padding = (axis.padded_queries - axis.query_length for axis in axes)
    whole = F.pad(q, (0, 0, 0, 0, 0, column_padding, 0, row_padding))
    row_scores, column_scores = (
        None if table is None else relative_scores(whole, table, axis, dim)[:, : q.shape[1], : q.shape[2]]
        for dim, axis, table in zip((1, 2), axes, (rel_rows, rel_columns), strict=True)
    )
    geometry = [[getattr(axis, name) for axis in axes] for name in ("block", "halo", "stride")]
    out = _attention(q, k, v, row_scores, column_scores, *geometry, scale, **how)
    return checked(out, rel_rows, rel_columns)


def _kernels() -> Any:
    from . import triton_kernels

    return triton_kernels


def _eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    row_scores: Tensor | None,
    column_scores: Tensor | None,
    axes: tuple[HaloAxis, HaloAxis],
    scale: float,
) -> Tensor:
    rows, columns = axes
    padding = columns.padded_queries - columns.query_length, rows.padded_queries - rows.query_length
    whole = 0, 0, 0, 0, 0, padding[0], 0, padding[1]
    row_scores, column_scores = (None if x is None else F.pad(x, whole) for x in (row_scores, column_scores))
    q = F.pad(q, whole)
    k, v = (F.pad(x, (0, 0, 0, 0, *columns.padding, *rows.padding)) for x in (k, v))
    out = attend_with_scores(q, k, v, row_scores, column_scores, axes, scale)
    return out[:, : rows.query_length, : columns.query_length]


_attention = define_attention(
    "halo_attention",
    [Extra("row_scores"), Extra("column_scores")],
    "SymInt[] blocks, SymInt[] halos, SymInt[] strides",
    halo_axes,
    _kernels,
    _eager,
)
register_flops(
    "halo_attention",
    lambda k, row_scores, column_scores, blocks, halos, *rest: math.prod(
        block + 2 * halo for block, halo in zip(blocks, halos, strict=True)
    ),
)
