"""What one call of routed attention is for the kernels, apart from its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..intervals.triton_problem import operand_constants
from ..triton_launch import Launch, architecture_of
from .geometry import Regions
from .triton_blocks import Area
from .triton_configurations import alternatives_to, configuration


@dataclass(frozen=True)
class Problem:
    """A map, its regions and the widths of its heads.

    Attributes:
        regions: the map and how it is cut.
        batch: images.
        heads: heads.
        width: channels of queries and keys.
        value_width: channels of values.
        dtype: of queries, keys and values.
        architecture: whose table the configurations come from.
    """

    regions: Regions
    batch: int
    heads: int
    width: int
    value_width: int
    dtype: torch.dtype
    architecture: str

    @classmethod
    def of(cls, q: Tensor, v: Tensor, split: tuple[int, int]) -> Problem:
        """The problem of queries (B, H, W, h, D) and values (B, H, W, h, E)."""
        batch, height, width, heads, channels = q.shape
        regions = Regions((height, width), split)
        return cls(regions, batch, heads, channels, v.shape[4], q.dtype, architecture_of(q.device))

    def programs(self, constants: Mapping[str, int]) -> int:
        """Programs of a kernel that takes one tile of one region, head and image."""
        return self.batch * self.heads * self.regions.count * -(-self.regions.tokens // constants["TILE"])

    def launch(self, kernel: Any, direction: str, arguments: Mapping[str, Any]) -> Launch:
        """A launch with one program for each tile, head and image; see `configuration` for the directions."""
        width = max(self.width, self.value_width)
        chosen = configuration(self.architecture, direction, self.dtype.itemsize, width, self.regions.tokens)
        return Launch(
            kernel,
            self.programs,
            {**arguments, "area": Area(self.regions.size, self.regions.split, self.regions.region_size, self.heads)},
            operand_constants(self.width, self.value_width, self.dtype),
            chosen,
            lambda: alternatives_to(chosen),
        )
