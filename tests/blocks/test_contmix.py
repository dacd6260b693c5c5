"""ContMix: an explicit implementation, small maps, and values that overflow 16 bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnzoo.blocks import ContMix, FocusBlock, GlobalResponseNorm, SqueezeExcite
from attnzoo.blocks.context_mixing import MixingWeights, mix

from .norms import shaken


def mixer(kernel_size: int = 7, small: int = 3) -> ContMix:
    layer = shaken(ContMix(16, 8, 4, kernel_size, small))
    for table in (layer.rpb1, layer.rpb2):
        torch.nn.init.normal_(table)
    return layer


def mixed(layer: ContMix, values: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    learned = MixingWeights(layer.weights.weight, layer.weights.bias, layer.rpb1, layer.rpb2)
    return mix(values, queries, keys, learned, layer.scale)


def dynamic(layer: ContMix, values: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Computes the dynamic convolution position by position, for one image."""
    (height, width), heads = values.shape[1:3], layer.num_heads
    out = torch.zeros_like(values[0])
    halves = values[0].unflatten(-1, (2, heads, -1))
    keys = keys[0].flatten(0, 1).unflatten(-1, (heads, -1))
    sides = layer.small_kernel_size, layer.kernel_size
    for row in range(height):
        for column in range(width):
            query = queries[0, row, column].unflatten(-1, (heads, -1)) * (layer.dim / heads) ** -0.5
            weights = layer.weights(torch.einsum("gc,lgc->gl", query, keys)).split([k * k for k in sides], -1)
            parts = []
            for half, (k, of_window, table) in enumerate(zip(sides, weights, (layer.rpb1, layer.rpb2), strict=True)):
                top = min(max(row - k // 2, 0), height - k)
                left = min(max(column - k // 2, 0), width - k)
                rows, columns = torch.arange(top, top + k), torch.arange(left, left + k)
                bias = table[:, rows[:, None] - row + k - 1, columns[None] - column + k - 1].flatten(1)
                window = halves[top : top + k, left : left + k, half].flatten(0, 1)
                parts.append(torch.einsum("gl,lgc->gc", (of_window + bias).softmax(-1), window))
            out[row, column] = torch.stack(parts).flatten()
    return out[None]


@pytest.mark.parametrize("size", [(7, 7), (8, 11)], ids=str)
def test_every_position_has_its_own_kernel(size: tuple[int, int]) -> None:
    layer = mixer().double()
    values, queries, keys = (
        torch.randn(1, *shape, dtype=torch.float64) for shape in ((*size, 16), (*size, 8), (7, 7, 8))
    )
    with torch.no_grad():
        torch.testing.assert_close(mixed(layer, values, queries, keys), dynamic(layer, values, queries, keys))


@pytest.mark.parametrize("size", [(9, 12), (7, 7), (5, 9), (9, 5), (3, 3), (1, 2)], ids=str)
def test_any_map(size: tuple[int, int]) -> None:
    layer = mixer().train()
    x = torch.randn(2, *size, 24, requires_grad=True)
    out = layer(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    for name, tensor in (("x", x), *layer.named_parameters()):
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name


def test_a_small_map_is_enlarged_for_the_dynamic_convolution_only() -> None:
    layer = mixer()
    x = torch.randn(1, 5, 9, 24)
    seen = {}
    handle = layer.static.register_forward_hook(lambda module, given, out: seen.update(static=out.shape))
    layer.query.register_forward_hook(lambda module, given, out: seen.update(query=out.shape))
    with torch.no_grad():
        layer(x)
    handle.remove()
    # 9 * 7 / 5 is 12.6
    assert seen == {"static": (1, 5, 9, 16), "query": (1, 7, 12, 8)}


def test_the_softmax_survives_affinities_that_float16_does_not_hold() -> None:
    layer = mixer()
    values, queries, keys = torch.randn(1, 7, 9, 16), 300 * torch.randn(1, 7, 9, 8), 300 * torch.randn(1, 7, 7, 8)
    affinities = torch.einsum("bhwc,bijc->bhwij", queries, keys)
    assert affinities.half().isinf().any()
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        out = mixed(layer, values, queries.half(), keys.half())
        assert out.dtype == torch.float16
    with torch.no_grad():
        expected = mixed(layer, values.half().float(), queries.half().float(), keys.half().float())
    torch.testing.assert_close(out.float(), expected, atol=4e-3, rtol=4e-3)


def test_the_response_norm_survives_squares_that_float16_does_not_hold() -> None:
    norm = GlobalResponseNorm(6)
    torch.nn.init.normal_(norm.gamma)
    x = (1000 * torch.randn(2, 5, 7, 6)).half()
    assert x.square().isinf().any()
    with torch.no_grad():
        expected = norm(x.float())
        torch.testing.assert_close(norm(x).float(), expected, rtol=2e-3, atol=1)
        # a map with values so small that epsilon, rounded to float16, would dominate
        faint = (1e-6 * torch.randn(2, 5, 7, 6)).half()
        torch.testing.assert_close(norm(faint).float(), norm(faint.float()), rtol=2e-3, atol=1e-7)


def test_the_response_norm_is_its_definition_and_has_gradients_for_a_map_of_zeros() -> None:
    norm = GlobalResponseNorm(3).double()
    torch.nn.init.normal_(norm.gamma)
    torch.nn.init.normal_(norm.beta)
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    norms = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    expected = x + norm.gamma * x * norms / (norms.mean(-1, keepdim=True) + 1e-6) + norm.beta
    torch.testing.assert_close(norm(x), expected)
    zeros = torch.zeros(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    norm(zeros).sum().backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_squeeze_excite_is_its_definition() -> None:
    layer = SqueezeExcite(24)
    assert layer.fc1.out_features == 16
    assert SqueezeExcite(160).fc1.out_features == 20
    x = torch.randn(2, 3, 5, 24)
    scale = torch.sigmoid(layer.fc2(F.gelu(layer.fc1(x.mean((1, 2))))))
    torch.testing.assert_close(layer(x), x * scale[:, None, None])


def test_the_first_block_takes_the_context_as_it_comes() -> None:
    first, later = (FocusBlock(16, 8, 4, 7, refreshed=refreshed).eval() for refreshed in (False, True))
    x, prior = torch.randn(1, 7, 8, 24), torch.randn(1, 7, 8, 8)
    with torch.no_grad():
        assert torch.equal(first(x, prior), first(x, 0 * prior))
        assert not torch.equal(later(x, prior), later(x, 0 * prior))
    assert not any("context_scale" in name for name, _ in first.named_parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dim must be a multiple of 2 \* num_heads, got 20 channels for 4 heads"):
        ContMix(20, 8, 4)
    with pytest.raises(ValueError, match="small_kernel_size must be from 1 to 5, got 7"):
        ContMix(16, 8, 4, 5, 7)
