"""timm's ResNet with attention layers: choice of the layer, shapes, and what official files hold."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.resnet import ResNet
from torch import nn

from attnzoo.blocks import CrossStageChannelAttention, EfficientChannelAttention, PolarizedAttention, attention_layer


def layers(model: nn.Module) -> list[nn.Module]:
    return [block.se for stage in model.stages for block in stage]


def sizes(name: str) -> list[int]:
    """Returns the kernel sizes of the first block of each stage."""
    with torch.device("meta"):
        model = timm.create_model(name)
    return [stage[0].se.conv.kernel_size[0] for stage in model.stages]


def test_kernel_sizes_of_the_released_files() -> None:
    assert sizes("eca_resnet18") == [3, 5, 7, 7]
    assert sizes("eca_resnet50") == [3, 5, 5, 7]
    assert all(sizes(f"eca_resnet{depth}") == [3, 3, 5, 7] for depth in (34, 101, 152))


def test_another_attention_layer() -> None:
    model = timm.create_model("eca_resnet_pico", attn_layer="psa_s", num_classes=3).eval()
    assert isinstance(model, ResNet)
    assert all(isinstance(layer, PolarizedAttention) and not layer.parallel for layer in layers(model))
    per_stage = ["eca", "eca", attention_layer("efficient", num_heads=2), "psa_p"]
    model = timm.create_model("fcanet_pico", attn_layer=per_stage, num_classes=3).eval()
    assert isinstance(layers(model)[0], EfficientChannelAttention)
    assert isinstance(layers(model)[-1], PolarizedAttention)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"attn_layer": "psa"}, "unknown attention layer 'psa': the nearest names are psa_s, psa_p"),
        ({"attn_layer": ["eca"]}, "needs one layer for each of 4 stages of different widths, got 1 layers"),
        ({"attn_layer": ["eca"] * 4, "channels": (16, 16, 32, 32)}, "got 4 layers for widths 16, 16, 32, 32"),
        ({"block": "wide"}, "block must be one of basic, bottleneck, got 'wide'"),
    ],
)
def test_what_cannot_be_built(arguments: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        timm.create_model("eca_resnet_pico", **arguments)


def test_descriptors_that_cannot_be_tiled() -> None:
    with pytest.raises(ValueError, match="the channels of layer2 must be a multiple of 16, those before, got 24"):
        timm.create_model("emca_eca_resnet_pico", channels=(16, 24, 48, 96))


def test_dilated_stages() -> None:
    model = timm.create_model("fcanet_pico", output_stride=8, features_only=True)
    assert model.feature_info.reduction() == [4, 8, 8, 8]
    assert [tuple(x.shape[2:]) for x in model(torch.zeros(1, 3, 64, 96))] == [(16, 24), (8, 12), (8, 12), (8, 12)]


def test_the_first_block_of_a_stage_reads_its_own_descriptors_only() -> None:
    model = timm.create_model("emca_eca_resnet_pico")
    attention = layers(model)
    assert all(isinstance(layer, CrossStageChannelAttention) for layer in attention)
    frozen = [not layer.fusion.weight.requires_grad for layer in attention]
    assert frozen == [True, False] * 4
    assert [layer.fusion.kernel_size[0] for layer in attention] == [2, 2, 3, 3, 4, 4, 5, 5]
    own, earlier = torch.randn(2, 32), [torch.randn(2, 16), torch.randn(2, 16)]
    for layer, depends in ((attention[2], False), (attention[3], True)):
        same = torch.equal(layer(own, earlier), layer(own, [earlier[0], earlier[1] + 1]))
        assert same != depends
        assert layer(own, earlier).shape == (2, 32, 1, 1)
        assert layer(own, earlier).min() > 1


def test_a_pruned_network_has_no_later_stages() -> None:
    model = timm.create_model("emca_eca_resnet_pico").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
        assert model.prune_intermediate_layers([1]) == [1]
        assert model.num_features == 32
        assert torch.equal(model(x), expected)
