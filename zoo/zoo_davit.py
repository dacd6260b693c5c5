"""DaViT: alternating window attention and channel attention.

Paper: DaViT: Dual Attention Vision Transformers, arXiv 2204.03645. Official code: dingmyu/davit, MIT licence.

What the official code does that the paper does not say: a convolution comes before each of the four branches of a pair
of blocks; windows are not shifted and have no position bias; the scale of channel attention depends on the channels of
a head, not on the pixels, and its queries and values are exchanged; features are pooled before the last norm;
downsamplers apply the norm first and then pad. timm has these networks with other parameter names; checkpoints of both
load here.

Shapes at 224 (zoo_davit_tiny): image 3x224x224, stages 56x56x96, 28x28x192, 14x14x384, 7x7x768.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from attnzoo.blocks import (
    ChannelAttention,
    ConvDownsample,
    LayerNormHead,
    PatchStem,
    ResidualConv,
    TransformerBlock,
    WindowAttention,
)

from .base import Family, Pyramid, Renames, Variant, filter_by, renamed, stages_of

__all__ = ["DaViT"]


class DaViT(Pyramid):
    """A pyramid of pairs of window and channel attention blocks. It takes images of any size.

    Args:
        embed_dims: channels per stage.
        depths: pairs of blocks per stage.
        num_heads: heads per stage, for window and channel attention alike.
        window_size: side of windows.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    undecayed = ()

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (1, 1, 3, 1),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, heads = embed_dims[stage], num_heads[stage]
            mixer: nn.Module
            if index % 2 == 0:
                mixer = WindowAttention(dim, heads, window_size, False, qkv_bias, proj_drop_rate, position_bias=False)
            else:
                mixer = ChannelAttention(dim, heads, qkv_bias, proj_drop_rate)
            return TransformerBlock(
                dim,
                mixer,
                mlp_ratio,
                drop_path=drop_path,
                proj_drop=proj_drop_rate,
                pos_embed=ResidualConv(dim),
                pos_embed2=ResidualConv(dim),
            )

        def downsample(stage: int) -> nn.Module:
            return ConvDownsample(embed_dims[stage - 1], embed_dims[stage], kernel_size=2, bias=True, norm_first=True)

        stages = stages_of([2 * depth for depth in depths], drop_path_rate, block, downsample)
        super().__init__(
            PatchStem(in_chans, embed_dims[0], 4, kernel_size=7, padding=3),
            stages,
            widths=embed_dims,
            norm=nn.Identity(),
            head_layer=LayerNormHead,
            in_chans=in_chans,
            **head,
        )


def _block(match: re.Match[str]) -> str:
    """Returns our name of a block; official and timm names count blocks in pairs."""
    return f"stages.{match[1]}.blocks.{2 * int(match[2]) + (match[3] in ('1', 'channel_block'))}."


# Patterns of parameter names of the official code and timm, with our names.
_RENAMES: Renames = (
    (r"^patch_embeds\.0\.", "stem."),
    (r"^patch_embeds\.(\d)\.", r"stages.\1.downsample."),
    (r"^stem\.conv\.", "stem.proj."),
    (r"\.downsample\.(?:proj|conv)\.", ".downsample.reduction."),
    (r"^(?:main_blocks|stages)\.(\d)\.(?:blocks\.)?(\d+)\.([01]|spatial_block|channel_block)\.", _block),
    (r"\.cpe(?:\.0|1)\.proj\.", ".pos_embed.conv."),
    (r"\.cpe(?:\.1|2)\.proj\.", ".pos_embed2.conv."),
    (r"^norms\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename)

_WEIGHTS = "https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk"

family = Family(
    __name__,
    DaViT,
    checkpoint_filter_fn,
    code="https://github.com/dingmyu/davit",
    paper="2204.03645",
    license="mit",
    first_conv="stem.proj",
    source="#image-classification-on-imagenet-1k",
    cfg={"crop_pct": 0.9},
)


def _davit(size: str, weights: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    url, timm = f"{_WEIGHTS}/{weights}&download=1", f"davit_{size}.msft_in1k"
    return family.variant(f"DaViT-{size[0].upper()}.", url, published, timm=timm, **arguments, drop_path_rate=0.1)


# Arguments that the variants of a size share.
_TINY: dict[str, Any] = {"embed_dims": (96, 192, 384, 768), "depths": (1, 1, 3, 1), "num_heads": (3, 6, 12, 24)}
_SMALL = {**_TINY, "depths": (1, 1, 9, 1)}
_BASE = {**_SMALL, "embed_dims": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32)}
_LARGE = {**_SMALL, "embed_dims": (192, 384, 768, 1536), "num_heads": (6, 12, 24, 48)}

family.register(
    {
        "davit_pico": family.pico(
            embed_dims=(24, 48, 96, 144),
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 6),
            mlp_ratio=2,
        ),
        "zoo_davit_tiny": _davit(
            "tiny", "EcJYlVYP9y5FsDbMP-nwjtABgLmdrNGZBxgR5--Kg3MZ7Q?e=v9OrXB", (82.8, 28.3, 4.5), **_TINY
        ),
        "zoo_davit_small": _davit(
            "small", "ERN_Gzm8oKdIvO01r0X2cscB_owuRAnnQPNGJEVGP23xHQ?e=MVW3ZO", (84.2, 49.7, 8.8), **_SMALL
        ),
        "zoo_davit_base": _davit(
            "base", "Ea8kCpdM949CvTM0w7DWbGwBxxiACMSik4zx-emrNY0uKQ?e=aEjC7u", (84.6, 87.9, 15.5), **_BASE
        ),
        "zoo_davit_large": family.variant(
            "DaViT-L at 384x384, with larger windows. Its weights are not public.",
            published=(None, 196.8, 103.0),
            source="/blob/main/timm/models/davit.py",
            cfg={"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0},
            **_LARGE,
            window_size=12,
            drop_path_rate=0.1,
        ),
    }
)
