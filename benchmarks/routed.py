"""Routed attention under test: the stages of BiFormer, compared with gathering as in the official code.

Shape legend: B batch, H W map, h heads, D width, P regions, R tokens of a region, k regions on a route.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attnzoo.kernels import routed_attention

from .launches import BATCH, DTYPES, launches_of
from .operators import Function, NamedLaunch, Operator, Peer, Shape, Work

NOTES = [
    "7x7 regions, width 32, contiguous q, k, v of (B, H, W, heads, width). Routes are random, without repetition in a "
    "route. Maps have the size to which BiFormer pads them.",
    "gather is the official formulation: torch.gather on an expanded tensor copies the keys and values of the routed "
    "regions for every region.",
]


@dataclass(frozen=True, kw_only=True)
class RoutedShape(Shape):
    """A map in regions, and the number of regions that a query sees."""

    regions: int = 7
    topk: int = 4

    @property
    def detail(self) -> str:
        """topk, and the regions per side if there are not 7."""
        regions = f"regions {self.regions} " if self.regions != 7 else ""
        return f"{regions}topk {self.topk}"

    @property
    def keys(self) -> int:
        """Number of keys of a query."""
        return self.topk * self.size[0] * self.size[1] // self.regions**2

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """q, k, v and routes (B, P, k)."""
        affinity = torch.rand(self.batch, self.regions**2, self.regions**2, device=device)
        return [*self.maps(3, dtype, device), affinity.topk(self.topk).indices]

    def call(self, backend: str | None) -> Function:
        """The operator."""
        return lambda q, k, v, routes: routed_attention(q, k, v, routes, self.regions, backend=backend)


def random_shape(generator: random.Random) -> RoutedShape:
    """Random regions on a small map."""
    regions = generator.randint(1, 7)
    return RoutedShape(
        size=(regions * generator.randint(1, 6), regions * generator.randint(1, 6)),
        heads=generator.randint(1, 4),
        batch=generator.randint(1, 3),
        width=generator.choice((8, 16, 24, 32, 64)),
        regions=regions,
        topk=generator.randint(1, regions**2),
    )


def gather(shape: RoutedShape) -> Function:
    """Attention on the gathered keys and values of every region's route."""
    parts = shape.regions

    def split(x: Tensor) -> Tensor:
        """(B, H, W, h, D) -> (B, P, h, R, D)."""
        x = x.unflatten(2, (parts, -1)).unflatten(1, (parts, -1))
        return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 2)

    def attend(q: Tensor, k: Tensor, v: Tensor, routes: Tensor) -> Tensor:
        q, k, v = (split(x) for x in (q, k, v))
        # (B, P, k, h, R, D): indices into the axis of regions, expanded for every region
        index = routes[:, :, :, None, None, None].expand(-1, -1, -1, *k.shape[2:])
        k, v = (
            x.unsqueeze(1).expand(-1, parts**2, -1, -1, -1, -1).gather(2, index).transpose(2, 3).flatten(3, 4)
            for x in (k, v)
        )
        out = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v
        # (B, P, h, R, D) -> (B, H, W, h, D)
        out = out.unflatten(1, (parts, parts)).unflatten(4, (shape.size[0] // parts, -1))
        return out.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)

    return attend


def peers(shape: RoutedShape, _: object) -> dict[str, Peer]:
    """The official formulation, for both directions and any device."""
    return {"gather": Peer(functools.partial(gather, shape))}


def stages() -> list[RoutedShape]:
    """The routed stages of BiFormer; its last stage has full attention."""
    return [
        RoutedShape(size=(length, length), heads=heads, batch=batch, image=image, topk=topk)
        for image in (224, 384, 512, 1024)
        for heads, topk, length in zip(
            (2, 4, 8), (1, 4, 16), (-(-image // step // 7) * 7 for step in (4, 8, 16)), strict=True
        )
        for batch in (128, 32, 1)
    ]


def launches(architecture: str) -> list[NamedLaunch]:
    """Forward and backward kernels at the stages of BiFormer, for every width and dtype of the launch tables."""
    from attnzoo.kernels.triton_launch import WIDTHS

    return [
        launch
        for length, heads, topk in ((56, 2, 1), (28, 4, 4), (14, 8, 16))
        for width in WIDTHS
        for dtype in DTYPES
        for launch in _kernels(
            RoutedShape(size=(length, length), heads=heads, batch=BATCH, width=width, topk=topk), dtype, architecture
        )
    ]


def _kernels(shape: RoutedShape, dtype: torch.dtype, architecture: str) -> Iterator[NamedLaunch]:
    """The kernels of one shape, on the maps of a packed projection."""
    from attnzoo.kernels.routed import triton_kernels
    from attnzoo.kernels.routed.geometry import Regions

    packed = torch.empty(shape.batch, *shape.size, 3, shape.heads, shape.width, dtype=dtype, device="meta")
    q = packed.unbind(3)[0]
    routes = torch.empty(shape.batch, shape.regions**2, shape.topk, dtype=torch.int32, device="meta")
    geometry = Regions(shape.size, (shape.regions, shape.regions))
    found = [
        launch
        for direction in ("forward", "backward")
        for launch in launches_of(triton_kernels, q, q, q, {"routes": routes}, geometry, architecture, direction)
    ]
    # number of maps moved, and of products of queries with their keys
    names = {"forward": (4, 2), "dq": (6, 3), "dk, dv": (6, 4)}
    for (name, (maps, products)), launch in zip(names.items(), found, strict=True):
        work = Work(maps * shape.entries, products * shape.entries * shape.keys)
        sizes = launch.configuration.constants
        # a region is as often routed to as it routes to others, on average
        trips = (-(-shape.keys // sizes["CHUNK"]),)
        pairs = sizes["TILE"] * sizes["CHUNK"]
        yield NamedLaunch(f"{shape.name} D{shape.width} {name}", launch, dtype, work, trips, pairs)


OPERATOR = Operator(
    name="routed",
    function=routed_attention,
    cpu_shapes=[
        RoutedShape(
            size=(scale * length, scale * length),
            heads=heads,
            batch=batch,
            topk=topk,
            wanted_forward=0.5,
            wanted_training=0.3,
        )
        for batch in (1, 8)
        for scale in (1, 2)
        for length, heads, topk in ((56, 2, 1), (28, 4, 4), (14, 8, 16))
    ],
    cuda_shapes=stages(),
    random_shape=random_shape,
    cpu_peers=peers,
    cuda_peers=peers,
    goal_peer="gather",
    notes=NOTES,
    launches=launches,
)
