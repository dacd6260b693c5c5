"""Geometry that kernels are compiled for: one axis, and a map with its two axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class TileClasses(NamedTuple):
    """The classes of an axis' tiles, at compile time: tiles of a class have the same pairs of queries and keys.

    Classes are numbered from the start of a segment: the tiles that its start affects, those between, whose pairs
    repeat with the stride, and the tiles that its end affects. A segment of the second kind has classes of its own.

    Attributes:
        before: number of tiles that the start of a segment can affect.
        period: number of tiles after which the pairs of tiles repeat.
        after: number of tiles that the end of a segment can affect.
        kinds: 2 if segments may differ in length, or a window may contain the seam of a shift, else 1.
    """

    before: int
    period: int
    after: int
    kinds: int

    @property
    def classes(self) -> int:
        """Number of classes of the axis."""
        return (self.before + self.period + self.after) * self.kinds


class AxisGeometry(NamedTuple):
    """The geometry of an axis, at compile time.

    Attributes:
        kernel: keys of a neighborhood, or ranks of a window.
        dilation: number of interleaved segments of a neighborhood axis.
        stride: queries that share a neighborhood.
        is_causal: whether a query of a neighborhood axis attends to no key after itself.
        is_window: whether segments are consecutive windows of the shifted axis, and a query attends to its whole
            window.
        is_shifted: whether the shift of a window axis is not 0.
    """

    kernel: int
    dilation: int = 1
    stride: int = 1
    is_causal: bool = False
    is_window: bool = False
    is_shifted: bool = False

    def segments(self, length: int) -> int:
        """Returns the number of segments of an axis; the last window may extend beyond the end of the axis."""
        return -(-length // self.kernel) if self.is_window else self.dilation

    def longest_segment(self, length: int) -> int:
        """Returns the number of ranks in the longest segment of an axis."""
        return self.kernel if self.is_window else -(-length // self.dilation)

    def classes_of_tiles(self, side: int, of_keys: bool) -> TileClasses:
        """Returns the classes of tiles of `side` queries with their keys, or of keys with their queries."""
        if self.is_window:
            return TileClasses(-(-self.kernel // side), 1, 0, 1 + self.is_shifted)
        if of_keys:
            # keys so far from an end that no query that sees them has a clamped neighborhood
            start, end = self.kernel + self.stride, side + self.kernel + 2 * self.stride
        elif self.is_causal:
            start, end = self.kernel - 1, side + self.stride - 1
        else:
            # the leader of a query is up to stride // 2 after it, and up to the rest of the stride before it
            start = self.kernel // 2 + self.stride - 1 - self.stride // 2
            end = side - 1 + self.stride // 2 + self.kernel - self.kernel // 2
        # a tile is unaffected if it starts at rank `start` or later, with at least `end` ranks from there on
        return TileClasses(
            -(-start // side),
            self.stride // math.gcd(self.stride, side),
            -(-(end - 1) // side),
            1 + (self.dilation > 1),
        )

    def longest_rectangle(self, side: int, length: int, of_keys: bool) -> int:
        """Returns a bound of the ranks of keys that `side` queries need, or of queries that `side` keys need."""
        # keys near an end are seen by all queries up to this end
        reach = self.kernel * (2 if of_keys else 1) + 2 * self.stride
        return self.kernel if self.is_window else min(side + reach, self.longest_segment(length))


@dataclass(frozen=True)
class Intervals:
    """A map whose queries attend, on each axis, to an interval of ranks.

    Attributes:
        axes: geometry of rows and columns.
        lengths: size of the map, (H, W).
        shifts: shifts of the map's windows, (rows, columns).
    """

    axes: tuple[AxisGeometry, AxisGeometry]
    lengths: tuple[int, int]
    shifts: tuple[int, int] = (0, 0)

    @property
    def longest_segments(self) -> tuple[int, int]:
        """Ranks in the longest segment of rows and of columns."""
        rows, columns = (axis.longest_segment(length) for axis, length in zip(self.axes, self.lengths, strict=True))
        return rows, columns

    def tiles(self, constants: Mapping[str, int]) -> int:
        """Returns the number of tiles of the map, per head and image, in a kernel's configuration."""
        count = 1
        sides = constants["TILE_ROWS"], constants["TILE_COLUMNS"]
        for axis, length, side in zip(self.axes, self.lengths, sides, strict=True):
            count *= axis.segments(length) * -(-axis.longest_segment(length) // side)
        return count

    def classes_of_tiles(self, constants: Mapping[str, int], of_keys: bool) -> tuple[TileClasses, TileClasses]:
        """Returns the classes of the tiles in a kernel's configuration, for rows and columns."""
        rows, columns = self.axes
        return (
            rows.classes_of_tiles(constants["TILE_ROWS"], of_keys),
            columns.classes_of_tiles(constants["TILE_COLUMNS"], of_keys),
        )

    def chunks(self, constants: Mapping[str, int], of_keys: bool) -> int:
        """Returns a bound of the chunks of a tile in a kernel's configuration."""
        count = 1
        sides = zip(("TILE_ROWS", "TILE_COLUMNS"), ("CHUNK_ROWS", "CHUNK_COLUMNS"), strict=True)
        for axis, length, (tile, chunk) in zip(self.axes, self.lengths, sides, strict=True):
            count *= -(-axis.longest_rectangle(constants[tile], length, of_keys) // constants[chunk])
        return count
