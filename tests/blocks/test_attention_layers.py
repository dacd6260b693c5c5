"""Attention layers by name: in timm's networks, and against other formulations."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from attnzoo.blocks import DeformableConv, EfficientChannelAttention, FrequencyChannelAttention, attention_layer
from attnzoo.blocks.attention_layers import LAYERS


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 32, 12, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LAYERS)
def test_the_slot_of_a_resnet(name: str) -> None:
    torch.manual_seed(0)
    network = ResNet(
        BasicBlock,
        (1, 1, 1, 1),
        num_classes=3,
        channels=(32, 32, 64, 64),
        # the shortcut would hide what the attention does
        zero_init_last=False,
        block_args={"attn_layer": attention_layer(name)},
    )
    images = torch.randn(2, 3, 64, 96)
    network(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        # a map of 1x1
        assert network.eval()(torch.randn(1, 3, 32, 32)).isfinite().all()
        changed = network(images)
        network.layer1[0].se = nn.Identity()
        assert not torch.equal(network(images), changed)


@pytest.mark.parametrize("name", ["eca", "psa_s", "das"])
def test_the_slot_of_other_networks(name: str) -> None:
    layer = attention_layer(name)
    with torch.no_grad():
        for network in ("semnasnet_050", "efficientnet_b0"):
            model = timm.create_model(network, se_layer=layer, num_classes=2).eval()
            assert any(type(module) is type(layer(16)) for module in model.modules())
            assert model(torch.randn(1, 3, 64, 64)).shape == (1, 2)


def test_constructors_take_device_dtype_and_arguments() -> None:
    layer = attention_layer("eca", kernel_size=9)(64, device="meta", dtype=torch.bfloat16)
    assert layer.conv.weight.shape == (1, 1, 9)
    assert layer.conv.weight.device.type == "meta"
    assert layer.conv.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("psa", "unknown attention layer 'psa': the nearest names are psa_s, psa_p"),
        ("??", "unknown attention layer '??': the nearest names are das, eca, efficient, ela_b"),
    ],
)
def test_unknown_names(name: str, error: str) -> None:
    with pytest.raises(ValueError, match="unknown attention layer") as info:
        attention_layer(name)
    assert str(info.value).startswith(error)


@pytest.mark.parametrize(
    ("name", "dim", "error"),
    [
        ("ela_t", 24, "the channels must be a multiple of norm_groups, got 24 for 32"),
        ("ela_l", 20, "the channels must be a multiple of group_width, got 20 for 8"),
        ("fca", 24, "the channels must be a multiple of 16, one run each, got 24"),
        ("psa_s", 12, "the channels must be a multiple of 8, got 12"),
        ("ulsam", 6, "the channels must be a multiple of subspaces, got 6 for 4"),
        ("gaussian", 6, "every head needs two channels, got 6 channels for 4 heads"),
    ],
)
def test_channels_that_cannot_be_divided(name: str, dim: int, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        attention_layer(name)(dim)


@pytest.mark.parametrize(("dim", "size"), [(64, 3), (128, 5), (512, 5), (2048, 7)])
def test_neighbors_of_the_paper(dim: int, size: int) -> None:
    assert EfficientChannelAttention(dim).conv.kernel_size == (size,)


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (12, 9), (5, 20)], ids=str)
def test_frequencies_of_maps_of_other_sizes(size: tuple[int, int]) -> None:
    layer, x = FrequencyChannelAttention(32, size=14).double(), torch.randn(2, 32, *size).double()
    waves = layer.waves.double()
    basis = (waves[0].unsqueeze(2) * waves[1].unsqueeze(1)).repeat_interleave(2, 0)
    descriptors = (F.adaptive_avg_pool2d(x, 14) * basis).sum((2, 3), keepdim=True)
    expected = x * layer.fc2(layer.fc1(descriptors).relu()).sigmoid()
    torch.testing.assert_close(layer(x), expected)


def test_deformable_convolution_is_torchvisions(x: torch.Tensor) -> None:
    ops = pytest.importorskip("torchvision.ops")
    layer = DeformableConv(32, 8).double()
    for parameter in layer.offset.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = x.double()
    offsets = layer.offset(x).unflatten(1, (9, 3))
    expected = ops.deform_conv2d(
        x,
        offsets[:, :, :2].flatten(1, 2),
        layer.conv.weight,
        layer.conv.bias,
        padding=1,
        mask=offsets[:, :, 2].sigmoid(),
    )
    assert offsets[:, :, :2].abs().max() > 2
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
