"""Deformable merging equals torchvision's deformable convolution, and a plain one with zero offsets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attnzoo.blocks import DeformableMerging


def moving(dim: int, out_dim: int, reach: float) -> DeformableMerging:
    """Returns a downsampler in evaluation mode with offsets of up to a few pixels, also out of the map."""
    block = DeformableMerging(dim, out_dim).eval()
    nn.init.normal_(block.offset.weight, std=reach)
    nn.init.normal_(block.offset.bias, std=reach)
    return block


@pytest.mark.parametrize("size", [(8, 12), (2, 2), (30, 4)], ids=str)
@pytest.mark.parametrize("reach", [0.1, 2.0])
def test_it_is_the_operator_of_torchvision(size: tuple[int, int], reach: float) -> None:
    ops = pytest.importorskip("torchvision.ops")
    block, x = moving(6, 10, reach).double(), torch.randn(2, *size, 6, dtype=torch.float64, requires_grad=True)
    images, conv = x.permute(0, 3, 1, 2), block.merge.conv
    theirs = ops.deform_conv2d(images, block.offset(images), conv.weight, conv.bias, stride=2)
    expected = block.act(block.merge.norm(theirs)).permute(0, 2, 3, 1)
    found = block(x)
    torch.testing.assert_close(found, expected)
    sources = [x, *block.parameters()]
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), sources)
    for ours, gradient in zip(torch.autograd.grad((found * weights).sum(), sources), wanted, strict=True):
        torch.testing.assert_close(ours, gradient)


def test_it_starts_as_a_plain_convolution() -> None:
    block, x = DeformableMerging(6, 10).eval(), torch.randn(2, 7, 5, 6)
    padded = nn.functional.pad(x.permute(0, 3, 1, 2), (0, 1, 0, 1))
    with torch.no_grad():
        expected = block.act(block.merge(padded)).permute(0, 2, 3, 1)
        torch.testing.assert_close(block(x), expected)
    assert expected.shape == (2, 4, 3, 10)


def test_places_keep_their_precision_in_half() -> None:
    """At column 300 bfloat16 represents only every second pixel."""
    block, x = moving(4, 4, 0.3).double(), torch.randn(1, 2, 300, 4).bfloat16()
    with torch.no_grad():
        expected, found = block(x.double()), block.bfloat16()(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.1, atol=0.1)
