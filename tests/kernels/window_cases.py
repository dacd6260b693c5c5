"""Cases that the window attention tests share.

Shape legend: B batch, H W map, h heads, D E width of keys and values, wh ww window.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from comparison import Run, random_maps, run_function
from torch import Tensor

from attnzoo.kernels import window_attention


@dataclass(frozen=True)
class Case:
    """A map in windows, and its tensors."""

    name: str
    size: tuple[int, int]
    window: int | tuple[int, int]
    shift: int | tuple[int, int] = 0
    batch: int = 2
    heads: int = 3
    width: int = 8
    value_width: int = 8
    has_bias: bool = True
    layout: str = "contiguous"
    scale: float | None = None

    @property
    def windows(self) -> tuple[int, int]:
        """The window on each axis."""
        return self.window if isinstance(self.window, tuple) else (self.window, self.window)

    @property
    def shifts(self) -> tuple[int, int]:
        """The shift on each axis."""
        return self.shift if isinstance(self.shift, tuple) else (self.shift, self.shift)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the operator other than tensors."""
        return {"window_size": self.window, "shift": self.shift, "scale": self.scale}

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Returns random tensors, leaves that require gradients."""
        widths = self.width, self.width, self.value_width
        q, k, v = random_maps((self.batch, *self.size), self.heads, widths, self.layout, dtype)
        tensors = {"q": q, "k": k, "v": v}
        if self.has_bias:
            tensors["bias"] = torch.randn(self.heads, *(2 * window - 1 for window in self.windows)).to(dtype)
        return {name: x.requires_grad_() for name, x in tensors.items()}


CASES = [
    Case("plain", (14, 21), 7),
    Case("shift", (14, 21), 7, shift=3),
    Case("window per axis", (12, 10), (3, 5)),
    Case("shift per axis", (12, 10), (3, 5), shift=(1, 4)),
    Case("shift of rows only", (8, 12), 4, shift=(2, 0)),
    Case("shift of columns only", (8, 12), 4, shift=(0, 3)),
    Case("even window", (18, 12), 6, shift=3),
    Case("ragged", (10, 13), 4),
    Case("ragged, shift", (10, 13), 4, shift=2),
    Case("ragged rows, long shift", (9, 10), (4, 5), shift=(3, 4)),
    Case("padding across two windows", (9, 13), (8, 6), shift=(7, 5)),
    Case("one window", (7, 7), 7),
    Case("one window, shift", (7, 7), 7, shift=3),
    Case("one window, non-square", (5, 9), (5, 9)),
    Case("window larger than the map", (5, 6), 8),
    Case("window larger than the map, shift", (5, 3), (8, 7), shift=(4, 6)),
    Case("window 1", (6, 7), 1),
    Case("window 1 x 3", (6, 8), (1, 3), shift=(0, 1)),
    Case("window 32", (40, 33), 32, shift=16, batch=1, heads=2),
    Case("a map of one token", (1, 1), 1),
    Case("one row", (1, 20), (1, 4), shift=(0, 2)),
    Case("many windows", (45, 39), 3, shift=1, batch=1),
    Case("wider values", (9, 10), 5, shift=2, value_width=20),
    Case("narrow values", (9, 10), 5, value_width=1),
    Case("odd width", (10, 9), 5, shift=1, width=13, value_width=5),
    Case("width 1", (8, 9), 3, width=1),
    Case("one head", (9, 12), 3, shift=1, heads=1),
    Case("many heads", (8, 12), 4, shift=2, heads=17),
    Case("batch 1", (18, 16), 4, shift=2, batch=1),
    Case("batch 7", (8, 9), 4, shift=2, batch=7),
    Case("batch 0", (9, 10), 3, shift=1, batch=0),
    Case("strided", (10, 15), 5, shift=2, value_width=6, layout="strided"),
    Case("packed qkv", (15, 10), 5, shift=2, layout="packed"),
    Case("packed qkv, one window", (6, 6), 6, layout="packed"),
    Case("without bias", (12, 18), 6, has_bias=False),
    Case("without bias, shift", (12, 18), 6, shift=3, has_bias=False),
    Case("scale", (9, 8), 4, shift=2, scale=0.7),
]


def run(case: Case, inputs: dict[str, Tensor], backend: str, dtype: torch.dtype | None = None) -> Run:
    """Runs the operator forward and backward on copies of the inputs, in the given dtype."""
    return run_function(window_attention, inputs, {**case.arguments, "backend": backend}, dtype)


def random_case(seed: int, longest: int) -> Case:
    """Draws a random case; the sides of the map are at most `longest`."""
    generator = random.Random(seed)
    window = generator.randint(1, 9), generator.randint(1, 9)
    return Case(
        name=f"seed {seed}",
        size=(generator.randint(1, longest), generator.randint(1, longest)),
        window=window,
        shift=tuple(generator.randrange(length) if generator.random() < 0.7 else 0 for length in window),
        batch=generator.randint(1, 4),
        heads=generator.randint(1, 3),
        width=generator.randint(1, 20),
        value_width=generator.randint(1, 20),
        has_bias=generator.random() < 0.7,
        layout=generator.choice(["contiguous", "strided"]),
    )
