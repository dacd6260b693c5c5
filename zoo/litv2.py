"""LITv2: MLP blocks in the first stages, HiLo attention in the last, and deformable downsampling.

Paper: Fast Vision Transformers with HiLo Attention, arXiv 2205.13213. Official code: ziplab/LITv2, Apache-2.0 licence.

What the official code does that the paper does not say: the number of low-frequency heads, alpha times all heads, is
rounded down; the two groups of heads have separate output projections and are not mixed afterwards; the last stage,
with windows of one pixel, is plain attention; offsets are trained with a hundredth of the learning rate. The official
deformable convolution drops the last row or column of an odd map; here the map is padded, so each stage has half the
size of the previous one, rounded up.

Shapes at 224 (litv2_s): image 3x224x224, stages 56x56x96, 28x28x192, 14x14x384, 7x7x768.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from attnzoo.blocks import DeformableMerging, HiLoAttention, LocalMlp, PatchStem, TransformerBlock

from .base import Family, Pyramid, Renames, Variant, filter_by, renamed, stages_of

__all__ = ["LITv2"]


class LITv2(Pyramid):
    """A pyramid with attention in its last stages only. It takes images of any size.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        num_heads: heads per stage.
        window_sizes: per stage, side of the windows; high-frequency heads attend within them, low-frequency heads to
            their means; 1 for attention to the whole map, 0 for a stage without attention.
        alpha: share of the low-frequency heads.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_sizes: Sequence[int] = (0, 0, 2, 1),
        alpha: float = 0.9,
        mlp_ratio: float = 4.0,
        in_chans: int = 3,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, window_size = embed_dims[stage], window_sizes[stage]
            mixer = HiLoAttention(dim, num_heads[stage], window_size, alpha, proj_drop_rate) if window_size else None
            mlp = LocalMlp(dim, int(dim * mlp_ratio), proj_drop_rate)
            return TransformerBlock(dim, mixer, drop_path=drop_path, mlp=mlp)

        stages = stages_of(
            depths, drop_path_rate, block, lambda stage: DeformableMerging(embed_dims[stage - 1], embed_dims[stage])
        )
        super().__init__(
            PatchStem(in_chans, embed_dims[0], 4),
            stages,
            widths=embed_dims,
            norm=nn.LayerNorm(embed_dims[-1]),
            in_chans=in_chans,
            **head,
        )


# Patterns of official parameter names, with our names. Our stages begin with a downsampler, theirs end with one.
_RENAMES: Renames = (
    (r"^module\.", ""),
    (r"^patch_embed\.", "stem."),
    (r"^layers\.(\d+)\.downsample\.", lambda match: f"stages.{int(match[1]) + 1}.downsample."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"\.dconv\.conv_offset\.", ".offset."),
    (r"\.dconv\.", ".merge.conv."),
    (r"\.norm_layer\.", ".merge.norm."),
    (r"\.attn\.h_", ".attn.high."),
    (r"\.attn\.l_", ".attn.low."),
    (r"\.dwconv\.dwconv\.", ".conv."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename)

family = Family(
    __name__,
    LITv2,
    checkpoint_filter_fn,
    code="https://github.com/ziplab/LITv2",
    paper="2205.13213",
    license="apache-2.0",
    first_conv="stem.proj",
    source="#image-classification-on-imagenet-1k",
)


def _litv2(name: str, published: tuple[float, float, float], cfg: dict[str, Any], **arguments: Any) -> Variant:
    summary = f"LITv2-{name.upper().replace('_', ' at ')}, with the official weights."
    url = f"{family.code}/releases/download/v1.0/litv2_{name}.pth"
    return family.variant(summary, url, published, cfg=cfg, **arguments)


# whole images are resized to a square
_AT_384 = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0, "crop_mode": "squash"}
_BASE: dict[str, Any] = {
    "embed_dims": (128, 256, 512, 1024),
    "depths": (2, 2, 18, 2),
    "num_heads": (4, 8, 16, 32),
    "drop_path_rate": 0.5,
}

family.register(
    {
        "litv2_pico": family.pico(
            embed_dims=(24, 48, 96, 192),
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 8),
        ),
        "litv2_s": _litv2("s", (82.0, 28, 3.7), {}, depths=(2, 2, 6, 2), drop_path_rate=0.2),
        "litv2_m": _litv2("m", (83.3, 49, 7.5), {}, depths=(2, 2, 18, 2), drop_path_rate=0.3),
        "litv2_b": _litv2("b", (83.6, 87, 13.2), {}, **_BASE),
        "litv2_b_384": _litv2("b_384", (84.7, 87, 39.7), _AT_384, **_BASE),
    }
)
