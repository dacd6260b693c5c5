"""PlainMamba: selective scans along continuous routes over one map, without a hierarchy or a class token.

Paper: PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition, arXiv 2403.17695. Official code:
ChenhongyiYang/PlainMamba, which states no licence.

What the official code does that the paper does not say: the smallest network has a depthwise convolution, without a
shortcut, after its first block; step sizes, inputs and outputs of the state stay in row-major order while the tokens
are scanned along a route; the bias of the step sizes is added twice. Positions are interpolated bicubically to other
sizes.

Shapes at 224 (plainmamba_l1): image 3x224x224, then 14x14x192 everywhere. The blocks are grouped into four stages,
whose maps are the features.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, to_2tuple
from torch import Tensor, nn

from attnzoo.blocks import ContinuousScan, ConvNorm, PatchStem, PositionEmbedding

from .base import Family, Isotropic, Renames, Variant, filter_by_depths, in_stages, renamed, stages_of

__all__ = ["PlainMamba"]

_PATCH_SIZE = 16


class PlainMamba(Isotropic):
    """Blocks of selective scans on one map; images of any size.

    Args:
        embed_dim: channels.
        depths: blocks per stage; stages only determine which maps are the features.
        stem_dim: channels of the convolutions before the patches.
        stem_convs: 3x3 convolutions in the stem, after a 7x7 one of stride 2.
        local_first: whether a depthwise convolution, without a shortcut, follows the first block.
        img_size: image size that positions are learned at, one number or (rows, columns).
        in_chans: channels of the image.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    undecayed = (".position.table", ".A_log", ".D", ".directions")

    def __init__(
        self,
        embed_dim: int = 192,
        depths: Sequence[int] = (6, 6, 6, 6),
        stem_dim: int = 64,
        stem_convs: int = 2,
        local_first: bool = False,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        rows, columns = (-(-side // _PATCH_SIZE) for side in to_2tuple(img_size))

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            return ScanBlock(embed_dim, drop_path, local_first and stage == index == 0)

        convs = [ConvNorm(in_chans, stem_dim, 7, 2, channels_last=False)]
        convs += [ConvNorm(stem_dim, stem_dim, 3, channels_last=False) for _ in range(stem_convs)]
        stem = OrderedDict[str, nn.Module]()
        for i, conv in enumerate(convs):
            stem[f"conv{i}"], stem[f"act{i}"] = conv, nn.ReLU()
        stem["patches"] = PatchStem(stem_dim, embed_dim, _PATCH_SIZE // 2, nn.Identity)
        stem["position"] = PositionEmbedding(embed_dim, (rows, columns), "bicubic")
        super().__init__(
            nn.Sequential(stem),
            stages_of(depths, drop_path_rate, block),
            dim=embed_dim,
            patch_size=_PATCH_SIZE,
            norm=nn.LayerNorm(embed_dim, eps=1e-6),
            in_chans=in_chans,
            **head,
        )


class ScanBlock(nn.Module):
    """x + scan(norm(x)): (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        drop_path: probability that a sample skips the branch in training.
        has_local: whether a depthwise convolution with norm and activation follows, without a shortcut.
    """

    def __init__(self, dim: int, drop_path: float = 0.0, has_local: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.scan = ContinuousScan(dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.local = nn.Sequential(ConvNorm(dim, dim, 3, groups=dim), nn.GELU()) if has_local else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.local(x + self.drop_path(self.scan(self.norm(x))))


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^backbone\.", ""),
    (r"^pos_embed$", "stem.position.table"),
    (r"^patch_embed\.stem\.0\.", "stem.conv0.conv."),
    (r"^patch_embed\.stem\.1\.", "stem.conv0.norm."),
    (r"^patch_embed\.convs\.0\.", "stem.conv1.conv."),
    (r"^patch_embed\.convs\.1\.", "stem.conv1.norm."),
    (r"^patch_embed\.convs\.3\.", "stem.conv2.conv."),
    (r"^patch_embed\.convs\.4\.", "stem.conv2.norm."),
    (r"^patch_embed\.projection\.", "stem.patches.proj."),
    (r"\.mamba\.conv2d\.", ".scan.conv."),
    (r"\.mamba\.direction_Bs$", ".scan.directions"),
    (r"\.mamba\.", ".scan."),
    (r"\.dw\.0\.", ".local.0.conv."),
    (r"\.dw\.1\.", ".local.0.norm."),
    (r"^ln1\.", "norm."),
)


def rename(name: str, depths: Sequence[int]) -> str:
    """Maps an official parameter name, with one index for all blocks, to ours; a name that is already ours stays."""
    return in_stages(renamed(name, _RENAMES), depths, "layers")


checkpoint_filter_fn = filter_by_depths(rename)

family = Family(
    __name__,
    PlainMamba,
    checkpoint_filter_fn,
    code="https://github.com/ChenhongyiYang/PlainMamba",
    paper="2403.17695",
    license="unknown",
    first_conv="stem.conv0.conv",
    source="#imagenet-1k-classification",
    cfg={"pool_size": (14, 14)},
)


def _plainmamba(size: str, published: tuple[float, float, None], **arguments: Any) -> Variant:
    url = f"https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/{size.lower()}.pth"
    return family.variant(f"PlainMamba-{size}, with the official weights.", url, published, **arguments)


family.register(
    {
        "plainmamba_pico": family.pico(embed_dim=64, depths=(1, 1, 2, 2), stem_dim=32, stem_convs=1, local_first=True),
        "plainmamba_l1": _plainmamba("L1", (77.9, 7.3, None), stem_convs=1, local_first=True, drop_path_rate=0.2),
        "plainmamba_l2": _plainmamba("L2", (81.6, 25.7, None), embed_dim=384, drop_path_rate=0.2),
        "plainmamba_l3": _plainmamba("L3", (82.3, 50.5, None), embed_dim=448, depths=(9, 9, 9, 9), drop_path_rate=0.4),
    }
)
