"""Selective scan of a sequence of dynamic length, exported or compiled: one node of the graph.

The number of chunks follows from the length, and tracers cannot record a loop of unknown length. So the operator is
opaque to them, see `attnzoo.kernels.library.define_dynamic`. The exporter writes it as a loop of the runtime.

Shape legend: B batch, L steps, h heads, E channels of a head.
"""

from __future__ import annotations

from torch import Tensor

from ..library import define_dynamic
from . import eager
from .order import heads_of


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, routes: Tensor | None) -> Tensor:
    """The outputs of a linear system whose step size, input and output follow the tokens: .. -> (B, L, h, E)."""
    out: Tensor = _scan(u, delta, A, B, C, D, routes)
    return out


def _fake(u: Tensor, *others: Tensor | None) -> Tensor:
    return u.new_empty(u.shape[0], u.shape[1], heads_of(u, *others), u.shape[3])


_scan = define_dynamic(
    "selective_scan",
    "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? routes) -> Tensor",
    eager.scan,
    _fake,
)
