"""Launches for the tests of the static benchmark: a matrix product, and the operators' kernels at size one."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from attnzoo.kernels.halo import triton_kernels as of_halos
from attnzoo.kernels.halo.geometry import HaloAxis
from attnzoo.kernels.intervals import triton_kernels as of_intervals
from attnzoo.kernels.intervals.geometry import AxisGeometry, Intervals
from attnzoo.kernels.neighborhood import triton_halves
from attnzoo.kernels.routed import triton_kernels as of_routes
from attnzoo.kernels.routed.geometry import Regions
from attnzoo.kernels.triton_launch import Configuration, Launch
from attnzoo.kernels.triton_problem import Problem
from attnzoo.kernels.window import triton_kernels as of_windows
from benchmarks.launches import launches_of
from benchmarks.operators import NamedLaunch, Work


class Cut(NamedTuple):
    rows: int
    columns: int


@triton.jit
def product(a, strides, b, out, length, missing, scale, CUT: tl.constexpr, BLOCK: tl.constexpr):
    rows, columns = tl.arange(0, CUT.rows), tl.arange(0, CUT.columns)
    total = tl.zeros((CUT.rows, CUT.columns), tl.float32)
    for start in range(0, length, BLOCK):
        inner = start + tl.arange(0, BLOCK)
        left = tl.load(a + rows[:, None] * strides[0] + inner[None, :] * strides[1])
        right = tl.load(b + inner[:, None] * CUT.columns + columns[None, :])
        total += tl.dot(left, right)
    tl.store(out + rows[:, None] * CUT.columns + columns[None, :], total * scale)


@triton.jit
def refused(a, strides, b, out, length, missing, scale, CUT: tl.constexpr, BLOCK: tl.constexpr):
    tl.static_assert(CUT.rows == 0, "no machine takes this")


def launches(architecture: str) -> list[NamedLaunch]:
    return [
        NamedLaunch(kernel.__name__, _launch(kernel), torch.bfloat16, Work(1 << 20, 1 << 30))
        for kernel in (product, refused)
    ]


def _launch(kernel) -> Launch:
    a, b = (torch.empty(64, 64, dtype=torch.bfloat16, device="meta") for _ in range(2))
    return Launch(
        kernel,
        grid=lambda constants: 1,
        arguments={
            "a": a,
            "strides": a.stride(),
            "b": b,
            "out": torch.empty(64, 64, device="meta"),
            "length": 64,
            "missing": None,
            "scale": 0.5,
        },
        constants={"CUT": Cut(64, 64)},
        configuration=Configuration({"BLOCK": 32}),
    )


def of_ones(architecture: str) -> list[NamedLaunch]:
    """The operators' kernels with all sizes one: the JIT specializes such arguments to constants."""
    q, table = torch.empty(1, 1, 1, 1, 32, dtype=torch.bfloat16, device="meta"), torch.empty(1, 1, 1, device="meta")
    weights = torch.empty(1, 1, 1, 1, 1, dtype=q.dtype, device="meta")
    routes = torch.empty(1, 1, 1, dtype=torch.int32, device="meta")
    intervals, windows = (
        Intervals((axis, axis), (1, 1)) for axis in (AxisGeometry(1), AxisGeometry(1, is_window=True))
    )
    problem = Problem.of(q, q, intervals)
    launches = [
        triton_halves.scores_launch(problem, q, q, table, weights, 1.0),
        triton_halves.sums_launch(problem, weights, q, q, 1.0),
        triton_halves.sums_over_queries_launch(problem, weights, q, q, 1.0),
        triton_halves.scores_bias_launch(problem, weights)[0],
    ]
    for kernels, extras, geometry in (
        (of_intervals, {"bias": table}, intervals),
        (of_windows, {"bias": table}, windows),
        (of_routes, {"routes": routes}, Regions((1, 1), (1, 1))),
        (of_halos, {"row_scores": weights, "column_scores": weights}, (HaloAxis(1, 1, 0), HaloAxis(1, 1, 0))),
    ):
        for direction in ("forward", "backward"):
            launches += launches_of(kernels, q, q, q, extras, geometry, architecture, direction)
    return [NamedLaunch("of ones", launch, q.dtype) for launch in launches]
