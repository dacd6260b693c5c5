"""One call of a fused operator, as its kernels are launched for it: geometry, sizes, and the arguments by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .triton_blocks import Tokens, Width
from .triton_launch import Configuration, Launch, architecture_of, block, precision_of, readable


@dataclass(frozen=True)
class Problem:
    """A geometry and the sizes of tensors.

    Attributes:
        geometry: the operator's own: intervals, regions or blocks of a map.
        batch: images.
        heads: heads.
        width: channels of queries and keys.
        value_width: channels of values.
        dtype: of queries, keys and values.
        architecture: selects the table of configurations.
    """

    geometry: Any
    batch: int
    heads: int
    width: int
    value_width: int
    dtype: torch.dtype
    architecture: str

    @classmethod
    def of(cls, q: Tensor, v: Tensor, geometry: Any) -> Problem:
        """The problem of queries (B, H', W', h, D) and values (B, H, W, h, E)."""
        return cls(geometry, q.shape[0], q.shape[3], q.shape[4], v.shape[4], q.dtype, architecture_of(q.device))

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
        """The launch of a kernel, with those of the arguments and constants that it names.

        Args:
            kernel: a `triton.jit` function.
            arguments: of all kernels of the call, by name.
            constants: what the geometry fixes at compile time, by name.
            configuration: how the kernel is cut.
            programs: their number, from the configuration's constants.
            alternatives: other configurations with the same result.
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
    """A tensor (B, H, W, h, D) for a kernel; copied where its channels are not contiguous."""
    x = readable(x)
    image, row, column, head, _ = x.stride()
    return Tokens(x, (image, row, column, head))


def tokens_or_none(x: Tensor | None) -> Tokens | None:
    """The same of a tensor that may be missing."""
    return None if x is None else tokens(x)
