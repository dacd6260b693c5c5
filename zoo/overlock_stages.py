"""The stages of OverLoCK that use the overview.

Shape legend: B batch, H W map, C channels of the map, S channels of the context, after those of the map.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnzoo.blocks import linear, resize

from .base import Stage, checkpointed, checkpointed_sequence


class FocusStage(Stage):
    """A stage of focus blocks, whose maps contain the channels of the context.

    Args:
        downsample: maps the previous stage's output to this stage's input, context included.
        blocks: `FocusBlock`s.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__(downsample, ())
        # no Sequential: a block takes two maps, which TorchScript does not support
        self.blocks = nn.ModuleList(blocks)  # type: ignore[assignment]

    def forward(self, x: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """(B, 2H, 2W, C' + S) -> (B, H, W, C + S); prior (B, H, W, S) and overview pass through."""
        prior = x[1]
        return self.look(self.downsample(x[0]), prior), prior, x[2]

    def look(self, x: Tensor, prior: Tensor) -> Tensor:
        """Runs all blocks with the same prior."""
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpointed(block, x, prior)
            else:
                x = block(x, prior)
        return x


class OverviewStage(FocusStage):
    """The stage that computes the overview and its context, and then runs focus blocks.

    Args:
        downsample: maps the previous stage's output to this stage's size.
        base: blocks before the overview, at the size of this stage.
        overview: a downsampler and blocks, at half the size.
        context: maps the overview to a context.
        blocks: `FocusBlock`s.
    """

    def __init__(
        self,
        downsample: nn.Module,
        base: Sequence[nn.Module],
        overview: Sequence[nn.Module],
        context: nn.Module,
        blocks: Sequence[nn.Module],
    ) -> None:
        super().__init__(downsample, blocks)
        self.base = nn.Sequential(*base)
        self.overview = nn.Sequential(*overview)
        self.context = context

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """(B, 2H, 2W, C') -> map (B, H, W, C + S), context (B, H/2, W/2, S) and the overview it comes from."""
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpointed_sequence(self.base, x)
            overview = checkpointed_sequence(self.overview, x)
        else:
            x = self.base(x)
            overview = self.overview(x)
        context = linear(self.context, overview)
        prior = resize(context, x.shape[1], x.shape[2])
        return self.look(torch.cat([x, prior], -1), prior), context, overview
