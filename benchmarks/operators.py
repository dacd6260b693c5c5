"""What the benchmarks know of an operator: shapes of interest, what runs on them, and what it costs at least.

Each operator has a file of its own that gives an `Operator`; the benchmarks themselves know none by name.

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

# files of this folder, each with an OPERATOR
OPERATORS = ("neighborhood", "window", "routed", "halo")
Function = Callable[..., Tensor]


class Work(NamedTuple):
    """What no execution can do without: entries read or written once, and useful multiply-adds."""

    entries: int
    multiply_adds: int


class NamedLaunch(NamedTuple):
    """A launch on meta tensors, and what is told of it.

    Attributes:
        name: the class of shapes it stands for.
        launch: the kernel and its arguments.
        dtype: of the operator's inputs.
        work: of the shape, where a floor is to be given.
    """

    name: str
    launch: Launch
    dtype: torch.dtype
    work: Work | None = None


class Peer(NamedTuple):
    """Another way to compute the operator.

    Attributes:
        build: makes the function of the operator's inputs; what does not depend on them is made here, untimed.
        prepare: lays the inputs out as the peer wants them, untimed: the peer is spared copies that others pay for.
        restore: lays the peer's output out as the operator's, untimed; given with `prepare`.
    """

    build: Callable[[], Function]
    prepare: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    restore: Function | None = None


@dataclass(frozen=True, kw_only=True)
class Shape(ABC):
    """A problem of an operator, without its dtype.

    Attributes:
        size: the map, rows and columns.
        heads, batch, width: h, B and D.
        image: side of the image in a network whose stage this is, in pixels; 0 where it is not from one.
        wanted_forward, wanted_training: the ratio to the operator's `goal_peer` that the project set itself on a CPU.
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
        """What the row is called on screen."""
        detail = f" {self.detail}" if self.detail else ""
        return f"{self.size[0]}x{self.size[1]} h{self.heads} B{self.batch}{detail}"

    @property
    @abstractmethod
    def detail(self) -> str:
        """What sets the shape apart beside map, heads and batch; empty for the plain form."""

    @property
    @abstractmethod
    def keys(self) -> int:
        """Keys of a query."""

    @abstractmethod
    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Random inputs; those with a gradient require it, and those of more than four axes begin with the batch."""

    @abstractmethod
    def call(self, backend: str | None) -> Function:
        """The operator on these inputs."""

    def maps(self, count: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Random maps (B, H, W, h, D) that require gradients."""
        shape = self.batch, *self.size, self.heads, self.width
        return [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for _ in range(count)]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(B, H, W, h, D)."""
        return self.batch, *self.size, self.heads, self.width

    @property
    def entries(self) -> int:
        """Entries of one map."""
        return self.batch * self.size[0] * self.size[1] * self.heads * self.width

    def work(self, is_backward: bool) -> Work:
        """Forward reads q, k, v, writes the output; backward reads these and its gradient, and writes three more.

        The two products of forward become five: the scores again, and two for each product's gradients.
        """
        return Work((8 if is_backward else 4) * self.entries, (5 if is_backward else 2) * self.entries * self.keys)


@dataclass(frozen=True)
class Operator:
    """An operator under test.

    Attributes:
        name: of its file here and of its results.
        function: the public operator.
        cpu_shapes, cuda_shapes: rows of the tables; on CUDA those of a network's stages, batch included.
        random_shape: a small odd problem for the sweep.
        cpu_peers: by name, for a shape and whether gradients are wanted.
        cuda_peers: by name, for a shape and a device. The name of one that compiles for each shape, seconds long,
            begins with "compiled".
        goal_peer: the peer that a shape's `wanted_*` speak of.
        notes: what a reader of the results must know.
        launches: for an architecture, every kernel in every class of shapes and dtype, with tensors of the device
            "meta" (`Shape.inputs` makes them) given to the operator's launchers.
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
    """All operators under test."""
    modules = [importlib.import_module(f"{__package__}.{name}") for name in OPERATORS]
    return [module.OPERATOR for module in modules]


def chosen(names: Sequence[str], only: str) -> list[int]:
    """Indices of the names that contain a text.

    Raises:
        ValueError: none does.
    """
    found = [index for index, name in enumerate(names) if only in name]
    if not found:
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise ValueError(f"--only {only!r} fits no row: {shown}")
    return found
