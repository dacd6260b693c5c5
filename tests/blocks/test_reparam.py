"""Parallel convolutions and the single convolution that they merge into."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnzoo.blocks import ConvNorm, DilatedReparamConv, NormLinear, fuse

from .norms import shaken

# all published choices of branches
SIZES = (5, 7, 9, 11, 13, 15, 17, 19)


def one_by_one(layer: DilatedReparamConv, x: Tensor) -> Tensor:
    total = sum(branch(x) for branch in (layer.large, *layer.dilated.values()))
    return layer.norm(total.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", SIZES)
def test_one_kernel_is_the_sum_of_the_branches(size: int) -> None:
    layer = shaken(DilatedReparamConv(6, size)).double()
    x = torch.randn(2, 13, 10, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = one_by_one(layer, x)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
        merged = layer.merge()
        assert isinstance(merged, ConvNorm)
        torch.testing.assert_close(merged.eval()(x), expected, rtol=0, atol=1e-12)
        fused = layer.fuse()
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-12)
    assert [name for name, _ in fused.named_parameters()] == ["conv.weight", "conv.bias"]


def test_training_takes_the_branches_with_the_statistics_of_the_batch() -> None:
    layer = shaken(DilatedReparamConv(4, 7)).train()
    x = torch.randn(2, 8, 9, 4)
    torch.testing.assert_close(layer(x), one_by_one(layer, x))
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_gradients_of_evaluation_mode_are_those_of_the_branches() -> None:
    layer = shaken(DilatedReparamConv(3, 9)).double()
    x = torch.randn(1, 7, 11, 3, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())
    cotangent = torch.randn(1, 7, 11, 3, dtype=torch.float64)
    expected = torch.autograd.grad(one_by_one(layer, x), inputs, cotangent)
    for ours, wanted in zip(torch.autograd.grad(layer(x), inputs, cotangent), expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_kernels_are_added_up_in_float32(dtype: torch.dtype) -> None:
    layer = shaken(DilatedReparamConv(8, 13))
    x = torch.randn(1, 14, 14, 8)
    with torch.no_grad():
        # includes only the rounding of the parameters and of the input
        layer = layer.to(dtype).float()
        exact = layer(x.to(dtype).float())
        half = layer.to(dtype)(x.to(dtype)).float()
    assert (half - exact).abs().max() < 3 * torch.finfo(dtype).eps * exact.abs().max()


def test_a_size_without_branches_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be one of 5, 7, 9, 11, 13, 15, 17, 19, got 6"):
        DilatedReparamConv(4, 6)


def test_a_norm_before_a_linear_layer_is_folded_into_it() -> None:
    layer = shaken(NormLinear(5, 7)).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
        network = fuse(nn.Sequential(layer).eval())
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-12)
