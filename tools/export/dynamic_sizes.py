"""ONNX forms of the operators of attnzoo that stay opaque in a traced program with dynamic map sizes.

Shape legend: B batch, H W map, N = H * W, h heads, D E width of keys and values, C channels. Per axis or for both: n
tiles, T queries per tile, R keys per region, k keys per window. Tiles are ordered by row, then by column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18 as op

from attnzoo.blocks.context_mixing import CELLS

from .dynamic_axis import DynamicAxis, Value, counted, divided_up, flat, ints, joined
from .dynamic_scan import selective_scan

_FLOAT = 1


def translations() -> dict[Any, Callable[..., Value]]:
    """ONNX translations of the operators of attnzoo that stay opaque in a traced program, by operator."""
    operators = torch.ops.attnzoo
    return {
        operators.dynamic_neighborhood_attention.default: neighborhood_attention,
        operators.dynamic_neighborhood_av.default: neighborhood_av,
        operators.dynamic_neighborhood_bias.default: neighborhood_bias,
        operators.dynamic_context_mixing.default: context_mixing,
        operators.dynamic_selective_scan.default: selective_scan,
    }


def neighborhood_attention(
    q: Value,
    k: Value,
    v: Value,
    bias: Value,
    key: Value,
    value: Value,
    scale: float,
    kernel: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
) -> Value:
    """`attnzoo.kernels.neighborhood_attention`: (B, H, W, h, D), .. -> (B, H, W, h, E); bias, key and value or None."""
    tiles = Tiles.of_map(q, kernel, dilation, stride, is_causal)
    queries = tiles.take_queries(op.Mul(_by_head(q), op.Constant(value_float=scale)))
    keys, values = (tiles.take_keys(_by_head(x), token) for x, token in ((k, key), (v, value)))
    scores = op.Add(op.MatMul(queries, op.Transpose(keys, perm=[0, 1, 2, 4, 3])), tiles.added(bias))
    return _on_map(tiles.untake(op.MatMul(op.Softmax(scores, axis=-1), values)), q)


def neighborhood_av(
    weights: Value,
    v: Value,
    kernel: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
) -> Value:
    """`attnzoo.kernels.neighborhood_av`: (B, H, W, h, k), (B, H, W, h, E) -> (B, H, W, h, E)."""
    tiles = Tiles.of_map(v, kernel, dilation, stride, is_causal)
    return _on_map(tiles.weighted(_by_head(weights), _by_head(v)), v)


def neighborhood_bias(bias: Value, height: Value, width: Value) -> Value:
    """`attnzoo.kernels.neighborhood_bias`: (h, 2kh-1, 2kw-1) -> (H, W, h, k)."""
    kernels = [(side + 1) // 2 for side in bias.shape[1:]]
    axes = [DynamicAxis(flat(length), side) for length, side in zip((height, width), kernels, strict=True)]
    return op.Transpose(_table_on_map(bias, *axes), perm=[1, 2, 0, 3])


def context_mixing(
    values: Value,
    queries: Value,
    keys: Value,
    weight: Value,
    shift: Value,
    small_table: Value,
    large_table: Value,
    scale: float,
) -> Value:
    """ContMix's mixing, see `attnzoo.blocks.context_mixing`: (B, H, W, C), .. -> (B, H, W, C).

    Where a map is smaller than the large kernel and one side is many times the other, the enlarged map may be one pixel
    longer here than in torch: the official code divides in floating point before it rounds.
    """
    sides = [(table.shape[1] + 1) // 2 for table in (small_table, large_table)]
    heads, channels = small_table.shape[0], values.shape[3]
    size = _size(values)
    height, width = (op.Slice(size, ints(i), ints(i + 1)) for i in range(2))
    shorter = op.Min(height, width)
    longer = op.Max(shorter, ints(sides[1]))
    rows, columns = (op.Div(op.Mul(longer, length), shorter) for length in (height, width))

    # (B, C, rows, columns) of all three
    values, queries, keys = (
        op.Resize(
            op.Transpose(x, perm=[0, 3, 1, 2]),
            None,
            None,
            joined(op.Shape(x, start=0, end=1), x.shape[3], rows, columns),
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
        for x in (values, queries, keys)
    )
    # (B, C / 2, 7, 7) -> (B, g, d, 49) -> (B, g, d, k k + K K)
    pooled = _pooled(keys, ints(CELLS), ints(CELLS), rows, columns)
    cells = op.Reshape(op.Mul(pooled, op.Constant(value_float=scale)), ints(0, heads, -1, CELLS**2))
    kernels = op.MatMul(cells, op.Transpose(weight, perm=[1, 0]))
    # (B, C / 2, rows, columns) -> (B, g, N, d)
    queries = op.Transpose(op.Reshape(queries, joined(0, heads, channels // 2 // heads, -1)), perm=[0, 1, 3, 2])
    # (B, C, rows, columns) -> (B, 2g, N, d)
    values = op.Transpose(op.Reshape(values, joined(0, 2 * heads, channels // 2 // heads, -1)), perm=[0, 1, 3, 2])

    mixed, first = [], 0
    for i, (table, side) in enumerate(zip((small_table, large_table), sides, strict=True)):
        places = ints(first), ints(first + side**2)
        first += side**2
        axes = DynamicAxis(rows, side), DynamicAxis(columns, side)
        # (g, N, k) and (k,)
        bias = op.Reshape(_table_on_map(table, *axes), ints(heads, -1, side**2))
        added = op.Add(bias, op.Slice(shift, *places, ints(0)))
        scores = op.Add(op.MatMul(queries, op.Slice(kernels, *places, ints(3))), added)
        half = op.Slice(values, ints(i * heads), ints((i + 1) * heads), ints(1))
        mixed.append(Tiles(*axes).weighted(op.Softmax(scores, axis=-1), half))
    # (B, 2g, N, d) -> (B, C, rows, columns) -> (B, H, W, C)
    both = op.Transpose(op.Concat(*mixed, axis=1), perm=[0, 1, 3, 2])
    both = op.Reshape(both, joined(0, channels, rows, columns))
    return op.Transpose(_pooled(both, height, width, rows, columns), perm=[0, 2, 3, 1])


class Tiles:
    """A map split into tiles.

    Args:
        rows, columns: axes of the map.
    """

    def __init__(self, rows: DynamicAxis, columns: DynamicAxis) -> None:
        self.rows, self.columns = rows, columns

    @classmethod
    def of_map(cls, x: Value, *geometry: Sequence[int]) -> Tiles:
        """Tiles of a map (B, H, W, ..); the geometry is kernel, dilation, stride and causality, each per axis."""
        size = _size(x)
        axes = zip(*geometry, strict=True)
        return cls(*(DynamicAxis(op.Slice(size, ints(i), ints(i + 1)), *arguments) for i, arguments in enumerate(axes)))

    @property
    def count(self) -> Value:
        """(1,) number of tiles."""
        return op.Mul(self.rows.tiles, self.columns.tiles)

    def take_queries(self, x: Value) -> Value:
        """(B, h, N, D) -> (B, h, tiles, T, D)."""
        tokens = self._tokens(self.rows.query_positions(), self.columns.query_positions())
        return self._take(x, flat(tokens), op.Mul(self.rows.tile, self.columns.tile))

    def take_keys(self, x: Value, token: Value = None) -> Value:
        """(B, h, N, D) -> (B, h, tiles, R, D), with `token` (h, D) at positions past the map."""
        of_rows, of_columns = self.rows.key_positions(), self.columns.key_positions()
        tokens = self._tokens(of_rows, of_columns)
        if token is not None:
            # (B, h, N, D) -> (B, h, N + 1, D)
            heads, width = token.shape
            shape = joined(op.Shape(x, start=0, end=1), heads, 1, width)
            x = op.Concat(x, op.Expand(op.Unsqueeze(token, ints(1)), shape), axis=2)
            inside = self._both(
                op.And, op.Less(of_rows, self.rows.length), op.Less(of_columns, self.columns.length), rank=2
            )
            tokens = op.Where(inside, tokens, op.Mul(self.rows.length, self.columns.length))
        return self._take(x, flat(tokens), op.Mul(self.rows.region, self.columns.region))

    def added(self, bias: Value) -> Value:
        """The bias to add to the scores, (h or 1, tiles, T, R), with -inf for keys that are not attended to."""
        attends = self._by_tile(self._both(op.And, self.rows.attended()[0], self.columns.attended()[0], rank=3))
        nothing = op.Constant(value_float=-float("inf"))
        if bias is None:
            return op.Unsqueeze(op.Where(attends, op.Constant(value_float=0.0), nothing), ints(0))
        # (h, 2kh-1, 2kw-1) -> (h, Th Rh, Tw Rw) -> (h, Th, Tw, Rh, Rw) -> (h, 1, T, R)
        table = op.Gather(op.Gather(bias, self.rows.relation(), axis=1), self.columns.relation(), axis=2)
        shape = joined(0, self.rows.tile, self.rows.region, self.columns.tile, self.columns.region)
        table = op.Transpose(op.Reshape(table, shape), perm=[0, 1, 3, 2, 4])
        of_tile = joined(0, 1, op.Mul(self.rows.tile, self.columns.tile), -1)
        return op.Where(attends, op.Reshape(table, of_tile), nothing)

    def weighted(self, weights: Value, values: Value) -> Value:
        """Sums values with the weights of their windows: (B, h, N, k), (B, h, N, E) -> (B, h, N, E)."""
        places = self.rows.kernel * self.columns.kernel
        (attends_rows, of_rows), (attends_columns, of_columns) = self.rows.attended(), self.columns.attended()
        place = self._both(op.Add, op.Mul(of_rows, ints(self.columns.kernel)), of_columns, rank=3)
        attends = self._both(op.And, attends_rows, attends_columns, rank=3)
        # an additional zero weight for keys that are not attended to
        place = self._by_tile(op.Where(attends, place, ints(places)))
        padded = op.Pad(weights, ints(0, 0, 0, 0, 0, 0, 0, 1))
        # (B, h, tiles, T, k + 1) -> (B, h, tiles, T, R)
        tiles = self.take_queries(padded)
        shape = op.Concat(op.Shape(tiles, start=0, end=2), op.Shape(place), axis=0)
        spread = op.GatherElements(tiles, op.Expand(place, shape), axis=4)
        return self.untake(op.MatMul(spread, self.take_keys(values)))

    def untake(self, x: Value) -> Value:
        """(B, h, tiles, T, E) -> (B, h, N, E)."""
        (row_tile, row_slot), (column_tile, column_slot) = self.rows.tiles_on_map(), self.columns.tiles_on_map()
        row_tile, row_slot = (op.Unsqueeze(index, ints(1)) for index in (row_tile, row_slot))
        tile = op.Add(op.Mul(row_tile, self.columns.tiles), column_tile)
        slot = op.Add(op.Mul(row_slot, self.columns.tile), column_slot)
        slots = op.Add(op.Mul(tile, op.Mul(self.rows.tile, self.columns.tile)), slot)
        joined_tiles = op.Reshape(x, joined(op.Shape(x, start=0, end=2), -1, op.Shape(x, start=4, end=5)))
        return op.Gather(joined_tiles, flat(slots), axis=2)

    def _tokens(self, of_rows: Value, of_columns: Value) -> Value:
        """(n, a) and (n, b) positions -> (n, n, a, b) tokens."""
        return self._both(op.Add, op.Mul(of_rows, self.columns.length), of_columns, rank=2)

    def _both(self, combine: Callable[..., Value], of_rows: Value, of_columns: Value, rank: int) -> Value:
        """Combines rows (n, a, ..) with columns (n, b, ..) -> (n, n, a, b, ..)."""
        rows_axes, columns_axes = list(range(1, 2 * rank, 2)), list(range(0, 2 * rank, 2))
        return combine(op.Unsqueeze(of_rows, ints(*rows_axes)), op.Unsqueeze(of_columns, ints(*columns_axes)))

    def _by_tile(self, x: Value) -> Value:
        """(n, n, Th, Tw, Rh, Rw) -> (tiles, T, R)."""
        return op.Reshape(x, joined(self.count, op.Mul(self.rows.tile, self.columns.tile), -1))

    def _take(self, x: Value, tokens: Value, slots: Value) -> Value:
        """(B, h, N, D) -> (B, h, tiles, slots, D)."""
        return op.Reshape(op.Gather(x, tokens, axis=2), joined(0, 0, self.count, slots, op.Shape(x, start=3, end=4)))


def _size(x: Value) -> Value:
    """(2,) rows and columns of a map (B, H, W, ..)."""
    return op.Shape(x, start=1, end=3)


def _by_head(x: Value) -> Value:
    """(B, H, W, h, D) -> (B, h, N, D)."""
    return op.Reshape(op.Transpose(x, perm=[0, 3, 1, 2, 4]), ints(0, 0, -1, x.shape[4]))


def _on_map(x: Value, like: Value) -> Value:
    """(B, h, N, E) -> (B, H, W, h, E), the map of `like`."""
    shape = op.Concat(ints(0), _size(like), op.Shape(x, start=1, end=2), op.Shape(x, start=3, end=4), axis=0)
    return op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), shape)


def _table_on_map(bias: Value, rows: DynamicAxis, columns: DynamicAxis) -> Value:
    """Expands a bias table to the windows of all positions: (h, 2kh-1, 2kw-1) -> (h, H, W, k)."""
    # (h, H kh, W kw) -> (h, H, kh, W, kw) -> (h, H, W, kh, kw)
    table = op.Gather(op.Gather(bias, rows.relation_on_map(), axis=1), columns.relation_on_map(), axis=2)
    table = op.Reshape(table, joined(0, rows.length, rows.kernel, columns.length, columns.kernel))
    table = op.Transpose(table, perm=[0, 1, 3, 2, 4])
    return op.Reshape(table, joined(0, rows.length, columns.length, -1))


def _pooled(x: Value, height: Value, width: Value, rows: Value, columns: Value) -> Value:
    """Adaptive average pooling: (B, C, rows, columns) -> (B, C, height, width)."""
    return op.MatMul(op.MatMul(_cells(rows, height), x), op.Transpose(_cells(columns, width), perm=[1, 0]))


def _cells(length: Value, count: Value) -> Value:
    """(count, length) weight of each position in the mean of each cell."""
    cell, position = op.Unsqueeze(counted(count), ints(1)), counted(length)
    start = op.Div(op.Mul(cell, length), count)
    end = divided_up(op.Mul(op.Add(cell, ints(1)), length), count)
    inside = op.And(op.GreaterOrEqual(position, start), op.Less(position, end))
    return op.Div(op.Cast(inside, to=_FLOAT), op.Cast(op.Sub(end, start), to=_FLOAT))
