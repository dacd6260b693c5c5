"""Selects the interval kernels, see `attnzoo.kernels.triton_attention.Kernels`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..triton_attention import Extras
from ..triton_launch import Configuration, Launch
from ..triton_math import LOG2_E
from ..triton_plan import Result
from ..triton_problem import Problem
from .triton_backward import interval_dkdv_kernel, interval_dq_kernel
from .triton_configurations import with_other_options
from .triton_forward import interval_forward_kernel
from .triton_launches import configuration_of, launch_in_parts, make_tables, map_shape_of, offsets_of, parts
from .triton_masks import masks_launch


def arguments(problem: Problem, extras: Extras) -> dict[str, Any]:
    """Returns the map and the relative position table (h, 2kh-1, 2kw-1)."""
    bias = extras["bias"]
    return {"map_shape": map_shape_of(problem), "bias": None if bias is None else bias.contiguous()}


def forward(problem: Problem, arguments: Mapping[str, Any]) -> list[Launch]:
    """Returns the launches of a kernel for masks and of one for the attention."""
    return with_masks(problem, interval_forward_kernel, configuration_of(problem, "forward"), arguments)


def backward(
    problem: Problem, arguments: Mapping[str, Any], extras: Extras, needs: Mapping[str, bool]
) -> tuple[list[Launch], dict[str, Result]]:
    """Returns the launches of a kernel for dq, delta and the table's gradient, and of one for dk and dv.

    Each follows that of its masks.
    """
    bias = extras["bias"]
    chosen = configuration_of(problem, "dq")
    sums, tables, offsets = None, None, dict.fromkeys(offsets_of(chosen), 0)
    if bias is not None and needs["bias"]:
        programs, _ = parts(problem, chosen.constants)
        pairs = problem.geometry.chunks(chosen.constants, False), math.prod(chosen.constants.values())
        sums = problem.workspace.empty((programs, *pairs), torch.float32, bias.device)
        tables, offsets = make_tables(problem, chosen, bias.device), offsets_of(chosen)
    of_bias = {"score_sums": sums, "tables": tables}
    launches = with_masks(problem, interval_dq_kernel, chosen, {**arguments, **of_bias}, offsets)
    if needs["k"] or needs["v"]:
        chosen = configuration_of(problem, "dkdv")
        launches += with_masks(problem, interval_dkdv_kernel, chosen, arguments, of_keys=True)
    return launches, gradient_of_bias(tables, bias)


def gradient_of_bias(tables: Tensor | None, bias: Tensor | None) -> dict[str, Result]:
    """Returns the gradient of a bias from the tables that sum to it, by its name; nothing without tables."""
    if tables is None or bias is None:
        return {}
    dtype = bias.dtype
    return {"bias": Result(tables, lambda tables: tables.sum(0).to(dtype))}


def with_masks(
    problem: Problem,
    kernel: Any,
    chosen: Configuration,
    arguments: Mapping[str, Any],
    constants: Mapping[str, int] = MappingProxyType({}),
    of_keys: bool = False,
) -> list[Launch]:
    """Returns the launch that fills the masks of a kernel, and that of the kernel, whose tiles are queries or keys."""
    scale = arguments["scale"]
    # masks are divided by the scale, which must be positive for this; a scale of 0 is a factor of 0 for the queries
    sign = (scale > 0) - (scale < 0)
    arguments = {**arguments, "magnitude": abs(scale) or LOG2_E.value}
    of_masks, added, read = masks_launch(problem, chosen, arguments, of_keys)
    constants = {"SIGN": sign, "STEP": _step_dtype(problem, chosen, arguments), **read, **constants}
    # a kernel that adds to its tables must run only once
    runs_once = arguments.get("tables") is not None
    alternatives = tuple if runs_once else partial(with_other_options, chosen)
    return [of_masks, launch_in_parts(problem, kernel, chosen, {**arguments, **added}, constants, alternatives)]


def _step_dtype(problem: Problem, chosen: Configuration, arguments: Mapping[str, Any]) -> tl.dtype:
    """Returns the dtype that holds the distance in memory between the chunks of any tensor."""
    sizes = max(chosen.constants.values()) * max(axis.dilation for axis in problem.geometry.axes)
    given = [arguments[name] for name in ("q", "k", "v", "dout") if name in arguments]
    strides = [stride for x in given for stride in (x.row_stride, x.column_stride)]
    # a row of the rectangle has a few chunks at most
    return tl.int32 if 64 * sizes * max(strides) < 2**31 else tl.int64
