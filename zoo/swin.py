"""Swin: a pyramid of window attention, with windows shifted by half their size in every second block.

Paper: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, arXiv 2103.14030. Official code:
microsoft/Swin-Transformer, MIT licence.

What the official code does that the paper does not say: windows are not shifted for a map that fits into one window;
position tables are indexed by query minus key; for another window size they are interpolated bicubically when they are
loaded; in the authors' detectors maps are padded, and the padding is attended to. At 384 pixels images are resized to a
square whatever their shape.

Shapes at 224 (zoo_swin_tiny_patch4_window7_224): image 3x224x224, stages 56x56x96, 28x28x192, 14x14x384, 7x7x768.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import to_2tuple
from torch import Tensor, nn

from attnzoo.blocks import PatchMerging, PatchStem, TransformerBlock, WindowAttention, resize_bias_table

from .base import TRANSFORMER, Family, Pyramid, Renames, Variant, of_transformers, renamed, stages_of, unwrapped

__all__ = ["SwinTransformer"]

# one side, or rows and columns
WindowSize = int | tuple[int, int]


class SwinTransformer(Pyramid):
    """Window attention; the windows of every second block are shifted. It takes images of any size.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        num_heads: heads per stage.
        window_size: side of windows or (rows, columns), for all stages; or one of them per stage.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.

    Raises:
        ValueError: `window_size` does not fit the number of stages, or has a side less than 1.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: WindowSize | Sequence[WindowSize] = 7,
        mlp_ratio: float = 4.0,
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        windows = _per_stage(window_size, len(depths))

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, is_shifted = embed_dims[stage], index % 2 == 1
            mixer = WindowAttention(dim, num_heads[stage], windows[stage], is_shifted, qkv_bias, proj_drop_rate)
            return TransformerBlock(dim, mixer, mlp_ratio, None, drop_path, proj_drop_rate)

        stages = stages_of(
            depths, drop_path_rate, block, lambda stage: PatchMerging(embed_dims[stage - 1], embed_dims[stage])
        )
        super().__init__(
            PatchStem(in_chans, embed_dims[0], 4),
            stages,
            widths=embed_dims,
            norm=nn.LayerNorm(embed_dims[-1]),
            in_chans=in_chans,
            **head,
        )


