"""Large kernel convolutional attention: the kernel is a table of offsets, for maps of any size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnzoo.blocks import ConvolutionalAttention, convolutional_attention


def attention(layer: ConvolutionalAttention, height: int, width: int) -> Tensor:
    """The weights of all pairs of pixels, one by one: (h, H, W, H, W)."""
    rows, columns = layer.map_size
    weights = torch.zeros(layer.num_heads, height, width, height, width, dtype=layer.kernel.dtype)
    for query in torch.cartesian_prod(torch.arange(height), torch.arange(width)).tolist():
        for key in torch.cartesian_prod(torch.arange(height), torch.arange(width)).tolist():
            row, column = rows - 1 + key[0] - query[0], columns - 1 + key[1] - query[1]
            if 0 <= row < 2 * rows - 1 and 0 <= column < 2 * columns - 1:
                weights[:, query[0], query[1], key[0], key[1]] = layer.kernel[:, row, column]
    return weights


@pytest.mark.parametrize("size", [(3, 4), (2, 3), (5, 4), (5, 7)], ids=["learned", "smaller", "taller", "larger"])
@pytest.mark.parametrize("largest", [0, 100], ids=["convolution", "matrix"])
def test_weights_depend_on_the_offset(size: tuple[int, int], largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutional_attention, "_LARGEST", largest)
    layer, x = ConvolutionalAttention(6, (3, 4), num_heads=2).double(), torch.randn(2, *size, 6, dtype=torch.float64)
    torch.nn.init.normal_(layer.kernel)
    values = layer.value(x).unflatten(3, (2, 3))
    mixed = torch.einsum("hijkl,bklhd->bijhd", attention(layer, *size), values)
    torch.testing.assert_close(layer(x), layer.proj(mixed.flatten(3)))


def test_gradients_of_both_formulations_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = ConvolutionalAttention(4, (4, 3)).double(), torch.randn(2, 4, 5, 4, dtype=torch.float64)
    found = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    monkeypatch.setattr(convolutional_attention, "_LARGEST", 0)
    wanted = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_channels_that_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 6 channels for 4 heads"):
        ConvolutionalAttention(6, (3, 3), num_heads=4)
