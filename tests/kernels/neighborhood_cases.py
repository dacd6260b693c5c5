"""Cases that the neighborhood tests share.

Shape legend: B batch, H W map, h heads, D E width of keys and values, k = kh * kw keys of a window.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from comparison import Run, random_maps, run_function
from torch import Tensor

from attnzoo.kernels import neighborhood_attention, neighborhood_av, neighborhood_qk

OPERATORS = {"attention": neighborhood_attention, "qk": neighborhood_qk, "av": neighborhood_av}


@dataclass(frozen=True)
class Case:
    """A neighborhood and its tensors."""

    name: str
    size: tuple[int, int]
    kernel: int | tuple[int, int]
    dilation: int | tuple[int, int] = 1
    stride: int | tuple[int, int] = 1
    is_causal: bool | tuple[bool, bool] = False
    batch: int = 2
    heads: int = 3
    width: int = 8
    value_width: int = 8
    has_bias: bool = True
    layout: str = "contiguous"
    scale: float | None = None

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernel of each axis."""
        return self.kernel if isinstance(self.kernel, tuple) else (self.kernel, self.kernel)

    @property
    def window(self) -> dict[str, Any]:
        """The arguments that select the keys of a query."""
        return {
            "kernel_size": self.kernel,
            "dilation": self.dilation,
            "stride": self.stride,
            "is_causal": self.is_causal,
        }

    def inputs(self, operator: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """Returns random tensors of an operator, leaves that require gradients."""
        shape = self.batch, *self.size, self.heads
        widths = self.width, self.width, self.value_width
        q, k, v = random_maps(shape[:3], self.heads, widths, self.layout, dtype)
        tables = {}
        if self.has_bias:
            tables["bias"] = torch.randn(self.heads, *(2 * kernel - 1 for kernel in self.kernels)).to(dtype)
        weights = torch.randn(*shape, self.kernels[0] * self.kernels[1]).to(dtype)
        tensors = {
            "attention": {"q": q, "k": k, "v": v, **tables},
            "qk": {"q": q, "k": k, **tables},
            "av": {"weights": weights, "v": v},
        }[operator]
        return {name: x.requires_grad_() for name, x in tensors.items()}


CASES = [
    Case("non-square", (11, 17), 5),
    Case("ragged tiles", (23, 19), 7),
    Case("one tile", (6, 9), 3),
    Case("kernel per axis", (12, 10), (3, 7)),
    Case("kernel is the map", (7, 7), 7),
    Case("kernel is the map, non-square", (5, 9), (5, 9)),
    Case("kernel 1", (6, 7), 1),
    Case("kernel 1 x 3", (6, 7), (1, 3)),
    Case("even kernel", (11, 13), 4),
    Case("even and odd kernel", (9, 14), (6, 5)),
    Case("dilation", (14, 17), 3, dilation=4),
    Case("dilation per axis", (13, 18), (5, 3), dilation=(2, 5)),
    Case("dilation fills the map", (12, 21), (4, 7), dilation=3),
    Case("a group shorter by a tile", (5, 25), (2, 1), dilation=(1, 4)),
    Case("groups shorter by a tile, stride", (23, 37), (4, 3), dilation=(4, 3), stride=(4, 2)),
    Case("stride", (15, 13), 5, stride=3),
    Case("stride is the kernel", (13, 14), 4, stride=4),
    Case("stride per axis, dilation", (16, 15), (5, 4), stride=(2, 3), dilation=(2, 1)),
    Case("causal", (9, 11), 3, is_causal=True),
    Case("causal rows", (9, 8), (5, 3), is_causal=(True, False)),
    Case("causal columns, dilation", (8, 15), 3, dilation=2, is_causal=(False, True)),
    Case("causal, stride, even kernel", (13, 12), 4, stride=3, is_causal=True),
    Case("wider values", (9, 10), 5, value_width=20),
    Case("narrow values", (9, 10), 5, value_width=1),
    Case("odd width", (10, 9), 5, width=13, value_width=5),
    Case("width 1", (8, 9), 3, width=1),
    Case("one head", (9, 12), 5, heads=1),
    Case("batch 1", (18, 17), 5, batch=1),
    Case("batch 0", (9, 10), 3, batch=0),
    Case("strided", (10, 11), 5, value_width=6, layout="strided"),
    Case("packed qkv", (15, 10), 5, layout="packed"),
    Case("without bias", (12, 19), 7, has_bias=False),
    Case("without bias, one tile", (7, 8), 5, has_bias=False),
    Case("scale", (9, 8), 3, scale=0.7),
]


def run(operator: str, case: Case, inputs: dict[str, Tensor], backend: str, dtype: torch.dtype | None = None) -> Run:
    """Runs an operator forward and backward on copies of the inputs, in the given dtype."""
    arguments = case.window if operator == "av" else {**case.window, "scale": case.scale}
    return run_function(OPERATORS[operator], inputs, {**arguments, "backend": backend}, dtype)


def random_case(seed: int, longest: int) -> Case:
    """Draws a random case; the sides of the map are at most `longest`."""
    generator = random.Random(seed)
    size = generator.randint(1, longest), generator.randint(1, longest)
    dilation = tuple(generator.randint(1, max(1, min(6, length // 2))) for length in size)
    kernel = tuple(generator.randint(1, min(13, length // step)) for length, step in zip(size, dilation, strict=True))
    return Case(
        name=f"seed {seed}",
        size=size,
        kernel=kernel,
        dilation=dilation,
        stride=tuple(generator.randint(1, k) if generator.random() < 0.4 else 1 for k in kernel),
        is_causal=(generator.random() < 0.25, generator.random() < 0.25),
        batch=generator.randint(1, 3),
        heads=generator.randint(1, 3),
        width=generator.randint(1, 20),
        value_width=generator.randint(1, 20),
        has_bias=generator.random() < 0.7,
        layout=generator.choice(["contiguous", "strided"]),
    )
