"""timm's SwiftFormer, MambaOut, SHViT and HaloNet for `accelerate`."""

from __future__ import annotations

import math
from typing import Any

from timm.layers import ClassifierHead, ConvNormAct, GroupNorm1, SelectAdaptivePool2d, SqueezeExcite
from timm.layers import Linear as CastingLinear
from timm.layers.activations import Sigmoid
from timm.layers.halo_attn import HaloAttn, PosEmbedRel
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from attnzoo.blocks import MlpHead

from .. import halonet, zoo_mambaout, zoo_shvit, zoo_swiftformer
from ..base import Pyramid
from .layouts import ChannelsFirstSwiftFormer, PooledSHViT
from .live import Live
from .recipe import GELUS, LAYER_NORMS, Recipe, classes_of, head_arguments, need, only, ratio, without_norm


def _swiftformer(live: Live) -> Pyramid:
    stages = [list(stage.blocks) for stage in live.sequence("stages")]
    blocks = [block for stage in stages for block in stage]
    need(not getattr(live.network, "distilled_training", False), "distilled_training", "logits are a pair in training")
    for stage in stages:
        kinds = [type(block).__name__ for block in stage]
        need(kinds == ["ConvEncoder"] * (len(stage) - 1) + ["Block"], "layers", f"a stage has {', '.join(kinds)}")
    for i, stage in enumerate(live.sequence("stages")):
        convolution = getattr(stage.downsample, "proj", None)
        need((convolution is not None) == (i > 0), "downsamples", f"stages.{i}")
        if convolution is not None:
            shape = convolution.kernel_size, convolution.stride, convolution.padding
            need(shape == ((3, 3), (2, 2), (1, 1)), "down_patch_size", f"stages.{i} has {convolution}")
            need(not isinstance(stage.downsample.norm, nn.Identity), "norm_layer", f"stages.{i}.downsample has no norm")
    encoders = [block.local_representation if hasattr(block, "local_representation") else block for block in blocks]
    need(not any(isinstance(x.layer_scale, nn.Identity) for x in encoders), "use_layer_scale", "blocks have no scale")
    for block in encoders:
        need(isinstance(block.act, GELUS), "act_layer", f"a block has {type(block.act).__name__}")
        need(block.dwconv.kernel_size == (3, 3), "kernel_size", f"a block has a kernel of {block.dwconv.kernel_size}")
    for stage in stages:
        need(isinstance(stage[-1].linear.act, GELUS), "act_layer", f"an MLP has {type(stage[-1].linear.act).__name__}")
    widened = [block for stage in stages for block in stage[:-1]]
    dims = [stage[-1].attn.to_query.in_features for stage in stages]
    hidden = [stage[-1].linear.fc1.out_channels for stage in stages] + [x.pwconv1.out_channels for x in widened]
    has_head = "head" in live
    ours = ChannelsFirstSwiftFormer(
        dims,
        [len(stage) for stage in stages],
        ratio(hidden, dims + [x.pwconv1.in_channels for x in widened], "mlp_ratios"),
        in_chans=live["stem.0"].in_channels,
        num_classes=classes_of(live["head"]) if has_head else 0,
        global_pool=live.network.global_pool if has_head else "",
    )
    without_norm(live, ours)
    return ours


def drop_of_swiftformer(name: str) -> tuple[str, ...]:
    """Returns our names for a dropout or stochastic depth layer, from its name in timm or in the official code."""
    name = zoo_swiftformer.rename(name + ".")[:-1]
    if name == "head_drop":
        return ("head.drop",)
    if name.endswith(".linear.drop"):
        return (name.removesuffix(".linear.drop") + ".mlp.branch.drop",)
    # a block of three residual branches has one rate for the last two
    return name, name.replace(".drop_path", ".attn.drop_path"), name.replace(".drop_path", ".mlp.drop_path")


def _mambaout(live: Live) -> Pyramid:
    stages = [list(stage.blocks) for stage in live.sequence("stages")]
    blocks = [block for stage in stages for block in stage]
    for i, stage in enumerate(live.sequence("stages")):
        kind = type(stage.downsample).__name__
        need(kind == ("Downsample" if i else "Identity"), "downsample", f"stages.{i} has {kind}")
    need(live["stem"].norm1 is not None, "stem_mid_norm", "the stem has one norm")
    need(all(isinstance(block.ls, nn.Identity) for block in blocks), "ls_init_value", "blocks have a layer scale")
    dims = [block.fc1.in_features for block in blocks]
    convolved = [block.conv.in_channels for block in blocks]
    need(dims == convolved, "conv_ratio", f"{sorted(set(convolved))} of {sorted(set(dims))} channels")
    width = [stage[0].fc1.in_features for stage in stages]
    ours = zoo_mambaout.MambaOut(
        width,
        [len(stage) for stage in stages],
        ratio([block.fc2.in_features for block in blocks], dims, "expansion_ratio"),
        only([side for block in blocks for side in block.conv.kernel_size], "kernel_size"),
        in_chans=live["stem.conv1"].in_channels,
        num_classes=0,
        global_pool="",
    )
    if "head" in live:
        head, classes = live["head"], classes_of(live["head.fc"])
        pooling = SelectAdaptivePool2d(pool_type=head.pool_type, flatten=bool(head.pool_type), input_fmt="NHWC")
        own = MlpHead(width[-1], 1, mlp_ratio=ratio([head.hidden_size], [width[-1]], "mlp_ratio"))
        # without classes and pooling, too, timm's head has its norm and its hidden layer, unless layers were pruned
        if isinstance(head.norm, nn.Identity):
            own.norm, own.pre_logits, own.num_features = nn.Identity(), nn.Identity(), width[-1]
        own.fc = nn.Linear(own.num_features, classes) if classes else nn.Identity()
        own.global_pool = pooling
        ours.head = own
        ours.num_classes, ours.head_hidden_size = classes, head.num_features
    return ours


