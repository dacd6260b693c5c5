"""Integer geometry of shifted windows, one axis at a time: which keys each query attends to.

This module uses no tensors. Every function handles one axis of length L; a two-dimensional window is the product of its
two axes. Terms, along one axis:

    position  0 .. L-1, a row or column of the map; from L on, padding up to a multiple of the window
    rank      index of a position after the cyclic shift, `(position - shift) % padded length`
    window    w consecutive ranks, the first at a multiple of w
    side      the shift moves the first positions behind the last ones; the two sides do not attend to each other

Source: Swin Transformer (Liu et al., 2021, section 3.2 and figure 4).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowAxis:
    """One axis of a map that is split into windows.

    Attributes:
        length: number of positions, L >= 1.
        window: ranks of a window, w >= 1; the axis is padded to a multiple of it.
        shift: number of positions that move from the front of the padded axis to its end, 0 <= shift < w.
    """

    length: int
    window: int
    shift: int = 0

    @property
    def count(self) -> int:
        """Number of windows."""
        return (self.length + self.window - 1) // self.window

    @property
    def padded_length(self) -> int:
        """Number of ranks: the length rounded up to a multiple of the window."""
        return self.count * self.window

    def position(self, rank: int) -> int:
        """Returns the position of a rank; `length` or more in the padding."""
        return (rank + self.shift) % self.padded_length

    def rank(self, position: int) -> int:
        """Returns the rank of a position."""
        return (position - self.shift) % self.padded_length

    def interval(self, rank: int) -> tuple[int, int]:
        """Returns the ranks [start, end) that a query attends to: its window, on its side of the wrap."""
        start = rank // self.window * self.window
        end = start + self.window
        wrap = self.padded_length - self.shift
        return (max(start, wrap), end) if rank >= wrap else (start, min(end, wrap))
