"""The halo attention layer: any size, strides, invalid arguments."""

from __future__ import annotations

import pytest
import torch

from attnzoo.blocks import Bottleneck, ConvNorm, HaloAttention


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 12), (9, 5), (1, 1)], ids=str)
def test_a_map_of_any_size(size: tuple[int, int], stride: int) -> None:
    layer = HaloAttention(16, 2, block_size=4, halo=1, stride=stride, value_dim=24).eval()
    expected = [-(-side // stride) for side in size]
    with torch.no_grad():
        assert layer(torch.randn(2, 16, *size)).shape == (2, 24, *expected)


def test_a_block_sees_its_halo_and_nothing_else() -> None:
    layer = HaloAttention(8, 2, block_size=4, halo=1).double()
    x = torch.randn(1, 8, 12, 12, dtype=torch.float64, requires_grad=True)
    layer(x)[:, :, 4:8, 4:8].square().sum().backward()
    seen = x.grad.abs().amax((0, 1)) > 0
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[3:9, 3:9] = True
    assert torch.equal(seen, expected)


def test_zeros_around_the_map_are_attended_to() -> None:
    """With equal keys and no positions, the output at a corner is scaled down by the zeros in its window."""
    layer = HaloAttention(8, 2, block_size=4, halo=1).eval()
    for p in (layer.q.weight, layer.rel_rows, layer.rel_columns):
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        out = layer(torch.ones(1, 8, 12, 12))
    torch.testing.assert_close(out[0, :, 0, 0], out[0, :, 6, 6] * 25 / 36)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "dim must be a multiple of num_heads, got 16 channels for 3 heads"),
        ({"value_dim": 20, "num_heads": 8}, "value_dim must be a multiple of num_heads, got 20 channels for 8 heads"),
        ({"block_size": 7, "stride": 2}, "block_size must be a multiple of stride, got 7 for a stride of 2"),
    ],
)
def test_mistakes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HaloAttention(16, **arguments)


def test_a_bottleneck_starts_as_its_shortcut() -> None:
    block = Bottleneck(16, 16, ConvNorm(8, 8, 3, channels_last=False), 8, 8).eval()
    x = torch.randn(2, 16, 5, 6)
    assert torch.equal(block(x), x.relu())
