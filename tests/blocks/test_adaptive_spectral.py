"""Adaptive spectral filters: both formulations, gradients, and other numbers of tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnzoo.blocks import AdaptiveSpectralFilter, adaptive_spectral


def random(num_tokens: int) -> AdaptiveSpectralFilter:
    layer = AdaptiveSpectralFilter(6, 2, num_tokens)
    torch.nn.init.normal_(layer.scale)
    torch.nn.init.normal_(layer.shift)
    return layer


def filtered(layer: AdaptiveSpectralFilter, x: Tensor) -> Tensor:
    """The same with a Fourier transform of complex numbers, for the number of tokens that the filter is learned for."""
    count = x.shape[1] // 2 + 1
    changes = layer.fc2(F.gelu(layer.fc1(x.mean(1)))).reshape(len(x), 2, count, 2)
    scale, shift = layer.scale[..., 0] * (1 + changes[..., 0]), layer.shift[..., 0] + changes[..., 1]
    spectrum = torch.fft.fft(x, dim=1)[:, :count] / x.shape[1] ** 0.5
    # (B, h, K) -> (B, K, C)
    scale, shift = (part.transpose(1, 2).repeat_interleave(3, 2) for part in (scale, shift))
    spectrum = spectrum * scale + shift
    spectrum = spectrum * F.gelu(spectrum.abs()) / (spectrum.abs() + 1e-6)
    return torch.fft.irfft(spectrum, n=x.shape[1], dim=1, norm="ortho")


@pytest.mark.parametrize("count", [1, 2, 9, 12])
def test_both_formulations_compute_the_filter(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = random(count).double(), torch.randn(2, count, 6, dtype=torch.float64)
    expected = filtered(layer, x)
    torch.testing.assert_close(layer(x), expected)
    monkeypatch.setattr(adaptive_spectral, "_prefers_matrices", lambda x: True)
    torch.testing.assert_close(layer(x), expected)


def test_gradients_are_those_of_the_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = random(17), torch.randn(2, 17, 6, requires_grad=True)
    weights, inputs = torch.randn(2, 17, 6), [x, *layer.parameters()]
    found = torch.autograd.grad((layer(x) * weights).sum(), inputs)
    monkeypatch.setattr(adaptive_spectral, "_prefers_matrices", lambda x: False)
    wanted = torch.autograd.grad((layer(x) * weights).sum(), inputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_sequence_of_zeros_has_finite_gradients() -> None:
    layer, x = AdaptiveSpectralFilter(4, 1, 8), torch.zeros(1, 8, 4, requires_grad=True)
    torch.nn.init.zeros_(layer.shift)
    torch.nn.init.zeros_(layer.fc2.bias)
    layer(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in (x, *layer.parameters()))


def test_scales_and_shifts_are_interpolated_over_the_frequencies() -> None:
    layer, x = random(20), torch.randn(1, 33, 6)
    scale, shift = layer._filter(x)
    changes = layer.fc2(F.gelu(layer.fc1(x.mean(1)))).reshape(1, 2, 11, 2)
    for found, learned in (
        (scale, layer.scale[..., 0] * (1 + changes[..., 0])),
        (shift, layer.shift[..., 0] + changes[..., 1]),
    ):
        expected = F.interpolate(learned, 17, mode="linear", align_corners=True)
        torch.testing.assert_close(found[..., 0], expected.transpose(1, 2))


def test_half_precision_computes_in_float32() -> None:
    layer, x = random(9).to(torch.bfloat16), torch.randn(1, 9, 6, dtype=torch.bfloat16)
    out = layer(x)
    assert out.dtype == torch.bfloat16
    exact = random(9)
    exact.load_state_dict(layer.state_dict())
    torch.testing.assert_close(out.float(), exact(x.float()), atol=0.05, rtol=0.05)
