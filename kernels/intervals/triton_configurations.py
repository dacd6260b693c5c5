"""How interval kernels are cut for a machine: how many tokens a program takes, and in which rectangles.

The tables say, for an architecture and a class of shapes, how many tokens a tile and a chunk hold. Which rectangles
they are follows from the geometry: the ones that make the kernel walk over the fewest pairs of tokens.
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
    """Tokens of a program's tile and of a chunk, both powers of two from 16 on, and the compiler's options."""

    tile: int
    chunk: int
    num_warps: int
    num_stages: int


def configuration(
    axes: tuple[AxisGeometry, AxisGeometry], longest: tuple[int, int], budget: Budget, sums_offsets: bool = False
) -> Configuration:
    """The configuration of a kernel.

    Args:
        axes: of rows and columns.
        longest: ranks of the longest segment of each axis.
        budget: from the table.
        sums_offsets: whether the kernel multiplies the pairs of an axis, which takes 16 of them.
    """
    longest = min(longest[0], 256), min(longest[1], 256)
    tile, chunk = _rectangles(axes, longest, budget.tile, budget.chunk, 16 if sums_offsets else 1)
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
    least_pairs: int,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The tile and chunk that walk over the fewest pairs, counting what lies outside of segments and regions."""
    best = None
    for tile in _shapes(longest, tile_budget):
        tokens = tile[0] * tile[1]
        tiles = _cover(longest, tile) // tokens
        region = tuple(
            axis.kernel if axis.is_window else min(ranks + axis.kernel - 1, segment)
            for axis, ranks, segment in zip(axes, tile, longest, strict=True)
        )
        for chunk in _shapes(region, chunk_budget):
            if min(tile[0] * chunk[0], tile[1] * chunk[1]) < least_pairs:
                continue
            keys = _cover(region, chunk)
            # a chunk costs about as much again as 16 queries: its keys and values are read
            cost = tiles * keys * (tokens + 16), keys // (chunk[0] * chunk[1])
            if best is None or cost < best[0]:
                best = cost, tile, chunk
    assert best is not None
    return best[1], best[2]


def _cover(lengths: tuple[int, ...], shape: tuple[int, int]) -> int:
    """Tokens of the rectangles that cover a rectangle."""
    rows, columns = (-(-length // side) * side for length, side in zip(lengths, shape, strict=True))
    return rows * columns


def _shapes(lengths: tuple[int, ...], budget: int) -> list[tuple[int, int]]:
    """Rectangles of `budget` tokens, or as many as a smaller map_shape needs, widest first; sides are powers of two."""
    rows, columns = (triton.next_power_of_2(length) for length in lengths)
    tokens = min(budget, max(16, rows * columns))
    return [(1 << exponent, tokens >> exponent) for exponent in range(tokens.bit_length())]


def budget_of(problem: Problem, direction: str) -> Budget:
    """The table's choice for a kernel.

    Args:
        problem: of intervals.
        direction: `forward`, `dq`, `dkdv`, `dbias`, and of the halves of neighborhood
            attention `scores`, `sums`, `sums_over_queries` and `bias_of_scores`.
    """
    kind = "window" if problem.geometry.axes[0].is_window else "neighborhood"
    size = {"itemsize": problem.dtype.itemsize, "width": problem.widest}
    return Budget(*entry_of("intervals", problem.architecture, kind, direction, **size))


def alternatives_to(budget: Budget) -> list[Budget]:
    """What is tried beside the table's choice by those who opt into tuning."""
    others = [
        budget._replace(tile=32),
        budget._replace(tile=64),
        budget._replace(chunk=64),
        budget._replace(num_stages=3),
    ]
    return [other for other in dict.fromkeys(others) if other != budget]
