"""Convolutions of both layouts, and their fused forms."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from timm.models import reparameterize_model
from torch import Tensor, nn

from attnzoo.blocks import (
    ConvNorm,
    ConvNormMlp,
    InvertedDownsample,
    ResidualConv,
    ScaledMlp,
    channels_last_conv,
    depthwise,
    fuse,
)

layouts = pytest.mark.parametrize("channels_last", [True, False], ids=["NHWC", "NCHW"])


def with_statistics(module: nn.Module) -> nn.Module:
    """Returns the module in evaluation mode, with random parameters and statistics of its norms."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.3, 3)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return module.eval()


def image(dim: int, channels_last: bool) -> Tensor:
    """Returns a 7x10 map, (B, C, H, W) or (B, H, W, C)."""
    x = torch.randn(2, dim, 7, 10, dtype=torch.float64)
    return x.permute(0, 2, 3, 1) if channels_last else x


def channels_first(x: Tensor, channels_last: bool) -> Tensor:
    return x.permute(0, 3, 1, 2) if channels_last else x


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 3), ((2, 1), 1)], ids=str)
def test_channels_last_conv_is_the_convolution(stride: int | tuple[int, int], groups: int) -> None:
    plain = nn.Conv2d(6, 9, (3, 5), stride, (1, 2), groups=groups).double()
    x = image(6, True).requires_grad_()
    expected = plain(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    found = channels_last_conv(plain, x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for mine, wanted in zip(
        torch.autograd.grad(found, (x, *plain.parameters()), weights),
        torch.autograd.grad(expected, (x, *plain.parameters()), weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted)


@layouts
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_depthwise_keeps_the_size_and_channels_apart(kernel_size: int, channels_last: bool) -> None:
    conv = depthwise(4, kernel_size, bias=False).double()
    layer = partial(channels_last_conv, conv) if channels_last else conv
    x = image(4, channels_last)
    first = layer(x)
    assert first.shape == x.shape
    channel = -1 if channels_last else 1
    x.select(channel, 2).add_(1)
    changed = (layer(x) != first).transpose(channel, 0).flatten(1).any(1)
    assert changed.tolist() == [False, False, True, False]


@layouts
@pytest.mark.parametrize(
    ("kernel_size", "stride", "groups", "bias"), [(1, 1, 1, False), (3, 2, 1, True), (5, 1, 2, False), (3, 1, 4, True)]
)
def test_conv_norm_is_one_convolution(
    kernel_size: int, stride: int, groups: int, bias: bool, channels_last: bool
) -> None:
    layer = ConvNorm(4, 8, kernel_size, stride, groups, bias, channels_last).double()
    with_statistics(layer)
    x = image(4, channels_last)
    found = layer(x)
    expected = layer.norm(
        F.conv2d(
            channels_first(x, channels_last), layer.conv.weight, layer.conv.bias, stride, kernel_size // 2, 1, groups
        )
    )
    torch.testing.assert_close(channels_first(found, channels_last), expected)
    assert expected.shape[2:] == (-(-7 // stride), -(-10 // stride))
    fused = layer.fuse()
    assert [name for name, _ in fused.named_parameters()] == ["conv.weight", "conv.bias"]
    assert type(fused.conv) is nn.Conv2d
    torch.testing.assert_close(fused(x), found)
    torch.testing.assert_close(fused.fuse()(x), found)


@layouts
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_residual_conv_is_one_convolution(kernel_size: int, norm: bool, channels_last: bool) -> None:
    layer = with_statistics(ResidualConv(4, kernel_size, norm, channels_last).double())
    x = image(4, channels_last)
    found = layer(x)
    conv = partial(channels_last_conv, layer.conv) if channels_last and not norm else layer.conv
    torch.testing.assert_close(found - x, conv(x))
    fused = layer.fuse()
    assert sum(p.numel() for p in fused.parameters()) == 4 * kernel_size**2 + 4
    torch.testing.assert_close(fused(x), found)
    torch.testing.assert_close(fused.fuse()(x), found)


def test_mlp_starts_as_zero_and_is_two_products_of_pixels() -> None:
    layer = ConvNormMlp(4, 6).double().eval()
    x = image(4, False)
    assert not layer(x).any()
    with_statistics(layer)
    first, second = (copy.deepcopy(part).fuse().conv for part in (layer.conv1, layer.conv2))
    pixels = x.flatten(2).transpose(1, 2)
    pixels = F.linear(pixels, first.weight[:, :, 0, 0], first.bias).relu()
    expected = F.linear(pixels, second.weight[:, :, 0, 0], second.bias).transpose(1, 2).view_as(x)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("dim", "gate"), [(16, 16), (308, 312), (48, 48)])
def test_inverted_downsample_rounds_sizes_up_and_gates_to_eights(dim: int, gate: int) -> None:
    layer = InvertedDownsample(dim, 10)
    assert layer.se.fc1.weight.shape == (gate, 4 * dim, 1, 1)
    assert layer(torch.randn(2, dim, 7, 4)).shape == (2, 10, 4, 2)


def network() -> nn.Module:
    """Returns a network with layers that fuse, at several levels of nesting, and layers that do not."""
    inner = nn.Sequential(ResidualConv(4, 3, norm=True, channels_last=False), nn.ReLU(), ConvNormMlp(4, 6))
    return nn.Sequential(ConvNorm(4, 4, 3, channels_last=False), inner, InvertedDownsample(4, 5)).double()


def test_fuse_leaves_no_norm_and_the_same_result() -> None:
    model, x = with_statistics(network()), image(4, False)
    expected = model(x)
    names = set(model.state_dict())
    reparameterized = reparameterize_model(model)
    assert set(model.state_dict()) == names
    assert fuse(model) is model
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(x), expected)
    assert reparameterized.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(reparameterized(x), model(x))
    # layers that are already fused stay unchanged
    again = copy.deepcopy(model.state_dict())
    fuse(model)
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_fuse_refuses_training_mode_and_changes_nothing() -> None:
    model = network().train()
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=r"evaluation mode can be fused: call \.eval\(\) first"):
        fuse(model)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(("kernel_size", "dilation"), [(7, 3), (3, 2), (5, 4)], ids=str)
@pytest.mark.parametrize("size", [(7, 10), (2, 3), (12, 12)], ids=str)
def test_dilated_depthwise_in_interleaved_parts(kernel_size: int, dilation: int, size: tuple[int, int]) -> None:
    ours = depthwise(6, kernel_size, dilation=dilation)
    x = torch.randn(2, *size, 6, requires_grad=True)
    found = channels_last_conv(ours, x)
    padding = dilation * (kernel_size // 2)
    expected = F.conv2d(x.permute(0, 3, 1, 2), ours.weight, ours.bias, 1, padding, dilation, 6).permute(0, 2, 3, 1)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(expected)
    inputs = (x, *ours.parameters())
    for mine, wanted in zip(
        torch.autograd.grad(found, inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
    ):
        torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
@pytest.mark.parametrize("kernel_size", [None, 3], ids=["pointwise", "depthwise"])
def test_a_scaled_mlp_fuses(norm: bool, kernel_size: int | None) -> None:
    mlp = with_statistics(ScaledMlp(6, 10, 0.3, norm, kernel_size)).double()
    x = image(6, True)
    with torch.no_grad():
        expected = mlp(x)
        fused = fuse(copy.deepcopy(mlp))
        torch.testing.assert_close(fused(x), expected)
    assert not any(isinstance(module, nn.BatchNorm2d | LayerScale) for module in fused.modules())
