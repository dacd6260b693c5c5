"""Launches of every neighborhood and window kernel on meta tensors, for each class of the launch tables.

Shape legend: B batch, H W map, h heads, D width; k keys of a neighborhood.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from attnzoo.kernels.intervals.geometry import AxisGeometry, Intervals

from .launches import BATCH, DTYPES, launches_of
from .operators import NamedLaunch, Work

HEADS = 2


@dataclasses.dataclass(frozen=True)
class Stage:
    """A class of shapes: one stage of a network, at one width and dtype.

    Attributes:
        name: name of the geometry.
        size: side of the map.
        axis: geometry of both axes.
        shift: shift of both axes.
        width: channels of a head.
        dtype: dtype of the tensors.
    """

    name: str
    size: int
    axis: AxisGeometry
    shift: int = 0
    width: int = 32
    dtype: torch.dtype = torch.bfloat16

    @property
    def entries(self) -> int:
        """Number of entries of one map."""
        return BATCH * self.size**2 * HEADS * self.width

    @property
    def geometry(self) -> Intervals:
        """The map and its axes."""
        return Intervals((self.axis, self.axis), (self.size, self.size), (self.shift, self.shift))

    def work(self, maps: int, products: int, places: int = 0) -> Work:
        """The work for a number of maps and (query, key) tensors moved, and of products of queries with their keys."""
        pairs = self.entries // self.width * self.axis.kernel**2
        return Work(maps * self.entries + places * pairs, products * self.entries * self.axis.kernel**2)

    def map(self) -> Tensor:
        """One of the three maps of a packed projection, (B, H, W, h, D)."""
        shape = BATCH, self.size, self.size, 3, HEADS, self.width
        return torch.empty(shape, dtype=self.dtype, device="meta").unbind(3)[0]

    def named(self, kernel: str, launch: Any, work: Work) -> NamedLaunch:
        """A launch with its name, dtype and work."""
        return NamedLaunch(f"{self.name} D{self.width} {kernel}", launch, self.dtype, work)


def classes(stage: Stage) -> list[Stage]:
    """Returns a stage at every width and dtype of the launch tables."""
    from attnzoo.kernels.triton_launch import WIDTHS

    return [dataclasses.replace(stage, width=width, dtype=dtype) for width in WIDTHS for dtype in DTYPES]


def attention(stage: Stage, architecture: str) -> Iterator[NamedLaunch]:
    """The kernels of fused attention over intervals."""
    from attnzoo.kernels.intervals import triton_kernels

    found = _launches(stage, triton_kernels, architecture, "forward")
    found += _launches(stage, triton_kernels, architecture, "backward")
    # the masks of each kernel come before it, and are small
    works = {"forward": (4, 2), "dq, dbias": (6, 3), "dk, dv": (6, 4)}
    for (name, work), masks, launch in zip(works.items(), found[::2], found[1::2], strict=True):
        yield _with_loops(stage.named(name, launch, stage.work(*work)), stage)
        yield stage.named(f"masks of {name}", masks, Work(0, 0))


def halves(stage: Stage, architecture: str) -> Iterator[NamedLaunch]:
    """The kernels of the unfused halves."""
    from attnzoo.kernels.neighborhood import triton_halves
    from attnzoo.kernels.triton_launch import WIDTHS
    from attnzoo.kernels.triton_problem import Problem

    q, out, table = _tensors(stage)
    problem = dataclasses.replace(Problem.of(q, q, stage.geometry), architecture=architecture)
    weights = torch.empty(*out.shape[:4], stage.axis.kernel**2, dtype=stage.dtype, device="meta")
    yield stage.named("qk", triton_halves.scores_launch(problem, q, q, table, weights, 1.0), stage.work(2, 1, 1))
    yield stage.named("av", triton_halves.sums_launch(problem, weights, q, out, 1.0), stage.work(2, 1, 1))
    over_queries = triton_halves.sums_over_queries_launch(problem, weights, q, out, 1.0)
    yield stage.named("av over queries", over_queries, stage.work(2, 1, 1))
    if stage.width == WIDTHS[0]:
        of_bias, _ = triton_halves.scores_bias_launch(problem, weights)
        yield stage.named("dbias of qk", of_bias, stage.work(0, 0, 1))


def whole_windows(stage: Stage, architecture: str) -> Iterator[NamedLaunch]:
    """The kernels that hold a whole window in one program, for the stages that use them."""
    from attnzoo.kernels.window import triton_kernels
    from attnzoo.kernels.window.triton_small import window_backward_kernel, window_bias_kernel, window_forward_kernel

    (forward, *_) = _launches(stage, triton_kernels, architecture, "forward")
    if forward.kernel is window_forward_kernel:
        yield _with_images(stage.named("forward", forward, stage.work(4, 2)))
    backward = _launches(stage, triton_kernels, architecture, "backward")
    if backward[1].kernel is window_backward_kernel:
        masks, gradients, of_bias = backward
        yield _with_images(stage.named("backward", gradients, stage.work(8, 5)))
        yield stage.named("masks of backward", masks, Work(0, 0))
        assert of_bias.kernel is window_bias_kernel
        yield stage.named("dbias", of_bias, Work(0, 0))._replace(trips=(of_bias.arguments["count_each"],))


def _with_images(named: NamedLaunch) -> NamedLaunch:
    """Adds the iterations over images, and the pairs of tokens of a window."""
    sizes = named.launch.configuration.constants
    return named._replace(trips=(named.launch.arguments["images_each"],), pairs=math.prod(sizes.values()) ** 2)


def every(
    stages: list[Stage], kernels: Callable[[Stage, str], Iterator[NamedLaunch]], architecture: str
) -> list[NamedLaunch]:
    """Returns the launches of some kernels at every stage of a list."""
    return [launch for stage in stages for launch in kernels(stage, architecture)]


def _with_loops(named: NamedLaunch, stage: Stage) -> NamedLaunch:
    """Adds the iterations over images and over the chunks of a tile that no end of the map affects."""
    sizes, chunks = named.launch.configuration.constants, 1
    for side in ("ROWS", "COLUMNS"):
        tile, chunk = sizes[f"TILE_{side}"], sizes[f"CHUNK_{side}"]
        ranks = stage.axis.kernel + (0 if stage.axis.is_window else tile - 1)
        chunks *= -(-min(ranks, stage.axis.longest_segment(stage.size)) // chunk)
    trips = named.launch.arguments["images_each"], chunks
    return named._replace(trips=trips, pairs=math.prod(sizes.values()))


def _launches(stage: Stage, kernels: Any, architecture: str, direction: str) -> list[Any]:
    q, _, table = _tensors(stage)
    return launches_of(kernels, q, q, q, {"bias": table}, stage.geometry, architecture, direction)


def _tensors(stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
    """A packed map, a contiguous map, and a bias table."""
    q, side = stage.map(), 2 * stage.axis.kernel - 1
    return q, torch.empty(q.shape, dtype=q.dtype, device="meta"), torch.empty(HEADS, side, side, device="meta")
