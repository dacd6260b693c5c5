"""Official parameter names and ours: examples for the families with nontrivial rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch

from attnzoo import agent_checkpoints, biformer, dhvt, nat, nat_isotropic, overlock_checkpoint
from attnzoo.base import block_of, checkpoint_filter

from ..parity.recipe import load_case, readable
from ..parity.test_parity import NETWORKS, name_of
from .models import SMALL

RENAME: dict[str, Callable[[str], str]] = {
    "agent": partial(agent_checkpoints.rename, depths=(3, 3, 3, 3)),
    "biformer": biformer.rename,
    "biformer_stl": partial(biformer.rename, layout="stl"),
    "biformer_stl_nchw": partial(biformer.rename, layout="stl_nchw"),
    "dhvt": partial(dhvt.rename, depths=(3, 3, 3, 3)),
    "nat": nat.rename,
    "nat_isotropic": partial(nat_isotropic.rename, depths=(3, 3, 3, 3)),
    "overlock": overlock_checkpoint.rename,
}

EXAMPLES = [
    ("nat", "patch_embed.proj.0.weight", "stem.conv1.weight"),
    ("nat", "patch_embed.proj.weight", "stem.proj.weight"),
    ("nat", "levels.0.downsample.norm.bias", "stages.1.downsample.norm.bias"),
    ("nat", "layers.2.downsample.reduction.weight", "stages.3.downsample.reduction.weight"),
    ("nat", "levels.3.blocks.4.gamma1", "stages.3.blocks.4.ls1.gamma"),
    ("nat_isotropic", "layers.7.attn.rpb", "stages.2.blocks.1.attn.rpb"),
    ("nat", "module.head.weight", "head.fc.weight"),
    ("nat", "stages.0.blocks.0.attn.rpb", "stages.0.blocks.0.attn.rpb"),
    ("agent", "patch_embed1.proj.weight", "stem.proj.weight"),
    ("agent", "patch_embed3.norm.bias", "stages.2.downsample.norm.bias"),
    ("agent", "patch_embed2.proj.weight", "stages.1.downsample.reduction.weight"),
    ("agent", "pos_embed4", "stages.3.position.table"),
    ("agent", "block2.1.attn.kv.weight", "stages.1.blocks.1.attn.kv.weight"),
    ("agent", "block1.0.attn.ha_bias", "stages.0.blocks.0.attn.biases.ha_bias"),
    ("agent", "layers.0.downsample.reduction.weight", "stages.1.downsample.reduction.weight"),
    ("agent", "layers.3.blocks.1.attn.relative_position_bias_table", "stages.3.blocks.1.attn.rpb"),
    ("agent", "stage1_conv_embed.2.weight", "stem.norm.weight"),
    ("agent", "merge2.conv.bias", "stages.2.downsample.reduction.bias"),
    ("agent", "stage3.17.attns.1.get_v.weight", "stages.2.blocks.17.attn.dwc.1.weight"),
    ("agent", "stage3.17.qkv.weight", "stages.2.blocks.17.attn.qkv.weight"),
    ("agent", "blocks.7.attn.ca_bias", "stages.2.blocks.1.attn.biases.ca_bias"),
    ("agent", "pos_embed", "stem.position.table"),
    ("agent", "head.bias", "head.fc.bias"),
    ("agent", "stages.1.blocks.0.attn.biases.aw_bias", "stages.1.blocks.0.attn.biases.aw_bias"),
    ("biformer", "downsample_layers.0.3.weight", "stem.2.conv.weight"),
    ("biformer", "downsample_layers.0.4.running_var", "stem.2.norm.running_var"),
    ("biformer", "downsample_layers.2.1.bias", "stages.2.downsample.norm.bias"),
    ("biformer_stl", "downsample_layers.2.1.bias", "stages.2.downsample.1.bias"),
    ("biformer_stl", "downsample_layers.2.0.bias", "stages.2.downsample.0.norm.bias"),
    ("biformer", "stages.2.5.pos_embed.bias", "stages.2.blocks.5.pos_embed.conv.bias"),
    ("biformer", "stages.2.5.attn.qkv.qkv.bias", "stages.2.blocks.5.attn.qkv.bias"),
    ("biformer_stl", "stages.3.blocks.1.mlp.2.weight", "stages.3.blocks.1.mlp.fc2.weight"),
    ("biformer", "module.stages.3.1.mlp.3.weight", "stages.3.blocks.1.mlp.fc2.weight"),
    ("biformer_stl_nchw", "stages.0.blocks.1.attn.output_linear.bias", "stages.0.blocks.1.attn.proj.bias"),
    ("biformer", "norm.running_mean", "norm.norm.running_mean"),
    ("biformer_stl", "head.weight", "head.fc.weight"),
    ("overlock", "patch_embed1.0.weight", "stem.0.conv.weight"),
    ("overlock", "patch_embed1.10.running_var", "stem.6.norm.running_var"),
    ("overlock", "module.patch_embed3.1.bias", "stages.2.downsample.norm.bias"),
    ("overlock", "patch_embed4.0.weight", "stages.2.overview.0.conv.weight"),
    ("overlock", "blocks4.1.proj.4.bias", "stages.2.overview.2.mlp.fc1.bias"),
    ("overlock", "blocks3.0.proj.3.proj.1.weight", "stages.2.base.0.se.fc1.weight"),
    ("overlock", "blocks1.3.proj.1.dil_bn_k9_2.weight", "stages.0.blocks.3.mixer.dilated.k9_2.norm.weight"),
    ("overlock", "blocks1.3.proj.2.weight", "stages.0.blocks.3.mixer.norm.weight"),
    ("overlock", "sub_blocks3.11.lepe.0.lk_origin.weight", "stages.2.blocks.11.mixer.static.large.conv.weight"),
    ("overlock", "sub_blocks4.0.proj.1.weight", "stages.3.blocks.0.mixer.proj.fc.weight"),
    ("overlock", "patch_embedx.h_proj.1.weight", "stages.3.downsample.context.norm.weight"),
    ("overlock", "head.1.weight", "norm.0.norm.weight"),
    ("overlock", "aux_head.2.weight", "aux_head.fc.weight"),
    ("dhvt", "blocks.3.mlp.bn2.weight", "stages.1.blocks.0.mlp.conv2.norm.weight"),
]


@pytest.mark.parametrize(("family", "theirs", "ours"), EXAMPLES)
def test_examples(family: str, theirs: str, ours: str) -> None:
    assert RENAME[family](theirs) == ours
    assert RENAME[family](ours) == ours


@pytest.mark.parametrize("path", [path for path in NETWORKS if path.parent.name == "cases"], ids=readable)
def test_an_official_checkpoint_has_all_of_our_names(path) -> None:
    case = load_case(path)
    name = name_of(case)
    with torch.device("meta"):
        model = timm.create_model(name)
    assert checkpoint_filter(name)(case.checkpoint, model).keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", SMALL)
def test_names_of_ours_stay(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    weights = model.state_dict()
    assert list(checkpoint_filter(name)(weights, model)) == list(weights)


def test_more_blocks_than_the_model_has_are_refused() -> None:
    assert block_of(3, (1, 1, 2, 2)) == "stages.2.blocks.1"
    with pytest.raises(ValueError, match="the checkpoint has a block 6, but the model has only 6 blocks"):
        block_of(6, (1, 1, 2, 2))


@pytest.mark.parametrize("name", ["shvit_s1", "halonet26t", "davit_tiny", "mambaout_femto", "swiftformer_xs"])
def test_names_of_timm(name: str) -> None:
    with torch.device("meta"):
        theirs, model = timm.create_model(name), timm.create_model(f"zoo_{name}")
    found, ours = checkpoint_filter(f"zoo_{name}")(theirs.state_dict(), model), model.state_dict()
    assert {key: x.shape for key, x in found.items()} == {key: x.shape for key, x in ours.items()}
