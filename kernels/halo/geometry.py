"""Integer geometry of blocks with a halo, one axis at a time: which keys each query attends to.

This module uses no tensors. Every function handles one axis of length L; a two-dimensional block is the product of its
two axes. Terms, along one axis:

    position  0 .. L-1, a row or column of the map; before and after are zeros that take part in the softmax
    block     b consecutive positions, the first at a multiple of b; the last block may extend beyond the end
    halo      positions before and after a block that its queries also attend to
    place     index of a key in the window of its block, 0 .. b + 2 halo - 1
    query     every stride-th position of a block; queries have consecutive indices

Source: Scaling Local Self-Attention (Vaswani et al., 2021, section 2.2 and 2.3, figures 1 and 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HaloAxis:
    """One axis of a map that is split into blocks.

    Attributes:
        length: number of positions, L >= 1.
        block: positions of a block, b >= 1.
        halo: positions on each side of a block that its queries also attend to, 0 or more.
        stride: distance from one query to the next, a divisor of b.
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
        """Number of keys in the window of a block."""
        return self.block + 2 * self.halo

    @property
    def queries(self) -> int:
        """Number of queries of a block."""
        return self.block // self.stride

    @property
    def query_length(self) -> int:
        """Number of queries of the axis; in the last block, only queries on the map count."""
        return (self.length + self.stride - 1) // self.stride

    @property
    def padded_queries(self) -> int:
        """Number of queries of all blocks, including those beyond the map."""
        return self.count * self.queries

    @property
    def padding(self) -> tuple[int, int]:
        """Numbers of zeros before and after the axis that windows contain."""
        return self.halo, self.count * self.block - self.length + self.halo

    @property
    def whole_blocks(self) -> int:
        """Number of positions that all windows cover, rounded up to whole blocks."""
        return (self.count - 1 + (self.window + self.block - 1) // self.block) * self.block

    @property
    def key_shift(self) -> int:
        """By how many positions tiles of keys begin before blocks, in the backward pass: 0, or half a block.

        The key tile around the border of two blocks is in their two windows if the halo is up to half a block, and a
        block is in three. On short axes, tiles that are blocks are fewer.
        """
        return min((0, self.block // 2), key=lambda shift: sum(map(len, self._windows_of_tiles(shift))))

    @property
    def key_tiles(self) -> list[range]:
        """For each tile of b keys, the blocks whose windows contain some of them."""
        return self._windows_of_tiles(self.key_shift)

    def _windows_of_tiles(self, shift: int) -> list[range]:
        starts = range(-shift, self.length, self.block)
        ends = [min((start + self.block - 1 + self.halo) // self.block + 1, self.count) for start in starts]
        return [range(max(start - self.halo, 0) // self.block, end) for start, end in zip(starts, ends, strict=True)]

    def position(self, block: int, place: int) -> int:
        """Returns the position at a place of a block's window; it is on the map if it is in 0 .. L-1."""
        return block * self.block - self.halo + place

    def relation(self, query: int, place: int) -> int:
        """Returns the index into a table (2 window - 1) for a query of a block and a place of its window.

        The index of the query counts queries, not positions, and the halo is not subtracted, both as in the published
        weights.
        """
        return place - query + self.window - 1


def halo_axes(
    lengths: Sequence[int], blocks: Sequence[int], halos: Sequence[int], strides: Sequence[int]
) -> tuple[HaloAxis, HaloAxis]:
    """Returns the axes of rows and columns, from a pair (rows, columns) for each attribute."""
    rows, columns = (HaloAxis(*axis) for axis in zip(lengths, blocks, halos, strides, strict=True))
    return rows, columns
