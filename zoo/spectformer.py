"""SpectFormer: global filters in the first blocks, attention in the others, on one map.

Paper: SpectFormer: Frequency and Attention is what you need in a Vision Transformer, arXiv 2304.06446. Official code:
badripatro/SpectFormers, without a licence.

What the official code does that the paper does not say: a block with a filter has one shortcut around its filter and
its MLP, as in GFNet, and one with attention has two. Its attention has 6 heads, whatever the width; here heads have 64
channels, which is the same for 384. It takes one image size; here positions and filters are interpolated as in GFNet.
No weights were released.

Shapes at 224 (spectformer_xs): image 3x224x224, then 14x14x384 everywhere, in four stages of 4, 2, 3 and 3 blocks whose
maps are the features.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import to_2tuple
from torch import nn

from attnzoo.blocks import FilterBlock, MapAttention, Mlp, PatchStem, PositionEmbedding, TransformerBlock

from .base import Family, Isotropic, Variant, stages_of
from .gfnet import checkpoint_filter_fn

__all__ = ["SpectFormer"]


class SpectFormer(Isotropic):
    """Global filters in the first stages and attention in the others, on one map; images of any size.

    Args:
        embed_dim: channels.
        depths: blocks per stage.
        filter_stages: number of stages, from the first, with filters.
        num_heads: heads of attention.
        img_size: image size that positions and filters are learned at, one number or (rows, columns).
        patch_size: pixels per side of a patch.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    undecayed = (".position.table",)

    def __init__(
        self,
        embed_dim: int = 384,
        depths: Sequence[int] = (4, 2, 3, 3),
        filter_stages: int = 1,
        num_heads: int = 6,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        rows, columns = to_2tuple(img_size)
        map_size = -(-rows // patch_size), -(-columns // patch_size)
        norm_layer = partial(nn.LayerNorm, eps=1e-6)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio), proj_drop_rate)
            if stage < filter_stages:
                return FilterBlock(embed_dim, map_size, mlp, drop_path, norm_layer)
            mixer = MapAttention(embed_dim, num_heads, qkv_bias, proj_drop_rate)
            return TransformerBlock(embed_dim, mixer, drop_path=drop_path, norm_layer=norm_layer, mlp=mlp)

        patches = PatchStem(in_chans, embed_dim, patch_size, nn.Identity)
        position = PositionEmbedding(embed_dim, map_size, "bicubic")
        super().__init__(
            nn.Sequential(OrderedDict(patches=patches, position=position)),
            stages_of(depths, drop_path_rate, block),
            dim=embed_dim,
            patch_size=patch_size,
            norm=norm_layer(embed_dim),
            in_chans=in_chans,
            **head,
        )


family = Family(
    __name__,
    SpectFormer,
    checkpoint_filter_fn,
    code="https://github.com/badripatro/SpectFormers",
    paper="2304.06446",
    license="unknown",
    first_conv="stem.patches.proj",
    source="/tree/main/vanilla_architecture#model-zoo",
    cfg={"pool_size": (14, 14)},
)


def _spectformer(size: str, published: tuple[float, float | None, float], **arguments: Any) -> Variant:
    return family.variant(f"SpectFormer-{size}. No weights are published.", "", published, **arguments)


family.register(
    {
        "spectformer_pico": family.pico(embed_dim=96, depths=(1, 1, 2, 2), num_heads=3, cfg={"pool_size": (14, 14)}),
        "spectformer_ti": _spectformer("T", (76.9, 9, 1.8), embed_dim=256, num_heads=4, drop_path_rate=0.1),
        # the page says 22 million parameters, the authors' log of the training 20.03
        "spectformer_xs": _spectformer("XS", (80.2, None, 4.0), drop_path_rate=0.1),
        "spectformer_s": _spectformer("S", (81.7, 32, 6.6), depths=(4, 5, 5, 5), drop_path_rate=0.15),
        "spectformer_b": _spectformer(
            "B", (82.1, 57, 11.5), embed_dim=512, depths=(4, 5, 5, 5), num_heads=8, drop_path_rate=0.25
        ),
    }
)