def _per_stage(window_size: WindowSize | Sequence[WindowSize], stages: int) -> list[WindowSize]:
    """Returns the window of each stage; two numbers are rows and columns, as in timm."""
    if isinstance(window_size, int):
        windows: list[WindowSize] = [window_size] * stages
    elif len(window_size) == 2 and all(isinstance(side, int) for side in window_size):
        windows = [(window_size[0], window_size[1])] * stages  # type: ignore[list-item]
    else:
        windows = [side if isinstance(side, int) else (side[0], side[1]) for side in window_size]
    if len(windows) != stages or any(min(to_2tuple(window)) < 1 for window in windows):
        raise ValueError(
            f"window_size must be a number, (rows, columns), or one of them for each of {stages} stages, all at least "
            f"1, got {window_size!r}"
        )
    return windows


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts a checkpoint of the authors, of timm, of transformers or of this project to this project's names.

    Position tables of another window size are interpolated.
    """
    state_dict = of_transformers(unwrapped(state_dict), TRANSFORMER)
    wanted = model.state_dict()
    # stages of the official code end with a downsampler, stages of timm begin with one
    begins_with_it = not any(name.startswith("layers.0.downsample.") for name in state_dict)
    result = {}
    for name, tensor in state_dict.items():
        if name.endswith(("relative_position_index", "attn_mask")):
            continue
        if name.endswith("relative_position_bias_table"):
            own = wanted.get(rename(name))
            # the tables of windows that are not square have the model's own size
            size = own.shape[1:] if own is not None and own.numel() == tensor.numel() else None
            tensor = table_by_head(tensor, size)
        if begins_with_it:
            name = re.sub(r"^layers\.(\d+)\.downsample\.", r"stages.\1.downsample.", name)
        name = rename(name)
        if name.endswith(".rpb") and name in wanted:
            rows, columns = wanted[name].shape[1:]
            tensor = resize_bias_table(tensor, ((rows + 1) // 2, (columns + 1) // 2))
        result[name] = tensor
    return result


def table_by_head(table: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """(positions, h) -> (h, rows, columns), indexed by key minus query; the official one is query minus key.

    Args:
        table: the official table.
        size: rows and columns; None if they are equal.
    """
    side = round(table.shape[0] ** 0.5)
    return table.T.unflatten(1, size or (side, side)).flip(1, 2)


# Patterns of official parameter names, with our names. Our stages begin with a downsampler.
RENAMES: Renames = (
    (r"^patch_embed\.", "stem."),
    (r"^layers\.(\d+)\.downsample\.", lambda match: f"stages.{int(match[1]) + 1}.downsample."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"\.relative_position_bias_table$", ".rpb"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

rename = partial(renamed, renames=RENAMES)

_WEIGHTS = "https://github.com/SwinTransformer/storage/releases/download"

family = Family(
    __name__,
    SwinTransformer,
    checkpoint_filter_fn,
    code="https://github.com/microsoft/Swin-Transformer",
    paper="2103.14030",
    license="mit",
    first_conv="stem.proj",
)


def _swin(
    arguments: dict[str, Any], file: str, published: tuple[float, float, float] | None, drop_path_rate: float
) -> Variant:
    release, _, file = file.partition("/")
    cfg: dict[str, Any] = {}
    arguments = {**arguments, "drop_path_rate": drop_path_rate}
    summary, tag = f"Swin-{file.partition('_')[0].title()}", "in1k"
    if "384" in file:
        # both sides are resized, whatever the shape of the image
        cfg = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0, "crop_mode": "squash"}
        arguments["window_size"] = 12
        summary += " at 384x384, with larger windows"
    if "22kto1k" in file:
        summary, tag = f"{summary}, fine-tuned from ImageNet-22k", "in22k_ft_in1k"
    elif "22k" in file:
        summary, tag = f"{summary}, before fine-tuning, with the classes of ImageNet-22k", "in22k"
        cfg["num_classes"] = 21841
    url = f"{_WEIGHTS}/{release}/swin_{file}.pth"
    timm = f"swin_{file.partition('_22k')[0]}.ms_{tag}"
    return family.variant(f"{summary}.", url, published, tag=tag, timm=timm, cfg=cfg, **arguments)


# Arguments that the variants of a size share.
_TINY: dict[str, Any] = {"embed_dims": (96, 192, 384, 768), "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_SMALL = {**_TINY, "depths": (2, 2, 18, 2)}
_BASE = {**_SMALL, "embed_dims": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32)}
_LARGE = {**_SMALL, "embed_dims": (192, 384, 768, 1536), "num_heads": (6, 12, 24, 48)}

# The weights of 22kto1k were trained on ImageNet-22k and fine-tuned on ImageNet-1k, like all of Swin-Large.
_PUBLISHED: dict[str, Variant] = {
    "zoo_swin_tiny_patch4_window7_224": _swin(_TINY, "v1.0.0/tiny_patch4_window7_224", (81.2, 28, 4.5), 0.2),
    "zoo_swin_tiny_patch4_window7_224_22kto1k": _swin(
        _TINY, "v1.0.8/tiny_patch4_window7_224_22kto1k_finetune", (80.9, 28, 4.5), 0.1
    ),
    "zoo_swin_tiny_patch4_window7_224_22k": _swin(_TINY, "v1.0.8/tiny_patch4_window7_224_22k", None, 0.1),
    "zoo_swin_small_patch4_window7_224": _swin(_SMALL, "v1.0.0/small_patch4_window7_224", (83.2, 50, 8.7), 0.3),
    "zoo_swin_small_patch4_window7_224_22kto1k": _swin(
        _SMALL, "v1.0.8/small_patch4_window7_224_22kto1k_finetune", (83.2, 50, 8.7), 0.2
    ),
    "zoo_swin_small_patch4_window7_224_22k": _swin(_SMALL, "v1.0.8/small_patch4_window7_224_22k", None, 0.2),
    "zoo_swin_base_patch4_window7_224": _swin(_BASE, "v1.0.0/base_patch4_window7_224", (83.5, 88, 15.4), 0.5),
    "zoo_swin_base_patch4_window7_224_22kto1k": _swin(
        _BASE, "v1.0.0/base_patch4_window7_224_22kto1k", (85.2, 88, 15.4), 0.2
    ),
    "zoo_swin_base_patch4_window7_224_22k": _swin(_BASE, "v1.0.0/base_patch4_window7_224_22k", None, 0.2),
    "zoo_swin_base_patch4_window12_384": _swin(_BASE, "v1.0.0/base_patch4_window12_384", (84.5, 88, 47.1), 0.5),
    "zoo_swin_base_patch4_window12_384_22kto1k": _swin(
        _BASE, "v1.0.0/base_patch4_window12_384_22kto1k", (86.4, 88, 47.1), 0.2
    ),
    "zoo_swin_base_patch4_window12_384_22k": _swin(_BASE, "v1.0.0/base_patch4_window12_384_22k", None, 0.2),
    "zoo_swin_large_patch4_window7_224": _swin(
        _LARGE, "v1.0.0/large_patch4_window7_224_22kto1k", (86.3, 197, 34.5), 0.2
    ),
    "zoo_swin_large_patch4_window7_224_22k": _swin(_LARGE, "v1.0.0/large_patch4_window7_224_22k", None, 0.2),
    "zoo_swin_large_patch4_window12_384": _swin(
        _LARGE, "v1.0.0/large_patch4_window12_384_22kto1k", (87.3, 197, 103.9), 0.2
    ),
    "zoo_swin_large_patch4_window12_384_22k": _swin(_LARGE, "v1.0.0/large_patch4_window12_384_22k", None, 0.2),
}

family.register(
    {
        "swin_pico": family.pico(
            embed_dims=(32, 64, 128, 192),
            depths=(2, 2, 2, 1),
            num_heads=(1, 2, 4, 6),
            mlp_ratio=2,
        ),
        **_PUBLISHED,
    }
)
