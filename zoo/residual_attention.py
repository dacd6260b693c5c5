"""Residual Attention Network: a ResNet whose features are multiplied with masks from hourglasses beside them.

Paper: Residual Attention Network for Image Classification, arXiv 1704.06904. Official code:
fwang91/residual-attention-network, deploy files for Caffe, which state no licence.

What the official files do that the paper does not say: only the units of the skip connections are added while a mask is
enlarged; a norm and a ReLU precede each of the two convolutions of a mask; pools have no padding, and their last window
is cut off. Layers have the names of the Caffe files, with a dot in place of a slash. No weights were released.

Shapes at 224 (residual_attention_56): image 3x224x224, stem 56x56x64, stages 56x56x256, 28x28x512, 14x14x1024,
7x7x2048.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import AttentionModule, Bottleneck, ConvNorm, ConvNormStem, PreactBottleneck

from .base import Family, Pyramid, Renames, depths_of, renamed, stages_of, unwrapped

__all__ = ["ResidualAttentionNetwork"]

# how often the map is halved in the masks of the first three stages
_HALVINGS = (3, 2, 1)


class ResidualAttentionNetwork(Pyramid):
    """Residual units and attention modules on maps of strides 4, 8, 16 and 32; images of at least 31 pixels per side.

    Args:
        embed_dims: channels per stage.
        modules: attention modules in each of the first three stages.
        layout: `preactivation` for ResNet units with norms before convolutions, or `resnext` for those of ResNeXt.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.

    Raises:
        ValueError: an unknown `layout`.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (256, 512, 1024, 2048),
        modules: Sequence[int] = (1, 1, 1),
        layout: str = "preactivation",
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if layout not in _UNITS:
            raise ValueError(f"layout must be {' or '.join(_UNITS)}, got {layout!r}")
        has_norms = layout == "preactivation"
        stem_dim = embed_dims[0] // 4

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim = embed_dims[stage]
            unit = partial(_UNITS[layout], dim, dim, drop_path=drop_path)
            if index == 0:
                return _UNITS[layout](embed_dims[stage - 1] if stage else stem_dim, dim, 2 if stage else 1, drop_path)
            return unit() if stage == 3 else AttentionModule(dim, _HALVINGS[stage], unit, norm_mask=has_norms)

        super().__init__(
            nn.Sequential(
                ConvNormStem(in_chans, [stem_dim], kernel_size=7, channels_last=False),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 2, ceil_mode=True),
            ),
            stages_of([*(1 + count for count in modules), 3], drop_path_rate, block),
            widths=embed_dims,
            norm=nn.Sequential(nn.BatchNorm2d(embed_dims[-1]), nn.ReLU()) if has_norms else nn.Identity(),
            output_fmt="NCHW",
            in_chans=in_chans,
            **head,
        )
        self.layout = layout


def _resnext(dim: int, out_dim: int, stride: int = 1, drop_path: float = 0.0) -> nn.Module:
    hidden = out_dim // 2
    mixer = ConvNorm(hidden, hidden, 3, stride, groups=32, channels_last=False)
    project = stride > 1 or dim != out_dim
    return Bottleneck(dim, out_dim, mixer, hidden, hidden, stride, project, drop_path=drop_path)


_UNITS = {"preactivation": PreactBottleneck, "resnext": _resnext}


# Patterns of official names, with ours.
_BLOCKS: Renames = (
    (r"^conv1\.weight$", "stem.0.0.conv.weight"),
    (r"^conv1\.bn\.", "stem.0.0.norm."),
    (r"^pool1_3x3_s2\.bn\.", "stages.0.blocks.0.norm1."),
    (r"^pre_res_(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.0."),
    (r"^post_res_4_(\d)\.", lambda match: f"stages.3.blocks.{int(match[1]) - 1}."),
    (r"^Attention([ABC])_([1-9]\d*)\.", lambda match: f"stages.{'ABC'.index(match[1])}.blocks.{match[2]}."),
    (r"^classifier\.", "head.fc."),
    (r"\.trunk\.res1\.bn\.", ".trunk2.0.norm1."),
    (r"\.trunk\.res2\.bn\.", ".trunk2.1.norm1."),
    (r"\.trunk\.res1\.", ".trunk1."),
    (r"\.trunk\.res([23])\.", lambda match: f".trunk2.{int(match[1]) - 2}."),
    (r"\.mask\.(down|up)_sample", r".mask.\1"),
    (r"\.mask\.down\.pool(\d)_3x3_s2\.bn\.", lambda match: f".down.{int(match[1]) - 1}.norm1."),
    (r"\.mask\.up\.interp_1\.bn\.", ".norm.0."),
    (r"\.mask\.linear_1\.bn\.", ".conv1.norm."),
    (r"\.mask\.linear_1\.", ".conv1.conv."),
    (r"\.mask\.linear_2\.", ".conv2."),
    (r"(\.blocks\.\d+)\.fusion\.bn\.", r"\1.last.norm1."),
    (r"^(stages\.[012]\.blocks\.[1-9]\d*)\.branch1\.", r"\1.last.branch1."),
)
_UNIT: Renames = (
    (r"\.branch1\.conv([123])_[13]x[13]\.bn\.", r".conv\1.norm."),
    (r"\.branch1\.conv([123])_[13]x[13]\.", r".conv\1.conv."),
    (r"\.branch2\.conv1_1x1\.bn\.", ".shortcut.norm."),
    (r"\.branch2\.conv1_1x1\.", ".shortcut.conv."),
)
# the names of layers of a unit that depend on the layout
_LAYOUTS: dict[str, Renames] = {
    "preactivation": ((r"\.conv3\.conv\.", ".conv3."), (r"\.shortcut\.conv\.", ".shortcut.")),
    "resnext": ((r"\.conv2\.conv\.", ".mixer.conv."), (r"\.conv2\.norm\.", ".mixer.norm.")),
}


