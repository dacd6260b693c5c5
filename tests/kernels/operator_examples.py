"""The operators with small problems each, as the contract that all of them keep sees them.

Shape legend: B batch, H W map, h heads, D E width of keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import halo_cases
import neighborhood_cases
import routed_cases
import scan_cases
import torch
import window_cases
from comparison import Run, run_function
from torch import Tensor

from attnzoo.kernels import (
    halo_attention,
    neighborhood_attention,
    neighborhood_av,
    neighborhood_qk,
    routed_attention,
    selective_scan,
    window_attention,
)

Neighborhood, Window, Routed, Halo = (x.Case for x in (neighborhood_cases, window_cases, routed_cases, halo_cases))
Scan = scan_cases.Case


@dataclass(frozen=True)
class Example:
    """An operator and one problem of it."""

    function: Callable[..., Tensor]
    case: Any

    def __str__(self) -> str:
        return f"{self.function.__name__}-{self.case.name}"

    @property
    def is_half(self) -> bool:
        """Whether it is a part of unfused attention, which has every derivative."""
        return self.function in HALVES

    @property
    def is_attention(self) -> bool:
        """Whether queries attend to keys, by their products."""
        return not self.is_half and self.function is not selective_scan

    @property
    def tables(self) -> list[str]:
        """Names of the learned tables among the inputs."""
        of_maps = ("q", "k", "v", "weights", "u", "delta", "B", "C")
        return [name for name in self.inputs(torch.float32) if name not in of_maps]

    @property
    def kept(self) -> list[str]:
        """Names of the inputs that autocast does not cast."""
        return self.tables if self.function is selective_scan else []

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        if isinstance(self.case, Neighborhood):
            return self.case.window
        if isinstance(self.case, Routed):
            return {"regions": self.case.regions}
        return self.case.arguments

    def of_batch(self, batch: int) -> Example:
        """The same for another number of images."""
        return replace(self, case=replace(self.case, batch=batch))

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Random tensors, leaves that require gradients."""
        if isinstance(self.case, Neighborhood):
            return self.case.inputs(HALVES.get(self.function, "attention"), dtype)
        return self.case.inputs(dtype)

    def routes(self) -> dict[str, Tensor]:
        """The tensor of indices that routed attention takes; always the same one."""
        if not isinstance(self.case, Routed):
            return {}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return {"routes": self.case.routes()}

    def __call__(self, inputs: dict[str, Tensor], backend: str | None = None) -> Tensor:
        """The output for these inputs."""
        return self.function(**inputs, **self.routes(), **self.arguments, backend=backend)

    def run(self, inputs: dict[str, Tensor], backend: str, dtype: torch.dtype | None = None) -> Run:
        """Runs forward and backward, on copies of the inputs where a dtype is chosen."""
        return run_function(self.function, inputs, {**self.routes(), **self.arguments, "backend": backend}, dtype)

    def library(self) -> tuple[Any, tuple[Any, ...]]:
        """The operator of torch behind the Triton execution, and its arguments."""
        inputs, case = self.inputs(torch.float32), self.case
        tensors = tuple(inputs.values())
        operator = getattr(torch.ops.attnzoo, self.function.__name__)
        if isinstance(case, Neighborhood):
            geometry = [list(halo_cases.both(value)) for value in case.window.values()]
            rest = {"qk": (0.3, 0.0), "av": (0.5,)}.get(HALVES.get(self.function, ""), (0.3,))
            return operator, (*tensors, *geometry, *rest)
        if isinstance(case, Window):
            return operator, (*tensors, *([] if case.has_bias else [None]), list(case.windows), list(case.shifts), 0.3)
        if isinstance(case, Scan):
            return operator, (*tensors, *case.arguments.values())
        if isinstance(case, Routed):
            return operator, (*tensors, *self.routes().values(), [case.regions] * 2, 0.3)
        # relative scores in the place of tables
        scores = (torch.randn(*inputs["q"].shape[:4], case.block + 2 * case.halo, requires_grad=True) for _ in range(2))
        return operator, (*tensors[:3], *scores, [case.block] * 2, [case.halo] * 2, [case.stride] * 2, 0.3)


HALVES: dict[Callable[..., Tensor], str] = {neighborhood_qk: "qk", neighborhood_av: "av"}


def _examples(function: Callable[..., Tensor], *cases: Any) -> list[Example]:
    return [Example(function, case) for case in cases]


