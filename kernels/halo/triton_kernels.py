"""Selects the kernels of halo attention, see `attnzoo.kernels.triton_attention.Kernels`.

Shape legend: B batch, H' W' map of queries, h heads, w window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton

from ..triton_attention import Extras
from ..triton_blocks import Width
from ..triton_launch import Configuration, Launch, block
from ..triton_plan import Result
from ..triton_problem import Problem, tokens_or_none
from ..triton_tables import entry_of
from .triton_backward import halo_dkdv_kernel, halo_dq_kernel
from .triton_blocks import AxisGeometry, MapShape
from .triton_forward import halo_forward_kernel


def arguments(problem: Problem, extras: Extras) -> dict[str, Any]:
    """Returns the maps, and the relative scores (B, H', W', h, w) of rows and columns."""
    rows, columns = problem.geometry
    map_shape = MapShape(
        rows.query_length,
        columns.query_length,
        rows.length,
        columns.length,
        rows.count,
        columns.count,
        problem.heads,
    )
    return {"map_shape": map_shape, **{name: tokens_or_none(extras[name]) for name in ("row_scores", "column_scores")}}


def forward(problem: Problem, arguments: Mapping[str, Any]) -> list[Launch]:
    """Returns the launch of one kernel."""
    return [_launch_of_queries(problem, halo_forward_kernel, "forward", arguments)]


def backward(
    problem: Problem, arguments: Mapping[str, Any], extras: Extras, needs: Mapping[str, bool]
) -> tuple[list[Launch], dict[str, Result]]:
    """Returns launches of a kernel for delta, dq and the gradients of relative scores, and of one for dk and dv."""
    relative = {
        name: None if scores is None else problem.workspace.empty(scores.shape, scores.dtype, scores.device)
        for name, scores in extras.items()
    }
    arguments = {
        **arguments,
        "drow_scores": tokens_or_none(relative["row_scores"]),
        "dcolumn_scores": tokens_or_none(relative["column_scores"]),
    }
    launches = [_launch_of_queries(problem, halo_dq_kernel, "dq", arguments)]
    if needs["k"] or needs["v"]:
        rows, columns = problem.geometry
        tiles, keys = len(rows.key_tiles) * len(columns.key_tiles), rows.block * columns.block
        shifts = rows.key_shift, columns.key_shift
        launches.append(_launch(problem, halo_dkdv_kernel, "dkdv", tiles, keys, arguments, SHIFTS=shifts))
    return launches, {name: Result(x) for name, x in relative.items() if x is not None}


def configuration(problem: Problem, direction: str, count: int) -> Configuration:
    """Returns the table entry for a kernel whose programs take tiles of `count` tokens."""
    size = {"itemsize": problem.dtype.itemsize, "width": problem.widest}
    tile, chunk, num_warps, num_stages = entry_of("halo", problem.architecture, direction, **size)
    # not larger than what there is; programs for dk and dv go through the queries of a block, others through a window
    tile = min(tile, max(16, triton.next_power_of_2(count)))
    if direction == "dkdv":
        chunk = min(chunk, max(16, triton.next_power_of_2(_queries(problem))))
    return Configuration({"TILE": tile, "CHUNK": chunk}, num_warps, num_stages)


def _queries(problem: Problem) -> int:
    """Returns the number of queries of a block."""
    rows, columns = problem.geometry
    count: int = rows.queries * columns.queries
    return count


def _launch_of_queries(problem: Problem, kernel: Any, direction: str, arguments: Mapping[str, Any]) -> Launch:
    """Returns a launch with one program for each tile of a block's queries, block, head and image."""
    rows, columns = problem.geometry
    return _launch(problem, kernel, direction, rows.count * columns.count, _queries(problem), arguments)


def _launch(
    problem: Problem,
    kernel: Any,
    direction: str,
    blocks: int,
    count: int,
    arguments: Mapping[str, Any],
    **more_constants: Any,
) -> Launch:
    """Returns a launch with one program for each tile of the `count` tokens of a block, block, head and image."""
    tiles = problem.batch * problem.heads * blocks
    axes = tuple(
        AxisGeometry(axis.block, axis.halo, axis.queries, axis.window, block(axis.window)) for axis in problem.geometry
    )
    constants = {
        "AXES": axes,
        "ROWS": Width(axes[0].window, axes[0].positions),
        "COLUMNS": Width(axes[1].window, axes[1].positions),
        **more_constants,
    }
    return problem.launch(
        kernel,
        arguments,
        constants,
        configuration(problem, direction, count),
        lambda constants: tiles * -(-count // constants["TILE"]),
    )
