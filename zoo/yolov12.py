"""YOLOv12: convolutions at first, then area attention, in aggregated layers; classifiers and backbones of detectors.

Paper: YOLOv12: Attention-Centric Real-Time Object Detectors, arXiv 2502.12524. Official code: sunsmarterjie/yolov12,
AGPL 3.0 licence, which is that of the weights, too; this file contains none of that code.

What the official code does that the paper does not say: there are no norms before attention and MLPs, only batch norms
after convolutions; the second convolution and the second reduction of the map have groups. Classifiers attend to the
whole map, detectors to a quarter of it at stride 16. In classifiers, and in the two largest detectors, aggregated
attention has a shortcut. The batch norms of detectors have another epsilon.

Shapes at 224 (yolov12n_cls): image 3x224x224, stem 56x56x32, stages 56x56x64, 28x28x128, 14x14x128, 7x7x256.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import (
    AreaAttention,
    ConvNorm,
    ConvNormAct,
    ConvNormStem,
    CrossStage,
    LayerAggregation,
    ResidualConvs,
    TransformerBlock,
)

from .base import Family, Pyramid, Renames, Variant, filter_by, init_convolution, renamed, stages_of

__all__ = ["YOLOv12"]

HEAD_WIDTH = 32


class YOLOv12(Pyramid):
    """Two stages of convolutions and two of area attention, on maps of strides 4, 8, 16 and 32; images of any size.

    Args:
        stem_dims: channels after each convolution of the stem.
        embed_dims: channels per stage, multiples of 64 in the last two.
        depths: layers per stage, whose outputs are aggregated.
        cross_stage: whether a layer of the first two stages is a pair of residual blocks beside a convolution instead
            of a residual block.
        areas: areas that attention stays in, in each of the last two stages.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        layer_scale: initial scale of aggregated attention in its shortcut; None for no shortcut.
        final_dim: channels of a 1x1 convolution before the classifier; None for none.
        norm_eps: epsilon of the batch norms.
        drop_path_rate: stochastic depth rate of attention in the last stage; the authors use none.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.

    Raises:
        ValueError: a width of the last two stages is not a multiple of 64.
    """

    undecayed = ()

    def __init__(
        self,
        stem_dims: Sequence[int] = (16, 32),
        embed_dims: Sequence[int] = (64, 128, 128, 256),
        depths: Sequence[int] = (1, 1, 2, 2),
        cross_stage: bool = False,
        areas: Sequence[int] = (1, 1),
        mlp_ratio: float = 2.0,
        layer_scale: float | None = 0.01,
        final_dim: int | None = 1280,
        norm_eps: float = 1e-5,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if any(dim % (2 * HEAD_WIDTH) for dim in embed_dims[2:]):
            raise ValueError(f"embed_dims must be multiples of {2 * HEAD_WIDTH} from the third on, got {embed_dims}")

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, layers = embed_dims[stage], range(depths[stage])
            if stage > 1:
                pairs = [_attention_pair(dim // 2, areas[stage - 2], mlp_ratio, drop_path) for _ in layers]
                return LayerAggregation(dim, dim, pairs, dim // 2, layer_scale=layer_scale)
            width, before = dim // 4, (stem_dims[-1], embed_dims[0])[stage]
            layer = CrossStage if cross_stage else ResidualConvs
            return LayerAggregation(before, dim, [layer(width, width // 2) for _ in layers], width, skipped=width)

        def downsample(stage: int) -> nn.Module:
            before = embed_dims[stage - 1]
            # the second stage is widened by its block
            return ConvNormAct(before, before, 3, 2, 4) if stage == 1 else ConvNormAct(before, embed_dims[stage], 3, 2)

        super().__init__(
            nn.Sequential(ConvNormStem(in_chans, stem_dims, act_layer=nn.SiLU, groups=(1, 2)), nn.SiLU(inplace=True)),
            stages_of((1, 1, 1, 1), drop_path_rate, block, downsample),
            widths=embed_dims,
            norm=ConvNormAct(embed_dims[-1], final_dim) if final_dim else nn.Identity(),
            num_features=final_dim,
            in_chans=in_chans,
            **head,
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = norm_eps


def _attention_pair(dim: int, areas: int, mlp_ratio: float, drop_path: float) -> nn.Sequential:
    """Returns two transformer blocks of area attention without norms before their branches."""

    def block() -> nn.Module:
        hidden_dim = int(dim * mlp_ratio)
        mlp = nn.Sequential(ConvNormAct(dim, hidden_dim), ConvNorm(hidden_dim, dim))
        mixer = AreaAttention(dim, dim // HEAD_WIDTH, areas)
        return TransformerBlock(dim, mixer, drop_path=drop_path, norm_layer=nn.Identity, mlp=mlp)

    return nn.Sequential(block(), block()).apply(init_convolution)


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^model\.0\.", "stem.0.0."),
    (r"^model\.1\.", "stem.0.2."),
    (r"^model\.([357])\.", lambda match: f"stages.{int(match[1]) // 2}.downsample."),
    (r"^model\.([2468])\.", lambda match: f"stages.{int(match[1]) // 2 - 1}.blocks.0."),
    (r"^model\.9\.conv\.", "norm."),
    (r"^model\.9\.linear\.", "head.fc."),
    (r"\.blocks\.0\.m\.", ".blocks.0.layers."),
    (r"\.blocks\.0\.gamma$", ".blocks.0.scale.gamma"),
    (r"\.m\.(\d)\.cv", r".blocks.\1.cv"),
    (r"\.cv(\d)\.", r".conv\1."),
    (r"\.attn\.pe\.", ".attn.local."),
    (r"(?:^|\.)bn\.", ".norm."),
)

rename = partial(renamed, renames=_RENAMES)


def _without_neck(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops the layers of a detector after its backbone, whose numbers have two digits."""
    return {name: tensor for name, tensor in weights.items() if not re.match(r"model\.\d\d\.", name)}


