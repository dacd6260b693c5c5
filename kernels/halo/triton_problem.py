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
from ..triton_launch import Configuration, Launch, block
from .geometry import HaloAxis
from .triton_blocks import Area, Rule

# bytes of a tile of queries or keys and of a chunk; more would spill registers or fill the shared memory
TILE_BYTES = 4 * 1024


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
    """

    axes: tuple[HaloAxis, HaloAxis]
    batch: int
    heads: int
    width: int
    value_width: int
    dtype: torch.dtype

    @classmethod
    def of(cls, q: Tensor, v: Tensor, axes: tuple[HaloAxis, HaloAxis]) -> Problem:
        """The problem of queries (B, H', W', h, D) and values (B, H, W, h, E)."""
        return cls(axes, q.shape[0], q.shape[3], q.shape[4], v.shape[4], q.dtype)

    @property
    def rules(self) -> tuple[Rule, Rule]:
        """What the geometry fixes at compile time, of rows and columns."""
        rows, columns = (
            Rule(axis.block, axis.halo, axis.queries, axis.window, block(axis.window), -(-axis.halo // axis.block))
            for axis in self.axes
        )
        return rows, columns

    def configuration(self, tokens: int, has_two_sums: bool = False) -> Configuration:
        """Tiles of as many tokens as fit TILE_BYTES, 16 to 64, and no more than a block has."""
        width = block(max(self.width, self.value_width))
        is_wide = self.dtype.itemsize == 4
        most = max(16, min(32 if has_two_sums else 64, TILE_BYTES // (width * self.dtype.itemsize)))
        tile = min(most, max(16, triton.next_power_of_2(tokens)))
        # two sums leave few registers, exact float32 products take many
        is_tight = has_two_sums and is_wide
        constants = {"TILE": tile, "CHUNK": 16 if is_tight else most}
        return Configuration(constants, num_warps=8 if is_wide else 4, num_stages=1 if is_tight else 2)

    def launch(self, kernel: Any, tokens: int, arguments: Mapping[str, Any], has_two_sums: bool = False) -> Launch:
        """A launch with one program for each tile of `tokens` tokens of a block, each block, head and image.

        Args:
            kernel: the kernel.
            tokens: of a block.
            arguments: of the kernel, without the map.
            has_two_sums: whether the kernel adds up keys' and values' gradients at once.
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
            self.configuration(tokens, has_two_sums),
        )
