"""NAT, DiNAT and DiNAT-s: pyramids of neighborhood attention.

Papers: Neighborhood Attention Transformer (NAT), arXiv 2204.07143; Dilated Neighborhood Attention Transformer
(DiNAT, DiNAT-s), arXiv 2209.15001. Official code: SHI-Labs/Neighborhood-Attention-Transformer, MIT licence.

What the official code does that the papers do not say: dilations are constants of a model and do not depend on the
input size; a map smaller than kernel * dilation is padded with zeros that are attended to (see
`NeighborhoodAttention`); only nat_small, nat_base and dinat_base have layer scale; there is no activation between the
convolutions of the stem.

Shapes at 224 (nat_tiny): image 3x224x224, stem 56x56x64, stages 56x56x64, 28x28x128, 14x14x256, 7x7x512.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import (
    ConvDownsample,
    ConvStem,
    NeighborhoodAttention,
    PatchMerging,
    PatchStem,
    TransformerBlock,
    resize_bias_table,
)

from .base import TRANSFORMER, Family, Pyramid, Renames, Variant, of_transformers, renamed, stages_of, unwrapped

__all__ = ["NeighborhoodTransformer"]


class NeighborhoodTransformer(Pyramid):
    """A pyramid of neighborhood attention, NAT or DiNAT; with `layout="swin"`, DiNAT-s.

    Args:
        embed_dim: channels of the first stage; each further stage has twice as many.
        depths: blocks per stage.
        num_heads: heads per stage.
        kernel_size: side of the window, at least 1.
        dilations: per stage, the dilations of its blocks, repeated cyclically from the first block on.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        layer_scale: initial value of the layer scale of the branches; None for no layer scale.
        layout: `nat`, with overlapping convolutions as stem and downsamplers, or `swin`, with patches and merging.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dim: int = 64,
        depths: Sequence[int] = (3, 4, 18, 5),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        kernel_size: int = 7,
        dilations: Sequence[Sequence[int]] = ((1,), (1,), (1,), (1,)),
        mlp_ratio: float = 3.0,
        layer_scale: float | None = None,
        layout: str = "nat",
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if layout not in ("nat", "swin"):
            raise ValueError(f"layout must be nat or swin, got {layout!r}")
        downsampler: Callable[[int, int], nn.Module] = ConvDownsample if layout == "nat" else PatchMerging
        widths = [embed_dim * 2**i for i in range(len(depths))]

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dilation = dilations[stage][index % len(dilations[stage])]
            mixer = NeighborhoodAttention(
                widths[stage], num_heads[stage], kernel_size, dilation, qkv_bias=qkv_bias, proj_drop=proj_drop_rate
            )
            return TransformerBlock(widths[stage], mixer, mlp_ratio, layer_scale, drop_path, proj_drop_rate)

        stages = stages_of(depths, drop_path_rate, block, lambda stage: downsampler(widths[stage - 1], widths[stage]))
        super().__init__(
            ConvStem(in_chans, embed_dim) if layout == "nat" else PatchStem(in_chans, embed_dim, 4),
            stages,
            widths=widths,
            norm=nn.LayerNorm(widths[-1]),
            in_chans=in_chans,
            **head,
        )


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official checkpoint of any release, or one of transformers or this project, to this project's names.

    Relative position tables of another kernel size are interpolated like the official weights.
    """
    tables = {
        name: block.kernel_size for name, block in model.named_modules() if isinstance(block, NeighborhoodAttention)
    }
    result = {}
    for name, tensor in of_transformers(unwrapped(state_dict), TRANSFORMER).items():
        name = rename(name)
        module, _, leaf = name.rpartition(".")
        if leaf == "rpb" and module in tables:
            tensor = resize_bias_table(tensor, tables[module])
        if leaf != "relative_position_index":
            result[name] = tensor
    return result


# Patterns of official parameter names, with our names. Our stages begin with a downsampler, theirs end with one.
_RENAMES: Renames = (
    (r"^module\.", ""),
    (r"^patch_embed\.proj\.0\.", "stem.conv1."),
    (r"^patch_embed\.proj\.1\.", "stem.conv2."),
    (r"^patch_embed\.", "stem."),
    (r"^(?:levels|layers)\.(\d+)\.downsample\.", lambda match: f"stages.{int(match[1]) + 1}.downsample."),
    (r"^(?:levels|layers)\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"\.gamma([12])$", r".ls\1.gamma"),
    # the table is `rpb` in the first release of the official package, and has other names in later releases
    (r"\.attn\.(?:rel_pos_bias|bias)$", ".attn.rpb"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

rename = partial(renamed, renames=_RENAMES)


_CODE = "https://github.com/SHI-Labs/Neighborhood-Attention-Transformer"
_NAT_WEIGHTS = "https://shi-labs.com/projects/nat/checkpoints/CLS"
_1K_WEIGHTS = "https://shi-labs.com/projects/dinat/checkpoints/imagenet1k"
_22K_WEIGHTS = "https://shi-labs.com/projects/dinat/checkpoints/imagenet22k"

family = Family(
    __name__,
    NeighborhoodTransformer,
    checkpoint_filter_fn,
    code=_CODE,
    paper="2209.15001",
    license="mit",
    first_conv="stem.conv1",
    source="/blob/main/DiNAT.md",
)


def _nat(summary: str, file: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    return family.variant(
        summary,
        f"{_NAT_WEIGHTS}/{file}.pth",
        published,
        source="/blob/main/NAT.md",
        hub=f"shi-labs/{file.replace('_', '-')}-in1k-224",
        cfg={"paper_ids": "arXiv:2204.07143"},
        **arguments,
    )


def _dinat(
    summary: str, file: str, published: tuple[float, float, float] | None, *, tag: str = "in1k", **arguments: Any
) -> Variant:
    cfg: dict[str, Any] = {}
    if tag == "in22k":
        cfg["num_classes"] = 21841
    if arguments.get("layout") == "swin":
        cfg["first_conv"] = "stem.proj"
    if "384" in file:
        cfg |= {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0}
    weights = _22K_WEIGHTS if tag == "in22k" else _1K_WEIGHTS
    arguments = {"dilations": _DILATED, **arguments}
    return family.variant(summary, f"{weights}/{file}.pth", published, tag=tag, cfg=cfg, **arguments)


# Dilations of the four stages, for input sizes around 224 and around 384.
_DILATED = (1, 8), (1, 4), (1, 2), (1,)
_DILATED_384 = (1, 13), (1, 6), (1, 3), (1,)

# Arguments that the variants of a size share.
_MINI: dict[str, Any] = {"embed_dim": 64, "depths": (3, 4, 6, 5), "num_heads": (2, 4, 8, 16), "drop_path_rate": 0.2}
_TINY = {**_MINI, "depths": (3, 4, 18, 5)}
_SMALL = {**_TINY, "embed_dim": 96, "num_heads": (3, 6, 12, 24), "mlp_ratio": 2, "drop_path_rate": 0.3}
_BASE = {**_SMALL, "embed_dim": 128, "num_heads": (4, 8, 16, 32), "layer_scale": 1e-5, "drop_path_rate": 0.5}
_LARGE = {**_SMALL, "embed_dim": 192, "num_heads": (6, 12, 24, 48), "drop_path_rate": 0.35}
_S_TINY = {
    **_MINI,
    "layout": "swin",
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "mlp_ratio": 4,
}
_S_SMALL = {**_S_TINY, "depths": (2, 2, 18, 2), "drop_path_rate": 0.3}
_S_BASE = {**_S_SMALL, "embed_dim": 128, "num_heads": (4, 8, 16, 32), "drop_path_rate": 0.5}
_S_LARGE = {**_S_SMALL, "embed_dim": 192, "num_heads": (6, 12, 24, 48), "drop_path_rate": 0.35}

# variants of this project
_PICO: dict[str, Any] = {
    "embed_dim": 32,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 4, 8),
    "mlp_ratio": 2,
    "kernel_size": 3,
}

family.register(
    {
        "nat_pico": family.pico(**_PICO),
        "dinat_s_pico": family.pico(
            **_PICO, layout="swin", dilations=((1, 2), (1, 2), (1,), (1,)), cfg={"first_conv": "stem.proj"}
        ),
        "nat_mini": _nat("NAT-Mini.", "nat_mini", (81.8, 20, 2.7), **_MINI),
        "nat_tiny": _nat("NAT-Tiny.", "nat_tiny", (83.2, 28, 4.3), **_TINY),
        "nat_small": _nat("NAT-Small, with layer scale.", "nat_small", (83.7, 51, 7.8), **_SMALL, layer_scale=1e-5),
        "nat_base": _nat("NAT-Base, with layer scale.", "nat_base", (84.3, 90, 13.7), **_BASE),
        "dinat_mini": _dinat(
            "DiNAT-Mini.", "dinat_mini_in1k_224", (81.8, 20, 2.7), hub="shi-labs/dinat-mini-in1k-224", **_MINI
        ),
        "dinat_tiny": _dinat(
            "DiNAT-Tiny.", "dinat_tiny_in1k_224", (82.7, 28, 4.3), hub="shi-labs/dinat-tiny-in1k-224", **_TINY
        ),
        "dinat_small": _dinat(
            "DiNAT-Small, without layer scale.",
            "dinat_small_in1k_224",
            (83.8, 51, 7.8),
            hub="shi-labs/dinat-small-in1k-224",
            **_SMALL,
        ),
        "dinat_base": _dinat(
            "DiNAT-Base, with layer scale.",
            "dinat_base_in1k_224",
            (84.4, 90, 13.7),
            hub="shi-labs/dinat-base-in1k-224",
            **_BASE,
        ),
        "dinat_large": _dinat(
            "DiNAT-Large.",
            "dinat_large_in22k_in1k_224",
            (86.6, 200, 30.6),
            tag="in22k_ft_in1k",
            hub="shi-labs/dinat-large-in22k-in1k-224",
            **_LARGE,
        ),
        "dinat_large_384": _dinat(
            "DiNAT-Large at 384x384, with larger dilations.",
            "dinat_large_in22k_in1k_384",
            (87.4, 200, 89.7),
            tag="in22k_ft_in1k",
            hub="shi-labs/dinat-large-in22k-in1k-384",
            **_LARGE,
            dilations=_DILATED_384,
        ),
        "dinat_large_384_11x11": _dinat(
            "DiNAT-Large at 384x384, with an 11x11 window and the dilations of 224.",
            "dinat_large_in22k_in1k_384_11x11",
            (87.5, 200, 92.4),
            tag="in22k_ft_in1k",
            hub="shi-labs/dinat-large-11x11-in22k-in1k-384",
            **_LARGE,
            kernel_size=11,
        ),
        "dinat_large_21k": _dinat(
            "DiNAT-Large before fine-tuning, with the classes of ImageNet-22k.",
            "dinat_large_in22k_224",
            None,
            tag="in22k",
            **{**_LARGE, "drop_path_rate": 0.2},
        ),
        "dinat_large_21k_11x11": _dinat(
            "dinat_large_21k with its tables interpolated to an 11x11 window.",
            "dinat_large_in22k_224_11x11interp",
            None,
            tag="in22k",
            **{**_LARGE, "drop_path_rate": 0.2, "kernel_size": 11},
        ),
        "dinat_s_tiny": _dinat("DiNAT-s-Tiny.", "dinat_s_tiny_in1k_224", (81.8, 28, 4.5), **_S_TINY),
        "dinat_s_small": _dinat("DiNAT-s-Small.", "dinat_s_small_in1k_224", (83.5, 50, 8.7), **_S_SMALL),
        "dinat_s_base": _dinat("DiNAT-s-Base.", "dinat_s_base_in1k_224", (83.8, 88, 15.4), **_S_BASE),
        "dinat_s_large": _dinat(
            "DiNAT-s-Large.", "dinat_s_large_in1k_224", (86.5, 197, 34.5), tag="in22k_ft_in1k", **_S_LARGE
        ),
        "dinat_s_large_384": _dinat(
            "DiNAT-s-Large at 384x384, with larger dilations.",
            "dinat_s_large_in1k_384",
            (87.4, 197, 101.5),
            tag="in22k_ft_in1k",
            **_S_LARGE,
            dilations=_DILATED_384,
        ),
        "dinat_s_large_21k": _dinat(
            "DiNAT-s-Large before fine-tuning, with the classes of ImageNet-22k.",
            "dinat_s_large_in22k_224",
            None,
            tag="in22k",
            **{**_S_LARGE, "drop_path_rate": 0.2},
        ),
    }
)
