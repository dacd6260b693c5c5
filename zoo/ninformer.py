"""NiNformer: an MLP-Mixer computes the gates of a linear layer, which takes the place of attention.

Paper: NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function, arXiv 2403.02411.
Official code: Abdullah-88/NiNformer, BSD 3-clause licence.

What the official code does that the paper does not say: both branches of a block share one norm; there are no positions
and no norm at the end. It takes one image size; here the weights over tokens are interpolated to others. No weights
were released.

Shapes at 32 (ninformer_cifar10): image 3x32x32, then 8x8x256 everywhere. The blocks are grouped into stages of one,
whose maps are the features.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, to_2tuple
from torch import Tensor, nn

from attnzoo.blocks import MixerGate, Mlp, PatchStem

from .base import Family, Isotropic, Renames, Variant, filter_by_depths, in_stages, renamed, stages_of

__all__ = ["NiNformer"]


class NiNformer(Isotropic):
    """Blocks of mixer gates and MLPs on one map; images of any size.

    Args:
        embed_dim: channels.
        depths: blocks per stage; stages only determine which maps are the features.
        hidden_dim: hidden values of all MLPs.
        img_size: image size that weights over tokens are learned at, one number or (rows, columns).
        patch_size: pixels per side of a patch.
        proj_drop_rate: dropout rate in MLPs; the authors train with 0.5.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        depths: Sequence[int] = (1, 1, 1, 1),
        hidden_dim: int = 512,
        img_size: int | tuple[int, int] = 32,
        patch_size: int = 4,
        in_chans: int = 3,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        rows, columns = to_2tuple(img_size)
        map_size = -(-rows // patch_size), -(-columns // patch_size)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            return GatedBlock(embed_dim, map_size, hidden_dim, drop_path, proj_drop_rate)

        super().__init__(
            PatchStem(in_chans, embed_dim, patch_size, nn.Identity),
            stages_of(depths, drop_path_rate, block),
            dim=embed_dim,
            patch_size=patch_size,
            norm=nn.Identity(),
            in_chans=in_chans,
            **head,
        )


class GatedBlock(nn.Module):
    """x + gate(norm(x)), then x + mlp(norm(x)) with the same norm: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        map_size: the map (rows, columns) that weights over tokens are learned on.
        hidden_dim: hidden values of all MLPs.
        drop_path: probability that a sample skips a branch in training.
        proj_drop: dropout rate in MLPs.
    """

    def __init__(
        self, dim: int, map_size: tuple[int, int], hidden_dim: int, drop_path: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gate = MixerGate(dim, map_size, hidden_dim, hidden_dim, proj_drop)
        self.mlp = Mlp(dim, hidden_dim, proj_drop)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path1(self.gate(self.norm(x)))
        return x + self.drop_path2(self.mlp(self.norm(x)))


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^patcher\.", "stem.proj."),
    (r"\.mgu\.proj\.", ".gate.proj."),
    (r"\.mgu\.Mixer\.token_mix\.0\.", ".gate.norm1."),
    (r"\.mgu\.Mixer\.channel_mix\.0\.", ".gate.norm2."),
    (r"\.mgu\.Mixer\.token_mix\.2\.net\.", ".gate.tokens."),
    (r"\.mgu\.Mixer\.channel_mix\.1\.net\.", ".gate.channels."),
    (r"\.ffn\.net\.", ".mlp."),
    (r"\.(mlp|tokens|channels)\.0\.", r".\1.fc1."),
    (r"\.(mlp|tokens|channels)\.3\.", r".\1.fc2."),
    (r"^classifier\.", "head.fc."),
)


def rename(name: str, depths: Sequence[int]) -> str:
    """Maps an official parameter name, with one index for all blocks, to ours; a name that is already ours stays."""
    name = renamed(name, _RENAMES)
    return in_stages(name, depths, "model")


checkpoint_filter_fn = filter_by_depths(rename)

family = Family(
    __name__,
    NiNformer,
    checkpoint_filter_fn,
    code="https://github.com/Abdullah-88/NiNformer",
    paper="2403.02411",
    license="bsd-3-clause",
    first_conv="stem.proj",
    cfg={
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    },
)


def _cifar(num_classes: int) -> Variant:
    summary = f"NiNformer for CIFAR-{num_classes}. No weights are published."
    return family.variant(summary, cfg={"num_classes": num_classes}, num_classes=num_classes)


family.register(
    {
        "ninformer_pico": family.pico(
            embed_dim=96, hidden_dim=192, img_size=64, patch_size=8, cfg={"input_size": (3, 64, 64)}
        ),
        "ninformer_cifar10": _cifar(10),
        "ninformer_cifar100": _cifar(100),
    }
)
