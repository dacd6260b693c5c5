"""Configurations of the interval kernels: tokens per program, and in which rectangles.

The tables list the number of tokens of a tile and of a chunk, by architecture and class of shapes. Their rectangles
follow from the geometry: those with which a kernel computes the fewest pairs of tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import triton

from ..triton_launch import Configuration
from ..triton_problem import Problem
from ..triton_tables import entry_of
from .geometry import AxisGeometry


class Budget(NamedTuple):
    """Tokens of a tile and of a chunk, both powers of two and at least 16, and the compiler options."""

    tile: int
    chunk: int
    num_warps: int
    num_stages: int


def configuration(
    axes: tuple[AxisGeometry, AxisGeometry],
    longest: tuple[int, int],
    budget: Budget,
    least_pairs: tuple[int, int] = (1, 1),
) -> Configuration:
    """Returns the configuration of a kernel.

    Args:
        axes: geometry of rows and columns.
        longest: ranks in the longest segment of each axis.
        budget: the table entry.
        least_pairs: pairs of rows and of columns that the kernel needs; matrix products over pairs need 16.
    """
    longest = min(longest[0], 256), min(longest[1], 256)
    tile, chunk = _rectangles(axes, longest, budget.tile, budget.chunk, least_pairs)
    constants = {
        "TILE_ROWS": tile[0],
        "TILE_COLUMNS": tile[1],
        "CHUNK_ROWS": chunk[0],
        "CHUNK_COLUMNS": chunk[1],
    }
    return Configuration(constants, budget.num_warps, budget.num_stages)


@lru_cache(maxsize=1024)
def _rectangles(
    axes: tuple[AxisGeometry, AxisGeometry],
    longest: tuple[int, int],
    tile_budget: int,
    chunk_budget: int,
    least_pairs: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the tile and chunk with the fewest pairs, including pairs outside of segments and regions."""
    best = None
    for tile in _shapes(longest, tile_budget):
        tokens = tile[0] * tile[1]
        tiles = _cover(longest, tile) // tokens
        region = tuple(
            axis.kernel if axis.is_window else min(ranks + axis.kernel - 1, segment)
            for axis, ranks, segment in zip(axes, tile, longest, strict=True)
        )
        for chunk in _shapes(region, chunk_budget):
            if tile[0] * chunk[0] < least_pairs[0] or tile[1] * chunk[1] < least_pairs[1]:
                continue
            keys = _cover(region, chunk)
            # loading the keys and values of a chunk costs about as much as 16 more queries
            cost = tiles * keys * (tokens + 16), keys // (chunk[0] * chunk[1])
            if best is None or cost < best[0]:
                best = cost, tile, chunk
    assert best is not None
    return best[1], best[2]


def _cover(lengths: tuple[int, ...], shape: tuple[int, int]) -> int:
    """Returns the number of tokens in the rectangles that cover a rectangle."""
    rows, columns = (-(-length // side) * side for length, side in zip(lengths, shape, strict=True))
    return rows * columns


def _shapes(lengths: tuple[int, ...], budget: int) -> list[tuple[int, int]]:
    """Returns rectangles of `budget` tokens, or fewer for small lengths, widest first; sides are powers of two."""
    rows, columns = (triton.next_power_of_2(length) for length in lengths)
    tokens = min(budget, max(16, rows * columns))
    return [(1 << exponent, tokens >> exponent) for exponent in range(tokens.bit_length())]


def budget_of(problem: Problem, direction: str) -> Budget:
    """Returns the table entry for a kernel.

    Args:
        problem: a problem of intervals.
        direction: `forward`, `dq` or `dkdv`; for the halves of neighborhood attention `scores`, `sums`,
            `sums_over_queries` or `bias_of_scores`.
    """
    kind = "window" if problem.geometry.axes[0].is_window else "neighborhood"
    size = {"itemsize": problem.dtype.itemsize, "width": problem.widest}
    return Budget(*entry_of("intervals", problem.architecture, kind, direction, **size))


def alternatives_to(budget: Budget) -> list[Budget]:
    """Returns the configurations that tuning tries in addition to the table's choice."""
    others = [
        budget._replace(tile=32),
        budget._replace(tile=64),
        budget._replace(chunk=64),
        budget._replace(num_stages=3),
    ]
    return [other for other in dict.fromkeys(others) if other != budget]


def with_other_options(chosen: Configuration) -> list[Configuration]:
    """Returns the configurations with the same tiles and other compiler options, for tuning."""
    options = [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (4, 1), (4, 2)]
    return [
        chosen._replace(num_warps=warps, num_stages=stages)
        for warps, stages in options
        if (warps, stages) != (chosen.num_warps, chosen.num_stages)
    ]
