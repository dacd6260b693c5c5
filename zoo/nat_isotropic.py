"""Isotropic NAT and DiNAT, with a single map size, and the ViT with relative positions they are compared with.

Paper: Dilated Neighborhood Attention Transformer, arXiv 2209.15001, section 4.4. Official code:
SHI-Labs/Neighborhood-Attention-Transformer, MIT licence.

What the official code does that the paper does not say: every second block is dilated, with dilation 2; the ViT takes
only maps of 14x14. Full attention with a relative position table is neighborhood attention with a window as large as
the map, so here the ViT takes a map of any size and attends to 14x14 windows.

Shapes at 224 (nat_isotropic_small): image 3x224x224, then 14x14x384 everywhere. The twelve blocks are grouped into
four stages of three, whose outputs are the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import NeighborhoodAttention, PatchStem, TransformerBlock

from . import nat
from .base import Family, Isotropic, Variant, depths_of, in_stages, stages_of, unwrapped

__all__ = ["IsotropicNeighborhoodTransformer"]


class IsotropicNeighborhoodTransformer(Isotropic):
    """Blocks of neighborhood attention on one map, after patches of 16x16 pixels.

    Args:
        embed_dim: channels.
        depths: blocks per stage; stages only determine which outputs are the features.
        num_heads: heads.
        kernel_size: side of the window, at least 1.
        dilations: dilations of the blocks, repeated cyclically from the first block on.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dim: int = 384,
        depths: Sequence[int] = (3, 3, 3, 3),
        num_heads: int = 12,
        kernel_size: int = 7,
        dilations: Sequence[int] = (1,),
        mlp_ratio: float = 4.0,
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dilation = dilations[(sum(depths[:stage]) + index) % len(dilations)]
            mixer = NeighborhoodAttention(
                embed_dim, num_heads, kernel_size, dilation, qkv_bias=qkv_bias, proj_drop=proj_drop_rate
            )
            return TransformerBlock(embed_dim, mixer, mlp_ratio, None, drop_path, proj_drop_rate)

        stages = stages_of(depths, drop_path_rate, block)
        super().__init__(
            PatchStem(in_chans, embed_dim, 16),
            stages,
            dim=embed_dim,
            patch_size=16,
            norm=nn.LayerNorm(embed_dim),
            in_chans=in_chans,
            **head,
        )


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts a checkpoint, official (with a single list of blocks) or of this project, to this project's names."""
    depths = depths_of(model)
    weights = {rename(name, depths): tensor for name, tensor in unwrapped(state_dict).items()}
    return nat.checkpoint_filter_fn(weights, model)


def rename(name: str, depths: Sequence[int]) -> str:
    """Maps an official parameter name to ours; a name that is already ours stays as it is."""
    return nat.rename(in_stages(name, depths, r"(?:module\.)?layers"))


family = Family(
    __name__,
    IsotropicNeighborhoodTransformer,
    checkpoint_filter_fn,
    code=nat.family.code,
    paper="2209.15001",
    license="mit",
    first_conv="stem.proj",
    source="/blob/main/DiNAT.md",
    cfg={"pool_size": (14, 14)},
)
_WEIGHTS = "https://shi-labs.com/projects/dinat/checkpoints/isotropic"


def _variant(summary: str, name: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    return family.variant(summary, f"{_WEIGHTS}/{name}_in1k_224.pth", published, **arguments)


_SMALL: dict[str, Any] = {"embed_dim": 384, "depths": (3, 3, 3, 3), "num_heads": 12, "drop_path_rate": 0.1}
_BASE: dict[str, Any] = {**_SMALL, "embed_dim": 768, "num_heads": 24, "drop_path_rate": 0.4}

_PICO: dict[str, Any] = {"embed_dim": 96, "depths": (1, 1, 1, 1), "num_heads": 3, "mlp_ratio": 2, "kernel_size": 3}

family.register(
    {
        "nat_isotropic_pico": family.pico(**_PICO, dilations=(1, 2)),
        "vitrpb_pico": family.pico(**{**_PICO, "kernel_size": 14}),
        "nat_isotropic_small": _variant("Isotropic NAT-Small.", "nat_isotropic_small", (80.0, 22, 4.3), **_SMALL),
        "nat_isotropic_base": _variant("Isotropic NAT-Base.", "nat_isotropic_base", (81.6, 86, 16.9), **_BASE),
        "dinat_isotropic_small": _variant(
            "Isotropic DiNAT-Small.", "dinat_isotropic_small", (80.8, 22, 4.3), **_SMALL, dilations=(1, 2)
        ),
        "dinat_isotropic_base": _variant(
            "Isotropic DiNAT-Base.", "dinat_isotropic_base", (82.1, 86, 16.9), **_BASE, dilations=(1, 2)
        ),
        "vitrpb_small": _variant(
            "ViT-Small with relative positions.", "vitrpb_small", (81.2, 22, 4.6), **_SMALL, kernel_size=14
        ),
        "vitrpb_base": _variant(
            "ViT-Base with relative positions.", "vitrpb_base", (82.5, 86, 17.5), **_BASE, kernel_size=14
        ),
    }
)
