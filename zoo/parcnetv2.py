"""ParCNetV2: a pyramid of convolutions with kernels about twice as large as the map, gated like attention.

Paper: ParCNetV2: Oversized Kernel with Enhanced Attention, arXiv 2211.07157. Official code: XuRuihan/ParCNetV2, MIT
licence.

What the official code does that the paper does not say: its norm divides by the L2 norm of the channels, not by their
deviation; the shortcuts of the last two stages have a learned scale, and there is no layer scale; kernels keep their
size on maps of other sizes, which `fits_map` changes. No weights were released.

Shapes at 224 (parcnetv2_xt): image 3x224x224, stem 56x56x48, stages 56x56x48, 28x28x96, 14x14x192, 7x7x320.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import (
    CenteredNorm,
    ConvDownsample,
    GatedMlp,
    GatedOversizedConv,
    LayerNormHead,
    PatchStem,
    Residual,
)

from .base import Family, Pyramid, Renames, Variant, init_convolution, like, renamed, stages_of, unwrapped

__all__ = ["ParCNetV2"]


class ParCNetV2(Pyramid):
    """Gated oversized convolutions and gated MLPs on maps of strides 4, 8, 16 and 32. It takes images of any size.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        kernel_sizes: odd kernel size of the oversized convolutions per stage.
        scaled: per stage, whether shortcuts have a learned scale.
        mlp_ratio: values and gates of an MLP, together, divided by its input channels.
        fits_map: whether oversized kernels are interpolated to the size of the map, see `OversizedConv`.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 3, 12, 3),
        kernel_sizes: Sequence[int] = (111, 55, 27, 13),
        scaled: Sequence[bool] = (False, False, True, True),
        mlp_ratio: float = 5.0,
        fits_map: bool = False,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim = embed_dims[stage]
            mixer = GatedOversizedConv(dim, kernel_sizes[stage], fits_map=fits_map)
            mlp = GatedMlp(dim, int(dim * mlp_ratio) // 2, bias=False)
            return nn.Sequential(OrderedDict(mixer=branch(stage, mixer, drop_path), mlp=branch(stage, mlp, drop_path)))

        def branch(stage: int, layer: nn.Module, drop_path: float) -> nn.Module:
            dim = embed_dims[stage]
            return Residual(nn.Sequential(CenteredNorm(dim), layer), drop_path, dim if scaled[stage] else None)

        def downsample(stage: int) -> nn.Module:
            return ConvDownsample(embed_dims[stage - 1], embed_dims[stage], CenteredNorm, bias=True, norm_first=True)

        super().__init__(
            PatchStem(in_chans, embed_dims[0], 4, CenteredNorm, kernel_size=7),
            stages_of(depths, drop_path_rate, block, downsample),
            widths=embed_dims,
            norm=nn.Identity(),
            head_layer=partial(LayerNormHead, eps=1e-6),
            in_chans=in_chans,
            **head,
        )
        self.apply(init_convolution)


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^downsample_layers\.0\.conv\.", "stem.proj."),
    (r"^downsample_layers\.0\.post_norm\.", "stem.norm."),
    (r"^downsample_layers\.(\d)\.pre_norm\.", r"stages.\1.downsample.norm."),
    (r"^downsample_layers\.(\d)\.conv\.", r"stages.\1.downsample.reduction."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.res_scale1\.", ".mixer."),
    (r"\.res_scale2\.", ".mlp."),
    (r"\.norm1\.", ".mixer.branch.0."),
    (r"\.norm2\.", ".mlp.branch.0."),
    (r"\.token_mixer\.dwconv1\.conv_h\.", ".mixer.branch.1.oversized.vertical."),
    (r"\.token_mixer\.dwconv1\.conv_w\.", ".mixer.branch.1.oversized.horizontal."),
    (r"\.token_mixer\.dwconv2\.", ".mixer.branch.1.local."),
    (r"\.token_mixer\.pwconv2\.", ".mixer.branch.1.proj."),
    (r"\.mlp\.fc2\.", ".mlp.branch.1.proj."),
    (r"\.token_mixer\.pwconv1\.", ".mixer.branch.1.both."),
    (r"\.mlp\.fc1\.", ".mlp.branch.1.both."),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def rename(name: str) -> str:
    """Maps an official parameter name to ours; a layer `both` is two of ours. A name that is already ours stays."""
    return renamed(name, _RENAMES)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official checkpoint, or one of this project, to this project's names."""
    ours, result = model.state_dict(), dict[str, Tensor]()
    for official, tensor in unwrapped(state_dict).items():
        name = rename(official)
        parts = ("value", "gate") if ".both." in name else ("both",)
        for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
            own = name.replace("both", part)
            result[own] = like(piece, ours.get(own))
    return result


family = Family(
    __name__,
    ParCNetV2,
    checkpoint_filter_fn,
    code="https://github.com/XuRuihan/ParCNetV2",
    paper="2211.07157",
    license="mit",
    first_conv="stem.proj",
    source="/blob/main/README.md",
)


def _parcnetv2(size: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    return family.variant(f"ParCNetV2-{size}. Its weights are not released.", published=published, **arguments)


family.register(
    {
        "parcnetv2_pico": family.pico(
            embed_dims=(24, 48, 96, 128), depths=(1, 1, 2, 1), kernel_sizes=(31, 15, 7, 3), mlp_ratio=4.0
        ),
        # the figures stand in a comment of the README
        "parcnetv2_xt": _parcnetv2("XT", (79.4, 7.4, 1.6), embed_dims=(48, 96, 192, 320), depths=(3, 3, 9, 2)),
        "parcnetv2_tiny": _parcnetv2("Tiny", (83.5, 25, 4.3), drop_path_rate=0.2),
        "parcnetv2_small": _parcnetv2("Small", (84.3, 39, 7.8), depths=(3, 9, 24, 3), drop_path_rate=0.3),
        "parcnetv2_base": _parcnetv2(
            "Base", (84.6, 56, 12.5), embed_dims=(96, 192, 384, 576), depths=(3, 9, 24, 3), drop_path_rate=0.4
        ),
    }
)
