"""Pyramids: stem, stages of blocks, norm and classifier, with timm's full interface for networks with feature maps.

A family subclasses `Pyramid` and defines only its stem, blocks and downsamplers. The maps between stages are
(B, H, W, C), or (B, C, H, W) for a family whose blocks are convolutional. If the stages of a network exchange more than
a map, such as a class token, `_map` extracts the map and `_finish` the input of the classifier.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .backbone import Backbone
from .recomputation import checkpointed_sequence


class Stage(nn.Module):
    """An optional downsampler and a sequence of blocks.

    Args:
        downsample: maps the previous stage's output to this stage's input; None for no downsampler.
        blocks: modules that keep the shape of the map.
        position: learned position embedding before the blocks; None for none.
        norm: norm after the blocks; None for none.
    """

    def __init__(
        self,
        downsample: nn.Module | None,
        blocks: Sequence[nn.Module],
        position: nn.Module | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.position = nn.Identity() if position is None else position
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.Identity() if norm is None else norm
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Maps the previous stage's output to this stage's."""
        x = self.position(self.downsample(x))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return self.norm(checkpointed_sequence(self.blocks, x))
        return self.norm(self.blocks(x))


def stages_of(
    depths: Sequence[int],
    drop_path_rate: float,
    block: Callable[[int, int, float], nn.Module],
    downsample: Callable[[int], nn.Module] | None = None,
    *,
    position: Callable[[int], nn.Module] | None = None,
    norm: Callable[[int], nn.Module] | None = None,
    stage: Callable[..., Stage] = Stage,
) -> list[Stage]:
    """Builds the stages of a network.

    Args:
        depths: blocks per stage.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0 over all blocks.
        block: builds a block from its stage index, its index in the stage and its stochastic depth rate.
        downsample: builds the downsampler of a stage, other than the first, from the stage index; None for none.
        position: builds the position embedding of a stage from the stage index; None for none.
        norm: builds the norm at the end of a stage from the stage index; None for none.
        stage: builds the stage from these parts.
    """
    stages = []
    for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
        first = downsample(i) if downsample is not None and i > 0 else None
        blocks = [block(i, j, rate) for j, rate in enumerate(rates)]
        parts = {"position": position, "norm": norm}
        stages.append(stage(first, blocks, **{name: make(i) for name, make in parts.items() if make is not None}))
    return stages


class Pyramid(Backbone):
    """A network with stem, stages, norm and classifier.

    Args:
        stem: maps images (B, in_chans, H, W) to the first map.
        stages: one or more instances of `Stage`.
        widths: channels of each stage's output.
        reductions: image size divided by the size of each stage's output; None for 4, 8, 16, ...
        norm: applied to the last stage's output before the classifier.
        output_fmt: `NHWC` or `NCHW`, the layout of the maps between stages.
        num_features: channels after the norm; None for the width of the last stage.
        head_layer: builds the classifier from channels, classes, pooling and dropout rate; None for timm's
            `ClassifierHead`.
        in_chans: channels of the image.
        num_classes: classes; 0 for no classifier.
        global_pool: pooling of the classifier, `avg`, `max`, ..., or an empty string for none.
        drop_rate: dropout rate before the classifier.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Stage],
        *,
        widths: Sequence[int],
        reductions: Sequence[int] | None = None,
        norm: nn.Module,
        output_fmt: str = "NHWC",
        num_features: int | None = None,
        head_layer: Callable[[int, int, str, float], nn.Module] | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_features or widths[-1], in_chans, num_classes, drop_rate)
        self.output_fmt = output_fmt
        # the channel axis, which timm's tests read from models whose names match those of token networks
        self.feature_dim = -1 if output_fmt == "NHWC" else 1
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.norm = norm
        reductions = reductions or [4 * 2**i for i in range(len(widths))]
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": f"stages.{i}"}
            for i, (width, reduction) in enumerate(zip(widths, reductions, strict=True))
        ]
        if head_layer is None:
            head_layer = _pooled_linear(output_fmt)
        self._add_head(head_layer(self.num_features, num_classes, global_pool, drop_rate))

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns patterns that group parameters by depth, for layer-wise learning rates."""
        if coarse:
            return {"stem": r"^stem", "blocks": [(r"^stages\.(\d+)", None), (r"^norm", (99999,))]}
        return {
            "stem": r"^stem",
            "blocks": [
                (r"^stages\.(\d+)\.(?:downsample|position)", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.norm", (99999,)),
                (r"^norm", (99999,)),
            ],
        }

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Returns the outputs of stages.

        Args:
            x: images (B, in_chans, H, W).
            indices: the stages to return; a number n for the last n stages, None for all.
            norm: whether the last stage's output is normalized.
            stop_early: whether to stop after the last returned stage.
            output_fmt: `NCHW` or `NHWC`, the layout of the returned maps.
            intermediates_only: whether to return only the list.

        Returns:
            The maps, one per index; preceded by the final features unless `intermediates_only`.

        Raises:
            ValueError: an unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be NCHW or NHWC, got {output_fmt!r}")
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                is_final = i == len(self.feature_info) - 1
                feature = self._map(x)
                intermediates.append(self._convert(self.norm(feature) if norm and is_final else feature, output_fmt))
        if intermediates_only:
            return intermediates
        is_whole = not stop_early or last == len(self.stages) - 1
        return self._finish(x) if is_whole else self._map(x), intermediates

    # TorchScript compiles these methods for the type that the stages of a family exchange
    def _map(self, x: Tensor) -> Tensor:
        """Returns the map of the output of a stage."""
        return x

    def _finish(self, x: Tensor) -> Tensor:
        """Converts the output of the last stage to the features for the classifier."""
        return self.norm(self._map(x))

    def _convert(self, x: Tensor, output_fmt: str) -> Tensor:
        if output_fmt == self.output_fmt:
            return x
        return x.permute(0, 3, 1, 2) if output_fmt == "NCHW" else x.permute(0, 2, 3, 1)

    @torch.jit.ignore
    def reshape_transform(self, x: Any, size: tuple[int, int] | None = None) -> Tensor:
        """Converts the output of a stage or a block to a map (B, C, H, W), as tools for Grad-CAM expect it.

        Args:
            x: a map in the layout of the network, what a stage of the network returns, or tokens (B, T, C).
            size: (rows, columns) of the map of tokens; None for a square map.

        Raises:
            ValueError: the tokens do not form a map of that size.
        """
        if not isinstance(x, Tensor):
            return self._convert(self._map(x), "NCHW")
        if x.ndim != 3:
            return self._convert(x, "NCHW")
        x = x[:, getattr(self, "num_prefix_tokens", 0) :]
        rows, columns = size or (math.isqrt(x.shape[1]),) * 2
        if rows * columns != x.shape[1]:
            raise ValueError(f"{x.shape[1]} tokens do not form a map of {rows} x {columns}: pass its size")
        return x.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes layers that `forward_intermediates` does not need for these stages.

        Args:
            indices: the stages to keep; a number n for the last n stages, None for all.
            prune_norm: whether to remove the final norm.
            prune_head: whether to remove the classifier.

        Returns:
            The indices of the kept stages, non-negative.
        """
        take, last = feature_take_indices(len(self.stages), indices)
        shorter = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_norm or shorter:
            self.norm = nn.Identity()
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> the last stage's output, normalized."""
        return self._finish(self.stages(self.stem(x)))


def _pooled_linear(input_fmt: str) -> Callable[[int, int, str, float], nn.Module]:
    def make(dim: int, num_classes: int, global_pool: str, drop_rate: float) -> nn.Module:
        return ClassifierHead(dim, num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt=input_fmt)

    return make
