"""An operator whose only kernel is a matrix product: what the static benchmark compiles in its own tests."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from attnzoo.kernels.halo import triton_backward as halo_backward
from attnzoo.kernels.halo import triton_forward as halo_forward
from attnzoo.kernels.halo.geometry import HaloAxis
from attnzoo.kernels.halo.triton_problem import Problem as HaloProblem
from attnzoo.kernels.intervals import triton_backward, triton_bias, triton_forward
from attnzoo.kernels.intervals.rule import Rule
from attnzoo.kernels.intervals.triton_problem import Problem
from attnzoo.kernels.neighborhood import triton_halves
from attnzoo.kernels.routed import triton_backward as routed_backward
from attnzoo.kernels.routed import triton_forward as routed_forward
from attnzoo.kernels.routed.triton_problem import Problem as RoutedProblem
from attnzoo.kernels.triton_launch import Configuration, Launch
from attnzoo.kernels.window import triton_small
from attnzoo.tools.bench.operators import NamedLaunch, Work


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
    """The operators' kernels where every count is one: the JIT makes constants of such arguments."""
    q, rows = torch.empty(1, 1, 1, 1, 32, dtype=torch.bfloat16, device="meta"), torch.empty(1, 1, 1, 1, device="meta")
    table, weights = torch.empty(1, 1, 1, device="meta"), torch.empty(1, 1, 1, 1, 1, dtype=q.dtype, device="meta")
    routes = torch.empty(1, 1, 1, dtype=torch.int32, device="meta")
    neighborhood, window = (Problem.of(q, q, (rule, rule)) for rule in (Rule(1), Rule(1, is_window=True)))
    routed = RoutedProblem.of(q, q, (1, 1))
    halo = HaloProblem.of(q, q, (HaloAxis(1, 1, 0), HaloAxis(1, 1, 0)))
    whole = triton_small.small_configuration(window, "backward")
    assert whole is not None
    launches = [
        triton_forward.forward_launch(neighborhood, q, q, q, table, q, rows, 1.0),
        triton_backward.query_gradient_launch(neighborhood, q, q, q, table, q, q, rows, rows, q, 1.0),
        triton_backward.key_gradient_launch(neighborhood, q, q, q, table, q, rows, rows, q, q, 1.0),
        triton_bias.bias_gradient_launch(neighborhood, q, q, q, table, q, rows, rows, 1.0)[0],
        triton_halves.scores_launch(neighborhood, q, q, table, weights, 1.0),
        triton_halves.sums_launch(neighborhood, weights, q, q, 1.0),
        triton_halves.sums_over_queries_launch(neighborhood, weights, q, q, 1.0),
        triton_halves.scores_bias_launch(neighborhood, weights)[0],
        triton_small.forward_launch(window, whole, q, q, q, table, q, rows, 1.0),
        triton_small.backward_launch(window, whole, q, q, q, table, q, q, rows, q, q, q, 1.0, True)[0],
        routed_forward.forward_launch(routed, q, q, q, routes, q, rows, 1.0),
        routed_backward.query_gradient_launch(routed, q, q, q, routes, q, q, rows, rows, q, 1.0),
        routed_backward.key_gradient_launch(routed, q, q, q, routes[0], routes[0], q, rows, rows, q, q, 1.0),
        halo_forward.forward_launch(halo, q, q, q, weights, weights, q, rows, 1.0),
        halo_backward.query_gradient_launch(
            halo, q, q, q, weights, weights, q, q, rows, rows, q, weights, weights, 1.0
        ),
        halo_backward.key_gradient_launch(halo, q, q, q, weights, weights, q, rows, rows, q, q, 1.0),
    ]
    return [NamedLaunch("of ones", launch, q.dtype) for launch in launches]
