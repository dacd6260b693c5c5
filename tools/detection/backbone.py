"""Any timm backbone with a feature pyramid of uniform width, as torchvision's detectors need it.

Shapes: B batch, C channels, H W height and width of a level, S stride in pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers import Format, LayerNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from attnzoo.base import WeightsError

from ..models import FOR_TRAINING, create_pretrained, not_loaded


class PyramidBackbone(nn.Module):
    """A timm model with a feature pyramid network (Lin et al., arXiv:1612.03144).

    If several features have the same stride (as in plain transformers), the last is used.

    Args:
        architecture: name of a timm model.
        arguments: arguments of `timm.create_model`.
        width: channels of every level.
        finer: number of levels finer than the backbone's, each upsampled by a transposed convolution.
        coarser: number of levels coarser than the backbone's, each half the size of the one before.
        pooled: make coarser levels by taking every second pixel (Faster R-CNN), not by convolutions (RetinaNet).
        normalized: normalise the channels of the backbone's features.

    Attributes:
        strides: strides of the levels, finest first.
        out_channels: channels of every level.

    Raises:
        ValueError: timm cannot create the model with `features_only`, or not with these arguments.
    """

    def __init__(
        self,
        architecture: str,
        arguments: Mapping[str, Any],
        width: int = 256,
        finer: int = 0,
        coarser: int = 1,
        pooled: bool = True,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.body = create_body(architecture, arguments)
        reductions, channels = self.body.feature_info.reduction(), self.body.feature_info.channels()
        self.taken = [i for i, stride in enumerate(reductions) if stride not in reductions[i + 1 :]]
        strides, channels = [reductions[i] for i in self.taken], [channels[i] for i in self.taken]
        if strides != sorted(strides):
            raise ValueError(f"model: the strides of the features of {architecture} must increase, got {strides}")
        if strides[0] < 2**finer:
            raise ValueError(
                f"detector.finer_levels: {architecture} starts at stride {strides[0]}, {finer} finer levels would be "
                "finer than pixels"
            )
        self.norms = nn.ModuleList([LayerNorm2d(count) if normalized else nn.Identity() for count in channels])
        # no finer level is wider than the pyramid
        finer_widths = [channels[0]] + [min(channels[0], width)] * finer
        self.finer = nn.ModuleList(
            [nn.ConvTranspose2d(finer_widths[i], finer_widths[i + 1], 2, stride=2) for i in range(finer)]
        )
        self.fpn = FeaturePyramidNetwork(
            [*finer_widths[:0:-1], *channels], width, CoarserLevels(width, coarser, pooled) if coarser else None
        )
        self.body_strides = strides
        self.strides = [strides[0] // 2**step for step in range(finer, 0, -1)] + strides
        self.strides += [strides[-1] * 2**step for step in range(1, coarser + 1)]
        self.out_channels = width
        self.memory_format = torch.contiguous_format
        # read once: not every timm version has `output_fmt` on its feature extractors
        self.is_channel_last = Format(getattr(self.body, "output_fmt", Format.NCHW)) == Format.NHWC

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> levels (B, width, H/S, W/S) by index as text, finest first."""
        features = self.body(images.contiguous(memory_format=self.memory_format))
        chosen = [features[i] for i in self.taken]
        if self.is_channel_last:
            chosen = [x.permute(0, 3, 1, 2) for x in chosen]  # (B, H, W, C) -> (B, C, H, W)
        levels = [norm(x) for norm, x in zip(self.norms, chosen, strict=True)]
        for upsample in self.finer:
            levels.insert(0, upsample(levels[0]))
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(levels)))

    def batch_norms(self) -> list[nn.Module]:
        """The batch normalisation layers of the backbone itself."""
        return [module for module in self.body.modules() if isinstance(module, _BatchNorm)]


class CoarserLevels(ExtraFPNBlock):
    """Additional levels, coarser than the coarsest of a pyramid.

    Args:
        width: channels of a level.
        count: number of levels to add.
        pooled: take every second pixel; otherwise stride-2 convolutions with ReLU between them (Lin et al.,
            arXiv:1708.02002).
    """

    def __init__(self, width: int, count: int, pooled: bool) -> None:
        super().__init__()
        self.count = count
        steps = 0 if pooled else count
        self.convolutions = nn.ModuleList([_halving(width) for _ in range(steps)])

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Appends the levels and their names."""
        for step in range(self.count):
            coarsest = results[-1]
            if not self.convolutions:
                coarsest = coarsest[..., ::2, ::2]
            else:
                coarsest = self.convolutions[step](coarsest.relu() if step else coarsest)
            results.append(coarsest)
            names.append(str(len(names)))
        return results, names


def _halving(width: int) -> nn.Conv2d:
    convolution = nn.Conv2d(width, width, 3, stride=2, padding=1)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


def create_body(architecture: str, arguments: Mapping[str, Any]) -> Any:
    """Creates a timm model that returns its features.

    Raises:
        ValueError: the model has no features, does not take the arguments, or its weights cannot be loaded.
    """
    try:
        chosen = {key: value for key, value in arguments.items() if key != "pretrained"}
        create = create_pretrained if arguments.get("pretrained") else timm.create_model
        return create(architecture, features_only=True, **chosen)
    except (WeightsError, OSError) as error:
        raise ValueError(f"model: {not_loaded(architecture, error, FOR_TRAINING)}") from error
    # timm raises various exceptions for a model without features and for unknown arguments
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"model: {architecture} cannot return features with {dict(arguments)}: {error}") from error


def level_names(backbone: PyramidBackbone, coarser: int) -> Sequence[str]:
    """Names of the levels that regions are pooled from: all but the additional coarser ones."""
    return [str(i) for i in range(len(backbone.strides) - coarser)]
