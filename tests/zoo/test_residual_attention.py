"""Tests specific to Residual Attention Network: sizes of maps, official names of the units of ResNeXt."""

from __future__ import annotations

import pytest
import timm
import torch

from attnzoo.base import checkpoint_filter
from attnzoo.tools.official import official_weights


@pytest.mark.parametrize("side", [31, 37])
def test_small_images(side: int) -> None:
    model = timm.create_model("residual_attention_pico").eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, side, 64)).isfinite().all()
    with pytest.raises(ValueError, match="needs 8 rows and columns or more, got 7x16: pass a larger image"):
        model(torch.randn(1, 3, 30, 64))


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="layout must be preactivation or resnext, got 'resnet'"):
        timm.create_model("residual_attention_pico", layout="resnet")


# no case has these
def test_official_names_with_the_units_of_resnext() -> None:
    with torch.device("meta"):
        model = timm.create_model("residual_attentionnext_92")
        parameters = sum(p.numel() for p in timm.create_model("residual_attentionnext_56").parameters())
    assert parameters == 31_318_824
    model = timm.create_model("residual_attentionnext_92", embed_dims=(64, 64, 64, 64))
    weights, _ = official_weights(model, "residual_attentionnext_92")
    unit = "branch1.conv1_1x1.bn.weight"
    assert {
        f"pre_res_1.{unit}",
        "pre_res_2.branch2.conv1_1x1.bn.weight",
        f"AttentionA_1.mask.skip.res2.{unit}",
        f"AttentionA_1.mask.down.res3_2.{unit}",
        f"AttentionB_2.mask.up.res1_1.{unit}",
        "AttentionC_3.mask.linear_1.bn.weight",
        f"AttentionC_3.{unit}",
        f"post_res_4_3.{unit}",
    } <= weights.keys()
    assert not any(name.endswith(("fusion.bn.weight", "post_res_4_3.bn.weight")) for name in weights)
    found, own = checkpoint_filter("residual_attentionnext_92")(weights, model), model.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)
