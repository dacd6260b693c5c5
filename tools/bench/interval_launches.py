"""Every kernel of neighborhood and window attention as a launch on meta tensors, in each class of the tables.

Shape legend: B batch, H W map, h heads, D width; k keys of a neighborhood.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from attnzoo.kernels.intervals.rule import Rule

from .operators import NamedLaunch, Work

DTYPES = (torch.bfloat16, torch.float32)
BATCH, HEADS = 128, 2


@dataclasses.dataclass(frozen=True)
class Stage:
    """A class of shapes: one stage of a network, at one width and dtype.

    Attributes:
        name: of the geometry.
        size: side of the map.
        rule: of both axes.
        shift: of both axes.
        width: channels of a head.
        dtype: of the tensors.
    """

    name: str
    size: int
    rule: Rule
    shift: int = 0
    width: int = 32
    dtype: torch.dtype = torch.bfloat16

    @property
    def entries(self) -> int:
        """Entries of one map."""
        return BATCH * self.size**2 * HEADS * self.width

    def work(self, maps: int, products: int, places: int = 0) -> Work:
        """So many maps, and tensors of one entry per query and key, moved; and products of queries with their keys."""
        pairs = self.entries // self.width * self.rule.kernel**2
        return Work(maps * self.entries + places * pairs, products * self.entries * self.rule.kernel**2)

    def map(self) -> Tensor:
        """One of the maps that a packed projection gives, (B, H, W, h, D)."""
        shape = BATCH, self.size, self.size, 3, HEADS, self.width
        return torch.empty(shape, dtype=self.dtype, device="meta").unbind(3)[0]

    def named(self, kernel: str, launch: Any, work: Work) -> NamedLaunch:
        """A launch and what is told of it."""
        return NamedLaunch(f"{self.name} D{self.width} {kernel}", launch, self.dtype, work)


def classes(stage: Stage) -> list[Stage]:
    """A stage at every width and dtype of the tables."""
    from attnzoo.kernels.triton_launch import WIDTHS

    return [dataclasses.replace(stage, width=width, dtype=dtype) for width in WIDTHS for dtype in DTYPES]


def attention(stage: Stage, architecture: str) -> Iterator[NamedLaunch]:
    """The kernels of fused attention."""
    from attnzoo.kernels.intervals.triton_backward import key_gradient_launch, query_gradient_launch
    from attnzoo.kernels.intervals.triton_bias import bias_gradient_launch
    from attnzoo.kernels.intervals.triton_forward import forward_launch

    problem, q, out, rows, table = _tensors(stage, architecture)
    forward = forward_launch(problem, q, q, q, table, out, rows, 1.0)
    yield stage.named("forward", forward, stage.work(4, 2))
    of_queries = query_gradient_launch(problem, q, q, q, table, out, out, rows, rows, out, 1.0)
    yield stage.named("dq", of_queries, stage.work(6, 3))
    of_keys = key_gradient_launch(problem, q, q, q, table, out, rows, rows, out, out, 1.0)
    yield stage.named("dk, dv", of_keys, stage.work(6, 4))
    of_bias, _ = bias_gradient_launch(problem, q, q, q, table, out, rows, rows, 1.0)
    yield stage.named("dbias", of_bias, stage.work(4, 2))


def halves(stage: Stage, architecture: str) -> Iterator[NamedLaunch]:
    """The kernels of the unfused halves."""
    from attnzoo.kernels.neighborhood import triton_halves
    from attnzoo.kernels.triton_launch import WIDTHS

    problem, q, out, _, table = _tensors(stage, architecture)
    weights = torch.empty(*out.shape[:4], stage.rule.kernel**2, dtype=stage.dtype, device="meta")
    yield stage.named("qk", triton_halves.scores_launch(problem, q, q, table, weights, 1.0), stage.work(2, 1, 1))
    yield stage.named("av", triton_halves.sums_launch(problem, weights, q, out, 1.0), stage.work(2, 1, 1))
    over_queries = triton_halves.sums_over_queries_launch(problem, weights, q, out, 1.0)
    yield stage.named("av over queries", over_queries, stage.work(2, 1, 1))
    if stage.width == WIDTHS[0]:
        of_bias, _ = triton_halves.scores_bias_launch(problem, weights)
        yield stage.named("dbias of qk", of_bias, stage.work(0, 0, 1))


def whole_windows(stage: Stage, architecture: str) -> Iterator[NamedLaunch]:
    """The kernels that hold a window whole, where they are used."""
    from attnzoo.kernels.window.triton_small import backward_launch, forward_launch, small_configuration

    problem, q, out, rows, table = _tensors(stage, architecture)
    configuration = small_configuration(problem, "forward")
    if configuration is not None:
        forward = forward_launch(problem, configuration, q, q, q, table, out, rows, 1.0)
        yield stage.named("forward", forward, stage.work(4, 2))
    configuration = small_configuration(problem, "backward")
    if configuration is not None:
        backward, _ = backward_launch(
            problem, configuration, q, q, q, table, out, out, rows, out, out, out, 1.0, needs_bias=True
        )
        yield stage.named("backward", backward, stage.work(8, 5))


def every(
    stages: list[Stage], kernels: Callable[[Stage, str], Iterator[NamedLaunch]], architecture: str
) -> list[NamedLaunch]:
    """The launches of some kernels at some stages."""
    return [launch for stage in stages for launch in kernels(stage, architecture)]


def _tensors(stage: Stage, architecture: str) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
    """The problem, a packed and a contiguous map, one number per query, and a table."""
    from attnzoo.kernels.intervals.triton_problem import Problem

    q = stage.map()
    problem = Problem.of(q, q, (stage.rule, stage.rule), (stage.shift, stage.shift))
    problem = dataclasses.replace(problem, architecture=architecture)
    rows = torch.empty(q.shape[:4], device="meta")
    side = 2 * stage.rule.kernel - 1
    out = torch.empty(q.shape, dtype=q.dtype, device="meta")
    return problem, q, out, rows, torch.empty(HEADS, side, side, device="meta")
