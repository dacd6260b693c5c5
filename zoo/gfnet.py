"""GFNet: tokens are mixed by global filters, in patches of 16x16 pixels or in a pyramid.

Paper: Global Filter Networks for Image Classification, arXiv 2107.00645. Official code: raoyongming/GFNet, MIT licence.

What the official code does that the paper does not say: a block has one shortcut around its filter and its MLP; only
the blocks of the pyramids have a layer scale; their downsamplers are convolutions without a norm; there are learned
positions besides the filters. For fine-tuning at another size, positions and filters are interpolated bicubically, the
latter with aligned corners.

Shapes at 224: image 3x224x224, then 14x14x256 everywhere (gfnet_ti), in four stages of three blocks whose maps are the
features; or stages 56x56x64, 28x28x128, 14x14x256, 7x7x512 (gfnet_h_ti).
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from timm.layers import resample_abs_pos_embed, to_2tuple
from torch import Tensor, nn

from attnzoo.blocks import (
    ConvDownsample,
    FilterBlock,
    Mlp,
    PatchStem,
    PositionEmbedding,
    ScaledMlp,
    SpectralFilter,
    resize_spectrum,
)

from .base import Family, Filter, Pyramid, Renames, Variant, depths_of, in_stages, renamed, stages_of, unwrapped

__all__ = ["GFNet"]


class GFNet(Pyramid):
    """Global filters on one map or on maps of strides 4, 8, 16 and 32. It takes images of any size.

    Args:
        embed_dims: channels per stage; one number for a network with one map size.
        depths: blocks per stage; with one map size, stages only determine which maps are the features.
        patch_size: pixels per side of a patch.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        layer_scale: initial value of the layer scale; None for no layer scale.
        img_size: image size that positions and filters are learned at, one number or (rows, columns).
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    undecayed = (".position.table",)

    def __init__(
        self,
        embed_dims: int | Sequence[int] = 256,
        depths: Sequence[int] = (3, 3, 3, 3),
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        is_pyramid = not isinstance(embed_dims, int)
        widths = [embed_dims] * len(depths) if isinstance(embed_dims, int) else list(embed_dims)
        strides = [patch_size * 2**stage if is_pyramid else patch_size for stage in range(len(depths))]
        sizes = [tuple(-(-side // stride) for side in to_2tuple(img_size)) for stride in strides]
        norm_layer = partial(nn.LayerNorm, eps=1e-6)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, hidden_dim = widths[stage], int(widths[stage] * mlp_ratio)
            mlp = Mlp(dim, hidden_dim) if layer_scale is None else ScaledMlp(dim, hidden_dim, layer_scale, norm=False)
            return FilterBlock(dim, sizes[stage], mlp, drop_path, norm_layer)

        def downsample(stage: int) -> nn.Module:
            return ConvDownsample(widths[stage - 1], widths[stage], nn.Identity, kernel_size=2, bias=True)

        patches = PatchStem(in_chans, widths[0], patch_size, nn.Identity)
        position = PositionEmbedding(widths[0], sizes[0], "bicubic")
        super().__init__(
            nn.Sequential(OrderedDict(patches=patches, position=position)),
            stages_of(depths, drop_path_rate, block, downsample if is_pyramid else None),
            widths=widths,
            reductions=strides,
            norm=norm_layer(widths[-1]),
            in_chans=in_chans,
            **head,
        )


# Patterns of official parameter names, with our names; blocks of a pyramid have two indices.
_RENAMES: Renames = (
    (r"^pos_embed$", "stem.position.table"),
    (r"^patch_embed\.(?:0\.)?proj\.", "stem.patches.proj."),
    (r"^patch_embed\.(\d)\.proj\.", r"stages.\1.downsample.reduction."),
    (r"\.complex_weight$", ".table"),
    (r"^(blocks\.\d+\.\d+)\.mlp\.fc2\.", r"\1.mlp.fc2.fc."),
    (r"^(blocks\.\d+\.\d+)\.gamma$", r"\1.mlp.fc2.scale.gamma"),
    (r"^blocks\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def rename(name: str, depths: Sequence[int]) -> str:
    """Maps an official parameter name to ours, given the blocks per stage; a name that is already ours stays."""
    return in_stages(renamed(name, _RENAMES), depths)


def fitted(rename: Callable[[str, Sequence[int]], str]) -> Filter:
    """Returns the `checkpoint_filter_fn` of a family with spectral filters.

    Positions and filters that were learned at another image size than the model's are interpolated.

    Args:
        rename: maps an official name to ours, given the blocks per stage, and keeps names that are ours already.
    """

    def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        """Converts an official checkpoint, or one of this project, to this project's names."""
        layers, depths, result = dict(model.named_modules()), depths_of(model), dict[str, Tensor]()
        for official, tensor in unwrapped(state_dict).items():
            name = rename(official, depths)
            if official.endswith(".complex_weight"):
                # (rows, frequencies, C, 2) -> (2, rows, frequencies, C)
                tensor = tensor.movedim(-1, 0)
            result[name] = _fit(tensor, layers.get(name.removesuffix(".table")))
        return result

    return checkpoint_filter_fn


def _fit(tensor: Tensor, layer: nn.Module | None) -> Tensor:
    """Interpolates the table of a filter or of positions to its layer's size; other tensors are returned unchanged."""
    if isinstance(layer, SpectralFilter) and tensor.ndim == 4 and tensor.shape != layer.table.shape:
        return resize_spectrum(tensor, *layer.map_size)
    if isinstance(layer, PositionEmbedding) and tensor.ndim == 3 and tensor.shape != layer.table.shape:
        return resample_abs_pos_embed(tensor, list(layer.map_size), num_prefix_tokens=0, antialias=False)
    return tensor


checkpoint_filter_fn = fitted(rename)

family = Family(
    __name__,
    GFNet,
    checkpoint_filter_fn,
    code="https://github.com/raoyongming/GFNet",
    paper="2107.00645",
    license="mit",
    first_conv="stem.patches.proj",
    source="#model-zoo",
)


def _gfnet(
    size: str, weights: str, published: tuple[float, float, float], pool_size: int = 14, **arguments: Any
) -> Variant:
    summary, url = f"GFNet-{size}, with the official weights.", f"https://cloud.tsinghua.edu.cn/f/{weights}/?dl=1"
    return family.variant(summary, url, published, cfg={"pool_size": (pool_size, pool_size)}, **arguments)


def _pyramid(size: str, weights: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    return _gfnet(f"H-{size}", weights, published, 7, patch_size=4, **arguments)


_TINY: dict[str, Any] = {"embed_dims": (64, 128, 256, 512), "depths": (3, 3, 10, 3), "layer_scale": 1e-3}
_WIDE: dict[str, Any] = {"embed_dims": (96, 192, 384, 768), "depths": (3, 3, 10, 3), "layer_scale": 1e-5}

family.register(
    {
        "gfnet_pico": family.pico(embed_dims=96, depths=(1, 1, 2, 2), cfg={"pool_size": (14, 14)}),
        "gfnet_h_pico": family.pico(embed_dims=(16, 32, 64, 128), depths=(1, 1, 2, 1), patch_size=4, layer_scale=1e-3),
        "gfnet_ti": _gfnet("Ti", "3d0c1579aa524a0a99dd", (74.6, 7, 1.3), embed_dims=256),
        "gfnet_xs": _gfnet("XS", "e0ab5b1583954a1fa9b2", (78.6, 16, 2.8), embed_dims=384),
        "gfnet_s": _gfnet(
            "S", "e5561fa070c44d9399bf", (80.0, 25, 4.5), embed_dims=384, depths=(5, 5, 5, 4), drop_path_rate=0.15
        ),
        "gfnet_b": _gfnet(
            "B", "2fbf264597af4d72afb3", (80.7, 43, 7.9), embed_dims=512, depths=(5, 5, 5, 4), drop_path_rate=0.25
        ),
        "gfnet_h_ti": _pyramid("Ti", "b22dd45eccbe462cbbfb", (80.1, 15, 2.0), **_TINY, drop_path_rate=0.1),
        "gfnet_h_s": _pyramid("S", "5229cb4d1daf48e69675", (81.5, 32, 4.5), **_WIDE, drop_path_rate=0.2),
        "gfnet_h_b": _pyramid(
            "B",
            "954c5af21e824ba6b40c",
            (82.9, 54, 8.4),
            **{**_WIDE, "depths": (3, 3, 27, 3), "layer_scale": 1e-6},
            drop_path_rate=0.4,
        ),
    }
)
