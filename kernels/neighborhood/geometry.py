"""Integer geometry of neighborhood attention, one axis at a time: which keys each query attends to.

This module uses no tensors. Every function handles one axis of length L; the two-dimensional neighborhood is the
product of its two axes. Terms, along one axis:

    position  0 .. L-1, a row or column of the map
    group     positions with equal `position % dilation`; a dilated neighborhood never leaves its group
    rank      index of a position in its group, `position // dilation`
    window    the ranks [start, end) a query attends to
    tile      T queries of consecutive ranks, computed together
    region    the R consecutive ranks that contain every window of a tile

Sources: clamped windows and dilation groups are Neighborhood Attention (Hassani et al., 2022, eq. 1-3) and its dilated
form (Hassani and Shi, 2022, eq. 2); stride groups that share their leader's window are Generalized Neighborhood
Attention (Hassani et al., 2025, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Axis:
    """One axis of a neighborhood: its length and the window parameters along it.

    Attributes:
        length: number of positions, L >= kernel * dilation.
        kernel: number of keys a query attends to, k >= 1 (fewer at the start of a causal axis).
        dilation: distance between neighboring keys, >= 1.
        stride: number of queries that share a window, 1 <= stride <= kernel.
        is_causal: whether a query attends only to itself and the k - 1 ranks before it.
    """

    length: int
    kernel: int
    dilation: int = 1
    stride: int = 1
    is_causal: bool = False

    @property
    def groups(self) -> int:
        """Number of dilation groups."""
        return self.dilation

    def group_length(self, group: int) -> int:
        """Returns the number of positions in a dilation group."""
        return (self.length - group + self.dilation - 1) // self.dilation

    def position(self, group: int, rank: int) -> int:
        """Returns the position of a rank in a group."""
        return group + self.dilation * rank

    def window(self, group: int, rank: int) -> tuple[int, int]:
        """Returns the ranks [start, end) that a query attends to."""
        last = self.group_length(group) - 1
        first_of_stride_group = rank // self.stride * self.stride
        if self.is_causal:
            leader = min(first_of_stride_group + self.stride - 1, last)
            return max(leader - self.kernel + 1, 0), rank + 1
        leader = min(first_of_stride_group + self.stride // 2, last)
        start = min(max(leader - self.kernel // 2, 0), last + 1 - self.kernel)
        return start, start + self.kernel

    def neighbors(self, position: int) -> list[int | None]:
        """Returns the positions of a query's keys in window order: k entries, None where a causal window ends early."""
        group, rank = position % self.dilation, position // self.dilation
        start, end = self.window(group, rank)
        ranks = range(start, start + self.kernel)
        return [self.position(group, key) if key < end else None for key in ranks]


@dataclass(frozen=True)
class AxisTiles:
    """An axis split into tiles of queries and regions of keys.

    Tile t of every group holds the ranks tT .. tT+T-1. The last tile of a group repeats the group's last query beyond
    the end. The region of tile t starts at rank `offset[group] + t * step`. The starts are affine in t, so that the
    regions of a group are overlapping strided views of one strip in memory. A region may extend beyond the ends of its
    group; these slots repeat the border position, and no query attends to them.

    Attributes:
        axis: the axis that is split.
        tile: queries per tile, T.
        region: keys per region, R.
        step: distance between the regions of neighboring tiles, in ranks.
        count: tiles per group.
        offset: start of the first region, per group.
    """

    axis: Axis
    tile: int
    region: int
    step: int
    count: int
    offset: tuple[int, ...]

    @property
    def strip(self) -> int:
        """Number of ranks that one group's regions cover: the length of the strip they are views of."""
        return self.step * (self.count - 1) + self.region

    def query_rank(self, group: int, tile: int, slot: int) -> int:
        """Returns the rank of the query in a tile's slot."""
        return min(tile * self.tile + slot, self.axis.group_length(group) - 1)

    def strip_position(self, group: int, slot: int) -> int:
        """Returns the position of the key in a strip's slot."""
        rank = min(max(self.offset[group] + slot, 0), self.axis.group_length(group) - 1)
        return self.axis.position(group, rank)

    def relation(self, group: int, tile: int) -> tuple[tuple[int | None, ...], ...]:
        """Returns the relative positions between a tile's queries and its region's keys, (T, R).

        Each entry is `key rank - query rank + kernel - 1`, the index into a relative position table of length 2 *
        kernel - 1, or None where the query does not attend to the key.
        """
        first = self.offset[group] + tile * self.step
        rows = []
        for slot in range(self.tile):
            query = self.query_rank(group, tile, slot)
            start, end = self.axis.window(group, query)
            keys = range(first, first + self.region)
            rows.append(tuple(key - query + self.axis.kernel - 1 if start <= key < end else None for key in keys))
        return tuple(rows)


@lru_cache(maxsize=4096)
def cut(axis: Axis, tile: int) -> AxisTiles:
    """Splits an axis into tiles of at most `tile` queries with the smallest regions whose starts are affine."""
    longest = axis.group_length(0)
    tile = min(tile, longest)
    count = -(-longest // tile)
    bounds = [[_tile_bounds(axis, group, t, tile) for t in range(count)] for group in range(axis.groups)]
    # With two tiles any step fits; with more the best is the tile, or a little less when windows clamp at both ends.
    best: tuple[int, int, tuple[int, ...]] | None = None
    for step in range(tile, -1, -1) if count > 1 else (0,):
        offset = tuple(min(start - t * step for t, (start, _) in enumerate(group)) for group in bounds)
        region = max(end - (offset[g] + t * step) for g, group in enumerate(bounds) for t, (_, end) in enumerate(group))
        if best is None or region < best[0]:
            best = region, step, offset
    assert best is not None
    region, step, offset = best
    return AxisTiles(axis, tile, region, step, count, offset)


def _tile_bounds(axis: Axis, group: int, tile_index: int, tile: int) -> tuple[int, int]:
    """Returns the ranks [start, end) that contain every window of a tile."""
    last = axis.group_length(group) - 1
    ranks = range(min(tile_index * tile, last), min(tile_index * tile + tile - 1, last) + 1)
    windows = [axis.window(group, rank) for rank in ranks]
    return min(start for start, _ in windows), max(end for _, end in windows)
