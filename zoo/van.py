"""VAN: four stages of large-kernel attention, decomposed into small convolutions.

Paper: Visual Attention Network, arXiv 2202.09741. Official code: Visual-Attention-Network/VAN-Classification,
Apache-2.0 licence.

What the official code does that the paper does not say: the shortcut of the attention is its normalized input, inside
the layer scale; every stage ends with a layer norm, the last of which comes before pooling; images are normalized
with mean and standard deviation 0.5, the default of the timm version that it requires.

Shapes at 224 (van_b0): image 3x224x224, stem 56x56x32, stages 56x56x32, 28x28x64, 14x14x160, 7x7x256.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import LayerScale
from torch import nn

from attnzoo.blocks import (
    ChannelsLastBatchNorm2d,
    ConvNorm,
    ConvNormStem,
    LargeKernelAttention,
    Residual,
    ScaledMlp,
)

from .base import Family, Pyramid, Renames, Variant, filter_by, of_transformers, renamed, stages_of

__all__ = ["VAN"]


class VAN(Pyramid):
    """Large-kernel attention on maps of strides 4, 8, 16 and 32.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        mlp_ratios: per stage, hidden channels of an MLP divided by its input channels.
        layer_scale: initial value of the layer scale of the branches.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 3, 12, 3),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        layer_scale: float = 1e-2,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim = embed_dims[stage]
            attention = nn.Sequential(
                ChannelsLastBatchNorm2d(dim), LargeKernelAttention(dim), LayerScale(dim, init_values=layer_scale)
            )
            mlp = ScaledMlp(dim, int(dim * mlp_ratios[stage]), layer_scale, kernel_size=3)
            return nn.Sequential(OrderedDict(attn=Residual(attention, drop_path), mlp=Residual(mlp, drop_path)))

        stages = stages_of(
            depths,
            drop_path_rate,
            block,
            lambda stage: ConvNorm(embed_dims[stage - 1], embed_dims[stage], 3, 2, bias=True),
            norm=lambda stage: nn.LayerNorm(embed_dims[stage], eps=1e-6),
        )
        super().__init__(
            ConvNormStem(in_chans, [embed_dims[0]], [4], kernel_size=7, bias=True),
            stages,
            widths=embed_dims,
            norm=nn.Identity(),
            in_chans=in_chans,
            **head,
        )
        self.stem.apply(_init_convolution)
        self.stages.apply(_init_convolution)


