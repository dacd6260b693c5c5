"""Selects the kernels of window attention, see `attnzoo.kernels.triton_attention.Kernels`.

Kernels that hold a whole window run where there is a configuration for them, else the interval kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..intervals import triton_kernels as intervals
from ..intervals.triton_kernels import arguments, gradient_of_bias
from ..intervals.triton_launches import launch_in_parts, make_tables, offsets_of
from ..triton_attention import Extras
from ..triton_launch import Launch
from ..triton_plan import Result
from ..triton_problem import Problem
from .triton_small import small_configuration, window_backward_kernel, window_forward_kernel

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
    """Returns the launch of one kernel for all gradients, or the launches of the interval kernels."""
    chosen = small_configuration(problem, "backward")
    if chosen is None:
        return intervals.backward(problem, arguments, extras, needs)
    bias = extras["bias"]
    tables = make_tables(problem, chosen, bias.device) if bias is not None and needs["bias"] else None
    added = {**arguments, "tables": tables}
    launch = launch_in_parts(problem, window_backward_kernel, chosen, added, offsets_of(chosen))
    return [launch], gradient_of_bias(tables, bias)
