"""HaloNet: a ResNet with halo attention in all of its bottlenecks or in some of the last.

Paper: Scaling Local Self-Attention for Parameter Efficient Visual Backbones, arXiv 2103.12731. There is no official
code; the weights are those of timm's HaloNets, Apache 2.0.

What the code does that the paper does not say: relative positions are counted from the corner of the window, not of
the block, with query indices after the stride; their scores use the unscaled query; zeros around the map are attended
to; attention has a norm but no output projection. timm's networks keep most bottlenecks convolutional, after a stem of
three convolutions. The paper does not name the activation of its H0 to H7, and there are no public weights for them:
here it is the activation of the ResNet that the paper compares them with. The parameter counts of H0 to H7 match the
published ones.

Shapes at 256 (zoo_halonet26t): image 3x256x256, stem 64x64x64, stages 256x64x64, 512x32x32, 1024x16x16, 2048x8x8.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from attnzoo.blocks import Bottleneck, ConvNorm, ConvNormStem, HaloAttention

from .base import Family, Pyramid, Renames, Variant, filter_by, renamed, stages_of

__all__ = ["HaloNet"]

ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
EVERY_BLOCK = range(10_000)


class HaloNet(Pyramid):
    """Bottlenecks with 3x3 convolutions or halo attention on maps of strides 4, 8, 16 and 32.

    Args:
        hidden_dims: per stage, channels inside a bottleneck.
        expansion: output channels of a bottleneck divided by its hidden channels.
        value_ratio: channels of the values divided by the channels of the queries.
        depths: blocks per stage.
        attention: per stage, indices of the blocks with attention; the others have a 3x3 convolution.
        num_heads: heads per stage.
        block_size: side of the attention blocks.
        halo: pixels around a block that it also attends to.
        stem_dims: channels after each convolution of the stem; the first has stride 2. A pooling of stride 2 follows.
        stem_kernel: kernel size of the stem.
        final_dim: channels of a 1x1 convolution before the classifier; None for none.
        act: activation, `relu` or `silu`.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.

    Raises:
        ValueError: the activation is unknown.
    """

    undecayed = (".rel_rows", ".rel_columns")

    def __init__(
        self,
        hidden_dims: Sequence[int] = (64, 128, 256, 512),
        expansion: float = 4.0,
        value_ratio: float = 1.0,
        depths: Sequence[int] = (2, 2, 2, 2),
        attention: Sequence[Sequence[int]] = ((), (), (1,), (0, 1)),
        num_heads: Sequence[int] = (8, 8, 8, 8),
        block_size: int = 8,
        halo: int = 2,
        stem_dims: Sequence[int] = (24, 32, 64),
        stem_kernel: int = 3,
        final_dim: int | None = None,
        act: str = "relu",
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if act not in ACTIVATIONS:
            raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
        act_layer = ACTIVATIONS[act]
        in_place = partial(act_layer, inplace=True)
        widths = [int(dim * expansion) for dim in hidden_dims]

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, is_first = hidden_dims[stage], index == 0
            stride = 2 if stage > 0 and is_first else 1
            attends = index in attention[stage]
            mixed_dim = int(dim * value_ratio) if attends else dim
            mixer: nn.Module = ConvNorm(dim, dim, 3, stride, channels_last=False)
            if attends:
                layer = HaloAttention(dim, num_heads[stage], block_size, halo, stride, mixed_dim)
                mixer = nn.Sequential(OrderedDict(attn=layer, norm=nn.BatchNorm2d(mixed_dim)))
            before = (stem_dims[-1], *widths)[stage] if is_first else widths[stage]
            return Bottleneck(before, widths[stage], mixer, dim, mixed_dim, stride, is_first, in_place, drop_path)

        stages = stages_of(depths, drop_path_rate, block)
        strides = [2] + [1] * (len(stem_dims) - 1)
        super().__init__(
            nn.Sequential(
                ConvNormStem(in_chans, stem_dims, strides, stem_kernel, act_layer=act_layer, channels_last=False),
                act_layer(),
                nn.MaxPool2d(3, stride=2, padding=1),
            ),
            stages,
            widths=widths,
            norm=nn.Sequential(ConvNorm(widths[-1], final_dim, channels_last=False), act_layer())
            if final_dim
            else nn.Identity(),
            in_chans=in_chans,
            **head,
            output_fmt="NCHW",
            num_features=final_dim,
        )


# Patterns of timm's parameter names, with our names.
_RENAMES: Renames = (
    (r"^stem\.conv(\d)\.", lambda match: f"stem.0.{2 * int(match[1]) - 2}."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.conv([13])_1x1\.", r".conv\1."),
    (r"\.conv2_kxk\.", ".mixer."),
    (r"\.self_attn\.pos_embed\.height_rel$", ".mixer.attn.rel_rows"),
    (r"\.self_attn\.pos_embed\.width_rel$", ".mixer.attn.rel_columns"),
    (r"\.self_attn\.", ".mixer.attn."),
    (r"\.post_attn\.", ".mixer.norm."),
    (r"^final_conv\.", "norm.0."),
    (r"\.bn\.", ".norm."),
)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename)

_TIMM = "https://github.com/huggingface/pytorch-image-models"
_PAPER = "https://arxiv.org/abs/2103.12731"
_WEIGHTS = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-attn-weights"

family = Family(
    __name__,
    HaloNet,
    checkpoint_filter_fn,
    code=_TIMM,
    paper="2103.12731",
    license="apache-2.0",
    first_conv="stem.0.0.conv",
    source="/tree/main/results",
)


def _size(side: int) -> dict[str, Any]:
    """Returns the fields of a configuration for square images."""
    return {"input_size": (3, side, side), "pool_size": (-(-side // 32), -(-side // 32))}


def _timms(
    summary: str, file: str, crop_pct: float, published: tuple[float, float, float], **arguments: Any
) -> Variant:
    cfg = {**_size(256), "crop_pct": crop_pct}
    tag = "a1h_in1k"
    timm = f"{file.partition('_')[0]}.{tag}"
    return family.variant(summary, f"{_WEIGHTS}/{file}", published, tag=tag, timm=timm, cfg=cfg, **arguments)


def _papers(row: tuple[int, int, int, float, float, int, int | None], millions: float) -> Variant:
    """Returns the variant of a row of the paper's table."""
    size, block_size, halo, value_ratio, expansion, depth, final_dim = row
    return family.variant(
        f"A network of the paper for {size}x{size} images, with attention in every block. No weights are published.",
        published=(None, millions, None),
        source=_PAPER,
        cfg={**_size(size), "license": None, "origin_url": None},
        expansion=expansion,
        value_ratio=value_ratio,
        depths=(3, 3, depth, 3),
        attention=(EVERY_BLOCK,) * 4,
        num_heads=(4, 8, 8, 8),
        block_size=block_size,
        halo=halo,
        stem_dims=(64,),
        stem_kernel=7,
        final_dim=final_dim,
    )


