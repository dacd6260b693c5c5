"""Selects the kernels of window attention, see `attnzoo.kernels.triton_attention.Kernels`.

Kernels that hold a whole window run where there is a configuration for them, else the interval kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..intervals import triton_kernels as intervals
from ..intervals.triton_kernels import arguments, gradient_of_bias, with_masks
from ..intervals.triton_launches import launch_in_parts, offsets_of, parts, tables_of
from ..triton_attention import Extras
from ..triton_launch import Configuration, Launch
from ..triton_plan import Result
from ..triton_problem import Problem
from .triton_small import (
    small_configuration,
    window_backward_kernel,
    window_bias_kernel,
    window_forward_kernel,
)

__all__ = ["arguments", "backward", "forward"]


def forward(problem: Problem, arguments: Mapping[str, Any]) -> list[Launch]:
    """Returns the launch of one kernel."""
    chosen = small_configuration(problem, "forward")
    if chosen is None:
        return intervals.forward(problem, arguments)
    return [launch_in_parts(problem, window_forward_kernel, chosen, arguments)]


def backward(
    problem: Problem, arguments: Mapping[str, Any], extras: Extras, needs: Mapping[str, bool]
) -> tuple[list[Launch], dict[str, Result]]:
    """Returns launches of kernels for masks, for dq, dk and dv, and for d(bias), or those of the interval kernels."""
    chosen = small_configuration(problem, "backward")
    if chosen is None:
        return intervals.backward(problem, arguments, extras, needs)
    bias, sums = extras["bias"], None
    if bias is not None and needs["bias"]:
        programs, _ = parts(problem, chosen.constants)
        tokens = math.prod(chosen.constants.values())
        sums = problem.workspace.empty((programs, tokens, tokens), torch.float32, bias.device)
    launches = with_masks(problem, window_backward_kernel, chosen, {**arguments, "score_sums": sums})
    if sums is None:
        return launches, {}
    of_bias, tables = _bias_launch(problem, chosen, sums)
    return [*launches, of_bias], gradient_of_bias(tables, bias)


def _bias_launch(problem: Problem, chosen: Configuration, sums: Tensor) -> tuple[Launch, Tensor]:
    """Returns the launch that sums pairs of equal offset, and the tables (n, h, 2wh-1, 2ww-1) that it adds to."""
    count = len(sums) // problem.heads
    # a few programs for each multiprocessor
    count_each = -(-count // max(1, min(count, problem.enough_programs // (4 * problem.heads))))
    programs = -(-count // max(1, count_each)) * problem.heads
    tables = tables_of(problem, programs, sums.device)
    arguments = {"score_sums": sums, "tables": tables, "heads": problem.heads, "count": count, "count_each": count_each}
    constants = {"AXES": problem.geometry.axes, **offsets_of(chosen)}
    return problem.launch(
        window_bias_kernel, arguments, constants, chosen._replace(num_warps=4, num_stages=1), lambda _: programs
    ), tables
