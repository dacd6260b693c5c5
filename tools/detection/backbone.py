"""Any timm backbone with a feature pyramid of uniform width, as torchvision's detectors need it.

Shapes: B batch, H W height and width of an image, S stride in pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ..stages import Stages


class PyramidBackbone(Stages):
    """A timm model with a feature pyramid network (Lin et al., arXiv:1612.03144).

    Args:
        architecture: name of a timm model.
        arguments: arguments of `timm.create_model`.
        width: channels of every level.
        finer: number of levels finer than the backbone's.
        coarser: number of levels coarser than the backbone's coarsest, each half the size of the one before.
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
        super().__init__(architecture, arguments, finer, width, normalized)
        first, last = self.body_strides[0], self.body_strides[-1]
        if first < 2**finer:
            raise ValueError(
                f"detector.finer_levels: {architecture} starts at stride {first}, {finer} finer levels would be finer "
                "than pixels"
            )
        self.fpn = FeaturePyramidNetwork(
            self.map_channels, width, CoarserLevels(width, coarser, pooled) if coarser else None
        )
        self.strides += [last * 2**step for step in range(1, coarser + 1)]
        self.out_channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> levels (B, width, H/S, W/S) by index as text, finest first."""
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(self.maps(images))))

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


def level_names(backbone: PyramidBackbone, coarser: int) -> Sequence[str]:
    """Names of the levels that regions are pooled from: all but the additional coarser ones."""
    return [str(i) for i in range(len(backbone.strides) - coarser)]