def _of_mask(depth: int) -> Renames:
    """Patterns of official names in masks that halve the map `depth` times; ours begin with the smallest map."""

    def from_smallest(match: re.Match[str]) -> str:
        layer = {"down": "skip", "skip": "skip", "up": "up"}[match[1]]
        norm = ".norm1." if match[0].endswith("bn.") else "."
        return f".{layer}.{depth - 1 - int(match[2])}{norm}"

    return (
        (rf"\.mask\.down\.res{depth}_1\.bn\.", ".bottom.norm1."),
        (rf"\.mask\.down\.res{depth}_2\.", ".bottom."),
        (r"\.mask\.(down)\.res(\d)_1\.bn\.", from_smallest),
        (r"\.mask\.down\.res(\d)_1\.", lambda match: f".down.{int(match[1]) - 1}."),
        (r"\.mask\.(up)(\d)\.bn\.", from_smallest),
        (r"\.mask\.(up)\.res(\d)_1\.", from_smallest),
        (r"\.mask\.(skip)\.res(\d)\.", from_smallest),
    )


def rename(name: str, depths: Sequence[int], layout: str) -> str:
    """Maps an official name to ours; a name that is already ours stays.

    A norm has the name of its input in official names, and is a part of the layer that it is before in ours.
    """
    name = renamed(name, _BLOCKS)
    place = re.match(r"stages\.(\d)\.blocks\.(\d+)(\.bn\.)?", name)
    if place is None:
        return name
    stage, block = int(place[1]), int(place[2])
    if place[3] and block < depths[stage]:
        return _norm_after(stage, block, depths) + name[place.end() :]
    return renamed(name, (*_of_mask((*_HALVINGS, 0)[stage]), *_UNIT, *_LAYOUTS[layout]))


def _norm_after(stage: int, block: int, depths: Sequence[int]) -> str:
    """Returns our name of the norm that follows a block."""
    if block + 1 < depths[stage]:
        return f"stages.{stage}.blocks.{block + 1}.{'' if stage == 3 else 'trunk1.'}norm1."
    return "norm.0." if stage == 3 else f"stages.{stage + 1}.blocks.0.norm1."


def checkpoint_filter_fn(state_dict: dict[str, Any], model: Any) -> dict[str, Tensor]:
    """Converts a checkpoint under the names of the Caffe files, or one of this project, to this project's names."""
    depths = depths_of(model)
    return {rename(name, depths, model.layout): tensor for name, tensor in unwrapped(state_dict).items()}


family = Family(
    __name__,
    ResidualAttentionNetwork,
    checkpoint_filter_fn,
    code="https://github.com/fwang91/residual-attention-network",
    paper="1704.06904",
    license="unknown",
    first_conv="stem.0.0.conv",
    source="#main-performance",
    cfg={"interpolation": "bilinear"},
)

_SUMMARY = "Its weights are not released."

family.register(
    {
        "residual_attention_pico": family.pico(embed_dims=(32, 64, 128, 256)),
        "residual_attention_56": family.variant(f"Attention-56. {_SUMMARY}", published=(78.24, None, None)),
        "residual_attention_92": family.variant(
            f"Attention-92. {_SUMMARY} Published for images of 320 pixels.",
            published=(80.5, None, None),
            cfg={"test_input_size": (3, 320, 320)},
            modules=(1, 2, 3),
        ),
        "residual_attentionnext_56": family.variant(
            f"AttentionNeXt-56, with the units of ResNeXt. {_SUMMARY}", published=(78.8, None, None), layout="resnext"
        ),
        "residual_attentionnext_92": family.variant(
            f"AttentionNeXt-92, with the units of ResNeXt. {_SUMMARY}", layout="resnext", modules=(1, 2, 3)
        ),
    }
)
