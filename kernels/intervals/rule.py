"""What the kernels are compiled for, one axis at a time."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """What an axis' kernels are compiled for.

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
