"""Integer geometry of scans over a map: the order in which a route visits its positions. This module uses no tensors.

A route is a list of positions (row, column), each of the map once. The routes of a pattern come in pairs, and a
scan in four directions follows both, forwards and backwards.

Sources: PlainMamba, arXiv 2403.17695, figure 3 (`snake`); MHS-VM, arXiv 2406.05992 (all four).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

Route = list[tuple[int, int]]

# numbers of the moves that lead from a position to the next one
START, RIGHT, LEFT, UP, DOWN = range(5)
_MOVES = {(0, 1): RIGHT, (0, -1): LEFT, (-1, 0): UP, (1, 0): DOWN}


def raster(height: int, width: int) -> tuple[Route, Route]:
    """Returns all rows from left to right, and all columns from top to bottom."""
    by_row = [(row, column) for row in range(height) for column in range(width)]
    return by_row, [(row, column) for column in range(width) for row in range(height)]


def snake(height: int, width: int) -> tuple[Route, Route]:
    """Returns the rows, every other one from right to left, and the columns, every other one from bottom to top."""
    by_row = [(row, width - 1 - x if row % 2 else x) for row in range(height) for x in range(width)]
    return by_row, [(height - 1 - y if column % 2 else y, column) for column in range(width) for y in range(height)]


def diagonal(height: int, width: int) -> tuple[Route, Route]:
    """Returns the diagonals that rise to the right, from the top left, and the same from the top right.

    Every other diagonal is downwards, the second one first.
    """
    route: Route = []
    for number in range(height + width - 1):
        rows = range(max(0, number - width + 1), min(height, number + 1))
        route += [(row, number - row) for row in (rows if number % 2 else reversed(rows))]
    return route, [(row, width - 1 - column) for row, column in route]


def spiral(height: int, width: int) -> tuple[Route, Route]:
    """Returns the clockwise spiral inwards from the top left, and the same upside down, from the bottom left."""
    route: Route = []
    for ring in range((min(height, width) + 1) // 2):
        top, left, bottom, right = ring, ring, height - 1 - ring, width - 1 - ring
        route += [(top, column) for column in range(left, right + 1)]
        route += [(row, right) for row in range(top + 1, bottom + 1)]
        # a ring of one row or one column has no way back
        if top < bottom:
            route += [(bottom, column) for column in range(right - 1, left - 1, -1)]
        if left < right:
            route += [(row, left) for row in range(bottom - 1, top, -1)]
    return route, [(height - 1 - row, column) for row, column in route]


PATTERNS: dict[str, Callable[[int, int], tuple[Route, Route]]] = {
    "snake": snake,
    "diagonal": diagonal,
    "spiral": spiral,
    "raster": raster,
}


def four_routes(pattern: str, height: int, width: int) -> list[Route]:
    """Returns the first route of a pattern, the same backwards, the second one, and the same backwards."""
    return [route for one in PATTERNS[pattern](height, width) for route in (one, one[::-1])]


def moves_of(route: Route) -> list[int]:
    """Returns the move that leads to each position of a route from a position to a neighbor; `START` for the first."""
    steps = ((there[0] - here[0], there[1] - here[1]) for here, there in pairwise(route))
    return [START, *(_MOVES[step] for step in steps)][: len(route)]
