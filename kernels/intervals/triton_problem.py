"""What one call of an interval operator is for the kernels, apart from its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..triton_launch import Configuration, Launch, architecture_of, block, precision_of
from .rule import Rule
from .triton_blocks import Area, Tokens, Width
from .triton_configurations import Budget, alternatives_to, budget_of, configuration

# programs beyond this many leave no multiprocessor idle
ENOUGH_PROGRAMS = 2048


@dataclass(frozen=True)
class Problem:
    """A map, its geometry and the widths of its heads.

    Attributes:
        rules: of rows and columns.
        lengths: of the map, (H, W).
        shifts: of the map's windows, (rows, columns).
        batch: images.
        heads: heads.
        width: channels of queries and keys.
        value_width: channels of values.
        dtype: of queries, keys and values.
        architecture: whose table the configurations come from.
    """

    rules: tuple[Rule, Rule]
    lengths: tuple[int, int]
    shifts: tuple[int, int]
    batch: int
    heads: int
    width: int
    value_width: int
    dtype: torch.dtype
    architecture: str

    @classmethod
    def of(cls, q: Tensor, v: Tensor, rules: tuple[Rule, Rule], shifts: tuple[int, int] = (0, 0)) -> Problem:
        """The problem of queries (B, H, W, h, D) and values (B, H, W, h, E)."""
        batch, height, width, heads, channels = q.shape
        return cls(
            rules,
            (height, width),
            shifts,
            batch,
            heads,
            channels,
            v.shape[4],
            q.dtype,
            architecture_of(q.device),
        )

    @property
    def longest_segments(self) -> tuple[int, int]:
        """Ranks of the longest segment of rows and of columns."""
        return self.rules[0].longest_segment(self.lengths[0]), self.rules[1].longest_segment(self.lengths[1])

    def tiles(self, constants: Mapping[str, int]) -> int:
        """Tiles of the map, of one head and image."""
        count = 1
        sides = constants["TILE_ROWS"], constants["TILE_COLUMNS"]
        for rule, length, side in zip(self.rules, self.lengths, sides, strict=True):
            count *= rule.segments(length) * -(-rule.longest_segment(length) // side)
        return count

    def programs(self, constants: Mapping[str, int]) -> int:
        """Programs of a kernel that takes one tile of one head and image."""
        return self.batch * self.heads * self.tiles(constants)

    def budget(self, direction: str) -> Budget:
        """The table's choice for a kernel, see `budget_of` for the directions."""
        width = max(self.width, self.value_width)
        return budget_of(self.architecture, direction, self.dtype.itemsize, width, self.rules[0].is_window)

    def configuration(self, budget: Budget, sums_offsets: bool = False) -> Configuration:
        """How a kernel is cut for this problem."""
        return configuration(self.rules, self.longest_segments, budget, sums_offsets)

    def launch(self, kernel: Any, direction: str, arguments: Mapping[str, Any]) -> Launch:
        """A launch with one program for each tile, head and image."""
        budget = self.budget(direction)
        return Launch(
            kernel,
            self.programs,
            self.arguments(arguments),
            self.constants(kernel),
            self.configuration(budget),
            lambda: [self.configuration(other) for other in alternatives_to(budget)],
        )

    def parts(self, constants: Mapping[str, int]) -> tuple[int, int]:
        """Programs of a kernel that takes one tile of one head in several images, and the images each takes."""
        tiles = self.heads * self.tiles(constants)
        images_each = -(-self.batch // max(1, min(self.batch, ENOUGH_PROGRAMS // max(1, tiles))))
        return -(-self.batch // max(1, images_each)) * tiles, images_each

    def launch_in_parts(
        self,
        kernel: Any,
        configuration: Configuration,
        arguments: Mapping[str, Any],
        constants: Mapping[str, int] = MappingProxyType({}),
    ) -> Launch:
        """A launch with one program for each tile, head and part of the images, see `parts`."""
        programs, images_each = self.parts(configuration.constants)
        arguments = self.arguments({**arguments, "images": self.batch, "images_each": images_each})
        return Launch(kernel, lambda _: programs, arguments, {**self.constants(kernel), **constants}, configuration)

    def arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A kernel's arguments, with the map they are on."""
        return {**arguments, "area": Area(self.lengths, self.shifts, self.heads)}

    def constants(self, kernel: Any) -> dict[str, Any]:
        """What the problem fixes of a kernel at compile time."""
        constants = {"RULES": self.rules, **operand_constants(self.width, self.value_width, self.dtype)}
        return {name: value for name, value in constants.items() if name in kernel.arg_names}


def operand_constants(width: int, value_width: int, dtype: torch.dtype) -> dict[str, Any]:
    """What kernels are compiled for of queries and keys (.., width) and values (.., value_width) of a dtype."""
    return {
        "WIDTH": Width(width, block(width)),
        "VALUE_WIDTH": Width(value_width, block(value_width)),
        "PRECISION": precision_of(dtype),
    }


def tokens(x: Tensor) -> Tokens:
    """A tensor (B, H, W, h, D) whose channels lie side by side, for a kernel."""
    image, row, column, head, _ = x.stride()
    return Tokens(x, (image, row, column, head))
