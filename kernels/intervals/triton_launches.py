"""Launches of the interval kernels: one program for each tile, or for each tile in several images.

Shape legend: B batch, h heads; kh kw kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import triton
from torch import Tensor

from ..triton_launch import VERSION, Configuration, Launch
from ..triton_problem import Problem
from .triton_blocks import MapShape
from .triton_configurations import alternatives_to, budget_of, configuration

# of kernels that sum pairs of equal offsets; for dq the product over rows costs more than fewer keys are worth, and
# Triton 3.4 has no products of fewer than 16 rows
LEAST_PAIRS = {"dq": (16 if VERSION < (3, 5) else 1, 16), "bias_of_scores": (16, 16)}


def map_shape_of(problem: Problem) -> MapShape:
    """Returns the map as the argument `map_shape` of kernels."""
    return MapShape._make((*problem.geometry.lengths, *problem.geometry.shifts, problem.heads))


def launch(problem: Problem, kernel: Any, direction: str, arguments: Mapping[str, Any]) -> Launch:
    """Returns a launch with one program for each tile, head and image; see `budget_of` for the directions."""
    axes, longest, budget = problem.geometry.axes, problem.geometry.longest_segments, budget_of(problem, direction)
    return problem.launch(
        kernel,
        arguments,
        {"AXES": axes},
        configuration_of(problem, direction),
        lambda constants: problem.batch * problem.heads * problem.geometry.tiles(constants),
        lambda: [configuration(axes, longest, other) for other in alternatives_to(budget)],
    )


def launch_in_parts(
    problem: Problem,
    kernel: Any,
    chosen: Configuration,
    arguments: Mapping[str, Any],
    constants: Mapping[str, Any] = MappingProxyType({}),
    alternatives: Callable[[], Sequence[Configuration]] = tuple,
) -> Launch:
    """Returns a launch with one program for each tile, head and part of the images, see `parts`."""
    programs, images_each = parts(problem, chosen.constants)
    arguments = {**arguments, "images": problem.batch, "images_each": images_each}
    constants = {"AXES": problem.geometry.axes, **constants}
    return problem.launch(kernel, arguments, constants, chosen, lambda _: programs, alternatives)


def parts(problem: Problem, constants: Mapping[str, int]) -> tuple[int, int]:
    """Returns the number of programs, each for one tile of one head in several images, and the images per program."""
    tiles = problem.heads * problem.geometry.tiles(constants)
    images_each = -(-problem.batch // max(1, min(problem.batch, problem.enough_programs // max(1, tiles))))
    return -(-problem.batch // max(1, images_each)) * tiles, images_each


def table_launch(
    problem: Problem, kernel: Any, direction: str, arguments: Mapping[str, Any], device: torch.device
) -> tuple[Launch, Tensor]:
    """Returns the launch of a kernel that sums tables over tiles and images, and the tables, filled with zeros."""
    # the tables belong to these tiles, so there are no alternatives
    chosen = configuration_of(problem, direction)
    tables = make_tables(problem, chosen, device)
    return launch_in_parts(problem, kernel, chosen, {**arguments, "tables": tables}, offsets_of(chosen)), tables


def configuration_of(problem: Problem, direction: str) -> Configuration:
    """Returns the configuration of a kernel; see `budget_of` for the directions."""
    return configuration(
        problem.geometry.axes,
        problem.geometry.longest_segments,
        budget_of(problem, direction),
        LEAST_PAIRS.get(direction, (1, 1)),
    )


def make_tables(problem: Problem, chosen: Configuration, device: torch.device) -> Tensor:
    """Allocates a zero table for each program of `launch_in_parts`, see `tables_of`."""
    programs, _ = parts(problem, chosen.constants)
    return tables_of(problem, programs, device)


def tables_of(problem: Problem, programs: int, device: torch.device) -> Tensor:
    """Allocates a zero table for each program: (programs / h, h, 2kh-1, 2kw-1)."""
    sides = [2 * axis.kernel - 1 for axis in problem.geometry.axes]
    return problem.workspace.zeros((programs // problem.heads, problem.heads, *sides), torch.float32, device)


def offsets_of(chosen: Configuration) -> dict[str, int]:
    """Returns the block sizes that hold the offsets between the queries of a tile and the keys of a chunk."""
    sizes = chosen.constants
    return {
        f"{axis}_OFFSETS": max(
            16, triton.next_power_of_2(sizes[f"TILE_{axis}S"] + sizes.get(f"CHUNK_{axis}S", sizes[f"TILE_{axis}S"]) - 1)
        )
        for axis in ("ROW", "COLUMN")
    }
