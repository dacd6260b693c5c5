"""Cases that the tests of the selective scan share.

Shape legend: B batch, L steps, h heads, E channels of a head, N numbers of the state of a channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from comparison import Run, run_function
from torch import Tensor

from attnzoo.kernels import selective_scan


@dataclass(frozen=True)
class Case:
    """A scan and its tensors; those named in `shared` have one head for all."""

    name: str
    steps: int
    heads: int = 3
    width: int = 8
    state: int = 4
    batch: int = 2
    shared: str = ""
    has_d: bool = True
    has_routes: bool = True
    layout: str = "contiguous"

    @property
    def arguments(self) -> dict[str, Any]:
        """The routes: even tokens before odd ones, from another token on in every head, every other backwards."""
        if not self.has_routes:
            return {}
        route = torch.cat([torch.arange(0, self.steps, 2), torch.arange(1, self.steps, 2)])
        routes = [route.roll(i).flip(0) if i % 2 else route.roll(i) for i in range(self.heads)]
        return {"routes": torch.stack(routes)}

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Random tensors, leaves that require gradients."""
        shapes = {"u": self.width, "delta": self.width, "A": self.width, "B": self.state, "C": self.state}
        found = {}
        for name, width in shapes.items():
            heads = 1 if name in self.shared else self.heads
            shape = (heads, width, self.state) if name == "A" else (self.batch, self.steps, heads, width)
            x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2] if self.layout == "strided" else torch.randn(shape)
            found[name] = -4 * x.sigmoid() if name == "A" else F.softplus(x) if name == "delta" else x
        if self.has_d:
            found["D"] = torch.randn(1 if "D" in self.shared else self.heads, self.width)
        return {name: x.to(dtype).requires_grad_() for name, x in found.items()}


CASES = [
    Case("every head its own", 13),
    Case("one map along all routes", 20, shared="u, delta, A, C, D"),
    Case("shared inputs", 11, shared="B, C"),
    Case("shared step sizes", 10, shared="delta"),
    Case("a square of steps", 16, shared="u"),
    Case("one more than a square", 17, heads=2),
    Case("one step", 1),
    Case("two steps", 2, shared="A"),
    Case("one head", 9, heads=1),
    Case("one number of state", 12, state=1),
    Case("one channel", 12, width=1),
    Case("odd sizes", 14, heads=2, width=5, state=3),
    Case("without D", 8, has_d=False),
    Case("without routes", 15, has_routes=False),
    Case("without routes, shared", 15, has_routes=False, shared="u, delta, C"),
    Case("batch 0", 6, batch=0),
    Case("batch 5", 7, batch=5),
    Case("strided", 10, layout="strided"),
]


def run(case: Case, inputs: dict[str, Tensor], backend: str, dtype: torch.dtype | None = None) -> Run:
    """Runs the operator forward and backward, on copies of the inputs where a dtype is chosen."""
    return run_function(selective_scan, inputs, {**case.arguments, "backend": backend}, dtype)
