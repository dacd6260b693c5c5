"""Selects the kernels of routed attention, see `attnzoo.kernels.triton_attention.Kernels`.

Shape legend: B batch, P regions, t regions on a route.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..triton_attention import Extras
from ..triton_launch import Launch
from ..triton_plan import Result
from ..triton_problem import Problem
from .triton_backward import routed_dkdv_kernel, routed_dq_kernel
from .triton_blocks import MapShape
from .triton_configurations import alternatives_to, configuration
from .triton_forward import routed_forward_kernel


def arguments(problem: Problem, extras: Extras) -> dict[str, Any]:
    """Returns the map and the contiguous routes (B, P, t)."""
    routes, regions = extras["routes"], problem.geometry
    assert routes is not None
    sizes = *regions.size, *regions.split, *regions.region_size
    return {
        "map_shape": MapShape._make((*sizes, problem.heads)),
        "routes": routes.contiguous(),
        "steps": routes.shape[2],
    }


def forward(problem: Problem, arguments: Mapping[str, Any]) -> list[Launch]:
    """Returns the launch of one kernel."""
    return [_launch(problem, routed_forward_kernel, "forward", arguments)]


def backward(
    problem: Problem, arguments: Mapping[str, Any], extras: Extras, needs: Mapping[str, bool]
) -> tuple[list[Launch], dict[str, Result]]:
    """Returns the launch of a kernel for dq and delta, and of one for dk and dv, which needs `sources_of`."""
    launches = [_launch(problem, routed_dq_kernel, "dq", arguments)]
    if needs["k"] or needs["v"]:
        sources, starts = problem.workspace.make(sources_of, arguments["routes"])
        arguments = {**arguments, "sources": sources, "starts": starts}
        launches.append(_launch(problem, routed_dkdv_kernel, "dkdv", arguments))
    return launches, {}


def sources_of(routes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the regions that are routed to each region, from routes (B, P, t).

    Returns:
        The sources (B, P * t), ordered by the region they are routed to, and the start (B, P + 1) of each region's
        sources. The sources of region r are at starts[r] to starts[r + 1].
    """
    batch, regions, steps = routes.shape
    # as in the kernels, a route out of range is the nearest region
    targets, order = routes.flatten(1).clamp(0, regions - 1).sort(stable=True)
    every = torch.arange(regions + 1, dtype=targets.dtype, device=targets.device).expand(batch, -1)
    starts = torch.searchsorted(targets, every.contiguous(), out_int32=True)
    return (order // steps).to(torch.int32), starts


def _launch(problem: Problem, kernel: Any, direction: str, arguments: Mapping[str, Any]) -> Launch:
    """Returns a launch with one program for each tile of a region, region, head and image."""
    chosen, regions = configuration(problem, direction), problem.geometry
    tiles = problem.batch * problem.heads * regions.count
    return problem.launch(
        kernel,
        arguments,
        {},
        chosen,
        lambda constants: tiles * -(-regions.tokens // constants["TILE"]),
        lambda: alternatives_to(chosen),
    )
