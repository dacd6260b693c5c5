"""timm's Swin, Twins and DaViT for `accelerate`."""

from __future__ import annotations

from typing import Any

from timm.layers import PatchEmbed
from torch import nn

from attnzoo.blocks import Mlp, PatchStem, RolledWindowAttention, SubsampledAttention, WindowAttention

from .. import swin, zoo_davit, zoo_twins
from ..base import Pyramid
from .layouts import ChannelsFirstDaViT, TokenTwins
from .live import Live
from .recipe import TRANSFORMER, Recipe, classes_of, head_arguments, need, only, ratio, without_norm


def _swin(live: Live) -> Pyramid:
    stages, projection = live.sequence("layers"), live["patch_embed.proj"]
    patch_size = only(projection.kernel_size, "patch_size")
    blocks = [list(stage.blocks) for stage in stages]
    dims = [stage[0].attn.dim for stage in blocks]
    ours = swin.SwinTransformer(
        dims,
        [len(stage) for stage in blocks],
        [stage[0].attn.num_heads for stage in blocks],
        in_chans=projection.in_channels,
        **head_arguments(live),
    )
    ours.stem = PatchStem(projection.in_channels, dims[0], patch_size)
    for info, reduction in zip(ours.feature_info, (patch_size * 2**i for i in range(len(dims))), strict=True):
        info["reduction"] = reduction
    own: Any
    for theirs, stage in zip(blocks, _stages(ours), strict=True):
        for block, own in zip(theirs, stage.blocks, strict=True):
            own.attn = _windows(block)
            own.mlp = Mlp(block.attn.dim, block.mlp.fc1.out_features)
    without_norm(live, ours)
    return ours


def _stages(ours: Pyramid) -> list[Any]:
    return list(ours.stages)


