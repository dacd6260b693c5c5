"""Sparsifiner: a plain vision transformer that predicts which keys each query attends to.

Paper: Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers, arXiv 2303.13755.
Official code: lim142857/Sparsifiner, MIT licence.

What the official code does that the paper does not say: scores of the predictor are divided by the root of the number
of heads, not of channels; the class token attends to all tokens; the default experiment drops no tokens. It takes one
image size; here positions and the predictor's vectors are interpolated to others. No weights were released.

Shapes at 224 (sparsifiner_s): image 3x224x224, then a class token and 14x14 tokens of 384 channels everywhere. The
twelve blocks are grouped into four stages of three, whose maps are the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from attnzoo.blocks import MaskPredictor, PatchStem, PositionEmbedding, SparseAttention

from .base import (
    Family,
    IsotropicTokens,
    PlainMlp,
    Renames,
    TokenBlock,
    Tokens,
    TokenStage,
    TokenStem,
    filter_by_depths,
    in_stages,
    renamed,
    stages_of,
)

__all__ = ["Sparsifiner"]


class Sparsifiner(IsotropicTokens):
    """Blocks of sparse attention over a class token and one map; images of any size.

    Args:
        embed_dim: channels.
        depths: blocks per stage; stages only determine which maps are the features.
        num_heads: heads.
        keep_rate: part of the keys that each query attends to, above 0 and up to 1.
        img_size: image size that positions and predictors are learned at, one number or (rows, columns).
        patch_size: pixels per side of a patch.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` (`token` or as in `TokenHead`) and `drop_rate`, see `IsotropicTokens`.
    """

    undecayed = (".class_token", ".position.table")

    def __init__(
        self,
        embed_dim: int = 384,
        depths: Sequence[int] = (3, 3, 3, 3),
        num_heads: int = 6,
        keep_rate: float = 0.25,
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
            mixer = SparseAttention(embed_dim, num_heads, map_size, keep_rate, qkv_bias, proj_drop_rate)
            mlp = PlainMlp(embed_dim, int(embed_dim * mlp_ratio), proj_drop_rate)
            return TokenBlock(embed_dim, mixer, drop_path=drop_path, norm_layer=norm_layer, mlp=mlp)

        super().__init__(
            TokenStem(
                PatchStem(in_chans, embed_dim, patch_size, nn.Identity),
                embed_dim,
                PositionEmbedding(embed_dim, map_size, class_tokens=1),
            ),
            stages_of(depths, drop_path_rate, block, stage=TokenStage),
            dim=embed_dim,
            patch_size=patch_size,
            norm=norm_layer(embed_dim),
            in_chans=in_chans,
            **head,
        )
        self.train_predictors(False)

    @torch.jit.ignore
    def train_predictors(self, enable: bool = True) -> None:
        """Sets whether the predictors require gradients; they do not at first, as logits have none for them."""
        for module in self.modules():
            if isinstance(module, MaskPredictor):
                module.requires_grad_(enable)

    @torch.jit.ignore
    def with_reconstruction(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attends to all keys: images -> logits (B, num_classes), and the error of the predicted attention, a scalar.

        The selection of keys has no gradient, so this loss, the mean over all blocks, is what trains the predictors
        after `train_predictors()`. The authors train with it first.
        """
        tokens, losses = self.stem(x), []
        x = tokens.x
        stage: Any
        for stage in self.stages:
            for block in stage.blocks:
                out, loss = block.attn.reconstruction(block.norm1(x), tokens.height, tokens.width)
                losses.append(loss)
                x = x + block.drop_path1(out)
                x = x + block.drop_path2(block.mlp(block.norm2(x)))
        features = self._finish(Tokens(x, tokens.height, tokens.width))
        return self.forward_head(features), torch.stack(losses).mean()


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^cls_token$", "stem.class_token"),
    (r"^pos_embed$", "stem.position.table"),
    (r"^patch_embed\.", "stem.patches."),
    (r"\.attn\.mask_predictor\.proj_c_q\.", ".attn.predictor.query."),
    (r"\.attn\.mask_predictor\.proj_c_k\.", ".attn.predictor.key."),
    (r"\.attn\.mask_predictor\.proj_n$", ".attn.predictor.down"),
    (r"\.attn\.mask_predictor\.proj_back_n$", ".attn.predictor.up"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def rename(name: str, depths: Sequence[int]) -> str:
    """Maps an official parameter name, with one index for all blocks, to ours; a name that is already ours stays."""
    name = renamed(name, _RENAMES)
    return in_stages(name, depths)


checkpoint_filter_fn = filter_by_depths(rename)

family = Family(
    __name__,
    Sparsifiner,
    checkpoint_filter_fn,
    code="https://github.com/lim142857/Sparsifiner",
    paper="2303.13755",
    license="mit",
    first_conv="stem.patches.proj",
    cfg={"pool_size": None},
)

family.register(
    {
        "sparsifiner_pico": family.pico(embed_dim=96, depths=(1, 1, 2, 2), num_heads=3, img_size=64),
        "sparsifiner_s": family.variant("Sparsifiner-S, which keeps 25 % of the keys. No weights are published."),
    }
)
