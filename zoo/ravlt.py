"""RAVLT: a pyramid of rank-augmented linear attention in the first stages and softmax attention in the last.

Paper: Breaking the Low-Rank Dilemma of Linear Attention, arXiv 2411.07635. Official code: qhfan/RALA, which states no
licence.

What the official code does that the paper does not say: both kinds of attention have rotary positions, add a 5x5
depthwise convolution of the values and gate the sum without an activation; in linear attention rotary positions are
applied in the numerator only; a 3x3 depthwise convolution comes before every block, and another one is inside its MLP;
a 1x1 convolution to 1024 channels comes before pooling.

Shapes at 224 (ravlt_t): image 3x224x224, stages 56x56x64, 28x28x128, 14x14x256, 7x7x512, and 7x7x1024 before pooling.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from attnzoo.blocks import (
    ConvNorm,
    ConvNormStem,
    GatedAttention,
    LocalMlp,
    RankAugmentedAttention,
    ResidualConv,
    TransformerBlock,
)

from .base import Family, Pyramid, Renames, Variant, filter_by, renamed, stages_of

__all__ = ["RAVLT"]


class RAVLT(Pyramid):
    """Two stages of linear attention and two of softmax attention. It takes images of any size.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        num_heads: heads per stage; each must have a multiple of 4 channels.
        linear: per stage, whether its attention is linear.
        layer_scales: per stage, initial value of the layer scale of the branches.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        projection: channels before pooling.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        linear: Sequence[bool] = (True, True, False, False),
        layer_scales: Sequence[float] = (1, 1, 1, 1),
        mlp_ratio: float = 3.5,
        projection: int = 1024,
        in_chans: int = 3,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim = embed_dims[stage]
            attention = RankAugmentedAttention if linear[stage] else GatedAttention
            return TransformerBlock(
                dim,
                attention(dim, num_heads[stage], proj_drop=proj_drop_rate),
                layer_scale=layer_scales[stage],
                drop_path=drop_path,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                pos_embed=ResidualConv(dim, 3),
                mlp=LocalMlp(dim, int(dim * mlp_ratio), proj_drop_rate, residual=True),
            )

        stages = stages_of(
            depths,
            drop_path_rate,
            block,
            lambda stage: ConvNorm(embed_dims[stage - 1], embed_dims[stage], 3, 2, bias=True),
        )
        half = embed_dims[0] // 2
        super().__init__(
            ConvNormStem(in_chans, (half, half, half, embed_dims[0]), (2, 1, 1, 2), bias=True),
            stages,
            widths=embed_dims,
            norm=nn.Sequential(ConvNorm(embed_dims[-1], projection, bias=True), nn.SiLU()),
            in_chans=in_chans,
            **head,
            num_features=projection,
        )


# the repeating layers of the official stem, followed by an activation
_PARTS = ("conv", "norm")

# Patterns of official parameter names, with our names. Our stages begin with a downsampler, theirs end with one.
_RENAMES: Renames = (
    (r"^module\.", ""),
    (r"^norm\.(\w+)$", r"norm.0.norm.\1"),
    (r"^proj\.", "norm.0.conv."),
    (r"^patch_embed\.proj\.(\d+)\.", lambda match: f"stem.{int(match[1]) // 3 * 2}.{_PARTS[int(match[1]) % 3]}."),
    (r"^layers\.(\d+)\.downsample\.reduction\.", lambda match: f"stages.{int(match[1]) + 1}.downsample.conv."),
    (r"^layers\.(\d+)\.downsample\.", lambda match: f"stages.{int(match[1]) + 1}.downsample."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"\.norm([12])\.norm\.", r".norm\1."),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\.pos\.", ".pos_embed.conv."),
    (r"\.qkvo\.", ".qkv."),
    (r"\.ffn\.dwconv\.", ".mlp.conv.conv."),
    (r"\.ffn\.", ".mlp."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename, left_out=(".RoPE.angle",))

family = Family(
    __name__,
    RAVLT,
    checkpoint_filter_fn,
    code="https://github.com/qhfan/RALA",
    paper="2411.07635",
    license="unknown",
    first_conv="stem.0.conv",
    source="#image-classification",
)


def _ravlt(size: str, published: tuple[float | None, float, float], **arguments: Any) -> Variant:
    url = f"https://huggingface.co/aldjalkdf/RAVLT/resolve/main/RAVLT_{size}.pth"
    return family.variant(f"RAVLT-{size}, with the official weights.", url, published, **arguments)


family.register(
    {
        "ravlt_pico": family.pico(
            embed_dims=(24, 48, 96, 128),
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 4),
            mlp_ratio=3,
            projection=256,
        ),
        "ravlt_t": _ravlt("T", (None, 15, 2.4), depths=(2, 2, 6, 2), drop_path_rate=0.1),
        "ravlt_s": _ravlt(
            "S",
            (84.4, 26, 4.6),
            embed_dims=(64, 128, 320, 512),
            depths=(3, 5, 9, 3),
            num_heads=(1, 2, 5, 8),
            drop_path_rate=0.15,
        ),
        "ravlt_b": _ravlt(
            "B",
            (None, 48, 9.9),
            embed_dims=(96, 192, 384, 512),
            depths=(4, 6, 12, 6),
            num_heads=(1, 2, 6, 8),
            layer_scales=(1, 1, 1e-6, 1e-6),
            drop_path_rate=0.4,
        ),
        "ravlt_l": _ravlt(
            "L",
            (None, 95, 16.0),
            embed_dims=(96, 192, 448, 640),
            depths=(4, 7, 19, 8),
            num_heads=(1, 2, 7, 10),
            layer_scales=(1e-6, 1e-6, 1e-6, 1e-6),
            drop_path_rate=0.55,
        ),
    }
)