def _init_convolution(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
    elif isinstance(module, nn.Linear):
        # a 1x1 convolution
        fan_out = module.out_features
    else:
        return
    nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^module\.", ""),
    (r"^patch_embed1\.proj\.", "stem.0.conv."),
    (r"^patch_embed1\.norm\.", "stem.0.norm."),
    (r"^patch_embed(\d)\.proj\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.conv."),
    (r"^patch_embed(\d)\.norm\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.norm."),
    (r"^norm(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.norm."),
    (r"^block(\d)\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}."),
    (r"\.norm1\.", ".attn.branch.0.norm."),
    (r"\.norm2\.", ".mlp.branch.fc1.norm."),
    (r"\.layer_scale_1$", ".attn.branch.2.gamma"),
    (r"\.layer_scale_2$", ".mlp.branch.fc2.scale.gamma"),
    (r"\.attn\.proj_(\d)\.", r".attn.branch.1.proj\1."),
    (r"\.attn\.spatial_gating_unit\.conv0\.", ".attn.branch.1.conv1."),
    (r"\.attn\.spatial_gating_unit\.conv_spatial\.", ".attn.branch.1.conv2."),
    (r"\.attn\.spatial_gating_unit\.conv1\.", ".attn.branch.1.fc."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.branch.conv."),
    (r"\.mlp\.fc(\d)\.", r".mlp.branch.fc\1.fc."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

# Patterns of the names of transformers, with the official ones.
_OF_TRANSFORMERS: Renames = (
    (r"^encoder\.stages\.(\d)\.embeddings\.convolution\.", lambda match: f"patch_embed{int(match[1]) + 1}.proj."),
    (r"^encoder\.stages\.(\d)\.embeddings\.normalization\.", lambda match: f"patch_embed{int(match[1]) + 1}.norm."),
    (r"^encoder\.stages\.(\d)\.normalization\.", lambda match: f"norm{int(match[1]) + 1}."),
    (r"^encoder\.stages\.(\d)\.layers\.", lambda match: f"block{int(match[1]) + 1}."),
    # misspelt there
    (r"\.pre_normomalization\.", ".norm1."),
    (r"\.post_normalization\.", ".norm2."),
    (r"\.attention_scaling\.weight$", ".layer_scale_1"),
    (r"\.mlp_scaling\.weight$", ".layer_scale_2"),
    (r"\.attention\.pre_projection\.conv\.", ".attn.proj_1."),
    (r"\.attention\.post_projection\.", ".attn.proj_2."),
    (r"\.attention\.attention_layer\.attention\.depth_wise\.", ".attn.spatial_gating_unit.conv0."),
    (r"\.attention\.attention_layer\.attention\.depth_wise_dilated\.", ".attn.spatial_gating_unit.conv_spatial."),
    (r"\.attention\.attention_layer\.attention\.point_wise\.", ".attn.spatial_gating_unit.conv1."),
    (r"\.mlp\.in_dense\.", ".mlp.fc1."),
    (r"\.mlp\.depth_wise\.", ".mlp.dwconv.dwconv."),
    (r"\.mlp\.out_dense\.", ".mlp.fc2."),
    (r"^classifier\.", "head."),
)

rename = partial(renamed, renames=_RENAMES)
# transformers has a norm that it does not use
checkpoint_filter_fn = filter_by(
    rename, ("layernorm.weight", "layernorm.bias"), partial(of_transformers, renames=_OF_TRANSFORMERS)
)

_WEIGHTS = "https://huggingface.co/Visual-Attention-Network"
_PAPER = "https://arxiv.org/abs/2202.09741"

family = Family(
    __name__,
    VAN,
    checkpoint_filter_fn,
    code="https://github.com/Visual-Attention-Network/VAN-Classification",
    paper="2202.09741",
    license="apache-2.0",
    first_conv="stem.0.conv",
    source="#2-van-models-in-1k",
    cfg={"crop_pct": 0.9, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
)


def _van(size: str, file: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    # with the names of transformers and without the state of the optimizer, a third as large as the authors' own files
    hub = f"Visual-Attention-Network/{file.partition('-original')[0].lower()}"
    summary = f"VAN-{size}, with the official weights."
    return family.variant(summary, f"{_WEIGHTS}/{file}", published, hub=hub, **arguments)


def _unreleased(size: str, published: tuple[float | None, float, float], **arguments: Any) -> Variant:
    summary = f"VAN-{size}. Its weights are not released."
    return family.variant(summary, published=published, source=_PAPER, **arguments)


family.register(
    {
        "van_pico": family.pico(
            embed_dims=(16, 32, 80, 128),
            depths=(2, 2, 3, 2),
            mlp_ratios=(4, 4, 4, 4),
        ),
        "van_b0": _van(
            "B0",
            "VAN-Tiny-original/resolve/main/van_tiny_754.pth.tar",
            (75.4, 4.1, 0.9),
            embed_dims=(32, 64, 160, 256),
            depths=(3, 3, 5, 2),
            drop_path_rate=0.1,
        ),
        "van_b1": _van(
            "B1",
            "VAN-Small-original/resolve/main/van_small_811.pth.tar",
            (81.1, 13.9, 2.5),
            depths=(2, 2, 4, 2),
            drop_path_rate=0.1,
        ),
        "van_b2": _van(
            "B2",
            "VAN-Base-original/resolve/main/van_base_828.pth.tar",
            (82.8, 26.6, 5.0),
            depths=(3, 3, 12, 3),
            drop_path_rate=0.1,
        ),
        "van_b3": _van(
            "B3",
            "VAN-Large-original/resolve/main/van_large_839.pth.tar",
            (83.9, 44.8, 9.0),
            depths=(3, 5, 27, 3),
            drop_path_rate=0.2,
        ),
        "van_b4": _unreleased("B4", (84.2, 60.3, 12.2), depths=(3, 6, 40, 3)),
        # the paper reports accuracies of these two only after pretraining on ImageNet-22k
        "van_b5": _unreleased(
            "B5",
            (None, 90.0, 17.2),
            embed_dims=(96, 192, 480, 768),
            depths=(3, 3, 24, 3),
        ),
        "van_b6": _unreleased(
            "B6",
            (None, 200.0, 38.9),
            embed_dims=(96, 192, 384, 768),
            depths=(6, 6, 90, 6),
        ),
    }
)
