"""Twins: alternating window attention and subsampled attention (SVT), and PVT with conditional positions (PCPVT).

Paper: Twins: Revisiting the Design of Spatial Attention in Vision Transformers, arXiv 2104.13840. Official code:
Meituan-AutoML/Twins, Apache-2.0 licence.

What the official code does that the paper does not say: windows have no position bias, and are 7x7 in every stage; the
norms of blocks and the last norm have an epsilon of 1e-6, the others of 1e-5; maps that windows do not divide are
padded, and the padding is attended to in the authors' detectors, as here, and masked in their segmentation.

Shapes at 224 (zoo_twins_svt_small): image 3x224x224, stages 56x56x64, 28x28x128, 14x14x256, 7x7x512.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from attnzoo.blocks import (
    ConvDownsample,
    PatchStem,
    ResidualConv,
    SubsampledAttention,
    TransformerBlock,
    WindowAttention,
)

from .base import Family, Pyramid, Renames, Variant, filter_by, renamed, stages_of

__all__ = ["Twins"]


class Twins(Pyramid):
    """Subsampled attention in every block or, with windows, in every second block of a stage. Images have any size.

    A convolution after the first block of a stage encodes positions by its padding.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        num_heads: heads per stage.
        mlp_ratios: per stage, hidden channels of an MLP divided by its input channels.
        ratios: per stage, side of the squares that subsampling reduces to a pixel.
        window_size: side of windows; None for no windows.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    undecayed = ()

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 10, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        ratios: Sequence[int] = (8, 4, 2, 1),
        window_size: int | None = 7,
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        norm_layer = partial(nn.LayerNorm, eps=1e-6)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, heads = embed_dims[stage], num_heads[stage]
            mixer: nn.Module
            if window_size is not None and index % 2 == 0:
                mixer = WindowAttention(dim, heads, window_size, False, qkv_bias, proj_drop_rate, position_bias=False)
            else:
                mixer = SubsampledAttention(dim, heads, ratios[stage], qkv_bias, proj_drop_rate)
            return TransformerBlock(dim, mixer, mlp_ratios[stage], None, drop_path, proj_drop_rate, norm_layer)

        def downsample(stage: int) -> nn.Module:
            return ConvDownsample(embed_dims[stage - 1], embed_dims[stage], kernel_size=2, bias=True)

        stages = stages_of(depths, drop_path_rate, block, downsample)
        for stage, dim in zip(stages, embed_dims, strict=True):
            stage.blocks.insert(1, ResidualConv(dim))
        super().__init__(
            PatchStem(in_chans, embed_dims[0], 4),
            stages,
            widths=embed_dims,
            norm=norm_layer(embed_dims[-1]),
            in_chans=in_chans,
            **head,
        )


def _block(match: re.Match[str]) -> str:
    """Returns our name of a block; the position convolution is our second block."""
    index = int(match[2])
    return f"stages.{match[1]}.blocks.{index + 1 if index > 0 else 0}."


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^patch_embeds\.0\.", "stem."),
    (r"^patch_embeds\.(\d)\.proj\.", r"stages.\1.downsample.reduction."),
    (r"^patch_embeds\.(\d)\.norm\.", r"stages.\1.downsample.norm."),
    (r"^pos_block\.(\d)\.proj\.0\.", r"stages.\1.blocks.1.conv."),
    (r"^blocks\.(\d)\.(\d+)\.", _block),
    (r"\.attn\.sr\.", ".attn.reduction."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename)

family = Family(
    __name__,
    Twins,
    checkpoint_filter_fn,
    code="https://github.com/Meituan-AutoML/Twins",
    paper="2104.13840",
    license="apache-2.0",
    first_conv="stem.proj",
    source="#image-classification",
)


def _twins(name: str, weights: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    url = f"https://drive.usercontent.google.com/download?id={weights}&export=download&confirm=t"
    kind, _, size = name.partition("_")
    summary = f"Twins-{kind.upper()}-{size[0].upper()}."
    return family.variant(summary, url, published, timm=f"twins_{name}.in1k", **arguments)


# Arguments that the variants of a size share.
_PCPVT: dict[str, Any] = {
    "embed_dims": (64, 128, 320, 512),
    "num_heads": (1, 2, 5, 8),
    "mlp_ratios": (8, 8, 4, 4),
    "window_size": None,
}
_PCPVT_SMALL = {**_PCPVT, "depths": (3, 4, 6, 3), "drop_path_rate": 0.2}
_PCPVT_BASE = {**_PCPVT, "depths": (3, 4, 18, 3), "drop_path_rate": 0.3}
_PCPVT_LARGE = {**_PCPVT, "depths": (3, 8, 27, 3), "drop_path_rate": 0.5}
_SVT_SMALL: dict[str, Any] = {"embed_dims": (64, 128, 256, 512), "depths": (2, 2, 10, 4), "num_heads": (2, 4, 8, 16)}
_SVT_BASE = {"embed_dims": (96, 192, 384, 768), "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
_SVT_LARGE = {"embed_dims": (128, 256, 512, 1024), "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}

# variants of this project
_PICO: dict[str, Any] = {
    "embed_dims": (32, 64, 96, 128),
    "depths": (2, 2, 2, 2),
    "num_heads": (1, 2, 3, 4),
    "mlp_ratios": (2, 2, 2, 2),
}

family.register(
    {
        "twins_pcpvt_pico": family.pico(**_PICO, window_size=None),
        "twins_svt_pico": family.pico(**_PICO),
        "zoo_twins_pcpvt_small": _twins(
            "pcpvt_small", "1TWIx_8M-4y6UOKtbCgm1v-UVQ-_lYe6X", (81.2, 24.1, 3.7), **_PCPVT_SMALL
        ),
        "zoo_twins_pcpvt_base": _twins(
            "pcpvt_base", "1BsD3ZRivvPsHoZB1AX-tbirFLtCln8ky", (82.7, 43.8, 6.4), **_PCPVT_BASE
        ),
        "zoo_twins_pcpvt_large": _twins(
            "pcpvt_large", "17xZXOWEcSGs0quBmMEkBYCxjPRYH-L45", (83.1, 60.9, 9.5), **_PCPVT_LARGE
        ),
        "zoo_twins_svt_small": _twins(
            "svt_small", "131SVOphM_-SaBytf4kWjo3ony5hpOt4S", (81.7, 24, 2.8), **_SVT_SMALL, drop_path_rate=0.2
        ),
        "zoo_twins_svt_base": _twins(
            "svt_base", "1s83To8xgDWY6Ad8VBP3Nx9gqY709rrGu", (83.2, 56, 8.3), **_SVT_BASE, drop_path_rate=0.3
        ),
        "zoo_twins_svt_large": _twins(
            "svt_large", "1um39wxIaicmOquP2fr_SiZdxNCUou8w-", (83.7, 99.2, 14.8), **_SVT_LARGE, drop_path_rate=0.5
        ),
    }
)
