"""Global filters: both formulations, other map sizes, and what an export computes."""

from __future__ import annotations

import pytest
import torch

from attnzoo.blocks import SpectralFilter, resize_spectrum, spectral


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1), (4, 3)], ids=str)
def test_both_formulations_agree_with_a_circular_convolution(size: tuple[int, int]) -> None:
    height, width = size
    layer, x = SpectralFilter(3, size).double(), torch.randn(2, *size, 3, dtype=torch.float64)
    kernel = torch.fft.irfft2(torch.complex(*layer.table), s=size, dim=(0, 1))
    expected = sum(
        x.roll((row, column), (1, 2)) * kernel[row, column] for row in range(height) for column in range(width)
    )
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(spectral._filtered_by_matrices(x, layer.table), expected)


@pytest.mark.parametrize("size", [(14, 14), (40, 9)], ids=["matrices", "fft"])
def test_gradients_are_those_of_the_transform(size: tuple[int, int]) -> None:
    layer, x = SpectralFilter(4, size), torch.randn(2, *size, 4, requires_grad=True)
    weights = torch.randn(2, *size, 4)
    found = torch.autograd.grad((layer(x) * weights).sum(), [x, layer.table])
    wanted = torch.autograd.grad((spectral._filtered(x, layer.table) * weights).sum(), [x, layer.table])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(14, 15), (7, 9), (1, 1), (20, 31)], ids=str)
def test_a_filter_of_a_dynamic_size_is_the_interpolated_one(size: tuple[int, int]) -> None:
    table = torch.randn(2, 14, 8, 3, dtype=torch.float64)
    torch.testing.assert_close(spectral._resize_dynamic(table, *size), resize_spectrum(table, *size))


def test_an_interpolated_filter_follows_its_table() -> None:
    layer, x = SpectralFilter(3, (8, 8)).eval(), torch.randn(1, 5, 6, 3)
    with torch.no_grad():
        before = layer(x)
        layer.table.data.mul_(2)
        torch.testing.assert_close(layer(x), 2 * before)
    assert layer.at(8, 8) is layer.table


def test_half_precision_computes_in_float32() -> None:
    layer, x = SpectralFilter(3, (8, 8)).to(torch.bfloat16), torch.randn(1, 8, 8, 3, dtype=torch.bfloat16)
    out = layer(x)
    assert out.dtype == torch.bfloat16
    exact = SpectralFilter(3, (8, 8))
    exact.load_state_dict(layer.state_dict())
    torch.testing.assert_close(out, exact(x.float()).to(torch.bfloat16))
