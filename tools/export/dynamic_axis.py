"""A map axis of dynamic length, split into tiles that are laid out inside the graph.

The values of the geometry are int64 tensors (1,), computed from the length by nodes of the graph: nothing depends on
the length that the graph was traced at. Unlike in `attnzoo.kernels`, the last tile is shifted inward, so that every
tile has the same offset to its region; a region may extend past the ends of its group.

Names: G dilation groups, n tiles per group, T queries per tile, R keys per region, k keys per window.
"""

from __future__ import annotations

from typing import Any

from onnxscript import opset18 as op

# onnxscript values have no more specific type
Value = Any

# fewest queries of a tile per axis; a tile has less than twice as many, as larger tiles mask most of their scores
_SMALLEST_TILE = 6


class DynamicAxis:
    """An axis split into tiles; `attnzoo.kernels.neighborhood.geometry` defines the terms.

    Args:
        length: (1,) length of the map. An axis shorter than its window is extended to the window.
        kernel, dilation, stride, is_causal: of the window.

    Attributes:
        length: as given.
        kernel: as given.
        tile: (1,) T.
        region: (1,) R.
        tiles: (1,) G * n.
        query_rank: (G, n, T) rank of every query; past the end of a group that is shorter than a tile.
        key_rank: (G, n, R) rank of every key, including ranks before and past its group.
    """

    def __init__(self, length: Value, kernel: int, dilation: int = 1, stride: int = 1, is_causal: bool = False) -> None:
        self.length, self.kernel = length, kernel
        self.dilation, self.stride, self.is_causal = dilation, stride, is_causal
        self._padded = op.Max(length, ints(kernel * dilation))
        longest = divided_up(self._padded, ints(dilation))
        # with fewer queries, a region would not hold the windows that are shifted inward at a border
        least = max(_SMALLEST_TILE, kernel // 2 + 1)
        self._count = op.Max(op.Div(longest, ints(least)), ints(1))
        self.tile = divided_up(longest, self._count)
        self._before = kernel - 1 if is_causal else kernel // 2 + stride - 1 - stride // 2
        self.region = op.Add(self.tile, ints(kernel - 1 + (0 if is_causal else stride - 1)))
        self.tiles = op.Mul(self._count, ints(dilation))
        # (G, 1, 1), (n, 1) -> (G, n, 1)
        self._group = op.Reshape(op.Constant(value_ints=list(range(dilation))), ints(-1, 1, 1))
        first = self._first(op.Reshape(counted(self._count), ints(-1, 1)), self._group)
        self.query_rank = op.Add(first, counted(self.tile))
        self.key_rank = op.Add(op.Sub(first, ints(self._before)), counted(self.region))

    def _group_length(self, group: Value) -> Value:
        return divided_up(op.Sub(self._padded, group), ints(self.dilation))

    def _first(self, tile: Value, group: Value) -> Value:
        """Rank of a tile's first query."""
        last = op.Sub(self._group_length(group), self.tile)
        return op.Max(op.Min(op.Mul(tile, self.tile), last), ints(0))

    def _windows(self, rank: Value, group: Value) -> tuple[Value, Value]:
        """Ranks [start, end) that queries attend to, see `Axis.window`."""
        group_length = self._group_length(group)
        last, leader = op.Sub(group_length, ints(1)), rank
        if self.stride > 1:
            leader = op.Mul(op.Div(rank, ints(self.stride)), ints(self.stride))
            leader = op.Add(leader, ints(self.stride - 1 if self.is_causal else self.stride // 2))
        leader = op.Min(leader, last)
        if self.is_causal:
            start = op.Max(op.Sub(leader, ints(self.kernel - 1)), ints(0))
            return start, op.Add(rank, ints(1))
        start = op.Max(op.Sub(leader, ints(self.kernel // 2)), ints(0))
        start = op.Min(start, op.Sub(group_length, ints(self.kernel)))
        return start, op.Add(start, ints(self.kernel))

    def attended(self) -> tuple[Value, Value]:
        """Whether a query attends to a key, (G * n, T, R), and the key's index in the query's window, same shape."""
        start, end = (op.Unsqueeze(x, ints(3)) for x in self._windows(self.query_rank, self._group))
        # (G, n, T, 1) with (G, n, 1, R)
        key = op.Unsqueeze(self.key_rank, ints(2))
        attends = op.And(op.GreaterOrEqual(key, start), op.Less(key, end))
        shape = joined(self.tiles, self.tile, self.region)
        return op.Reshape(attends, shape), op.Reshape(op.Sub(key, start), shape)

    def relation(self) -> Value:
        """(T * R,) index into a table of length 2k - 1; clamped where a key is too far from a query."""
        query = op.Reshape(counted(self.tile), ints(-1, 1))
        relation = op.Add(op.Sub(counted(self.region), query), ints(self.kernel - 1 - self._before))
        return flat(op.Min(op.Max(relation, ints(0)), ints(2 * self.kernel - 2)))

    def relation_on_map(self) -> Value:
        """(L * k,) index into a table of length 2k - 1 for every key of every position's window."""
        group, rank = self._groups_and_ranks()
        start, _ = self._windows(rank, group)
        # (L, 1) with (k,)
        key = op.Add(op.Unsqueeze(op.Sub(start, rank), ints(1)), op.Constant(value_ints=list(range(self.kernel))))
        return flat(op.Min(op.Add(key, ints(self.kernel - 1)), ints(2 * self.kernel - 2)))

    def query_positions(self) -> Value:
        """(G * n, T) position of every query; the last position for queries past the end."""
        position = op.Add(op.Mul(self.query_rank, ints(self.dilation)), self._group)
        return op.Reshape(op.Min(position, op.Sub(self.length, ints(1))), joined(self.tiles, self.tile))

    def key_positions(self) -> Value:
        """(G * n, R) position of every key; past the map only where the axis is extended."""
        last = op.Sub(self._group_length(self._group), ints(1))
        rank = op.Min(op.Max(self.key_rank, ints(0)), last)
        position = op.Add(op.Mul(rank, ints(self.dilation)), self._group)
        return op.Reshape(position, joined(self.tiles, self.region))

    def tiles_on_map(self) -> tuple[Value, Value]:
        """The tile, counted over all groups, that holds each position as a query, (L,), and its slot there, (L,)."""
        group, rank = self._groups_and_ranks()
        tile = op.Min(op.Div(rank, self.tile), op.Sub(self._count, ints(1)))
        return op.Add(op.Mul(group, self._count), tile), op.Sub(rank, self._first(tile, group))

    def _groups_and_ranks(self) -> tuple[Value, Value]:
        position = counted(self.length)
        return op.Mod(position, ints(self.dilation)), op.Div(position, ints(self.dilation))


def ints(*numbers: int) -> Value:
    """Integers as a tensor (count,)."""
    return op.Constant(value_ints=list(numbers))


def counted(count: Value) -> Value:
    """0 .. count - 1, for a tensor `count` (1,)."""
    return op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))


def divided_up(x: Value, by: Value) -> Value:
    """x / by for integers, rounded up."""
    return op.Div(op.Add(x, op.Sub(by, ints(1))), by)


def joined(*sizes: Value) -> Value:
    """Joins tensors (1,) and integers to a shape."""
    return op.Concat(*(ints(size) if isinstance(size, int) else size for size in sizes), axis=0)


def flat(x: Value) -> Value:
    """Flattens a tensor to one axis."""
    return op.Reshape(x, ints(-1))
