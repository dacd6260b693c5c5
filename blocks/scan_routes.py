"""Routes of selective scans over a map, as tensors.

Shape legend: H W map, L = H * W tokens, row-major.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from torch import Tensor

from attnzoo.kernels.cache import cached
from attnzoo.kernels.selective_scan.geometry import DOWN, LEFT, RIGHT, START, UP, four_routes, moves_of
from attnzoo.kernels.tracing import is_symbolic, real_tensors


@torch.jit.ignore
def routes_on_map(pattern: str, height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the four routes of a pattern over a map, and the moves that lead to their positions.

    Args:
        pattern: `snake`, `diagonal`, `spiral` or `raster`, see `attnzoo.kernels.selective_scan.geometry`.
        height, width: the map.
        like: a tensor on the device of the results.

    Returns:
        The tokens in the order of the steps, and the number of the move to each of them, both (4, L). Only for a
        `snake`, whose steps all lead to neighbors, the moves are defined; they are empty otherwise.

    Raises:
        ValueError: the pattern has no formula for a size that is dynamic.
    """
    if is_symbolic([height, width]):
        if pattern != "snake":
            raise ValueError(f"routes of the pattern {pattern} need a fixed map size: export the model for one size")
        return _symbolic_snakes(height, width, like)
    routes, moves = _kept_routes(pattern, int(height), int(width))
    return routes.to(like.device), moves.to(like.device)


@torch.compiler.assume_constant_result
def _kept_routes(pattern: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    return _computed_routes(pattern, height, width)


# tracers treat a function's result as a constant only if the function itself is not a cache
@cached
def _computed_routes(pattern: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    with real_tensors():
        routes = four_routes(pattern, height, width)
        moves = [moves_of(route) for route in routes] if pattern == "snake" else []
        tokens = [[row * width + column for row, column in route] for route in routes]
        return torch.tensor(tokens), torch.tensor(moves)


def _symbolic_snakes(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the same as `_kept_routes` for a snake, by arithmetic on the position."""
    step = torch.arange(height * width, device=like.device)
    # remainders of dynamic numbers cannot be exported
    row = step // width
    x = step - row * width
    is_back = row % 2
    by_row = row * width + torch.where(is_back == 1, width - 1 - x, x)
    along = torch.where(x == 0, DOWN, RIGHT + is_back * (LEFT - RIGHT))
    column = step // height
    y = step - column * height
    is_back = column % 2
    by_column = torch.where(is_back == 1, height - 1 - y, y) * width + column
    down = torch.where(y == 0, RIGHT, DOWN + is_back * (UP - DOWN))
    # what a move is backwards, by its number
    opposite = torch.tensor([START, LEFT, RIGHT, DOWN, UP], device=like.device)
    routes, moves = [], []
    for route, move in ((by_row, along), (by_column, down)):
        forwards = torch.where(step == 0, START, move)
        # the first step has no move, forwards and backwards
        backwards = torch.where(step == 0, START, opposite.index_select(0, move.flip(0).roll(1)))
        routes += [route, route.flip(0)]
        moves += [forwards, backwards]
    return torch.stack(routes), torch.stack(moves)