def _windows(block: Any) -> nn.Module:
    attention, shift = block.attn, tuple(block.shift_size)
    dim, heads, has_bias = attention.dim, attention.num_heads, attention.qkv.bias is not None
    need(attention.qkv.out_features == 3 * dim, "head_dim", f"{attention.qkv.out_features // 3} channels of {dim}")
    rows, columns = window = tuple(attention.window_size)
    height, width = block.input_resolution
    if rows == columns and not any(shift):
        # without a shift here, windows are shifted on maps of other sizes if those of the network may be
        may_shift = any(block.target_shift_size) and not block.dynamic_mask and max(height, width) <= rows
        return WindowAttention(dim, heads, rows, may_shift, has_bias)
    is_whole = height % rows == width % columns == 0 and min(height, width) > rows
    if rows == columns and shift == (rows // 2, rows // 2) and is_whole and not block.dynamic_mask:
        return WindowAttention(dim, heads, rows, True, has_bias)
    return RolledWindowAttention(dim, heads, window, shift, has_bias)


def _twins(live: Live) -> Pyramid:
    embeds, stages = live.sequence("patch_embeds"), live.sequence("blocks")
    for i, embed in enumerate(embeds):
        sides = {*embed.patch_size, *embed.proj.kernel_size}
        need(sides == {2 if i else 4}, "patch_size", f"patches of {sides} pixels in patch_embeds.{i}")
    for i, drop in enumerate(live.sequence("pos_drops")):
        need(drop.p == 0, "pos_drop_rate", f"pos_drops.{i} has a rate of {drop.p}")
    dims = [embed.proj.out_channels for embed in embeds]
    has_head = "head" in live
    ours = TokenTwins(
        dims,
        [len(blocks) for blocks in stages],
        [blocks[0].attn.num_heads for blocks in stages],
        [
            ratio([block.mlp.fc1.out_features for block in blocks], [dim] * len(blocks), "mlp_ratios")
            for blocks, dim in zip(stages, dims, strict=True)
        ],
        [1] * len(dims),
        window_size=None,
        in_chans=embeds[0].proj.in_channels,
        num_classes=classes_of(live["head"]) if has_head else 0,
        global_pool=live.network.global_pool if has_head else "",
    )
    for blocks, own in zip(stages, _stages(ours), strict=True):
        for i, block in enumerate(blocks):
            # our second block is the position convolution
            own.blocks[i + (i > 0)].attn = _grouped_or_subsampled(block.attn)
    without_norm(live, ours)
    return ours


def _grouped_or_subsampled(attention: Any) -> nn.Module:
    kind = type(attention).__name__
    if kind == "LocallyGroupedAttn":
        return WindowAttention(attention.dim, attention.num_heads, attention.ws, position_bias=False)
    need(kind == "GlobalSubSampleAttn", "block_cls", f"a block has {kind}")
    return SubsampledAttention(attention.dim, attention.num_heads, attention.sr_ratio)


def _davit(live: Live) -> Pyramid:
    stages = live.sequence("stages")
    pairs = [[list(pair) for pair in stage.blocks] for stage in stages]
    blocks = [block for stage in pairs for pair in stage for block in pair]
    for stage in pairs:
        for pair in stage:
            kinds = [type(block.attn).__name__ for block in pair]
            need("ChannelAttentionV2" not in kinds, "channel_attn_v2", "attention is scaled by the size of the map")
            need(kinds == ["WindowAttention", "ChannelAttention"], "attn_types", f"blocks have {', '.join(kinds)}")
    need(all(block.mlp is not None for block in blocks), "ffn", "blocks have no MLP")
    positions = [encoding for block in blocks for encoding in (block.cpe1, block.cpe2)]
    need(all(type(x.act) is nn.Identity for x in positions), "cpe_act", "position encodings have an activation")
    for stage in stages[1:]:
        kernel = stage.downsample.conv.kernel_size
        need(kernel == (2, 2), "down_kernel_size", f"a downsampler has a kernel of {kernel}")
    need(type(live.modules.get("norm_pre", nn.Identity())) is nn.Identity, "head_norm_first", "a norm precedes pooling")
    dims = [stage[0][0].dim for stage in pairs]
    ours = ChannelsFirstDaViT(
        dims,
        [len(stage) for stage in pairs],
        [stage[0][0].attn.num_heads for stage in pairs],
        only([side for stage in pairs for pair in stage for side in pair[0].window_size], "window_size"),
        ratio(
            [block.mlp.fc1.out_features for block in blocks],
            [block.mlp.fc1.in_features for block in blocks],
            "mlp_ratio",
        ),
        in_chans=live["stem"].in_chs,
        qkv_bias=only([block.attn.qkv.bias is not None for block in blocks], "qkv_bias"),
        **head_arguments(live),
    )
    if "head" in live:
        is_bare = isinstance(live["head.norm"], nn.Identity)
        ours.head.norm = nn.Identity() if is_bare else nn.LayerNorm(dims[-1])
    return ours


def _drop(rename: Any) -> Any:
    """Returns our name for a dropout layer of a transformer block in timm, given the names of parameters."""

    def drop(name: str) -> tuple[str, ...]:
        name = rename(name + ".")[:-1]
        if name == "head_drop":
            return ("head.drop",)
        return (name.replace(".mlp.drop1", ".mlp.drop").replace(".mlp.drop2", ".mlp.drop"),)

    return drop


def _image_size(live: Live) -> tuple[int, int]:
    rows, columns = live["patch_embed"].img_size
    return rows, columns


SWIN = Recipe(
    "timm's Swin",
    "timm.models.swin_transformer",
    ("SwinTransformer",),
    "timm.models.swin_transformer.SwinTransformerStage",
    (*TRANSFORMER, PatchEmbed),
    swin.family,
    _swin,
    _drop(swin.rename),
    _image_size,
)
TWINS = Recipe(
    "timm's Twins",
    "timm.models.twins",
    ("Twins",),
    "timm.models.twins.PosConv",
    TRANSFORMER,
    zoo_twins.family,
    _twins,
    _drop(zoo_twins.rename),
)
DAVIT = Recipe(
    "timm's DaViT",
    "timm.models.davit",
    ("DaVit",),
    "timm.models.davit.DaVitStage",
    TRANSFORMER,
    zoo_davit.family,
    _davit,
    _drop(zoo_davit.rename),
)
