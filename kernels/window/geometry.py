"""Who attends to whom: the integer geometry of shifted windows, one axis at a time.

Nothing here touches a tensor. Every function speaks about one axis of length L; a two-dimensional window is the
product of the two axes' answers. Vocabulary, along one axis:

    position  0 .. L-1, a row or column of the map; from L on, padding up to a multiple of the window
    rank      a position's place after the cyclic shift, `(position - shift) % padded length`
    window    w consecutive ranks, the first at a multiple of w
    side      the shift carries the first positions behind the last ones; the two sides do not see each other

Source: Swin Transformer (Liu et al., 2021, section 3.2 and figure 4).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowAxis:
    """One axis of a map in windows.

    Attributes:
        length: number of positions, L >= 1.
        window: ranks of a window, w >= 1; the axis is padded to a multiple of it.
        shift: positions that go from the front of the padded axis to its end, 0 <= shift < w.
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
        """Number of ranks: the length, up to a multiple of the window."""
        return self.count * self.window

    def position(self, rank: int) -> int:
        """The position that has this rank; `length` or more in the padding."""
        return (rank + self.shift) % self.padded_length

    def rank(self, position: int) -> int:
        """A position's rank."""
        return (position - self.shift) % self.padded_length

    def interval(self, rank: int) -> tuple[int, int]:
        """Ranks [start, end) that the query of this rank attends to: those of its window on its side of the wrap."""
        start = rank // self.window * self.window
        end = start + self.window
        wrap = self.padded_length - self.shift
        return (max(start, wrap), end) if rank >= wrap else (start, min(end, wrap))
