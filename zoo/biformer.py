"""BiFormer: a pyramid of bi-level routing attention.

Paper: BiFormer: Vision Transformer with Bi-Level Routing Attention, arXiv 2303.08810. Official code:
rayleizhu/BiFormer, MIT licence.

What the official code does that the paper does not say: scores of routed attention are multiplied with C ** -0.5, where
C is the width of all heads together; the last stage is dense attention with eight heads, without a bias of queries,
keys and values, and with a depthwise convolution of its input; a batch norm comes before the pooling; the number of
regions per side is fixed (7), so regions grow with the image. The refactored `biformer_stl_nchw` convolves the values
in its last stage too, and always pads the projected map, where the others raise an error for a map that regions do not
divide.

Shapes at 224 (biformer_tiny): image 3x224x224, stem 56x56x64, stages 56x56x64, 28x28x128, 14x14x256, 7x7x512.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from attnzoo.blocks import (
    BiLevelRoutingAttention,
    ChannelsLastBatchNorm2d,
    ConvNorm,
    ConvNormStem,
    LepeAttention,
    NormConv,
    ResidualConv,
    TransformerBlock,
)

from .base import Family, Pyramid, Renames, Variant, renamed, stages_of, unwrapped

__all__ = ["BiFormer"]


class BiFormer(Pyramid):
    """A pyramid of bi-level routing attention, whose last stage is dense.

    Args:
        embed_dim: channels per stage.
        depths: blocks per stage.
        topks: per stage, the number of regions that each region attends to; None for dense attention.
        head_dim: channels of a head of routed attention; dense attention has 8 heads.
        regions: regions of the map, one number for both sides or (rows, columns); the published dense tasks use 8
            (segmentation) and 16 (detection).
        auto_pad: whether maps that the regions do not divide are padded. Without it the regions must divide every
            routed map: for 7 regions, image sides must be multiples of 112. With `features_only=True` the default is
            True, since dense tasks have images of any size.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        layout: `biformer`, with overlapping convolutions between stages and a convolution before each attention;
            `stl`, the layout of Swin, with patches and neither of the two; `stl_nchw`, the same after the authors'
            refactoring.
        qkv_bias: whether queries, keys and values of routed attention have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.

    Raises:
        ValueError: the layout is unknown, or the lengths of the sequences differ.
    """

    # defaults with `features_only=True`
    dense_arguments: ClassVar[dict[str, Any]] = {"auto_pad": True}

    def __init__(
        self,
        embed_dim: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 8, 2),
        topks: Sequence[int | None] = (1, 4, 16, None),
        head_dim: int = 32,
        regions: int | tuple[int, int] = 7,
        auto_pad: bool = False,
        mlp_ratio: float = 3.0,
        layout: str = "biformer",
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if layout not in ("biformer", "stl", "stl_nchw"):
            raise ValueError(f"layout must be biformer, stl or stl_nchw, got {layout!r}")
        if not len(embed_dim) == len(depths) == len(topks):
            raise ValueError(
                f"embed_dim, depths and topks must have one entry per stage, got {len(embed_dim)}, {len(depths)} and "
                f"{len(topks)}"
            )
        is_plain, is_refactored = layout == "biformer", layout == "stl_nchw"

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, topk = embed_dim[stage], topks[stage]
            mixer: nn.Module
            if topk is None:
                mixer = LepeAttention(dim, lepe_of_values=is_refactored, proj_drop=proj_drop_rate)
            else:
                mixer = BiLevelRoutingAttention(
                    dim,
                    dim // head_dim,
                    regions,
                    topk,
                    auto_pad,
                    pad_projected=is_refactored,
                    qkv_bias=qkv_bias,
                    proj_drop=proj_drop_rate,
                )
            return TransformerBlock(
                dim,
                mixer,
                mlp_ratio,
                drop_path=drop_path,
                proj_drop=proj_drop_rate,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                pos_embed=ResidualConv(dim) if is_plain else None,
            )

        def downsampler(dim: int, out_dim: int) -> nn.Module:
            if is_plain:
                return ConvNorm(dim, out_dim, 3, stride=2, bias=True)
            return NormConv(ChannelsLastBatchNorm2d(dim), nn.Conv2d(dim, out_dim, 2, stride=2))

        stages = stages_of(
            depths,
            drop_path_rate,
            block,
            lambda stage: downsampler(embed_dim[stage - 1], embed_dim[stage]),
        )
        super().__init__(
            ConvNormStem(in_chans, (embed_dim[0] // 2, embed_dim[0]), bias=True)
            if is_plain
            else ConvNormStem(in_chans, embed_dim[:1], (4,), kernel_size=4, padding=0, bias=True),
            stages,
            widths=embed_dim,
            norm=ChannelsLastBatchNorm2d(embed_dim[-1]),
            in_chans=in_chans,
            **head,
        )
        self.layout = layout
        if is_refactored:
            # there the official layers are convolutions with torch's default initialization
            for module in self.stages.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts checkpoints, official or of this project, to our names, and 1x1 convolutions to linear layers."""
    result = {}
    for name, tensor in unwrapped(state_dict).items():
        name = rename(name, str(model.layout))
        is_linear = name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
        result[name] = tensor.flatten(1) if is_linear else tensor
    return result


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^module\.", ""),
    # convolutions, each followed by its norm
    (r"^downsample_layers\.0\.([03])\.", lambda match: f"stem.{int(match[1]) * 2 // 3}.conv."),
    (r"^downsample_layers\.0\.([14])\.", lambda match: f"stem.{int(match[1]) * 2 // 3}.norm."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^norm\.(?!norm\.)", "norm.norm."),
    (r"^(stages\.\d+)\.(\d+)\.", r"\1.blocks.\2."),
    (r"\.pos_embed\.(weight|bias)$", r".pos_embed.conv.\1"),
    (r"\.attn\.(?:qkv\.qkv|qkv_linear)\.", r".attn.qkv."),
    (r"\.attn\.(?:wo|output_linear)\.", r".attn.proj."),
    (r"\.mlp\.0\.", r".mlp.fc1."),
    (r"\.mlp\.[23]\.", r".mlp.fc2."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def rename(name: str, layout: str = "biformer") -> str:
    """Maps an official parameter name to ours; a name that is already ours stays as it is."""
    name = renamed(name, _RENAMES)
    if layout == "biformer":
        return name.replace(".downsample.0.", ".downsample.conv.").replace(".downsample.1.", ".downsample.norm.")
    return re.sub(r"\.downsample\.0\.(?!norm\.)", ".downsample.0.norm.", name)


family = Family(
    __name__,
    BiFormer,
    checkpoint_filter_fn,
    code="https://github.com/rayleizhu/BiFormer",
    paper="2303.08810",
    license="mit",
    first_conv="stem.0.conv",
    source="/blob/public_release/README.md",
    # without auto_pad: 7 regions of one pixel in the third stage
    cfg={"min_input_size": (3, 112, 112)},
)
_WEIGHTS = "https://api.onedrive.com/v1.0/shares"


def _variant(summary: str, share: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    return family.variant(summary, f"{_WEIGHTS}/{share}/root/content", published, **arguments)


# Arguments that the variants of a size share.
_TINY: dict[str, Any] = {"embed_dim": (64, 128, 256, 512), "depths": (2, 2, 8, 2), "drop_path_rate": 0.1}
_SMALL = {**_TINY, "depths": (4, 4, 18, 4), "drop_path_rate": 0.15}
_BASE = {**_SMALL, "embed_dim": (96, 192, 384, 768), "drop_path_rate": 0.1}
_STL: dict[str, Any] = {
    "embed_dim": (96, 192, 384, 768),
    "depths": (2, 2, 6, 2),
    "mlp_ratio": 4,
    "layout": "stl",
    "drop_path_rate": 0.1,
}

family.register(
    {
        "biformer_pico": family.pico(
            embed_dim=(32, 64, 128, 256),
            depths=(1, 1, 2, 1),
            mlp_ratio=2,
        ),
        "biformer_tiny": _variant("BiFormer-T.", "s!AkBbczdRlZvChHEOoGkgwgQzEDlM", (81.4, 13.1, 2.2), **_TINY),
        "biformer_small": _variant("BiFormer-S.", "s!AkBbczdRlZvChHDyM-x9KWRBZ832", (83.8, 25.5, 4.5), **_SMALL),
        "biformer_base": _variant("BiFormer-B.", "s!AkBbczdRlZvChHI_XPhoadjaNxtO", (84.3, 56.8, 9.8), **_BASE),
        "biformer_stl": _variant(
            "BiFormer-STL, the layout of Swin-T.", "s!AkBbczdRlZvChSf-m7ujkvx9lIQ1", (82.7, 28.4, 4.6), **_STL
        ),
        "biformer_stl_nchw": _variant(
            "BiFormer-STL after the authors' refactoring, which pads any map.",
            "s!AkBbczdRlZvChWYrKbWbMgqd2Ai0",
            (82.7, 28.4, 4.6),
            **{**_STL, "layout": "stl_nchw", "auto_pad": True},
        ),
    }
)
