"""Swin, SwiftFormer, NAT and DiNAT of Hugging Face's transformers for `accelerate`; transformers is not imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from timm.layers import to_2tuple
from torch import Tensor, nn

from attnzoo.blocks import AdditiveAttention, PatchStem, WindowAttention, linear

from .. import nat, swin, zoo_swiftformer
from ..base import Pyramid
from .layouts import ChannelsFirstSwiftFormer, TokenSwin
from .live import Live
from .recipe import GELUS, Recipe, classes_of, need, only
from .timm_convolutions import drop_of_swiftformer

_LAYERS = (nn.LayerNorm, nn.BatchNorm2d, nn.AdaptiveAvgPool1d, nn.ReLU, *GELUS)


class UnweightedAttention(AdditiveAttention):
    """`AdditiveAttention` whose global query is the plain sum of all queries, as in transformers.

    There the weights of queries are a softmax over one number each, and so 1. The learned vector has no effect.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        # (B, H, W, C) -> (B, N, C)
        x = x.flatten(1, 2)
        q = F.normalize(linear(self.q, x), dim=2)
        k = F.normalize(linear(self.k, x), dim=2)
        # (B, N, C) -> (B, H, W, C)
        out = linear(self.proj2, linear(self.proj1, k * q.sum(1, keepdim=True)) + q)
        return out.unflatten(1, (height, width))


def _swin(live: Live) -> Pyramid:
    config = _config(live, "hidden_dropout_prob", "attention_probs_dropout_prob")
    need(not config.use_absolute_embeddings, "use_absolute_embeddings", "positions have an embedding")
    patch_size, window = only(to_2tuple(config.patch_size), "patch_size"), config.window_size
    ours = TokenSwin(
        [config.embed_dim * 2**i for i in range(len(config.depths))],
        config.depths,
        config.num_heads,
        window,
        config.mlp_ratio,
        config.num_channels,
        config.qkv_bias,
        **_pooled(live),
    )
    ours.stem = PatchStem(config.num_channels, config.embed_dim, patch_size)
    rows, columns = _image_size(live)
    own: Any
    for i, own in enumerate(ours.stages):
        ours.feature_info[i]["reduction"] = patch_size * 2**i
        sides = [-(-side // (patch_size * 2**i)) for side in (rows, columns)]
        need(min(sides) >= window, "window_size", f"{window} is larger than a map of {sides[0]}x{sides[1]}")
        if min(sides) == window < max(sides):
            # a window that spans one side of the map is not shifted along the other
            for block in own.blocks:
                assert isinstance(block.attn, WindowAttention)
                block.attn.shifted = False
    return ours


def _swiftformer(live: Live) -> Pyramid:
    config = _config(live)
    need(config.use_layer_scale, "use_layer_scale", "blocks have no scale")
    shape = [to_2tuple(value) for value in (config.down_patch_size, config.down_stride, config.down_pad)]
    need(shape == [(3, 3), (2, 2), (1, 1)], "down_patch_size", f"downsamplers have {shape}")
    count = len(config.depths)
    are_all = all(config.downsamples[i] or config.embed_dims[i] != config.embed_dims[i + 1] for i in range(count - 1))
    need(are_all, "downsamples", f"{config.downsamples}")
    has_head = "head" in live
    ours = ChannelsFirstSwiftFormer(
        config.embed_dims,
        config.depths,
        config.mlp_ratio,
        in_chans=config.num_channels,
        num_classes=classes_of(live["head"]) if has_head else 0,
        global_pool="avg" if has_head else "",
    )
    if not has_head:
        ours.norm = nn.Identity()
    own: Any
    for own in ours.stages:
        attention = own.blocks[-1].attn.branch
        attention[0] = UnweightedAttention(attention[0].q.in_features)
    return ours


def _neighborhood(live: Live) -> Pyramid:
    config = _config(live, "hidden_dropout_prob", "attention_probs_dropout_prob")
    return nat.NeighborhoodTransformer(
        config.embed_dim,
        config.depths,
        config.num_heads,
        config.kernel_size,
        getattr(config, "dilations", None) or [[1]] * len(config.depths),
        config.mlp_ratio,
        config.layer_scale_init_value or None,
        in_chans=config.num_channels,
        qkv_bias=config.qkv_bias,
        **_pooled(live),
    )


def _config(live: Live, *rates: str) -> Any:
    """Returns the configuration, after a check of what no family here has.

    Args:
        live: the network.
        rates: names of dropout rates that must be 0.
    """
    config: Any = live.model.config
    need(config.hidden_act == "gelu", "hidden_act", f"{config.hidden_act!r} instead of 'gelu'")
    for rate in rates:
        need(getattr(config, rate) == 0, rate, f"a rate of {getattr(config, rate)}")
    return config


def _pooled(live: Live) -> dict[str, Any]:
    """Returns our arguments for the classifier, or for the pooling of a network without one."""
    if "classifier" in live:
        return {"num_classes": classes_of(live["classifier"])}
    return {"num_classes": 0, "global_pool": "avg" if "pooler" in live else ""}


def _image_size(live: Live) -> tuple[int, int]:
    rows, columns = to_2tuple(live.model.config.image_size)  # type: ignore[union-attr]
    return rows, columns


def _drop(rename: Callable[[str], str], name: str) -> tuple[str, ...]:
    """Returns our names for the stochastic depth of a block; rates of dropout are 0."""
    name = rename(f"{name.removeprefix('encoder.').replace('.layers.', '.blocks.')}.")[:-1]
    return tuple(name.replace(".drop_path", f".drop_path{i}") for i in (1, 2)) if name.endswith(".drop_path") else ()


def _drop_of_swin(name: str) -> tuple[str, ...]:
    return _drop(swin.rename, name.replace("encoder.layers.", "layers.", 1))


def _drop_of_swiftformer(name: str) -> tuple[str, ...]:
    return drop_of_swiftformer(name.replace("encoder.network.", "network.").replace(".blocks.", ".", 1))


def _classes(stem: str) -> tuple[str, ...]:
    return f"{stem}Model", f"{stem}ForImageClassification"


HF_SWIN = Recipe(
    "transformers' Swin",
    "transformers.models.swin.modeling_swin",
    _classes("Swin"),
    "transformers.models.swin.modeling_swin.SwinEncoder",
    _LAYERS,
    swin.family,
    _swin,
    _drop_of_swin,
    _image_size,
)
HF_SWIFTFORMER = Recipe(
    "transformers' SwiftFormer",
    "transformers.models.swiftformer.modeling_swiftformer",
    _classes("SwiftFormer"),
    "transformers.models.swiftformer.modeling_swiftformer.SwiftFormerEncoder",
    _LAYERS,
    zoo_swiftformer.family,
    _swiftformer,
    _drop_of_swiftformer,
)
HF_DINAT = Recipe(
    "transformers' DiNAT",
    "transformers.models.dinat.modeling_dinat",
    _classes("Dinat"),
    "transformers.models.dinat.modeling_dinat.DinatEncoder",
    _LAYERS,
    nat.family,
    _neighborhood,
    partial(_drop, nat.rename),
)
HF_NAT = Recipe(
    "transformers' NAT",
    "transformers.models.deprecated.nat.modeling_nat",
    _classes("Nat"),
    "transformers.models.deprecated.nat.modeling_nat.NatEncoder",
    _LAYERS,
    nat.family,
    _neighborhood,
    partial(_drop, nat.rename),
)