def _mambaout_drop(name: str) -> tuple[str, ...]:
    return ("head.drop" if name == "head.head_dropout" else name,)


def _shvit(live: Live) -> Pyramid:
    stages = [list(stage.blocks) for stage in live.sequence("stages")]
    need(type(live["patch_embed.0"]).__name__ == "Conv2dNorm", "fuse", "the network is fused: pass it before")
    dims = [stage[0].conv.m.c.in_channels for stage in stages]
    for i, stage in enumerate(live.sequence("stages")):
        need(isinstance(stage.downsample, nn.Identity) == (i == 0), "embed_dim", f"{dims} channels of stages")
    mixers = [[getattr(block.mixer, "m", None) for block in stage] for stage in stages]
    attention = [mixer for stage in mixers for mixer in stage if mixer is not None]
    has_head = "head" in live
    pooling = live["global_pool"].pool_type if has_head else ""
    ours = PooledSHViT(
        dims,
        [len(stage) for stage in stages],
        [only([0 if mixer is None else mixer.pdim for mixer in stage], "types") for stage in mixers],
        only([mixer.qk_dim for mixer in attention], "qk_dim") if attention else 16,
        in_chans=live["patch_embed.0.c"].in_channels,
        num_classes=classes_of(live.modules.get("head.l", nn.Identity())),
        global_pool=pooling,
        drop_rate=getattr(live.network, "drop_rate", 0.0),
    )
    if ours.num_classes == 0:
        ours.head.norm = nn.Identity()
    return ours


def _halonet(live: Live) -> Pyramid:
    stages = live.sequence("stages")
    stem = live.modules.get("stem")
    convolutions = [live[f"stem.conv{i + 1}"] for i in range(9) if f"stem.conv{i + 1}" in live]
    need("stem.pool" in live and isinstance(live["stem.pool"], nn.MaxPool2d), "stem_pool", "the stem does not end so")
    pool = live["stem.pool"]
    need((pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1), "stem_pool", f"the stem ends with {pool}")
    need(stem is None or type(stem).__name__ == "Stem", "stem_type", f"the stem is a {type(stem).__name__}")
    strides = [only(x.conv.stride, "stem_type") for x in convolutions]
    need(strides == [2] + [1] * (len(strides) - 1), "stem_type", f"strides of {strides}")
    blocks = [block for stage in stages for block in stage]
    for i, stage in enumerate(stages):
        for j, block in enumerate(stage):
            _check_bottleneck(block, 2 if i and not j else 1, is_first=j == 0)
    halos = [block.self_attn for block in blocks if hasattr(block, "self_attn")]
    hidden = [only([block.conv1_1x1.conv.out_channels for block in stage], "br") for stage in stages]
    outputs = [block.conv3_1x1.conv.out_channels for stage in stages for block in stage]
    final = live["final_conv"] if "final_conv" in live else nn.Identity()
    acts = {type(module) for name, module in live.modules.items() if name.endswith(".act")} - {nn.Identity}
    act = only([kind.__name__.lower() for kind in acts], "act_layer")
    need(act in halonet.ACTIVATIONS, "act_layer", f"the network has {act}")
    ours = halonet.HaloNet(
        hidden,
        ratio(outputs, [dim for stage, dim in zip(stages, hidden, strict=True) for _ in stage], "br"),
        depths=[len(stage) for stage in stages],
        attention=[[j for j, block in enumerate(stage) if hasattr(block, "self_attn")] for stage in stages],
        num_heads=[
            only([block.self_attn.num_heads for block in stage if hasattr(block, "self_attn")] or [1], "num_heads")
            for stage in stages
        ],
        block_size=only([x.block_size for x in halos], "block_size"),
        halo=only([x.halo_size for x in halos], "halo_size"),
        stem_dims=[x.conv.out_channels for x in convolutions],
        stem_kernel=only([side for x in convolutions for side in x.conv.kernel_size], "stem_type"),
        final_dim=None if isinstance(final, nn.Identity) else final.conv.out_channels,
        act=act,
        in_chans=convolutions[0].conv.in_channels,
        **head_arguments(live),
    )
    own: Any
    for stage, own in zip(stages, ours.stages.children(), strict=True):
        if isinstance(stage[0].shortcut, nn.Identity):
            own.blocks[0].shortcut = nn.Identity()
    if live.features is not None:
        # timm counts the stem, before its pooling, and the last convolution as features
        names = ["stem.1", *(f"stages.{i}" for i in range(len(stages)))]
        if ours.num_features != ours.feature_info[-1]["num_chs"]:
            # the activation after the convolution
            names[-1] = "norm.1"
        infos = live.features.info[: len(names)]
        ours.feature_info = [{**info, "module": name} for info, name in zip(infos, names, strict=True)]
    return ours


