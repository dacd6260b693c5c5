"""What one call of halo attention is for the kernels, apart from its tensors, and how they are cut for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ..intervals.triton_blocks import Width
from ..intervals.triton_problem import operand_constants
from ..triton_launch import Configuration, Launch, architecture_of, block, width_class
from .geometry import HaloAxis
from .triton_blocks import Area, Rule
from .triton_tables import TABLES


@dataclass(frozen=True)
class Problem:
    """A map in blocks and the widths of its heads.

    Attributes:
        axes: geometry of rows and columns.
        batch: images.
        heads: heads.
        width: channels of queries and keys.
        value_width: channels of values.
        dtype: of queries, keys and values.
        architecture: whose table the configurations come from.
    """

    axes: tuple[HaloAxis, HaloAxis]
    batch: int
    heads: int
    width: int
    value_width: int
    dtype: torch.dtype
    architecture: str

    @classmethod
    def of(cls, q: Tensor, v: Tensor, axes: tuple[HaloAxis, HaloAxis]) -> Problem:
        """The problem of queries (B, H', W', h, D) and values (B, H, W, h, E)."""
        return cls(axes, q.shape[0], q.shape[3], q.shape[4], v.shape[4], q.dtype, architecture_of(q.device))

    @property
    def rules(self) -> tuple[Rule, Rule]:
        """What the geometry fixes at compile time, of rows and columns."""
        rows, columns = (
            Rule(axis.block, axis.halo, axis.queries, axis.window, block(axis.window), -(-axis.halo // axis.block))
            for axis in self.axes
        )
        return rows, columns

    def configuration(self, direction: str, tokens: int) -> Configuration:
        """The table's choice for a kernel whose programs take tiles of a block's `tokens` tokens."""
        table = TABLES[self.architecture][direction][self.dtype.itemsize]
        tile, chunk, num_warps, num_stages = table[width_class(max(self.width, self.value_width))]
        # a program takes no more than a block has
        tile = min(tile, max(16, triton.next_power_of_2(tokens)))
        return Configuration({"TILE": tile, "CHUNK": chunk}, num_warps, num_stages)

    def launch(self, kernel: Any, direction: str, tokens: int, arguments: Mapping[str, Any]) -> Launch:
        """A launch with one program for each tile of `tokens` tokens of a block, each block, head and image.

        Args:
            kernel: the kernel.
            direction: `forward`, `query_gradient` or `key_gradient`.
            tokens: of a block.
            arguments: of the kernel, without the map.
        """
        rows, columns = self.axes
        tiles = self.batch * self.heads * rows.count * columns.count
        area = Area(
            (rows.query_length, columns.query_length),
            (rows.length, columns.length),
            (rows.count, columns.count),
            self.heads,
        )
        return Launch(
            kernel,
            lambda constants: tiles * -(-tokens // constants["TILE"]),
            {**arguments, "area": area},
            {
                "RULES": self.rules,
                "ROWS": Width(self.rules[0].window, self.rules[0].places),
                "COLUMNS": Width(self.rules[1].window, self.rules[1].places),
                **operand_constants(self.width, self.value_width, self.dtype),
            },
            self.configuration(direction, tokens),
        )
