"""Flowformer: a pyramid of flow attention, whose cost is linear in the number of tokens.

Paper: Flowformer: Linearizing Transformers with Conservation Flows, arXiv 2202.06258. Official code: thuml/Flowformer,
MIT licence.

What the official code does that the paper does not say: every stage has twelve heads, whatever its width; only the
branches of the MLPs have a layer scale; patches of later stages have no norm. It takes one image size; here positions
are interpolated to others. The weights are on a page (`origin_url` of the configuration) that gives no address of a
file: download it and pass it in `pretrained_cfg_overlay`.

Shapes at 224: image 3x224x224, stem 56x56x96, stages 56x56x96, 28x28x192, 14x14x384, 7x7x768.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import resample_abs_pos_embed, to_2tuple
from torch import Tensor, nn

from attnzoo.blocks import ConvDownsample, FlowAttention, PatchStem, PositionEmbedding, ScaledMlp, TransformerBlock

from .base import Family, Pyramid, Renames, renamed, stages_of, unwrapped

__all__ = ["Flowformer"]


class Flowformer(Pyramid):
    """Flow attention on maps of strides 4, 8, 16 and 32. It takes images of any size.

    Args:
        embed_dims: channels per stage, multiples of num_heads.
        depths: blocks per stage.
        num_heads: heads of all stages.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        layer_scale: initial value of the layer scale of the MLPs.
        img_size: image size that positions are learned at, one number or (rows, columns).
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    undecayed = (".position.table",)

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (3, 3, 10, 3),
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-5,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        norm_layer = partial(nn.LayerNorm, eps=1e-6)
        rows, columns = to_2tuple(img_size)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim = embed_dims[stage]
            mlp = ScaledMlp(dim, int(dim * mlp_ratio), layer_scale, norm=False)
            return TransformerBlock(
                dim, FlowAttention(dim, num_heads), drop_path=drop_path, norm_layer=norm_layer, mlp=mlp
            )

        def downsample(stage: int) -> nn.Module:
            return ConvDownsample(embed_dims[stage - 1], embed_dims[stage], nn.Identity, kernel_size=2, bias=True)

        patches = PatchStem(in_chans, embed_dims[0], 4, nn.Identity)
        position = PositionEmbedding(embed_dims[0], (-(-rows // 4), -(-columns // 4)), "bicubic")
        super().__init__(
            nn.Sequential(OrderedDict(patches=patches, position=position)),
            stages_of(depths, drop_path_rate, block, downsample),
            widths=embed_dims,
            norm=norm_layer(embed_dims[-1]),
            in_chans=in_chans,
            **head,
        )


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^pos_embed$", "stem.position.table"),
    (r"^patch_embed\.0\.proj\.", "stem.patches.proj."),
    (r"^patch_embed\.(\d)\.proj\.", r"stages.\1.downsample.reduction."),
    (r"^(blocks\.\d+\.\d+)\.mlp\.fc2\.", r"\1.mlp.fc2.fc."),
    (r"^(blocks\.\d+\.\d+)\.gamma$", r"\1.mlp.fc2.scale.gamma"),
    (r"^blocks\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

rename = partial(renamed, renames=_RENAMES)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official checkpoint, or one of this project, to this project's names.

    Positions that were learned at another image size than the model's are interpolated.
    """
    result = {rename(name): tensor for name, tensor in unwrapped(state_dict).items()}
    position = getattr(getattr(model, "stem", None), "position", None)
    table = result.get("stem.position.table")
    if isinstance(position, PositionEmbedding) and table is not None and table.shape != position.table.shape:
        table = resample_abs_pos_embed(table, list(position.map_size), num_prefix_tokens=0, antialias=False)
        result["stem.position.table"] = table
    return result


family = Family(
    __name__,
    Flowformer,
    checkpoint_filter_fn,
    code="https://github.com/thuml/Flowformer",
    paper="2202.06258",
    license="mit",
    first_conv="stem.patches.proj",
    source="#main-results",
)

family.register(
    {
        "flowformer_pico": family.pico(embed_dims=(24, 48, 96, 120), depths=(1, 1, 2, 1), num_heads=6),
        "flowformer": family.variant(
            "Flowformer, for the official weights.",
            published=(80.6, None, None),
            tag="in1k",
            cfg={"origin_url": "https://cloud.tsinghua.edu.cn/d/82d93375f97f4ca58886/"},
            drop_path_rate=0.2,
        ),
    }
)
