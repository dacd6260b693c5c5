"""SHViT: three stages of convolutions and single-head attention.

Paper: SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design, arXiv 2401.16456. Official code:
ysj9909/SHViT, MIT licence.

What the official code does that the paper does not say: the input of attention is normalized, the channels without
attention are not; a batch norm comes before the classifier; the last norm of every branch is initialized to zero,
except for the depthwise convolutions around a downsampler; there is no stochastic depth. timm has these networks with
other parameter names, which the official files do not match; here the files of both load as they are.

Shapes at 224 (zoo_shvit_s1): image 3x224x224, stem 128x14x14, stages 128x14x14, 224x7x7, 320x4x4.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from attnzoo.blocks import (
    BatchNormHead,
    ConvNormStem,
    InvertedDownsample,
    SingleHeadAttention,
    SingleHeadBlock,
)

from .base import Family, Pyramid, Renames, Variant, filter_by, renamed, stages_of

__all__ = ["SHViT"]


class SHViT(Pyramid):
    """Single-head attention on maps of strides 16, 32 and 64.

    Args:
        embed_dims: channels per stage; the first must be a multiple of 8.
        depths: blocks per stage.
        partial_dims: per stage, channels with attention; 0 for a stage without attention.
        qk_dim: channels of queries and keys.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (128, 224, 320),
        depths: Sequence[int] = (2, 4, 5),
        partial_dims: Sequence[int] = (0, 48, 68),
        qk_dim: int = 16,
        mlp_ratio: float = 2.0,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if embed_dims[0] % 8:
            raise ValueError(f"embed_dims must start with a multiple of 8, got {embed_dims[0]}")

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, partial_dim = embed_dims[stage], partial_dims[stage]
            mixer = SingleHeadAttention(dim, partial_dim, qk_dim) if partial_dim else None
            return SingleHeadBlock(dim, mixer, mlp_ratio, drop_path, zero_conv=True)

        stages = stages_of(
            depths,
            drop_path_rate,
            block,
            lambda stage: _downsample(embed_dims[stage - 1], embed_dims[stage], mlp_ratio),
        )
        super().__init__(
            ConvNormStem(
                in_chans, [embed_dims[0] // part for part in (8, 4, 2, 1)], act_layer=nn.ReLU, channels_last=False
            ),
            stages,
            widths=embed_dims,
            reductions=[16 * 2**i for i in range(len(depths))],
            norm=nn.Identity(),
            output_fmt="NCHW",
            head_layer=BatchNormHead,
            in_chans=in_chans,
            **head,
        )


def _downsample(dim: int, out_dim: int, mlp_ratio: float) -> nn.Module:
    """Builds a downsampler between two blocks without attention: (B, dim, H, W) -> (B, out_dim, ⌈H/2⌉, ⌈W/2⌉)."""
    return nn.Sequential(
        SingleHeadBlock(dim, mlp_ratio=mlp_ratio),
        InvertedDownsample(dim, out_dim),
        SingleHeadBlock(out_dim, mlp_ratio=mlp_ratio),
    )


# Patterns of official parameter names, with our names. Official stages begin with the three parts of a
# downsampler, two of which are pairs. In timm a stage has a downsampler of five parts, without pairs.
_RENAMES: Renames = (
    (r"^module\.", ""),
    (r"^patch_embed\.", "stem."),
    (r"^blocks1\.", "stages.0.blocks."),
    (r"^blocks(\d)\.([02])\.0\.m\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.{match[2]}.conv.m."),
    (r"^blocks(\d)\.([02])\.1\.m\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.{match[2]}.ffn.m."),
    (r"^blocks(\d)\.1\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.1."),
    (r"^blocks(\d)\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 3}."),
    (r"\.downsample\.2\.(conv[123]|se)\.", r".downsample.1.\1."),
    (r"\.downsample\.([03])\.m\.", lambda match: f".downsample.{int(match[1]) // 3 * 2}.conv.m."),
    (r"\.downsample\.([14])\.m\.", lambda match: f".downsample.{int(match[1]) // 4 * 2}.ffn.m."),
    (r"\.conv\.m\.", ".conv.conv."),
    (r"\.mixer\.m\.", ".attn."),
    (r"\.ffn\.m\.pw(\d)\.", r".mlp.conv\1."),
    (r"\.pre_norm\.", ".norm."),
    (r"\.proj\.1\.", ".proj."),
    (r"^head\.l\.", "head.fc."),
    (r"\.c\.", ".conv."),
    (r"\.bn\.", ".norm."),
)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename)

family = Family(
    __name__,
    SHViT,
    checkpoint_filter_fn,
    code="https://github.com/ysj9909/SHViT",
    paper="2401.16456",
    license="mit",
    first_conv="stem.0.conv",
    source="#pre-trained-models",
    cfg={"pool_size": (4, 4)},
)


def _shvit(size: str, published: tuple[float, float, float], *, image_size: int = 224, **arguments: Any) -> Variant:
    url = f"{family.code}/releases/download/v1.0/shvit_{size}.pth"
    cfg = {"input_size": (3, image_size, image_size)}
    summary = f"SHViT-{size.upper()}, with the official weights."
    return family.variant(summary, url, published, timm=f"shvit_{size}.in1k", cfg=cfg, **arguments)


family.register(
    {
        "shvit_pico": family.pico(
            embed_dims=(64, 128, 192),
            depths=(1, 2, 2),
            partial_dims=(0, 32, 48),
        ),
        "zoo_shvit_s1": _shvit(
            "s1", (72.8, 6.3, 0.241), embed_dims=(128, 224, 320), depths=(2, 4, 5), partial_dims=(0, 48, 68)
        ),
        "zoo_shvit_s2": _shvit(
            "s2", (75.2, 11.4, 0.366), embed_dims=(128, 308, 448), depths=(2, 4, 5), partial_dims=(0, 66, 96)
        ),
        "zoo_shvit_s3": _shvit(
            "s3", (77.4, 14.2, 0.601), embed_dims=(192, 352, 448), depths=(3, 5, 5), partial_dims=(0, 75, 96)
        ),
        "zoo_shvit_s4": _shvit(
            "s4",
            (79.4, 16.5, 0.986),
            image_size=256,
            embed_dims=(224, 336, 448),
            depths=(4, 7, 6),
            partial_dims=(0, 72, 96),
        ),
    }
)
