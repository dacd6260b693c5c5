"""Integer geometry of routed attention: which keys each query attends to.

A map is split into equal regions, numbered row-major. The queries of a region attend to all tokens of the regions on
its route. This module uses no tensors.

Source: bi-level routing attention, BiFormer (Zhu et al., 2023, eq. 3-7 and algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Regions:
    """A map that is split into equal regions.

    Attributes:
        size: rows and columns of the map, multiples of `split`.
        split: number of regions down and across.
    """

    size: tuple[int, int]
    split: tuple[int, int]

    @property
    def count(self) -> int:
        """Number of regions, P."""
        return self.split[0] * self.split[1]

    @property
    def region_size(self) -> tuple[int, int]:
        """Rows and columns of a region."""
        return self.size[0] // self.split[0], self.size[1] // self.split[1]

    @property
    def tokens(self) -> int:
        """Number of tokens in a region, R."""
        return self.region_size[0] * self.region_size[1]

    def region(self, row: int, column: int) -> int:
        """Returns the region that contains a position."""
        rows, columns = self.region_size
        return row // rows * self.split[1] + column // columns

    def positions(self, region: int) -> list[tuple[int, int]]:
        """Returns the positions (row, column) of a region's tokens, row-major."""
        rows, columns = self.region_size
        first_row, first_column = region // self.split[1] * rows, region % self.split[1] * columns
        return [(first_row + row, first_column + column) for row in range(rows) for column in range(columns)]