_STRIDED = Neighborhood("strided, causal rows", (9, 10), 3, dilation=(2, 3), stride=2, is_causal=(True, False))
# the first two of every operator differ in the way that they take
EXAMPLES = [
    *_examples(
        neighborhood_attention,
        Neighborhood("ragged tiles", (11, 13), 5),
        _STRIDED,
        Neighborhood("one tile", (7, 7), 7, width=13),
        Neighborhood("causal", (8, 9), 3, is_causal=True),
        Neighborhood("without bias, packed", (10, 15), 3, has_bias=False, layout="packed"),
    ),
    *_examples(neighborhood_qk, Neighborhood("ragged tiles", (11, 13), 5), _STRIDED),
    *_examples(neighborhood_av, Neighborhood("ragged tiles", (11, 13), 5), _STRIDED),
    *_examples(
        window_attention,
        Window("plain", (8, 12), 4),
        Window("ragged, shift", (10, 13), (4, 5), shift=(1, 3)),
        Window("one window", (7, 7), 7, width=13),
        Window("without bias, packed", (9, 15), 3, shift=1, has_bias=False, layout="packed"),
    ),
    *_examples(
        routed_attention,
        Routed("masked", (12, 10), 2, 3),
        Routed("gathered", (36, 30), 6, 4, batch=1, heads=1),
        Routed("repeated, masked", (8, 12), (2, 3), 4, routing="repeated"),
        Routed("repeated, gathered", (36, 32), 4, 4, batch=1, heads=1, width=13, value_width=13, routing="repeated"),
        Routed("all regions, packed", (9, 12), 3, 9, layout="packed"),
        Routed("one region", (6, 5), 1, 1),
    ),
    *_examples(
        halo_attention,
        Halo("plain", (8, 12), 4, 1),
        Halo("ragged, strided", (9, 7), 4, 2, stride=2),
        Halo("block and halo per axis", (12, 10), (3, 5), (2, 1)),
        Halo("without tables, packed", (6, 9), 3, 1, tables="", layout="packed"),
    ),
    *_examples(
        selective_scan,
        Scan("plain", 13),
        Scan("shared", 10, shared="u, delta, A, C, D"),
        Scan("one step", 1),
        Scan("strided, without D and routes", 17, layout="strided", has_d=False, has_routes=False),
    ),
]

# of an interpreted program's size: two images and two heads, which is what it takes to tell them apart
_PLAIN = Neighborhood("plain", (5, 6), (3, 2), stride=(1, 2), is_causal=(True, False), heads=2)
PLAIN = [
    Example(neighborhood_attention, _PLAIN),
    Example(neighborhood_qk, _PLAIN),
    Example(neighborhood_av, _PLAIN),
    Example(window_attention, Window("plain", (5, 6), (3, 4), shift=(1, 2), heads=2)),
    Example(routed_attention, Routed("plain", (4, 6), 2, 3, heads=2, value_width=5, routing="repeated")),
    Example(halo_attention, Halo("plain", (5, 6), 4, 1, stride=2, heads=2, value_width=5)),
    Example(selective_scan, Scan("plain", 5, heads=2, width=2, state=2)),
]

_TINY = {"batch": 1, "heads": 1, "width": 2}
# few numbers, for derivatives by differences
TINY = [
    *(
        Example(function, case)
        for function in (neighborhood_attention, neighborhood_qk, neighborhood_av)
        for case in (
            Neighborhood("plain", (4, 3), 3, value_width=3, **_TINY),
            Neighborhood("dilation, stride", (4, 5), 2, dilation=2, stride=2, value_width=1, **_TINY),
            Neighborhood("causal", (3, 4), (2, 3), is_causal=True, batch=1, heads=2, width=1, value_width=1),
        )
    ),
    *_examples(
        window_attention,
        Window("plain", (4, 2), 2, value_width=3, **_TINY),
        Window("shift", (4, 3), (2, 3), shift=(1, 2), batch=1, heads=2, width=1, value_width=1),
        Window("ragged, shift", (3, 4), (2, 3), shift=(1, 1), value_width=1, **_TINY),
        Window("one window", (2, 3), (2, 3), batch=2, heads=1, width=1, value_width=2),
    ),
    *_examples(
        routed_attention,
        Routed("masked", (4, 6), (2, 3), 2, value_width=3, **_TINY),
        Routed("gathered", (16, 4), (8, 1), 1, batch=1, heads=1, width=1, value_width=2),
        Routed("repeated", (4, 4), 2, 3, batch=2, heads=1, width=2, value_width=1, routing="repeated"),
        Routed("all regions", (2, 6), (1, 3), 3, batch=1, heads=2, width=1, value_width=1),
    ),
    *_examples(
        halo_attention,
        Halo("plain", (3, 4), 2, 1, value_width=1, **_TINY),
        Halo("strided", (3, 4), 2, 1, stride=2, value_width=2, **_TINY),
        Halo("without tables", (2, 3), 2, 1, tables="", batch=2, heads=1, width=1, value_width=1),
    ),
    *_examples(
        selective_scan,
        Scan("plain", 5, batch=1, heads=2, width=1, state=2),
        Scan("shared", 3, batch=2, heads=2, width=1, state=1, shared="u, delta, A, C, D"),
    ),
]
