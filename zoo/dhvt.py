"""DHVT: a plain vision transformer for small datasets, with a token per head and convolutions in its MLPs.

Paper: Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on Small Datasets, arXiv
2210.05958. Official code: ArieSeirack/DHVT, Apache 2.0.

What the official code does that the paper does not say: there are no absolute positions, only the padding of the
convolutions; the gates of the class token have no activation, and scale it after its norm; the channels of a head token
are normalized per head; the stem for 2x2 patches ends with GELU, the others do not. No weights were released.

Shapes at 224 (dhvt_tiny): image 3x224x224, then a class token and 14x14 tokens of 192 channels everywhere. The twelve
blocks are grouped into four stages of three, whose maps are the features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import Affine, AggregatingMlp, ConvNormStem, HeadTokenAttention

from .base import (
    Family,
    IsotropicTokens,
    Renames,
    TokenBlock,
    TokenStage,
    TokenStem,
    Variant,
    depths_of,
    in_stages,
    renamed,
    stages_of,
    unwrapped,
)

__all__ = ["HeadTokenTransformer"]

# number of stride-2 convolutions of the stem, by patch size
STEPS = {2: 1, 4: 2, 16: 4}


class HeadTokenTransformer(IsotropicTokens):
    """Blocks of attention with head tokens over a class token and one map; images of any size.

    Args:
        embed_dim: channels, a multiple of 8 for patches of 16, of 2 for patches of 4.
        depths: blocks per stage; stages only determine which maps are the features.
        num_heads: heads.
        patch_size: pixels per side of a patch: 2, 4 or 16.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after the projections of attention.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` (`token` or as in `TokenHead`) and `drop_rate`, see `IsotropicTokens`.

    Raises:
        ValueError: another patch size.
    """

    undecayed = (".class_token", ".attn.position")

    def __init__(
        self,
        embed_dim: int = 192,
        depths: Sequence[int] = (3, 3, 3, 3),
        num_heads: int = 3,
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if patch_size not in STEPS:
            raise ValueError(f"patch_size must be one of {', '.join(map(str, STEPS))}, got {patch_size}")
        norm_layer = partial(nn.LayerNorm, eps=1e-6)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            mixer = HeadTokenAttention(embed_dim, num_heads, qkv_bias, proj_drop_rate)
            mlp = AggregatingMlp(embed_dim, int(embed_dim * mlp_ratio))
            return TokenBlock(embed_dim, mixer, drop_path=drop_path, norm_layer=norm_layer, mlp=mlp)

        super().__init__(
            TokenStem(_patches(in_chans, embed_dim, STEPS[patch_size]), embed_dim),
            stages_of(depths, drop_path_rate, block, stage=TokenStage),
            dim=embed_dim,
            patch_size=patch_size,
            norm=norm_layer(embed_dim),
            in_chans=in_chans,
            **head,
        )


def _patches(in_chans: int, dim: int, steps: int) -> nn.Module:
    """Builds stride-2 convolutions between two affine layers: (B, in_chans, H, W) -> (B, H', W', dim)."""
    dims = [dim // 2**step for step in reversed(range(steps))]
    return nn.Sequential(
        OrderedDict(
            pre_affine=Affine(in_chans, channels_last=False),
            proj=ConvNormStem(in_chans, dims),
            act=nn.GELU() if steps == 1 else nn.Identity(),
            post_affine=Affine(dim),
        )
    )


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official checkpoint, or one of this project, to this project's names."""
    depths = depths_of(model)
    result = {rename(name, depths): tensor for name, tensor in unwrapped(state_dict).items()}
    return {name: tensor.flatten() if "_affine." in name else tensor for name, tensor in result.items()}


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^module\.", ""),
    (r"^cls_token$", "stem.class_token"),
    (r"^patch_embed\.proj\.(\d)\.0\.", r"stem.patches.proj.\1.conv."),
    (r"^patch_embed\.proj\.(\d)\.1\.", r"stem.patches.proj.\1.norm."),
    (r"^patch_embed\.(\w+)\.alpha$", r"stem.patches.\1.weight"),
    (r"^patch_embed\.(\w+)\.beta$", r"stem.patches.\1.bias"),
    (r"\.attn\.pos_embed$", ".attn.position"),
    (r"\.mlp\.conv(\d)\.(weight|bias)$", r".mlp.conv\1.conv.\2"),
    (r"\.mlp\.bn(\d)\.", r".mlp.conv\1.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def rename(name: str, depths: Sequence[int]) -> str:
    """Maps an official parameter name, with one index for all blocks, to ours; a name that is already ours stays."""
    name = renamed(name, _RENAMES)
    return in_stages(name, depths)


family = Family(
    __name__,
    HeadTokenTransformer,
    checkpoint_filter_fn,
    code="https://github.com/ArieSeirack/DHVT",
    paper="2210.05958",
    license="apache-2.0",
    first_conv="stem.patches.proj.0.conv",
    source="/blob/main/README.md",
    cfg={"pool_size": None},
)

_TINY: dict[str, Any] = {"embed_dim": 192, "depths": (3, 3, 3, 3), "num_heads": 3}
_SMALL = {**_TINY, "embed_dim": 384, "num_heads": 6}


def _dhvt(size: str, published: tuple[float, float, float], arguments: dict[str, Any]) -> Variant:
    return family.variant(f"DHVT-{size} for ImageNet. No weights are published.", "", published, **arguments)


def _cifar(size: str, patch_size: int, num_heads: int, arguments: dict[str, Any]) -> Variant:
    summary = f"DHVT-{size} for CIFAR-100, with patches of {patch_size}. No weights are published."
    arguments = {**arguments, "patch_size": patch_size, "num_heads": num_heads, "num_classes": 100}
    return family.variant(summary, cfg={"input_size": (3, 32, 32), "num_classes": 100, "crop_pct": 1.0}, **arguments)


family.register(
    {
        "dhvt_pico": family.pico(embed_dim=96, depths=(1, 1, 2, 2), num_heads=3),
        "dhvt_tiny": _dhvt("T", (77.6, 6.2, 1.4), _TINY),
        "dhvt_small": _dhvt("S", (82.3, 23.8, 5.1), _SMALL),
        "dhvt_tiny_cifar_patch4": _cifar("T", 4, 4, _TINY),
        "dhvt_tiny_cifar_patch2": _cifar("T", 2, 4, _TINY),
        "dhvt_small_cifar_patch4": _cifar("S", 4, 8, _SMALL),
        "dhvt_small_cifar_patch2": _cifar("S", 2, 8, _SMALL),
    }
)
