"""FFTNet: a plain vision transformer that filters the Fourier transform of its tokens instead of attention.

Paper: The FFT Strikes Back: An Efficient Alternative to Self-Attention, arXiv 2502.18394. Official code: jacobfa/fft,
without a licence; the network is that of an earlier commit, as later ones have another.

What the official code does that the paper does not say: tokens, the class token among them, are transformed as one
sequence, without regard to rows; both the filter and the block add the input, which is therefore doubled. It takes one
image size; here positions and filters are interpolated to others. No weights were released.

Shapes at 224 (fftnet_vit_base): image 3x224x224, then a class token and 14x14 tokens of 768 channels everywhere. The
twelve blocks are grouped into four stages of three, whose maps are the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import to_2tuple
from torch import nn

from attnzoo.blocks import AdaptiveSpectralFilter, PatchStem, PositionEmbedding

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

__all__ = ["FFTNet"]


class FFTNet(IsotropicTokens):
    """Blocks of adaptive spectral filters over a class token and one map; images of any size.

    Args:
        embed_dim: channels.
        depths: blocks per stage; stages only determine which maps are the features.
        num_heads: heads, which have a filter each.
        img_size: image size that positions and filters are learned at, one number or (rows, columns).
        patch_size: pixels per side of a patch.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        proj_drop_rate: dropout rate in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` (`token` or as in `TokenHead`) and `drop_rate`, see `IsotropicTokens`.
    """

    undecayed = (".class_token", ".position.table")

    def __init__(
        self,
        embed_dim: int = 768,
        depths: Sequence[int] = (3, 3, 3, 3),
        num_heads: int = 12,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        in_chans: int = 3,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        rows, columns = to_2tuple(img_size)
        map_size = -(-rows // patch_size), -(-columns // patch_size)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            mixer = AdaptiveSpectralFilter(embed_dim, num_heads, 1 + map_size[0] * map_size[1])
            mlp = PlainMlp(embed_dim, int(embed_dim * mlp_ratio), proj_drop_rate)
            return DoublingBlock(embed_dim, mixer, drop_path=drop_path, mlp=mlp)

        super().__init__(
            TokenStem(
                PatchStem(in_chans, embed_dim, patch_size, nn.Identity),
                embed_dim,
                PositionEmbedding(embed_dim, map_size, "bicubic", class_tokens=1),
            ),
            stages_of(depths, drop_path_rate, block, stage=TokenStage),
            dim=embed_dim,
            patch_size=patch_size,
            norm=nn.LayerNorm(embed_dim),
            in_chans=in_chans,
            **head,
        )


class DoublingBlock(TokenBlock):
    """A `TokenBlock` that adds its input once more: tokens -> tokens."""

    def forward(self, tokens: Tokens) -> Tokens:  # type: ignore[override]
        """Tokens -> tokens."""
        x = tokens.x
        mixer = self.attn
        assert mixer is not None
        x = 2 * x + self.drop_path1(mixer.forward_tokens(self.norm1(x), tokens.height, tokens.width))  # type: ignore[operator]
        return Tokens(x + self.drop_path2(self.mlp(self.norm2(x))), tokens.height, tokens.width, tokens.kept)


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^cls_token$", "stem.class_token"),
    (r"^pos_embed$", "stem.position.table"),
    (r"^patch_embed\.", "stem.patches."),
    (r"\.attention\.pre_norm\.", ".norm1."),
    (r"\.attention\.base_filter$", ".attn.scale"),
    (r"\.attention\.base_bias$", ".attn.shift"),
    (r"\.attention\.adaptive_mlp\.0\.", ".attn.fc1."),
    (r"\.attention\.adaptive_mlp\.2\.", ".attn.fc2."),
    (r"^(blocks\.\d+)\.norm\.", r"\1.norm2."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def rename(name: str, depths: Sequence[int]) -> str:
    """Maps an official parameter name, with one index for all blocks, to ours; a name that is already ours stays."""
    return in_stages(renamed(name, _RENAMES), depths)


checkpoint_filter_fn = filter_by_depths(rename)

family = Family(
    __name__,
    FFTNet,
    checkpoint_filter_fn,
    code="https://github.com/jacobfa/fft",
    paper="2502.18394",
    license="unknown",
    first_conv="stem.patches.proj",
    # tokens have no pooled map
    cfg={"pool_size": None},
)

family.register(
    {
        "fftnet_vit_pico": family.pico(
            embed_dim=96, depths=(1, 1, 2, 2), num_heads=3, img_size=64, cfg={"input_size": (3, 64, 64)}
        ),
        "fftnet_vit_base": family.variant("FFTNetViT-Base. No weights are published."),
    }
)
