"""Cases that the halo attention tests share.

Shape legend: B batch, H W map, h heads, D E width of keys and values.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from comparison import Run, random_maps, run_function
from torch import Tensor

from attnzoo.kernels import halo_attention

Pair = int | tuple[int, int]


def both(value: Pair) -> tuple[int, int]:
    """Returns one value per axis."""
    return value if isinstance(value, tuple) else (value, value)


@dataclass(frozen=True)
class Case:
    """A map in blocks, and its tensors."""

    name: str
    size: tuple[int, int]
    block: Pair
    halo: Pair
    stride: Pair = 1
    batch: int = 2
    heads: int = 3
    width: int = 8
    value_width: int = 8
    tables: str = "rows, columns"
    layout: str = "contiguous"
    scale: float | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the operator other than tensors."""
        return {"block_size": self.block, "halo": self.halo, "stride": self.stride, "scale": self.scale}

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Returns random tensors, leaves that require gradients."""
        of_queries = [-(-length // step) for length, step in zip(self.size, both(self.stride), strict=True)]
        (q,) = random_maps((self.batch, *of_queries), self.heads, (self.width,), self.layout, dtype)
        k, v = random_maps((self.batch, *self.size), self.heads, (self.width, self.value_width), self.layout, dtype)
        tensors = {"q": q, "k": k, "v": v}
        for name, block, halo in zip(("rows", "columns"), both(self.block), both(self.halo), strict=True):
            if name in self.tables:
                table = torch.randn(2 * (block + 2 * halo) - 1, self.width)
                # as large as initial weights of networks: scores near 1, like the scores of keys
                tensors[f"rel_{name}"] = (table * self.width**-0.5).to(dtype)
        return {name: x.requires_grad_() for name, x in tensors.items()}


CASES = [
    Case("plain", (8, 12), 4, 1),
    Case("block and halo per axis", (12, 10), (3, 5), (2, 1)),
    Case("strided queries", (8, 12), 4, 1, stride=2),
    Case("stride per axis", (8, 9), (4, 3), 1, stride=(2, 3)),
    Case("one query of a block", (9, 6), 3, 2, stride=3),
    Case("ragged", (10, 13), 4, 1),
    Case("ragged, strided", (9, 7), 4, 2, stride=2),
    Case("halo wider than a block", (7, 8), 2, 5),
    Case("no halo", (8, 8), 4, 0),
    Case("block larger than the map", (3, 5), 8, 2),
    Case("a map of one token", (1, 1), 2, 1, stride=2),
    Case("block 1", (4, 5), 1, 1),
    Case("rows only", (8, 9), 4, 1, tables="rows"),
    Case("columns only", (8, 9), 4, 1, tables="columns"),
    Case("no tables", (8, 9), 4, 1, tables=""),
    Case("wider values", (6, 9), 3, 1, value_width=20),
    Case("odd widths", (6, 9), 3, 1, width=13, value_width=5),
    Case("batch 0", (6, 9), 3, 1, batch=0),
    Case("packed", (6, 9), 3, 1, layout="packed"),
    Case("strided", (6, 9), 3, 1, layout="strided"),
    Case("scale", (6, 9), 3, 1, scale=0.7),
    Case("block 8", (16, 17), 8, 3, batch=1, heads=2),
]


def run(case: Case, inputs: dict[str, Tensor], backend: str, dtype: torch.dtype | None = None) -> Run:
    """Runs the operator forward and backward on copies of the inputs, in the given dtype."""
    return run_function(halo_attention, inputs, {**case.arguments, "backend": backend}, dtype)


def random_case(seed: int, longest: int) -> Case:
    """Draws a random case; the sides of the map are at most `longest`."""
    generator = random.Random(seed)
    strides = generator.randint(1, 3), generator.randint(1, 3)
    blocks = strides[0] * generator.randint(1, 3), strides[1] * generator.randint(1, 3)
    return Case(
        name=f"seed {seed}",
        size=(generator.randint(1, longest), generator.randint(1, longest)),
        block=blocks,
        halo=(generator.randint(0, 4), generator.randint(0, 4)),
        stride=strides,
        batch=generator.randint(1, 2),
        heads=generator.randint(1, 2),
        width=generator.randint(1, 20),
        value_width=generator.randint(1, 20),
        tables=generator.choice(["rows, columns", "rows", "columns", ""]),
        layout=generator.choice(["contiguous", "strided"]),
    )