checkpoint_filter_fn = filter_by(rename, before=_without_neck)

family = Family(
    __name__,
    YOLOv12,
    checkpoint_filter_fn,
    code="https://github.com/sunsmarterjie/yolov12",
    paper="2502.12524",
    license="agpl-3.0",
    first_conv="stem.0.0.conv",
    source="#main-results",
    cfg={"crop_pct": 1.0, "interpolation": "bilinear", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
)

_RELEASES = f"{family.code}/releases/download"

# widths, depths and other arguments of each size
_SIZES: dict[str, dict[str, Any]] = {
    "n": {},
    "s": {"stem_dims": (32, 64), "embed_dims": (128, 256, 256, 512)},
    "m": {"stem_dims": (64, 128), "embed_dims": (256, 512, 512, 512), "cross_stage": True},
}
_SIZES["l"] = {**_SIZES["m"], "depths": (2, 2, 4, 4), "mlp_ratio": 1.5}
_SIZES["x"] = {**_SIZES["l"], "stem_dims": (96, 192), "embed_dims": (384, 768, 768, 768)}


def _classifier(size: str, top1: float, millions: float) -> Variant:
    url = f"{_RELEASES}/cls/yolov12{size}-cls.pt"
    return family.variant(f"YOLOv12-{size}, a classifier.", url, (top1, millions, None), **_SIZES[size])


def _backbone(size: str) -> Variant:
    return family.variant(
        f"The backbone of the detector YOLOv12-{size}, without a classifier.",
        f"{_RELEASES}/turbo/yolov12{size}.pt",
        tag="coco",
        cfg={"input_size": (3, 640, 640), "pool_size": (20, 20), "num_classes": 0},
        areas=(4, 1),
        final_dim=None,
        norm_eps=1e-3,
        num_classes=0,
        **{"layer_scale": 0.01 if size in ("l", "x") else None, **_SIZES[size]},
    )


family.register(
    {
        "yolov12_pico": family.pico(
            stem_dims=(8, 16), embed_dims=(32, 64, 64, 128), depths=(1, 1, 1, 1), areas=(4, 1), final_dim=256
        ),
        "yolov12n_cls": _classifier("n", 71.7, 2.9),
        "yolov12s_cls": _classifier("s", 76.4, 7.2),
        "yolov12m_cls": _classifier("m", 78.8, 12.7),
        "yolov12l_cls": _classifier("l", 79.5, 16.8),
        "yolov12x_cls": _classifier("x", 80.1, 35.5),
        **{f"yolov12{size}": _backbone(size) for size in _SIZES},
    }
)
