"""Oversized convolutions: matrices and convolutions compute the same, and kernels fit the map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnzoo.blocks import CenteredNorm, GatedMlp, OversizedConv, Residual


@pytest.mark.parametrize("fits_map", [False, True], ids=["fixed", "fitted"])
@pytest.mark.parametrize("size", [(5, 9), (12, 17), (1, 31)], ids=str)
def test_matrices_are_the_convolutions(size: tuple[int, int], fits_map: bool) -> None:
    layer = OversizedConv(3, 21, fits_map).double()
    x = torch.randn(2, *size, 3, dtype=torch.float64, requires_grad=True)
    assert layer._prefers_matrices(x)
    with torch.no_grad():
        expected = layer(x)
    found = layer(x)
    torch.testing.assert_close(found, expected)
    # a layer that is observed is called
    handle = layer.vertical.register_forward_hook(lambda *_: None)
    assert not layer._prefers_matrices(x)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((found * weights).sum(), [x, *layer.parameters()])]
    gradients.append(torch.autograd.grad((layer(x) * weights).sum(), [x, *layer.parameters()]))
    handle.remove()
    for mine, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_fitted_kernels_reach_exactly_the_whole_map() -> None:
    layer, (rows, columns) = OversizedConv(1, 13, fits_map=True), (4, 6)
    with torch.no_grad():
        layer.vertical.weight[0, 0, :, 0], layer.horizontal.weight[0, 0, 0] = torch.arange(13.0), torch.arange(13.0)
        x = torch.zeros(1, rows, columns, 1)
        x[0, 0, -1] = 1
        out = layer(x)[0, :, :, 0]
    # the first row is seen from the row r at the distance -r, a (rows - 1)-th of half of the kernel each
    vertical = 6 - 6 * torch.arange(rows) / (rows - 1)
    horizontal = 6 + 6 * torch.arange(columns - 1, -1, -1) / (columns - 1)
    torch.testing.assert_close(out, vertical[:, None] * horizontal)


def test_centered_norm_leaves_vectors_of_length_one() -> None:
    norm, x = CenteredNorm(12).double(), torch.randn(2, 3, 12, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    centered = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(norm(x), F.normalize(centered, dim=-1) * norm.weight)
    assert not norm(torch.ones(1, 12, dtype=torch.float64)).any()


def test_gated_mlp_in_place_is_the_product() -> None:
    layer, x = GatedMlp(6, 8), torch.randn(2, 3, 6)
    expected = layer.proj(layer.value(x) * F.gelu(layer.gate(x)))
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
        layer.gate = nn.Identity()
        layer.value = nn.Identity()
        layer.proj = nn.Identity()
        before = x.clone()
        layer(x)
    assert torch.equal(x, before)


def test_a_residual_scales_its_shortcut() -> None:
    layer, x = Residual(nn.Tanh(), scaled_dim=4), torch.randn(2, 3, 4)
    torch.testing.assert_close(layer(x), x + x.tanh())
    nn.init.normal_(layer.scale)
    torch.testing.assert_close(layer(x), layer.scale * x + x.tanh())
