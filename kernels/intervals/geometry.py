"""Geometry that kernels are compiled for: one axis, and a map with its two axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


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
