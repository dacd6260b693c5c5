"""MoH-ViT: TransNeXt with mixture-of-head attention, where every token weights the heads and skips some.

Paper: MoH: Multi-Head Attention as Mixture-of-Head Attention, arXiv 2410.11842; architecture: TransNeXt, arXiv
2311.17132. Official code: SkyworkAI/MoH, Apache-2.0 licence.

What the official code does that the paper does not say: heads are weighted even if all are shared, and shared heads
are weighted by a softmax over them; distances are relative to the input map, unless `img_size` is given; neighbors
outside of the map are left out of the softmax, and contribute zero to the term added after it. The official training
has an additional loss that balances the choice of heads, which is not implemented here. The weights are on the page of
each model (`origin_url` of the configuration), and their URLs are not in the official code: download a file and pass it
in `pretrained_cfg_overlay`.

Shapes at 224 (moh_vit_s_75): image 3x224x224, stages 56x56x72, 28x28x144, 14x14x288, 7x7x576.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import to_2tuple
from torch import nn

from attnzoo.blocks import (
    AggregatedAttention,
    ConvDownsample,
    CosineAttention,
    GatedLocalMlp,
    PatchStem,
    TransformerBlock,
)

from .base import Family, Pyramid, Renames, Variant, filter_by, renamed, stages_of

__all__ = ["MoHViT"]


class MoHViT(Pyramid):
    """Three stages of attention to neighbors and a pooled map, one of full attention. It takes images of any size.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        num_heads: heads per stage.
        shared_heads: per stage, number of heads that are active for every token.
        active_heads: per stage, number of the other heads that are active for a token.
        mlp_ratios: per stage, hidden channels of a plain MLP divided by its input channels; each of the two maps of the
            gated MLP has two thirds of them.
        pool_ratios: per stage, side of the map divided by the side of the pooled map; 1 for attention to the whole map.
        img_size: image size, one number or (rows, columns), that distances are normalized by, to use weights at another
            size than they were trained at; None for the size of the input.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    undecayed = (".rpb", ".query_embedding", ".temperature", ".position_bias.fc1.weight", ".position_bias.fc2.weight")

    def __init__(
        self,
        embed_dims: Sequence[int] = (72, 144, 288, 576),
        depths: Sequence[int] = (5, 5, 22, 5),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        shared_heads: Sequence[int] = (3, 6, 3, 4),
        active_heads: Sequence[int] = (0, 0, 6, 12),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        pool_ratios: Sequence[int] = (8, 4, 2, 1),
        img_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        norm_layer = partial(nn.LayerNorm, eps=1e-6)
        reductions = [4 * 2**i for i in range(len(depths))]

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, pool_ratio = embed_dims[stage], pool_ratios[stage]
            side = reductions[stage]
            map_size = None if img_size is None else tuple(-(-length // side) for length in to_2tuple(img_size))
            attention = CosineAttention if pool_ratio == 1 else partial(AggregatedAttention, pool_ratio=pool_ratio)
            mixer = attention(dim, num_heads[stage], shared_heads[stage], active_heads[stage], map_size, proj_drop_rate)
            mlp = GatedLocalMlp(dim, int(dim * mlp_ratios[stage]) * 2 // 3, proj_drop_rate)
            return TransformerBlock(dim, mixer, drop_path=drop_path, norm_layer=norm_layer, mlp=mlp)

        stages = stages_of(
            depths,
            drop_path_rate,
            block,
            lambda stage: ConvDownsample(embed_dims[stage - 1], embed_dims[stage], bias=True),
            norm=lambda stage: norm_layer(embed_dims[stage]),
        )
        super().__init__(
            PatchStem(in_chans, embed_dims[0], 4, kernel_size=7, padding=3),
            stages,
            widths=embed_dims,
            reductions=reductions,
            norm=nn.Identity(),
            in_chans=in_chans,
            **head,
        )


# Patterns of official parameter names, with our names. Official indices start at one.
_RENAMES: Renames = (
    (r"^module\.", ""),
    (r"^patch_embed1\.", "stem."),
    (r"^patch_embed(\d)\.proj\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.reduction."),
    (r"^patch_embed(\d)\.norm\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.norm."),
    (r"^norm(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.norm."),
    (r"^block(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks."),
    (r"\.attn\.relative_pos_bias_local$", ".attn.rpb"),
    (r"\.attn\.learnable_tokens$", ".attn.tokens"),
    (r"\.attn\.learnable_bias$", ".attn.token_bias"),
    (r"\.attn\.sr\.", ".attn.pool_proj."),
    (r"\.attn\.norm\.", ".attn.pool_norm."),
    (r"\.attn\.cpb_fc([12])\.", r".attn.position_bias.fc\1."),
    (r"\.attn\.wg\.", ".attn.gates.routed."),
    (r"\.attn\.wg_0\.", ".attn.gates.balance."),
    (r"\.attn\.wg_1\.", ".attn.gates.shared."),
    (r"\.dwconv\.dwconv\.", ".conv."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename)

family = Family(
    __name__,
    MoHViT,
    checkpoint_filter_fn,
    code="https://github.com/SkyworkAI/MoH",
    paper="2410.11842",
    license="apache-2.0",
    first_conv="stem.proj",
    source="https://arxiv.org/abs/2410.11842",
)


def _moh_vit(name: str, published: tuple[float | None, float, None], *, file: str = "", **arguments: Any) -> Variant:
    repository = f"Chat-UniVi/MoH-ViT-{name}"
    cfg = {"origin_url": f"https://huggingface.co/{repository}"}
    hub = f"{repository}/{file}" if file else ""
    summary = f"MoH-ViT-{name}, for the official weights."
    return family.variant(summary, "", published, tag="in1k", hub=hub, cfg=cfg, **arguments)


_SMALL: dict[str, Any] = {"depths": (5, 5, 22, 5), "drop_path_rate": 0.45}
_BASE: dict[str, Any] = {
    "embed_dims": (96, 192, 384, 768),
    "depths": (5, 5, 23, 5),
    "num_heads": (4, 8, 16, 32),
    "drop_path_rate": 0.6,
}

family.register(
    {
        "moh_vit_pico": family.pico(
            embed_dims=(24, 48, 96, 144),
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 6),
            shared_heads=(1, 2, 1, 2),
            active_heads=(0, 0, 2, 2),
            mlp_ratios=(4, 4, 4, 3),
        ),
        "moh_vit_s_75": _moh_vit("S-75", (None, 50, None), **_SMALL),
        "moh_vit_s_80": _moh_vit(
            "S-80",
            (None, 50, None),
            file="moh_transnext_small_80.pth",
            **_SMALL,
            shared_heads=(3, 6, 3, 8),
        ),
        "moh_vit_b_75": _moh_vit(
            "B-75",
            (84.9, 90, None),
            file="moh_transnext_base_75.pth",
            **_BASE,
            shared_heads=(4, 8, 4, 5),
            active_heads=(0, 0, 8, 16),
        ),
        "moh_vit_b_50": _moh_vit(
            "B-50",
            (84.7, 90, None),
            file="moh_transnext_base_50.pth",
            **_BASE,
            shared_heads=(2, 2, 2, 4),
            active_heads=(2, 4, 6, 8),
        ),
    }
)
