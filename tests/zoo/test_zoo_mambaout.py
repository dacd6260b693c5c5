"""Tests specific to MambaOut: checkpoints of timm, the MLP classifier, the gate."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from attnzoo.blocks import GatedConv
from attnzoo.zoo_mambaout import MambaOut, checkpoint_filter_fn


def test_timms_weights_give_timms_logits() -> None:
    theirs = timm.create_model("mambaout_femto", num_classes=7).eval()
    model = timm.create_model("zoo_mambaout_femto", num_classes=7).eval()
    model.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), model))
    x = torch.randn(1, 3, 96, 120)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "widths", "depths", "hidden", "drop_path"),
    [
        ("zoo_mambaout_femto", (48, 96, 192, 288), (3, 3, 9, 3), (128, 256, 512, 768), 0.025),
        ("zoo_mambaout_kobe", (48, 96, 192, 288), (3, 3, 15, 3), (128, 256, 512, 768), 0.025),
        ("zoo_mambaout_tiny", (96, 192, 384, 576), (3, 3, 9, 3), (256, 512, 1024, 1536), 0.2),
        ("zoo_mambaout_small", (96, 192, 384, 576), (3, 4, 27, 3), (256, 512, 1024, 1536), 0.4),
        ("zoo_mambaout_base", (128, 256, 512, 768), (3, 4, 27, 3), (341, 682, 1365, 2048), 0.6),
    ],
)
def test_constants_of_the_networks(
    name: str, widths: tuple[int, ...], depths: tuple[int, ...], hidden: tuple[int, ...], drop_path: float
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert tuple(info["num_chs"] for info in model.feature_info) == widths
    assert tuple(len(stage.blocks) for stage in model.stages) == depths
    assert tuple(stage.blocks[0].branch[1].gate.out_features for stage in model.stages) == hidden
    assert model.stages[-1].blocks[-1].drop_path.drop_prob == pytest.approx(drop_path)
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize("expansion", [1.0, 8 / 3], ids=["nothing passes", "some pass"])
def test_gated_convolution_is_its_formula(expansion: float) -> None:
    block = GatedConv(6, expansion, 3)
    x = torch.randn(2, 5, 4, 6)
    value = block.value(x)
    mixed = block.conv(value[..., -6:].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    expected = block.proj(F.gelu(block.gate(x)) * torch.cat([value[..., :-6], mixed], -1))
    torch.testing.assert_close(block(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)


def test_the_classifier_comes_and_goes() -> None:
    model, x = timm.create_model("mambaout_pico", num_classes=3).eval(), torch.randn(2, 3, 64, 64)
    hidden = model.head.pre_logits.fc.weight
    with torch.no_grad():
        assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 512)
        model.reset_classifier(5)
        # only the last layer is new
        assert model.head.pre_logits.fc.weight is hidden
        model.reset_classifier(0, "")
        assert not list(model.head.parameters())
        model.reset_classifier(4, "avg")
        assert model(x).shape == (2, 4)
        model.reset_classifier(4, "")
        assert model(x).shape == (2, 2, 2, 4)
    with pytest.raises(ValueError, match="pool_type must keep the number of channels"):
        model.reset_classifier(4, "catavgmax")


def test_stem_widths_must_be_whole() -> None:
    with pytest.raises(ValueError, match="embed_dims must start with an even number, got 33"):
        MambaOut((33, 64, 96, 128))
