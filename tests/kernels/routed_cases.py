"""Cases that the routed attention tests share.

Shape legend: B batch, H W map, h heads, D E width of keys and values, P regions, t regions on a route.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from comparison import Run, random_maps, run_function
from torch import Tensor

from attnzoo.kernels import routed_attention


@dataclass(frozen=True)
class Case:
    """Regions, routes and their tensors."""

    name: str
    size: tuple[int, int]
    regions: int | tuple[int, int]
    topk: int
    batch: int = 2
    heads: int = 3
    width: int = 8
    value_width: int = 8
    layout: str = "contiguous"
    routing: str = "distinct"
    dtype_of_routes: torch.dtype = torch.int64
    scale: float | None = None

    @property
    def count(self) -> int:
        """Number of regions."""
        rows, columns = self.regions if isinstance(self.regions, tuple) else (self.regions, self.regions)
        return rows * columns

    def routes(self) -> Tensor:
        """(B, P, t) routes."""
        shape = self.batch, self.count, self.topk
        if self.routing == "one for all":
            routes = torch.full(shape, self.count // 2)
        elif self.routing == "repeated":
            routes = torch.randint(self.count, shape)
        elif self.routing == "expanded":
            # the routes of one image for all images, with a stride of 0
            of_one = torch.rand(self.count, self.count).topk(self.topk).indices.to(self.dtype_of_routes)
            return of_one.expand(shape)
        else:
            routes = torch.rand(self.batch, self.count, self.count).topk(self.topk).indices
        routes = routes.to(self.dtype_of_routes)
        # transposed in memory
        return routes.mT.contiguous().mT if self.routing == "strided" else routes

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Returns random queries, keys and values, leaves that require gradients."""
        widths = self.width, self.width, self.value_width
        if self.layout == "permuted":
            # channels, then rows, before columns: the layout of a convolution
            shapes = [(self.batch, self.heads, width, *self.size) for width in widths]
            found = [torch.randn(shape).to(dtype).permute(0, 3, 4, 1, 2) for shape in shapes]
        else:
            found = random_maps((self.batch, *self.size), self.heads, widths, self.layout, dtype)
        return {name: x.requires_grad_() for name, x in zip("qkv", found, strict=True)}


CASES = [
    Case("non-square", (12, 20), 4, 3),
    Case("regions per axis", (9, 20), (3, 5), 4),
    Case("one row of regions", (5, 21), (1, 7), 3),
    Case("one column of regions", (21, 4), (7, 1), 2),
    Case("regions of one token", (6, 7), (6, 7), 5),
    Case("regions of one row", (4, 30), (4, 2), 3),
    Case("regions of two tokens", (6, 10), (3, 10), 4),
    Case("regions of 64 tokens", (32, 24), (4, 3), 2),
    Case("regions of more tokens than a block", (20, 27), (2, 3), 2, batch=1, heads=2),
    Case("one region", (5, 7), 1, 1),
    Case("one region, three times", (5, 7), 1, 3, routing="repeated"),
    Case("topk 1", (14, 21), 7, 1),
    Case("all regions", (9, 12), 3, 9),
    Case("all regions of a larger map", (36, 40), (3, 4), 12, batch=1, heads=1),
    Case("all regions, some twice", (9, 12), 3, 9, routing="repeated"),
    Case("more steps than regions", (6, 8), 2, 7, routing="repeated"),
    Case("repeated", (36, 32), 4, 4, heads=1, routing="repeated"),
    Case("repeated, masked", (8, 12), (2, 3), 4, routing="repeated"),
    Case("one region for all", (12, 8), 4, 1, routing="one for all"),
    Case("one region for all, three times", (12, 16), 4, 3, routing="one for all"),
    Case("half of the map", (14, 14), 7, 25),
    Case("wider values", (8, 12), 4, 3, value_width=20),
    Case("narrow values", (8, 12), 4, 3, value_width=1),
    Case("odd widths", (8, 12), 4, 3, width=13, value_width=5),
    Case("width 1", (8, 12), 4, 3, width=1),
    Case("one head", (8, 12), 4, 3, heads=1),
    Case("batch 1", (40, 36), 4, 3, batch=1),
    Case("batch 0", (8, 12), 4, 3, batch=0),
    Case("packed qkv", (15, 10), 5, 4, layout="packed"),
    Case("packed qkv, gathered", (40, 35), 5, 4, heads=1, layout="packed"),
    Case("strided", (10, 15), 5, 3, value_width=6, layout="strided"),
    Case("permuted", (10, 15), 5, 3, value_width=6, layout="permuted"),
    Case("int32 routes", (8, 12), 4, 3, dtype_of_routes=torch.int32),
    Case("strided routes", (8, 12), 4, 3, routing="strided", dtype_of_routes=torch.int32),
    Case("expanded routes", (8, 12), 4, 3, routing="expanded"),
    Case("scale", (8, 12), 4, 3, scale=0.7),
]


def random_case(seed: int, longest: int) -> Case:
    """Draws a random case on a map of at most `longest` rows and columns."""
    generator = random.Random(seed)
    regions = generator.randint(1, 7), generator.randint(1, 7)
    sides = tuple(generator.randint(1, max(1, longest // count)) for count in regions)
    count = regions[0] * regions[1]
    routing = generator.choice(["distinct", "repeated", "strided", "expanded"])
    return Case(
        name=f"seed {seed}",
        size=(regions[0] * sides[0], regions[1] * sides[1]),
        regions=regions,
        topk=generator.randint(1, min(count, 12)),
        batch=generator.randint(1, 3),
        heads=generator.randint(1, 3),
        width=generator.randint(1, 20),
        value_width=generator.randint(1, 20),
        layout=generator.choice(["contiguous", "strided", "permuted"]),
        routing=routing,
        dtype_of_routes=generator.choice([torch.int32, torch.int64]),
    )


def run(case: Case, inputs: dict[str, Tensor], routes: Tensor, backend: str, dtype: torch.dtype | None = None) -> Run:
    """Runs the operator forward and backward on copies of the inputs, in the given dtype."""
    arguments = {"routes": routes, "regions": case.regions, "scale": case.scale, "backend": backend}
    return run_function(routed_attention, inputs, arguments, dtype)


def runs(case: Case, dtype: torch.dtype, backend: str) -> tuple[Run, Run, Run, list[tuple[Run, Run]]]:
    """Returns the backend's results, plain torch in the same dtype, float64, and the last two for other draws."""
    draws = [(case.inputs(dtype), case.routes()) for _ in range(4)]
    (plain, truth), *more = (
        (run(case, *draw, "reference"), run(case, *draw, "reference", torch.float64)) for draw in draws
    )
    return run(case, *draws[0], backend), plain, truth, more
