"""Selects the interval kernels, see `attnzoo.kernels.triton_attention.Kernels`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..triton_attention import Extras
from ..triton_launch import Launch
from ..triton_problem import Problem
from .triton_backward import interval_dkdv_kernel, interval_dq_kernel
from .triton_bias import interval_dbias_kernel
from .triton_forward import interval_forward_kernel
from .triton_launches import launch, map_shape_of, table_launch


def arguments(problem: Problem, extras: Extras) -> dict[str, Any]:
    """Returns the map and the relative position table (h, 2kh-1, 2kw-1)."""
    bias = extras["bias"]
    return {"map_shape": map_shape_of(problem), "bias": None if bias is None else bias.contiguous()}


def forward(problem: Problem, arguments: Mapping[str, Any]) -> list[Launch]:
    """Returns the launch of one kernel."""
    return [launch(problem, interval_forward_kernel, "forward", arguments)]


def backward(
    problem: Problem, arguments: Mapping[str, Any], extras: Extras, needs: Mapping[str, bool]
) -> tuple[list[Launch], Callable[[], list[Tensor]]]:
    """Returns the launches of a kernel for dq and delta, of one for dk and dv, and of one for the table's gradient."""
    launches = [launch(problem, interval_dq_kernel, "dq", arguments)]
    if needs["k"] or needs["v"]:
        launches.append(launch(problem, interval_dkdv_kernel, "dkdv", arguments))
    bias = extras["bias"]
    if bias is None or not needs["bias"]:
        return launches, list
    of_bias, tables = table_launch(problem, interval_dbias_kernel, "dbias", arguments, bias.device)
    return [*launches, of_bias], lambda: [tables.sum(0).to(bias.dtype)]