family.register(
    {
        "halonet_pico": family.pico(
            hidden_dims=(16, 32, 48, 96),
            depths=(2, 2, 2, 2),
            attention=((), (1,), (0, 1), (0, 1)),
            num_heads=(2, 2, 4, 4),
            block_size=4,
            stem_dims=(16, 24, 32),
        ),
        "zoo_halonet26t": _timms(
            "A ResNet-26 with attention in its last blocks, with timm's weights.",
            "halonet26t_a1h_256-3083328c.pth",
            0.95,
            (79.134, 12.48, 3.19),
            depths=(2, 2, 2, 2),
        ),
        "zoo_halonet50ts": _timms(
            "A ResNet-50 with attention in some of its blocks, and SiLU, with timm's weights.",
            "halonet50ts_a1h2_256-f3a3daee.pth",
            0.94,
            (81.66, 22.73, 5.3),
            depths=(3, 4, 6, 3),
            attention=((), (3,), (1, 3, 5), (1,)),
            num_heads=(8, 4, 8, 8),
            halo=3,
            act="silu",
        ),
        "halonet_h0": _papers((256, 8, 3, 1, 0.5, 7, None), 5.5),
        "zoo_halonet_h1": _papers((256, 8, 3, 1, 1, 10, None), 8.1),
        "halonet_h2": _papers((256, 8, 3, 1, 1.25, 11, None), 9.4),
        "halonet_h3": _papers((320, 10, 3, 1, 1.5, 12, 1024), 11.8),
        "halonet_h4": _papers((384, 12, 2, 1, 3, 12, 1280), 19.1),
        "halonet_h5": _papers((448, 14, 2, 2.5, 2, 23, 1536), 30.7),
        "halonet_h6": _papers((512, 8, 4, 3, 2.75, 24, 1536), 43.4),
        "halonet_h7": _papers((600, 10, 3, 4, 3.5, 26, 2048), 67.4),
    }
)
