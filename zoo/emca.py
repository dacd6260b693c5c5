"""EMCA: timm's ResNet whose channel attention also reads descriptors of earlier stages.

Papers: EMCA: Efficient Multi-Scale Channel Attention Module; PKCAM: Previous Knowledge Channel Attention Module, arXiv
2211.07521, by the same authors. Official code of both: eslambakr/EMCA, without a licence. Weights are not released.

What the official code does that the papers do not say: weights of channels are 1 more than a sigmoid, so attention
never suppresses; the first block of a stage reads its own descriptors only, and its other attention weights exist
without being used; descriptors of a stage are the means of the last block's branch before its attention.

Shapes at 224 (emca_eca_resnet18): image 3x224x224, stem 64x56x56, stages 64x56x56, 128x28x28, 256x14x14, 512x7x7.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from attnzoo.blocks import AttentionLayer, CrossStageChannelAttention

from .base import STAGES, WIDTHS, AttentionResNet, Family, Renames, Variant, checkpointed, filter_by, renamed

__all__ = ["EMCA"]


class EMCABasicBlock(BasicBlock):
    """timm's basic block, whose attention takes descriptors of earlier stages and whose own are returned."""

    def forward(self, x: Tensor, earlier: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) and descriptors of earlier stages -> the map and the block's descriptors (B, C)."""
        branch = self.bn2(self.conv2(self.aa(self.act1(self.drop_block(self.bn1(self.conv1(x)))))))
        own = branch.mean((2, 3))
        branch = branch * self.se(own, earlier)
        if self.drop_path is not None:
            branch = self.drop_path(branch)
        if self.downsample is not None:
            x = self.downsample(x)
        return self.act2(branch + x), own


class EMCABottleneck(Bottleneck):
    """timm's bottleneck, whose attention takes descriptors of earlier stages and whose own are returned."""

    def forward(self, x: Tensor, earlier: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) and descriptors of earlier stages -> the map and the block's descriptors (B, C)."""
        branch = self.act1(self.bn1(self.conv1(x)))
        branch = self.aa(self.act2(self.drop_block(self.bn2(self.conv2(branch)))))
        branch = self.bn3(self.conv3(branch))
        own = branch.mean((2, 3))
        branch = branch * self.se(own, earlier)
        if self.drop_path is not None:
            branch = self.drop_path(branch)
        if self.downsample is not None:
            x = self.downsample(x)
        return self.act3(branch + x), own


class EMCAStage(nn.Sequential):
    """Blocks that read the same descriptors; the last block's are returned."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.grad_checkpointing = False

    def forward(  # type: ignore[override]
        self, x: Tensor, earlier: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) and descriptors of earlier stages -> the map and the descriptors of the last block (B, C)."""
        own = earlier[0]
        for block in self:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x, own = checkpointed(block, x, earlier)
            else:
                x, own = block(x, earlier)
        return x, own


class EMCA(AttentionResNet):
    """timm's ResNet with cross-stage channel attention.

    Args:
        block: `basic` or `bottleneck`.
        layers: blocks per stage.
        channels: per stage, the channels of a block before its expansion; each a multiple of those before, and of the
            stem's.
        output_stride: as in `AttentionResNet`.
        network: further arguments of timm's `ResNet`.

    Raises:
        ValueError: the block is unknown, or the channels cannot be tiled.
    """

    def __init__(
        self,
        block: str = "basic",
        layers: Sequence[int] = (2, 2, 2, 2),
        channels: Sequence[int] = WIDTHS,
        output_stride: int = 32,
        **network: Any,
    ) -> None:
        blocks: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": EMCABasicBlock, "bottleneck": EMCABottleneck}
        attention = [AttentionLayer(CrossStageChannelAttention, {"stages": i + 1}) for i in range(len(STAGES))]
        super().__init__(blocks.get(block, block), layers, attention, channels, output_stride, **network)
        narrower = self.bn1.num_features
        for i, name in enumerate(STAGES):
            stage, width = EMCAStage(*getattr(self, name)), self.feature_info[i]["num_chs"]
            if width % narrower:
                raise ValueError(f"the channels of {name} must be a multiple of {narrower}, those before, got {width}")
            stage[0].se = CrossStageChannelAttention(width, i + 1, is_first=True)
            setattr(self, name, stage)
            narrower = width

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> the last stage's output."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        stem = x.mean((2, 3))
        x, first = self.layer1(x, [stem])
        x, second = self.layer2(x, [stem, first])
        x, third = self.layer3(x, [stem, first, second])
        x, _ = self.layer4(x, [stem, first, second, third])
        return x

    @torch.jit.unused
    def _maps(self, x: Tensor, count: int) -> list[Tensor]:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        maps, earlier = [], [x.mean((2, 3))]
        for name in STAGES[:count]:
            x, own = getattr(self, name)(x, list(earlier))
            maps.append(x)
            earlier.append(own)
        return maps


def _conv_or_norm(name: str, index: int) -> str:
    """Returns timm's name of a layer in a sequence of convolutions, norms and activations."""
    return f"{name}.{'bn' if index % 3 else 'conv'}{index // 3 + 1}."


# Patterns of official parameter names, with ours.
_RENAMES: Renames = (
    (r"^pre\.0\.", "conv1."),
    (r"^pre\.1\.", "bn1."),
    (r"^stage(\d)\.(\d+)\.residual\.(\d)\.", lambda match: _conv_or_norm(f"layer{match[1]}.{match[2]}", int(match[3]))),
    (r"^stage(\d)\.(\d+)\.shortcut\.", r"layer\1.\2.downsample."),
    (r"^stage(\d)\.(\d+)\.ECA_excitation_local\.0\.", r"layer\1.\2.se.local."),
    (r"^stage(\d)\.(\d+)\.ECA_excitation_global_stage\.0\.", r"layer\1.\2.se.across."),
    (r"^stage(\d)\.(\d+)\.stage_in_fusion\.0\.", r"layer\1.\2.se.fusion."),
    (r"^stage(\d)\.(\d+)\.out_fusion\.0\.", r"layer\1.\2.se.out_fusion."),
    (r"^linear\.", "fc."),
)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename)

family = Family(
    __name__,
    EMCA,
    checkpoint_filter_fn,
    code="https://github.com/eslambakr/EMCA",
    paper="2211.07521",
    license="",
    first_conv="conv1",
    source="#6--results",
    cfg={"classifier": "fc", "interpolation": "bilinear", "license": None},
)


def _emca(depth: int, published: tuple[float, float], layers: Sequence[int], block: str = "basic") -> Variant:
    """Returns a variant, from the published accuracy and parameters in 2^20."""
    summary = f"A ResNet-{depth} with channel attention across stages. Its weights are not released."
    figures = published[0], round(published[1] * 2**20 / 1e6, 2), None
    return family.variant(summary, published=figures, block=block, layers=layers)


family.register(
    {
        "emca_eca_resnet_pico": family.pico(channels=(16, 32, 64, 128), stem_type="deep", stem_width=8),
        "emca_eca_resnet18": _emca(18, (70.59, 11.148), (2, 2, 2, 2)),
        "emca_eca_resnet34": _emca(34, (74.14, 20.788), (3, 4, 6, 3)),
        "emca_eca_resnet50": _emca(50, (76.82, 24.373), (3, 4, 6, 3), "bottleneck"),
    }
)
