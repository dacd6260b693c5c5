"""Configurations of the routed attention kernels: tokens per program and per chunk."""

from __future__ import annotations

import triton

from ..triton_launch import Configuration
from ..triton_problem import Problem
from ..triton_tables import entry_of

# tokens of the smallest tile that a matrix unit supports
SMALLEST_TILE = 16


def configuration(problem: Problem, direction: str) -> Configuration:
    """Returns the table entry for a kernel: `forward`, `dq` or `dkdv`."""
    tokens = problem.geometry.tokens
    kind = "small" if tokens <= SMALLEST_TILE else "large"
    size = {"itemsize": problem.dtype.itemsize, "width": problem.widest}
    tile, chunk, num_warps, num_stages = entry_of("routed", problem.architecture, kind, direction, **size)
    # a tile is not larger than a region
    tile = max(SMALLEST_TILE, min(tile, triton.next_power_of_2(tokens)))
    return Configuration({"TILE": tile, "CHUNK": chunk}, num_warps, num_stages)


def alternatives_to(chosen: Configuration) -> list[Configuration]:
    """Returns the configurations that tuning tries in addition to the table's choice."""
    others = [
        chosen._replace(num_stages=3),
        chosen._replace(num_warps=2 * chosen.num_warps),
        chosen._replace(constants={**chosen.constants, "CHUNK": 32}),
        chosen._replace(constants={**chosen.constants, "CHUNK": 128}),
    ]
    return [other for other in others if other != chosen]
