"""Description of an operator for the benchmarks: shapes, peers, and the least work that a shape takes.

Each operator has a module that defines an `Operator`.

Shape legend: B batch, H W map, h heads, D width.
"""

from __future__ import annotations

import importlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from attnzoo.kernels.triton_launch import Launch

# modules of this folder, each of which defines OPERATOR
OPERATORS = ("neighborhood", "window", "routed", "halo", "selective_scan")
Function = Callable[..., Tensor]


class Work(NamedTuple):
    """The least work of any execution: entries read or written once, and useful multiply-adds."""

    entries: int
    multiply_adds: int


class NamedLaunch(NamedTuple):
    """A launch on meta tensors, and its description.

    Attributes:
        name: class of shapes that it represents.
        launch: the kernel and its arguments.
        dtype: dtype of the operator's inputs.
        work: work of the shape; None if no floor is computed.
        trips: iterations of the kernel's loops in most programs, the outer one first; empty where it is not stated.
        pairs: scores that a program computes in an iteration of the inner loop.
    """

    name: str
    launch: Launch
    dtype: torch.dtype
    work: Work | None = None
    trips: tuple[float, ...] = ()
    pairs: int = 0


class Peer(NamedTuple):
    """Another implementation of the operator.

    Attributes:
        build: makes the function of the operator's inputs, untimed; precomputes what does not depend on them.
        prepare: brings the inputs into the layout of the peer, untimed: the peer is spared these copies.
        restore: brings the peer's output into the layout of the operator's, untimed; required with `prepare`.
    """

    build: Callable[[], Function]
    prepare: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    restore: Function | None = None


@dataclass(frozen=True, kw_only=True)
class Shape(ABC):
    """A problem of an operator, without its dtype.

    Attributes:
        size: rows and columns of the map.
        heads, batch, width: h, B and D.
        image: side of the image in pixels, if this is a stage of a network; else 0.
        wanted_forward, wanted_training: target for the ratio to the operator's `goal_peer` on a CPU.
    """

    size: tuple[int, int]
    heads: int
    batch: int = 1
    width: int = 32
    image: int = 0
    wanted_forward: float | None = None
    wanted_training: float | None = None

    @property
    def name(self) -> str:
        """Name of the row in the output."""
        detail = f" {self.detail}" if self.detail else ""
        return f"{self.size[0]}x{self.size[1]} h{self.heads} B{self.batch}{detail}"

    @property
    @abstractmethod
    def detail(self) -> str:
        """Parameters other than map, heads and batch that differ from their defaults, as text; empty if none do."""

    @property
    @abstractmethod
    def keys(self) -> int:
        """Number of keys of a query."""

    @abstractmethod
    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Returns random inputs; the first axis of inputs with more than four axes is the batch."""

    @abstractmethod
    def call(self, backend: str | None) -> Function:
        """Returns the operator as a function of the inputs."""

    def maps(self, count: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Returns random maps (B, H, W, h, D) that require gradients."""
        shape = self.batch, *self.size, self.heads, self.width
        return [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for _ in range(count)]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(B, H, W, h, D)."""
        return self.batch, *self.size, self.heads, self.width

    @property
    def entries(self) -> int:
        """Number of entries of one map."""
        return self.batch * self.size[0] * self.size[1] * self.heads * self.width

    def work(self, is_backward: bool) -> Work:
        """The work of the forward or the backward pass.

        The forward pass reads q, k, v and writes the output, with two matrix products. The backward pass reads these
        and the gradient of the output (dout), and writes three gradients, with five products: one recomputes the
        scores, and two per forward product compute its gradients.
        """
        return Work((8 if is_backward else 4) * self.entries, (5 if is_backward else 2) * self.entries * self.keys)


@dataclass(frozen=True)
class Operator:
    """An operator under test.

    Attributes:
        name: name of its module here and in the results.
        function: the public operator.
        cpu_shapes, cuda_shapes: rows of the tables; on CUDA, the stages of networks at several batch sizes.
        random_shape: makes a small irregular problem for the random checks.
        cpu_peers: returns the peers by name, for a shape and whether gradients are needed.
        cuda_peers: returns the peers by name, for a shape and a device. The name of a peer that compiles for each
            shape, which takes seconds, begins with "compiled".
        goal_peer: the peer that a shape's `wanted_*` refer to.
        notes: notes for readers of the results.
        launches: returns, for an architecture, every kernel at every class of shapes and dtype, on tensors of the
            device "meta".
    """

    name: str
    function: Callable[..., Tensor]
    cpu_shapes: Sequence[Any]
    cuda_shapes: Sequence[Any]
    random_shape: Callable[[random.Random], Any]
    cpu_peers: Callable[[Any, bool], dict[str, Peer]]
    cuda_peers: Callable[[Any, torch.device], dict[str, Peer]]
    goal_peer: str
    notes: Sequence[str]
    launches: Callable[[str], list[NamedLaunch]] = field(default=lambda architecture: [])


def operators() -> list[Operator]:
    """Returns all operators under test."""
    modules = [importlib.import_module(f"{__package__}.{name}") for name in OPERATORS]
    return [module.OPERATOR for module in modules]
