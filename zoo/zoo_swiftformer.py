"""SwiftFormer: four stages of convolutional blocks, each ending with a block of additive attention.

Paper: SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile Vision Applications, arXiv
2303.15446. Official code: Amshaker/SwiftFormer, Apache-2.0 licence.

What the official code does that the paper does not say: queries, keys and the weights of queries are L2-normalized, so
there is no scale; the input of attention has no norm; the local convolutions before it have no stochastic depth; the
logits are the mean of two classifiers, one of them trained by a teacher. Here they are the mean in training, too.

Shapes at 224 (zoo_swiftformer_xs): image 3x224x224, stem 56x56x48, stages 56x56x48, 28x28x56, 14x14x112, 7x7x220.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import LayerScale
from torch import nn

from attnzoo.blocks import (
    AdditiveAttention,
    ChannelsLastBatchNorm2d,
    ConvNorm,
    ConvNormStem,
    DistilledHead,
    Residual,
    ScaledMlp,
)

from .base import (
    Family,
    Pyramid,
    Renames,
    Variant,
    filter_by,
    init_convolution,
    of_transformers,
    renamed,
    stages_of,
)

__all__ = ["SwiftFormer"]


class SwiftFormer(Pyramid):
    """Convolutions and additive attention on maps of strides 4, 8, 16 and 32.

    Args:
        embed_dims: channels per stage; the first must be even.
        depths: blocks per stage; the last block of a stage has attention.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        layer_scale: initial layer scale of attention and of the MLP after it; convolutional blocks start with 1.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (4, 3, 10, 5),
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-5,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if embed_dims[0] % 2:
            raise ValueError(f"embed_dims must start with an even number, got {embed_dims[0]}")

        def convolutions(dim: int, hidden_dim: int, drop_path: float = 0.0) -> nn.Module:
            conv = ConvNorm(dim, dim, 3, groups=dim, bias=True)
            mlp = ScaledMlp(dim, hidden_dim, layer_scale=1.0, norm=False)
            return Residual(nn.Sequential(OrderedDict(conv=conv, mlp=mlp)), drop_path)

        def attention(dim: int, drop_path: float) -> nn.Module:
            mixer = nn.Sequential(AdditiveAttention(dim), LayerScale(dim, init_values=layer_scale))
            mlp = ScaledMlp(dim, int(dim * mlp_ratio), layer_scale)
            return nn.Sequential(
                OrderedDict(local=convolutions(dim, dim), attn=Residual(mixer, drop_path), mlp=Residual(mlp, drop_path))
            )

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, is_last = embed_dims[stage], index == depths[stage] - 1
            return attention(dim, drop_path) if is_last else convolutions(dim, int(dim * mlp_ratio), drop_path)

        stages = stages_of(
            depths,
            drop_path_rate,
            block,
            lambda stage: ConvNorm(embed_dims[stage - 1], embed_dims[stage], 3, 2, bias=True),
        )
        stem = ConvNormStem(in_chans, (embed_dims[0] // 2, embed_dims[0]), bias=True, act_layer=nn.ReLU)
        super().__init__(
            nn.Sequential(stem, nn.ReLU()),
            stages,
            widths=embed_dims,
            norm=ChannelsLastBatchNorm2d(embed_dims[-1]),
            head_layer=DistilledHead,
            in_chans=in_chans,
            **head,
        )
        self.apply(init_convolution)


# Patterns of official parameter names, with our names. In the official code stages and
# downsamplers are one list. Within a block timm has the official names.
_RENAMES: Renames = (
    (r"^module\.", ""),
    (r"^(?:patch_embed|stem)\.([03])\.(weight|bias)$", lambda match: f"stem.0.{_layer(match[1])}.conv.{match[2]}"),
    (r"^(?:patch_embed|stem)\.([14])\.(\w+)$", lambda match: f"stem.0.{_layer(match[1])}.norm.{match[2]}"),
    (r"^network\.([0246])\.", lambda match: f"stages.{int(match[1]) // 2}.blocks."),
    (r"^network\.([135])\.", lambda match: f"stages.{(int(match[1]) + 1) // 2}.downsample."),
    (r"\.downsample\.proj\.", ".downsample.conv."),
    (r"\.local_representation\.", ".local."),
    (r"(\.(?:local|blocks\.\d+))\.layer_scale(?:\.gamma)?$", r"\1.branch.mlp.fc2.scale.gamma"),
    (r"(\.(?:local|blocks\.\d+))\.dwconv\.", r"\1.branch.conv.conv."),
    (r"(\.(?:local|blocks\.\d+))\.norm\.", r"\1.branch.conv.norm."),
    (r"(\.(?:local|blocks\.\d+))\.pwconv1\.", r"\1.branch.mlp.fc1."),
    (r"(\.(?:local|blocks\.\d+))\.pwconv2\.", r"\1.branch.mlp.fc2.fc."),
    (r"\.layer_scale_1(?:\.gamma)?$", ".attn.branch.1.gamma"),
    (r"\.layer_scale_2(?:\.gamma)?$", ".mlp.branch.fc2.scale.gamma"),
    (r"\.attn\.to_query\.", ".attn.branch.0.q."),
    (r"\.attn\.to_key\.", ".attn.branch.0.k."),
    (r"\.attn\.w_g$", ".attn.branch.0.score"),
    (r"\.attn\.[Pp]roj\.", ".attn.branch.0.proj1."),
    (r"\.attn\.final\.", ".attn.branch.0.proj2."),
    (r"\.linear\.norm1\.", ".mlp.branch.fc1.norm."),
    (r"\.linear\.fc([12])\.", r".mlp.branch.fc\1.fc."),
    (r"^norm\.(\w+)$", r"norm.norm.\1"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"^(?:dist_head|head_dist)\.", "head.fc.dist."),
)


def _layer(position: str) -> int:
    """Maps the index of a convolution or norm of the official stem to the index of both in ours."""
    return int(position) // 3 * 2


# Patterns of the names of transformers, with the official ones.
_OF_TRANSFORMERS: Renames = (
    (r"^patch_embed\.patch_embedding\.", "patch_embed."),
    (r"^encoder\.network\.(\d)\.(?:blocks\.)?", r"network.\1."),
    (r"\.depth_wise_conv\.", ".dwconv."),
    (r"\.point_wise_conv([12])\.", r".pwconv\1."),
)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename, before=partial(of_transformers, renames=_OF_TRANSFORMERS))

family = Family(
    __name__,
    SwiftFormer,
    checkpoint_filter_fn,
    code="https://github.com/Amshaker/SwiftFormer",
    paper="2303.15446",
    license="apache-2.0",
    first_conv="stem.0.0.conv",
    source="#models",
    cfg={"classifier": ("head.fc", "head.fc.dist")},
)


def _swiftformer(size: str, file: str, published: tuple[float, float, float], **arguments: Any) -> Variant:
    url = f"https://drive.usercontent.google.com/download?id={file}&export=download&confirm=t"
    timm = f"swiftformer_{size.lower()}.dist_in1k"
    return family.variant(f"SwiftFormer-{size}, with the official weights.", url, published, timm=timm, **arguments)


family.register(
    {
        "swiftformer_pico": family.pico(
            embed_dims=(24, 48, 96, 144),
            depths=(2, 2, 3, 2),
        ),
        "zoo_swiftformer_xs": _swiftformer(
            "XS",
            "12RchxzyiJrtZS-2Bur9k4wcRQMItA43S",
            (75.7, 3.5, 0.6),
            embed_dims=(48, 56, 112, 220),
            depths=(3, 3, 6, 4),
        ),
        "zoo_swiftformer_s": _swiftformer(
            "S",
            "1awpcXAaHH38WaHrOmUM8updxQazUZ3Nb",
            (78.5, 6.1, 1.0),
            embed_dims=(48, 64, 168, 224),
            depths=(3, 3, 9, 6),
        ),
        "zoo_swiftformer_l1": _swiftformer(
            "L1",
            "1SDzauVmpR5uExkOv3ajxdwFnP-Buj9Uo",
            (80.9, 12.1, 1.6),
            embed_dims=(48, 96, 192, 384),
            depths=(4, 3, 10, 5),
        ),
        "zoo_swiftformer_l3": _swiftformer(
            "L3",
            "1DAxMe6FlnZBBIpR-HYIDfFLWJzIgiF0Y",
            (83.0, 28.5, 4.0),
            embed_dims=(64, 128, 320, 512),
            depths=(4, 4, 12, 6),
        ),
    }
)
