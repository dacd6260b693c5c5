"""Public operator of halo attention: checks the arguments and chooses an execution.

Shape legend: B batch, H W map of keys, H' W' map of queries, h heads, D width of queries and keys, E width of values.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..arguments import (
    PerAxis,
    autocast,
    check_same_width,
    check_table,
    check_tensors,
    execution_of,
    operator,
    pair_of,
    scale_or_default,
)
from ..repeated import key_of, remember, repeated
from ..tracing import is_dynamic
from . import eager, reference, triton
from .geometry import HaloAxis, halo_axes


@operator(reference=reference.attention, eager=eager.attention, triton=triton.attention)
def halo_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_size: PerAxis,
    halo: PerAxis,
    *,
    stride: PerAxis = 1,
    rel_rows: Tensor | None = None,
    rel_columns: Tensor | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Computes softmax(q k^T * scale + relative scores) v, where queries attend to their block and a halo around it.

    The map of keys is split into blocks. All queries of a block share one window, the block and `halo` more positions
    on each side. Outside of the map, keys and values are zeros that take part in the softmax, as in the published
    networks. The same holds for a last block that extends beyond the map; its queries there are dropped.

    With a stride there are fewer queries than keys: one at every stride-th position.

    The relative scores depend on the unscaled query. The score of a window row is the product of the query and the row
    of `rel_rows` at key - query + window - 1; the score of a window column is added in the same way. Here window =
    block_size + 2 * halo, `key` is the index of the row in the window, from 0, and `query` is the index of the query in
    its block, which counts queries also with a stride.

    Args:
        q: queries (B, ⌈H/stride⌉, ⌈W/stride⌉, h, D), floating point, with any strides in memory.
        k: keys (B, H, W, h, D).
        v: values (B, H, W, h, E).
        block_size: block size on the map of keys per axis, >= 1; one number or (rows, columns).
        halo: positions on each side of a block that its queries attend to, per axis, >= 0.
        stride: distance from one query to the next per axis, a divisor of block_size.
        rel_rows: table (2 * window - 1, D) of the rows, shared by heads; None for no relative scores of rows.
        rel_columns: table (2 * window - 1, D) of the columns, or None.
        scale: factor of the products of queries and keys; D ** -0.5 by default.
        backend: `reference`, `eager` or `triton`, which runs or raises an error; None chooses, see
            `attnzoo.kernels.explain`.

    Returns:
        (B, ⌈H/stride⌉, ⌈W/stride⌉, h, E) in the dtype of v, or in the autocast dtype where autocast is on.

    Raises:
        TypeError: an argument has the wrong type, or the dtypes of tensors differ.
        ValueError: shapes do not fit, the map is empty, the stride does not divide the block, or the backend is
            unknown.

    Source: Scaling Local Self-Attention (arXiv 2103.12731, section 2.2 and 2.3).
    """
    tensors = q, k, v, rel_rows, rel_columns = autocast(q, k, v, rel_rows, rel_columns)
    key = key_of(halo_attention, tensors, block_size, halo, stride, scale, backend)
    again = repeated(key)
    if again is not None:
        return again(*tensors)
    check_tensors(k=k, v=v)
    check_tensors(q=q)
    check_same_width(q, k)
    axes = _axes(k, block_size, halo, stride)
    _check_queries(q, k, axes)
    for name, table, axis in (("rel_rows", rel_rows, axes[0]), ("rel_columns", rel_columns, axes[1])):
        purpose = f"a window of {axis.window} (a block of {axis.block} plus twice a halo of {axis.halo})"
        check_table(name, table, q, (2 * axis.window - 1, q.shape[4]), "(2 * window - 1, width)", purpose)
    execution, factor = execution_of(halo_attention, backend, q, v), scale_or_default(scale, q)

    def attend(
        q: Tensor, k: Tensor, v: Tensor, rel_rows: Tensor | None, rel_columns: Tensor | None, **how: Any
    ) -> Tensor:
        return execution(q, k, v, axes, rel_rows, rel_columns, factor, **how)

    out = attend(*tensors)
    # scores of tables are computed by torch
    remember(key, halo_attention, execution, attend, is_whole=rel_rows is None and rel_columns is None)
    return out


def _axes(k: Tensor, block_size: PerAxis, halo: PerAxis, stride: PerAxis) -> tuple[HaloAxis, HaloAxis]:
    blocks, halos, strides = (
        pair_of(name, value, int) for name, value in (("block_size", block_size), ("halo", halo), ("stride", stride))
    )
    for axis, length in enumerate(k.shape[1:3]):
        name = f"on axis {axis} ({'rows' if axis == 0 else 'columns'})"
        # a dynamic size cannot be checked
        if not is_dynamic([length]) and length < 1:
            raise ValueError(f"k must have a map of at least one row and one column, got {length} {name}")
        if blocks[axis] < 1:
            raise ValueError(f"block_size must be at least 1, got {blocks[axis]} {name}")
        if halos[axis] < 0:
            raise ValueError(f"halo must be at least 0, got {halos[axis]} {name}")
        if strides[axis] < 1 or blocks[axis] % strides[axis]:
            raise ValueError(f"stride must divide the block_size, {blocks[axis]}, got {strides[axis]} {name}")
    return halo_axes(k.shape[1:3], blocks, halos, strides)


def _check_queries(q: Tensor, k: Tensor, axes: tuple[HaloAxis, HaloAxis]) -> None:
    rows, columns = axes
    expected = k.shape[0], rows.query_length, columns.query_length, k.shape[3]
    if not is_dynamic([*expected, *q.shape[:4]]) and tuple(q.shape[:4]) != expected:
        raise ValueError(
            f"q must be (B, H, W, heads, width) with (B, H, W, heads) = {expected} for keys on a map of "
            f"{rows.length} x {columns.length} and a stride of {rows.stride} x {columns.stride}, got {tuple(q.shape)}"
        )
    if q.dtype != k.dtype:
        raise TypeError(f"q must have the dtype of k, {k.dtype}, got {q.dtype}")
    if q.device != k.device:
        raise ValueError(f"q must be on the device of k, {k.device}, got {q.device}")
