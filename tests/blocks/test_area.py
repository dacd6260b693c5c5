"""Area attention: the official formulation, maps that cannot be cut evenly, and what an area sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnzoo.blocks import AreaAttention


def written_out(layer: AreaAttention, x: Tensor) -> Tensor:
    """Attention of each position to all of its area, one area after another."""
    batch, height, width, dim = x.shape
    count = height * width
    q, k = layer.qk(x).flatten(1, 2).split(dim, 2)
    v = layer.v(x)
    out = torch.zeros(batch, count, dim, dtype=x.dtype)
    length = -(-count // layer.areas)
    for start in range(0, count, length):
        area = slice(start, min(start + length, count))
        for head in range(layer.num_heads):
            of_head = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
            scores = q[:, area, of_head] @ k[:, area, of_head].transpose(1, 2) * layer.head_dim**-0.5
            out[:, area, of_head] = scores.softmax(2) @ v.flatten(1, 2)[:, area, of_head]
    return layer.proj(out.view_as(x) + layer.local(v))


@pytest.mark.parametrize("size", [(8, 6), (6, 6), (5, 7), (3, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("areas", [1, 4])
def test_areas_are_runs_of_positions(size: tuple[int, int], areas: int) -> None:
    layer = AreaAttention(16, 2, areas).double().eval()
    x = torch.randn(2, *size, 16, dtype=torch.float64, requires_grad=True)
    found, expected = layer(x), written_out(layer, x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    for ours, wanted in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, wanted)


def test_a_band_sees_itself_and_the_rim_of_the_convolution() -> None:
    layer = AreaAttention(16, 2, areas=4).eval()
    x = torch.randn(1, 16, 3, 16)
    other = x.clone()
    other[:, 12:] += 1
    with torch.no_grad():
        changed = (layer(x) != layer(other)).any(3)[0].any(1)
    # the last of four bands, and two rows that the convolution of 5x5 reaches
    assert changed.nonzero().flatten().tolist() == list(range(10, 16))


def test_heads_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 48 channels for 5 heads"):
        AreaAttention(48, 5)
