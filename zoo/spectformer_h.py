"""SpectFormer-H: global filters in the first two stages of a pyramid, attention in the others.

Paper: SpectFormer: Frequency and Attention is what you need in a Vision Transformer, arXiv 2304.06446. Official code:
badripatro/SpectFormers, without a licence.

What the official code does that the paper does not say: filters have shortcuts of their own, unlike those of GFNet; the
class token is the mean of the last map, and attends to it in one block at the end; the logits are those of the class
token and half of the largest among those of the other tokens, from a second classifier, which the authors train with a
label for each token. It takes one image size; here filters are interpolated as in GFNet. No weights were released.

Shapes at 224 (spectformer_h_s): image 3x224x224, stages 56x56x64, 28x28x128, 14x14x320, 7x7x448.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from attnzoo.blocks import (
    ClassAttentionBlock,
    ConvDownsample,
    ConvNormStem,
    LocalMlp,
    SpectralFilter,
    SubsampledAttention,
    TransformerBlock,
)

from .base import Family, Pyramid, Renames, TokenHead, Variant, init_linear, renamed, stages_of
from .gfnet import fitted

__all__ = ["SpectFormerPyramid"]


class SpectFormerPyramid(Pyramid):
    """Global filters in the first stages and attention in the others, on maps of strides 4, 8, 16 and 32.

    It takes images of any size. `forward_features` returns tokens (B, 1 + H * W, C), the class token first.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        filter_stages: number of stages, from the first, with filters.
        num_heads: heads per stage; those of stages with filters are not used.
        mlp_ratios: per stage, hidden channels of an MLP divided by its input channels.
        stem_dim: channels of the convolutions of the stem.
        aux_head: whether half of the largest logits of the tokens, from a second classifier, are added to the logits.
        img_size: image size that filters are learned at, one number or (rows, columns).
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        global_pool: what the first classifier takes: `token` for the class token, or as in `TokenHead`.
        head: `num_classes` and `drop_rate`, see `Pyramid`.
    """

    undecayed = ()

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 320, 448),
        depths: Sequence[int] = (3, 4, 6, 3),
        filter_stages: int = 2,
        num_heads: Sequence[int] = (2, 4, 10, 14),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        stem_dim: int = 32,
        aux_head: bool = True,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "token",
        **head: Any,
    ) -> None:
        norm_layer = partial(nn.LayerNorm, eps=1e-6)
        rows, columns = to_2tuple(img_size)
        sizes = [(-(-rows // r), -(-columns // r)) for r in (4 * 2**stage for stage in range(len(depths)))]

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim = embed_dims[stage]
            mixer: nn.Module
            if stage < filter_stages:
                mixer = SpectralFilter(dim, sizes[stage])
            else:
                mixer = SubsampledAttention(dim, num_heads[stage], proj_drop=proj_drop_rate)
            mlp = LocalMlp(dim, int(dim * mlp_ratios[stage]), proj_drop_rate)
            return TransformerBlock(dim, mixer, drop_path=drop_path, norm_layer=norm_layer, mlp=mlp)

        stem = OrderedDict(
            conv=ConvNormStem(in_chans, [stem_dim] * 3, (2, 1, 1), (7, 3, 3), act_layer=nn.ReLU),
            act=nn.ReLU(),
            proj=ConvDownsample(stem_dim, embed_dims[0], bias=True),
        )
        last = len(depths) - 1
        super().__init__(
            nn.Sequential(stem),
            stages_of(
                depths,
                drop_path_rate,
                block,
                lambda stage: ConvDownsample(embed_dims[stage - 1], embed_dims[stage], bias=True),
                norm=lambda stage: norm_layer(embed_dims[stage]) if stage < last else nn.Identity(),
            ),
            widths=embed_dims,
            norm=norm_layer(embed_dims[last]),
            head_layer=partial(TokenLabelHead, aux_head=aux_head),
            in_chans=in_chans,
            global_pool=global_pool,
            **head,
        )
        self.num_prefix_tokens = 1
        self.class_block: nn.Module = ClassAttentionBlock(
            embed_dims[last], num_heads[last], mlp_ratios[last], proj_drop_rate, norm_layer
        )
        self.class_block.apply(init_linear)

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes layers as in `Pyramid`; the block of the class token is removed with the classifier."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if self.num_classes == 0:
            self.class_block = nn.Identity()
        return take

    def _finish(self, x: Tensor) -> Tensor:
        """Returns tokens (B, 1 + H * W, C), normalized, the class token first."""
        tokens = x.flatten(1, 2)
        return self.norm(self.class_block(torch.cat([tokens.mean(1, keepdim=True), tokens], 1)))


class TokenLabelHead(TokenHead):
    """A linear layer on the class token, and one on every other token: (B, T, C) -> (B, num_classes).

    Args:
        dim: channels C.
        num_classes: classes; 0 for no layers.
        pool_type: what the first layer takes, see `TokenHead`.
        drop_rate: dropout rate before the layers.
        aux_head: whether there is the second layer.

    Source: All Tokens Matter: Token Labeling for Training Better Vision Transformers, arXiv 2104.10858.
    """

    def __init__(
        self, dim: int, num_classes: int, pool_type: str = "token", drop_rate: float = 0.0, aux_head: bool = True
    ) -> None:
        self.has_aux = aux_head
        super().__init__(dim, num_classes, pool_type, drop_rate)

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replaces the layers, and the pooling unless `pool_type` is None."""
        super().reset(num_classes, pool_type)
        is_kept = self.has_aux and num_classes > 0
        self.aux: nn.Linear | None = nn.Linear(self.num_features, num_classes) if is_kept else None

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, T, C) -> (B, num_classes), or the input of the first layer."""
        pooled = self.pooled(x)
        if pre_logits:
            return pooled
        logits = self.fc(pooled)
        if self.aux is None:
            return logits
        return logits + 0.5 * self.aux(self.drop(x[:, self.num_prefix_tokens :])).amax(1)


# what the official indices of the layers of the stem, divided by 3, leave
_PARTS = ("conv", "norm")

# Patterns of official parameter names, with our names. Official stages are counted from one.
_RENAMES: Renames = (
    (r"^patch_embed1\.conv\.(\d)\.", lambda match: f"stem.conv.{int(match[1]) // 3 * 2}.{_PARTS[int(match[1]) % 3]}."),
    (r"^patch_embed1\.proj\.", "stem.proj.reduction."),
    (r"^patch_embed1\.norm\.", "stem.proj.norm."),
    (r"^patch_embed(\d)\.proj\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.reduction."),
    (r"^patch_embed(\d)\.norm\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.norm."),
    (r"^norm4\.", "norm."),
    (r"^norm(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.norm."),
    (r"^block(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks."),
    (r"^post_network\.0\.", "class_block."),
    (r"\.complex_weight$", ".table"),
    (r"\.dwconv\.dwconv\.", ".conv."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"^aux_head\.", "head.aux."),
)

checkpoint_filter_fn = fitted(lambda name, depths: renamed(name, _RENAMES))

family = Family(
    __name__,
    SpectFormerPyramid,
    checkpoint_filter_fn,
    code="https://github.com/badripatro/SpectFormers",
    paper="2304.06446",
    license="unknown",
    first_conv="stem.conv.0.conv",
    source="/tree/main/hierarchical_architecture#model-zoo",
    # tokens have no pooled map
    cfg={"pool_size": None, "crop_pct": 0.9, "classifier": ("head.fc", "head.aux")},
)


def _spectformer(size: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    return family.variant(f"SpectFormer-H-{size}. No weights are published.", "", published, **arguments)


family.register(
    {
        "spectformer_h_pico": family.pico(
            embed_dims=(16, 32, 64, 96),
            depths=(1, 1, 2, 1),
            num_heads=(1, 1, 2, 3),
            mlp_ratios=(4, 4, 4, 4),
            stem_dim=16,
            aux_head=False,
            cfg={"classifier": "head.fc"},
        ),
        "spectformer_h_s": _spectformer("S", (84.3, 22.2, 3.9), drop_path_rate=0.1),
        "spectformer_h_b": _spectformer(
            "B",
            (85.0, 33.1, 6.3),
            embed_dims=(64, 128, 320, 512),
            depths=(3, 4, 12, 3),
            num_heads=(2, 4, 10, 16),
            stem_dim=64,
            drop_path_rate=0.1,
        ),
        "spectformer_h_l": _spectformer(
            "L",
            (85.7, 54.7, 12.7),
            embed_dims=(96, 192, 384, 512),
            depths=(3, 6, 18, 3),
            num_heads=(3, 6, 12, 16),
            stem_dim=64,
            drop_path_rate=0.3,
        ),
    }
)
