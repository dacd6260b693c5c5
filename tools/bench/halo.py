"""Halo attention under test: the stages of HaloNet-50ts, and timm's layer.

Shape legend: B batch, H W map of keys, H' W' of queries, h heads, D width.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attnzoo.kernels import halo_attention

from .interval_launches import BATCH, DTYPES
from .operators import Function, NamedLaunch, Operator, Peer, Shape, Work

NOTES = [
    "Blocks of 8x8 and a halo of 3, relative scores of rows and columns, contiguous q of (B, H, W, heads, width), keys "
    "and values side by side as a projection leaves them. A stride of 2 has a query for each 2x2 keys.",
    "timm is HaloAttn with projections that cost nothing: it is given q, and keys with values, channels first, as its "
    "own projections leave them.",
]


@dataclass(frozen=True, kw_only=True)
class HaloShape(Shape):
    """A map of keys in blocks."""

    block: int = 8
    halo: int = 3
    stride: int = 1

    @property
    def detail(self) -> str:
        """The stride, and in the sweep block and halo."""
        geometry = "" if (self.block, self.halo) == (8, 3) else f"block {self.block} halo {self.halo} "
        return f"{geometry}stride {self.stride}" if self.stride > 1 else geometry.strip()

    @property
    def keys(self) -> int:
        """Keys of a query."""
        return (self.block + 2 * self.halo) ** 2

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(B, H', W', h, D)."""
        rows, columns = (-(-length // self.stride) for length in self.size)
        return self.batch, rows, columns, self.heads, self.width

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """q, keys and values (B, H, W, h, 2D), and the tables of rows and columns."""
        entries = 2 * (self.block + 2 * self.halo) - 1
        shapes = self.output_shape, (self.batch, *self.size, self.heads, 2 * self.width)
        maps = [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes]
        # as large as networks start with
        tables = [torch.randn(entries, self.width, dtype=dtype, device=device) * self.width**-0.5 for _ in range(2)]
        return [*maps, *(table.requires_grad_() for table in tables)]

    def call(self, backend: str | None) -> Function:
        """The operator."""

        def attend(q: Tensor, kv: Tensor, rel_rows: Tensor, rel_columns: Tensor) -> Tensor:
            k, v = kv.chunk(2, 4)
            tables = {"rel_rows": rel_rows, "rel_columns": rel_columns}
            return halo_attention(q, k, v, self.block, self.halo, stride=self.stride, **tables, backend=backend)

        return attend

    def work(self, is_backward: bool) -> Work:
        """As in `Shape`, with fewer queries than keys where there is a stride."""
        of_queries = self.entries // self.stride**2
        maps = 2 * of_queries + 2 * self.entries
        if is_backward:
            maps += 2 * of_queries + 2 * self.entries
        return Work(maps, (5 if is_backward else 2) * of_queries * self.keys)


def random_shape(generator: random.Random) -> HaloShape:
    """Any blocks on a small map that they divide, for timm's sake."""
    stride = generator.randint(1, 2)
    block = stride * generator.randint(1, 4)
    return HaloShape(
        size=(block * generator.randint(1, 4), block * generator.randint(1, 4)),
        heads=generator.randint(1, 4),
        batch=generator.randint(1, 3),
        width=generator.choice((8, 16, 24, 32, 64)),
        block=block,
        halo=generator.randint(0, 4),
        stride=stride,
    )


def timm_layer(shape: HaloShape, device: torch.device) -> Peer:
    """timm's HaloAttn as it is, with projections that cost nothing."""
    from timm.layers.halo_attn import HaloAttn

    channels = shape.heads * shape.width
    geometry = {"num_heads": shape.heads, "block_size": shape.block, "halo_size": shape.halo, "stride": shape.stride}
    layer = HaloAttn(channels, **geometry).to(device)
    layer.q, layer.kv = nn.Identity(), nn.Identity()
    positions = layer.pos_embed
    del positions.height_rel, positions.width_rel

    def attend(q: Tensor, kv: Tensor, rel_rows: Tensor, rel_columns: Tensor) -> Tensor:
        positions.height_rel, positions.width_rel = rel_rows, rel_columns
        layer.q.forward = lambda x: q
        # of keys and values timm asks for the size of the map only
        return layer(kv)

    def prepare(inputs: Sequence[Tensor]) -> list[Tensor]:
        q, kv, *tables = (x.detach() for x in inputs)
        maps = [x.flatten(3).permute(0, 3, 1, 2).contiguous() for x in (q, kv)]
        return [x.requires_grad_() for x in (*maps, *tables)]

    def restore(out: Tensor) -> Tensor:
        """(B, h * D, H', W') -> (B, H', W', h, D)."""
        return out.permute(0, 2, 3, 1).unflatten(3, (shape.heads, shape.width))

    return Peer(lambda: attend, prepare, restore)


def cpu_peers(shape: HaloShape, is_training: bool) -> dict[str, Peer]:
    """timm's layer."""
    return cuda_peers(shape, torch.device("cpu"))


def cuda_peers(shape: HaloShape, device: torch.device) -> dict[str, Peer]:
    """timm's layer."""
    return {"timm": timm_layer(shape, device)}


# maps of keys, heads and strides of the blocks that attend, at 256
STAGES = ((32, 4, 1), (16, 8, 1), (16, 8, 2), (8, 8, 1))


def shapes(image: int, batch: int, goal: float | None = None) -> list[HaloShape]:
    """The stages of HaloNet-50ts for an image of multiples of 256 pixels; the widths of heads are 32, 32, 64, 64."""
    return [
        HaloShape(
            size=(length * image // 256,) * 2,
            heads=heads,
            width=width,
            batch=batch,
            stride=stride,
            image=image,
            wanted_forward=goal,
            wanted_training=goal,
        )
        for (length, heads, stride), width in zip(STAGES, (32, 32, 64, 64), strict=True)
    ]


def launches(architecture: str) -> list[NamedLaunch]:
    """Forward and backward of the networks' blocks, with and without stride, for every width and dtype."""
    from attnzoo.kernels.triton_launch import WIDTHS

    return [
        launch
        for stride in (1, 2)
        for width in WIDTHS
        for dtype in DTYPES
        for launch in _kernels(
            HaloShape(size=(32, 32), heads=8, batch=BATCH, width=width, stride=stride), dtype, architecture
        )
    ]


def _kernels(shape: HaloShape, dtype: torch.dtype, architecture: str) -> Iterator[NamedLaunch]:
    """The kernels of one shape, on keys and values of one projection."""
    from attnzoo.kernels.halo.geometry import HaloAxis
    from attnzoo.kernels.halo.triton_backward import key_gradient_launch, query_gradient_launch
    from attnzoo.kernels.halo.triton_forward import forward_launch
    from attnzoo.kernels.halo.triton_problem import Problem

    def of_queries(width: int) -> Tensor:
        return torch.empty(*shape.output_shape[:4], width, dtype=dtype, device="meta")

    kv = torch.empty(shape.batch, *shape.size, shape.heads, 2 * shape.width, dtype=dtype, device="meta")
    k, v = kv.chunk(2, 4)
    q, out, scores = of_queries(shape.width), of_queries(shape.width), of_queries(shape.block + 2 * shape.halo)
    rows = torch.empty(q.shape[:4], device="meta")
    axes = tuple(HaloAxis(length, shape.block, shape.halo, shape.stride) for length in shape.size)
    problem = replace(Problem.of(q, v, axes), architecture=architecture)

    def named(kernel: str, launch: Any, maps: int, products: int) -> NamedLaunch:
        """A launch that moves so many maps of keys and multiplies queries with their keys so often."""
        moved = maps * shape.entries + 2 * q.numel() + 2 * scores.numel()
        work = Work(moved, products * q.numel() * shape.keys)
        return NamedLaunch(f"{shape.name} D{shape.width} {kernel}", launch, dtype, work)

    yield named("forward", forward_launch(problem, q, k, v, scores, scores, out, rows, 1.0), 2, 2)
    of_q = query_gradient_launch(problem, q, k, v, scores, scores, out, out, rows, rows, q, scores, scores, 1.0)
    yield named("dq", of_q, 2, 3)
    of_keys = key_gradient_launch(problem, q, k, v, scores, scores, out, rows, rows, k, v, 1.0)
    yield named("dk, dv", of_keys, 4, 4)


OPERATOR = Operator(
    name="halo",
    function=halo_attention,
    cpu_shapes=[shape for batch in (1, 8) for shape in shapes(256, batch, goal=1.0)],
    cuda_shapes=[shape for image in (256, 512, 1024) for batch in (128, 32, 1) for shape in shapes(image, batch)],
    random_shape=random_shape,
    cpu_peers=cpu_peers,
    cuda_peers=cuda_peers,
    goal_peer="timm",
    notes=NOTES,
    launches=launches,
)