def _check_bottleneck(block: Any, stride: int, is_first: bool) -> None:
    """Refuses a residual block that is not one of ours.

    Args:
        block: the block.
        stride: our stride at its place.
        is_first: whether it is the first one of a stage, whose shortcut is a convolution.
    """
    kind = type(block).__name__
    need(kind in ("BottleneckBlock", "SelfAttnBlock"), "blocks", f"the network has a {kind}")
    shortcut = type(block.shortcut).__name__
    need(
        shortcut == "Identity" or (is_first and shortcut == "ConvNormAct"), "downsample", f"a shortcut is a {shortcut}"
    )
    need(not isinstance(block.act, nn.Identity), "linear_out", "a block has no last activation")
    if kind == "BottleneckBlock":
        convolution = block.conv2_kxk.conv
        need(convolution.kernel_size == (3, 3), "kernel_size", f"a block has a kernel of {convolution.kernel_size}")
        need(convolution.groups == 1, "gs", f"a block has {convolution.groups} groups")
        need(convolution.dilation == (1, 1), "output_stride", f"a block has a dilation of {convolution.dilation}")
        need(isinstance(block.conv2b_kxk, nn.Identity), "extra_conv", "a block has two")
        are_free = isinstance(block.attn, nn.Identity) and isinstance(block.attn_last, nn.Identity)
        need(are_free, "attn_layer", f"a block has {type(block.attn).__name__}")
        steps = convolution.stride
    else:
        halo = block.self_attn
        need(type(halo) is HaloAttn, "self_attn_layer", f"a block has {type(halo).__name__}")
        need(isinstance(block.conv2_kxk, nn.Identity), "extra_conv", "a block has one")
        need(isinstance(block.post_attn, BatchNormAct2d), "post_attn_na", "a block has no norm after attention")
        need(isinstance(halo.pool, nn.Identity), "avg_down", "queries are pooled")
        need(not halo.scale_pos_embed, "scale_pos_embed", "positions are scaled")
        need(halo.q.bias is None, "qkv_bias", "queries have a bias")
        width = halo.q.in_channels
        need(halo.dim_out_qk == width, "qk_ratio", f"queries have {halo.dim_out_qk} of {width} channels")
        need(halo.dim_out_v == width, "dim_out", f"values have {halo.dim_out_v} of {width} channels")
        steps = halo.q.stride
    need(tuple(steps) == (stride, stride), "output_stride", f"a block has a stride of {tuple(steps)}")


def _halonet_size(live: Live) -> tuple[int, int]:
    """Returns a size that attention can divide into blocks in every stage."""
    side, stride = 32, 4
    for i, stage in enumerate(live.sequence("stages")):
        for j, block in enumerate(stage):
            stride *= 2 if i and not j else 1
            if hasattr(block, "self_attn"):
                # the keys of a block with a stride are on the map before it
                before = stride // 2 if i and not j else stride
                side = math.lcm(side, before * block.self_attn.block_size)
    return side, side


def _halonet_drop(name: str) -> tuple[str, ...]:
    return (halonet.rename(name + ".")[:-1],)


SWIFTFORMER = Recipe(
    "timm's SwiftFormer",
    "timm.models.swiftformer",
    ("SwiftFormer",),
    "timm.models.swiftformer.EfficientAdditiveAttention",
    (nn.BatchNorm2d, nn.ReLU, *GELUS, CastingLinear),
    zoo_swiftformer.family,
    _swiftformer,
    drop_of_swiftformer,
)
MAMBAOUT = Recipe(
    "timm's MambaOut",
    "timm.models.mambaout",
    ("MambaOut",),
    "timm.models.mambaout.MambaOutStage",
    (*LAYER_NORMS, *GELUS),
    zoo_mambaout.family,
    _mambaout,
    _mambaout_drop,
)
SHVIT = Recipe(
    "timm's SHViT",
    "timm.models.shvit",
    ("SHViT",),
    "timm.models.shvit.StageBlock",
    (nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, GroupNorm1, SqueezeExcite, Sigmoid, nn.Sigmoid),
    zoo_shvit.family,
    _shvit,
    lambda name: (name,),
    lambda live: (128, 192),
)
HALONET = Recipe(
    "timm's HaloNet",
    "timm.models.byobnet",
    ("ByobNet",),
    "timm.layers.halo_attn.HaloAttn",
    (ClassifierHead, ConvNormAct, BatchNormAct2d, HaloAttn, PosEmbedRel, nn.ReLU, nn.SiLU, nn.MaxPool2d, nn.AvgPool2d),
    halonet.family,
    _halonet,
    _halonet_drop,
    _halonet_size,
)
