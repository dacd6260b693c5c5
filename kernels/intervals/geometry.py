"""The geometry that kernels are compiled for: the axis of an axis, and a map with its axes."""

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
        is_causal: a query of a neighborhood axis sees nothing after itself.
        is_window: segments are consecutive windows of the shifted axis, and a query sees its whole window.
        is_shifted: whether the shift of a window axis is not 0.
    """

    kernel: int
    dilation: int = 1
    stride: int = 1
    is_causal: bool = False
    is_window: bool = False
    is_shifted: bool = False

    def segments(self, length: int) -> int:
        """Number of segments of an axis; the last window may run over the axis' end."""
        return -(-length // self.kernel) if self.is_window else self.dilation

    def longest_segment(self, length: int) -> int:
        """Number of ranks of an axis' longest segment."""
        return self.kernel if self.is_window else -(-length // self.dilation)


@dataclass(frozen=True)
class Intervals:
    """A map whose queries attend, on each axis, to an interval of ranks.

    Attributes:
        axes: of rows and columns.
        lengths: of the map, (H, W).
        shifts: of the map's windows, (rows, columns).
    """

    axes: tuple[AxisGeometry, AxisGeometry]
    lengths: tuple[int, int]
    shifts: tuple[int, int] = (0, 0)

    @property
    def longest_segments(self) -> tuple[int, int]:
        """Ranks of the longest segment of rows and of columns."""
        rows, columns = (axis.longest_segment(length) for axis, length in zip(self.axes, self.lengths, strict=True))
        return rows, columns

    def tiles(self, constants: Mapping[str, int]) -> int:
        """Tiles of the map, of one head and image, in a kernel's configuration."""
        count = 1
        sides = constants["TILE_ROWS"], constants["TILE_COLUMNS"]
        for axis, length, side in zip(self.axes, self.lengths, sides, strict=True):
            count *= axis.segments(length) * -(-axis.longest_segment(length) // side)
        return count
