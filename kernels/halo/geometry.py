"""Who attends to whom: the integer geometry of blocks with a halo, one axis at a time.

Nothing here touches a tensor. Every function speaks about one axis of length L; a two-dimensional block is the product
of the two axes' answers. Vocabulary, along one axis:

    position  0 .. L-1, a row or column of the map; before and after, zeros that are attended to
    block     b consecutive positions, the first at a multiple of b; the last one may run over the end
    halo      positions before and after a block that its queries see, too
    place     a key's place in the window of its block, 0 .. b + 2 halo - 1
    query     every stride-th position of a block, numbered on by itself

Source: Scaling Local Self-Attention (Vaswani et al., 2021, section 2.2 and 2.3, figures 1 and 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HaloAxis:
    """One axis of a map in blocks.

    Attributes:
        length: number of positions, L >= 1.
        block: positions of a block, b >= 1.
        halo: positions seen on each side of a block, 0 or more.
        stride: positions from one query to the next, a divisor of b.
    """

    length: int
    block: int
    halo: int
    stride: int = 1

    @property
    def count(self) -> int:
        """Number of blocks."""
        return (self.length + self.block - 1) // self.block

    @property
    def window(self) -> int:
        """Keys that a block sees."""
        return self.block + 2 * self.halo

    @property
    def queries(self) -> int:
        """Queries of a block."""
        return self.block // self.stride

    @property
    def query_length(self) -> int:
        """Queries of the axis, those of the part of the last block that is there."""
        return (self.length + self.stride - 1) // self.stride

    @property
    def padded_queries(self) -> int:
        """Queries of all blocks."""
        return self.count * self.queries

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after the axis that windows reach."""
        return self.halo, self.count * self.block - self.length + self.halo

    @property
    def whole_blocks(self) -> int:
        """Positions of all windows, up to the end of a block."""
        return (self.count - 1 + (self.window + self.block - 1) // self.block) * self.block

    def position(self, block: int, place: int) -> int:
        """The position at a place of a block's window; none of the map where it is not 0 .. L-1."""
        return block * self.block - self.halo + place

    def relation(self, query: int, place: int) -> int:
        """The entry of a table (2 window - 1) for a query of a block and a place of its window.

        The query is counted as it is numbered, and the halo is not subtracted: both as in the published weights.
        """
        return place - query + self.window - 1


def halo_axes(
    lengths: Sequence[int], blocks: Sequence[int], halos: Sequence[int], strides: Sequence[int]
) -> tuple[HaloAxis, HaloAxis]:
    """Rows and columns, of what each attribute is for both."""
    rows, columns = (HaloAxis(*axis) for axis in zip(lengths, blocks, halos, strides, strict=True))
    return rows, columns
