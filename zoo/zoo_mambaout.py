"""MambaOut: four stages of gated convolutions, Mamba's block without the state space model.

Paper: MambaOut: Do We Really Need Mamba for Vision?, arXiv 2405.07992. Official code: yuweihao/MambaOut, Apache-2.0
licence.

What the official code does that the paper does not say: the convolution has as many channels as the input of the block,
the last of the gated channels; the map is pooled before the last norm; the classifier is an MLP with its own norm;
there is no layer scale.

Shapes at 224 (zoo_mambaout_femto): image 3x224x224, stem 56x56x48, stages 56x56x48, 28x28x96, 14x14x192, 7x7x288.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import ConvDownsample, ConvStem, GatedConv, MlpHead, Residual

from .base import Family, Pyramid, Renames, Variant, init_convolution, renamed, stages_of, unwrapped

__all__ = ["MambaOut"]


class MambaOut(Pyramid):
    """Gated convolutions on maps of strides 4, 8, 16 and 32.

    Args:
        embed_dims: channels per stage; the first must be even.
        depths: blocks per stage.
        expansion: gated channels of a block divided by its input channels.
        kernel_size: odd kernel size of the depthwise convolutions.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 576),
        depths: Sequence[int] = (3, 3, 9, 3),
        expansion: float = 8 / 3,
        kernel_size: int = 7,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if embed_dims[0] % 2:
            raise ValueError(f"embed_dims must start with an even number, got {embed_dims[0]}")
        norm_layer = partial(nn.LayerNorm, eps=1e-6)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim = embed_dims[stage]
            return Residual(nn.Sequential(norm_layer(dim), GatedConv(dim, expansion, kernel_size)), drop_path)

        def downsample(stage: int) -> nn.Module:
            return ConvDownsample(embed_dims[stage - 1], embed_dims[stage], norm_layer, bias=True)

        super().__init__(
            ConvStem(in_chans, embed_dims[0], norm_layer, nn.GELU),
            stages_of(depths, drop_path_rate, block, downsample),
            widths=embed_dims,
            norm=nn.Identity(),
            head_layer=MlpHead,
            in_chans=in_chans,
            **head,
        )
        self.apply(init_convolution)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts a checkpoint of the authors, of timm or of this project to this project's names."""
    checkpoint = unwrapped(state_dict)
    # the official name of the norm inside the classifier's MLP is that of the norm before the MLP in other files
    is_official = "head.fc1.weight" in checkpoint
    result: dict[str, Tensor] = {}
    for name, tensor in checkpoint.items():
        name = rename(name, is_official)
        if ".gate_value." in name:
            # a single layer in official checkpoints: (2D, ..) -> two of (D, ..)
            halves = tensor.chunk(2)
            result |= {
                name.replace("gate_value", part): half for part, half in zip(("gate", "value"), halves, strict=True)
            }
        else:
            result[name] = tensor
    return result


# Patterns of official parameter names, with our names. Within a stage timm has the official names.
_RENAMES: Renames = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^stem\.norm1\.", "stem.between.0."),
    (r"^stem\.norm2\.", "stem.norm."),
    (r"\.downsample\.conv\.", ".downsample.reduction."),
    (r"(\.blocks\.\d+)\.norm\.", r"\1.branch.0."),
    (r"(\.blocks\.\d+)\.fc1\.", r"\1.branch.1.gate_value."),
    (r"(\.blocks\.\d+)\.conv\.", r"\1.branch.1.conv."),
    (r"(\.blocks\.\d+)\.fc2\.", r"\1.branch.1.proj."),
)
_HEAD_RENAMES: Renames = (
    (r"^head\.norm\.", "head.pre_logits.norm."),
    (r"^norm\.", "head.norm."),
    (r"^head\.fc1\.", "head.pre_logits.fc."),
    (r"^head\.fc2\.", "head.fc."),
)


def rename(name: str, is_official: bool) -> str:
    """Maps a parameter name of the official code, or else of timm, to ours; a name that is already ours stays."""
    return renamed(name, (*_RENAMES, *_HEAD_RENAMES) if is_official else _RENAMES)


family = Family(
    __name__,
    MambaOut,
    checkpoint_filter_fn,
    code="https://github.com/yuweihao/MambaOut",
    paper="2405.07992",
    license="apache-2.0",
    first_conv="stem.conv1",
    source="#models",
    cfg={"crop_pct": 1.0},
)


def _mambaout(size: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    url = f"{family.code}/releases/download/model/mambaout_{size}.pth"
    summary = f"MambaOut-{size.title()}, with the official weights."
    return family.variant(summary, url, published, timm=f"mambaout_{size}.in1k", **arguments)


family.register(
    {
        "mambaout_pico": family.pico(
            embed_dims=(24, 48, 96, 128),
            depths=(2, 2, 4, 2),
        ),
        "zoo_mambaout_femto": _mambaout(
            "femto", (78.9, 7.3, 1.2), embed_dims=(48, 96, 192, 288), depths=(3, 3, 9, 3), drop_path_rate=0.025
        ),
        "zoo_mambaout_kobe": _mambaout(
            "kobe", (80.0, 9.1, 1.5), embed_dims=(48, 96, 192, 288), depths=(3, 3, 15, 3), drop_path_rate=0.025
        ),
        "zoo_mambaout_tiny": _mambaout("tiny", (82.7, 26.5, 4.5), depths=(3, 3, 9, 3), drop_path_rate=0.2),
        "zoo_mambaout_small": _mambaout("small", (84.1, 48.5, 9.0), depths=(3, 4, 27, 3), drop_path_rate=0.4),
        "zoo_mambaout_base": _mambaout(
            "base", (84.2, 84.8, 15.8), embed_dims=(128, 256, 512, 768), depths=(3, 4, 27, 3), drop_path_rate=0.6
        ),
    }
)
