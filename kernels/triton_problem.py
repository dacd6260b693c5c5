"""The problem of one call of a fused operator: its geometry and sizes, and the launches of its kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .precision import precision_of
from .triton_blocks import Tokens, Width
from .triton_launch import Configuration, Launch, architecture_of, block, readable
from .triton_plan import Workspace

# of an H100 or H200
_MULTIPROCESSORS = 132


@functools.cache
def multiprocessors_of(device: torch.device) -> int:
    """Returns the number of multiprocessors of a device, or of an H100 if it is no GPU."""
    if device.type != "cuda":
        return _MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@dataclass(frozen=True)
class Problem:
    """A geometry and the sizes of tensors.

    Attributes:
        geometry: geometry of the operator: intervals, regions or blocks of a map.
        batch: number of images.
        heads: number of heads.
        width: channels of queries and keys.
        value_width: channels of values.
        dtype: dtype of queries, keys and values.
        architecture: key of the configuration tables.
        enough_programs: number of programs that occupies the device.
        workspace: where launches get their temporary tensors from.
    """

    geometry: Any
    batch: int
    heads: int
    width: int
    value_width: int
    dtype: torch.dtype
    architecture: str
    enough_programs: int = 8 * _MULTIPROCESSORS
    workspace: Workspace = field(default_factory=Workspace)

    @classmethod
    def of(cls, q: Tensor, v: Tensor, geometry: Any, workspace: Workspace | None = None) -> Problem:
        """Returns the problem for queries (B, H', W', h, D) and values (B, H, W, h, E)."""
        sizes = q.shape[0], q.shape[3], q.shape[4], v.shape[4]
        device = architecture_of(q.device), 8 * multiprocessors_of(q.device)
        return cls(geometry, *sizes, q.dtype, *device, workspace or Workspace())

    @property
    def widest(self) -> int:
        """Channels of the widest operand."""
        return max(self.width, self.value_width)

    def launch(
        self,
        kernel: Any,
        arguments: Mapping[str, Any],
        constants: Mapping[str, Any],
        configuration: Configuration,
        programs: Callable[[Mapping[str, int]], int],
        alternatives: Callable[[], Sequence[Configuration]] = tuple,
    ) -> Launch:
        """Returns the launch of a kernel, with the arguments and constants that its signature names.

        Args:
            kernel: a `triton.jit` function.
            arguments: arguments of all kernels of the call, by name.
            constants: compile-time constants of the geometry, by name.
            configuration: configuration of the kernel.
            programs: function that returns the number of programs from the constants of the configuration.
            alternatives: function that returns other configurations with the same result.
        """
        constants = {
            "WIDTH": Width(self.width, block(self.width)),
            "VALUE_WIDTH": Width(self.value_width, block(self.value_width)),
            "PRECISION": precision_of(self.dtype),
            **constants,
        }
        named = kernel.arg_names
        return Launch(
            kernel,
            programs,
            {name: value for name, value in arguments.items() if name in named},
            {name: value for name, value in constants.items() if name in named},
            configuration,
            alternatives,
        )


def tokens(x: Tensor) -> Tokens:
    """Wraps a tensor (B, H, W, h, D) for a kernel; copies it if its channels are not contiguous."""
    x = readable(x)
    return Tokens(x, *x.stride()[:4])


def tokens_or_none(x: Tensor | None) -> Tokens | None:
    """Wraps an optional tensor as `tokens` does; None stays None."""
    return None if x is None else tokens(x)
