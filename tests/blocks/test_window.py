"""Window and stripe attention layers: padding, shifts, and convolutions within stripes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnzoo.blocks import CrossShapedAttention, WindowAttention, channels_last_conv

DIM, HEADS = 16, 2


def pixels_that_matter(module: torch.nn.Module, size: tuple[int, int], pixel: tuple[int, int]) -> Tensor:
    """Returns which pixels of a map change the output at one pixel, (H, W)."""
    x = torch.randn(1, *size, DIM, requires_grad=True)
    module(x)[0, pixel[0], pixel[1]].sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 0


def region(size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def test_a_window_sees_itself() -> None:
    seen = pixels_that_matter(WindowAttention(DIM, HEADS, 4), (8, 12), (5, 6))
    assert torch.equal(seen, region((8, 12), slice(4, 8), slice(4, 8)))


def test_shifted_windows_are_cut_by_the_border() -> None:
    module = WindowAttention(DIM, HEADS, 4, shifted=True)
    assert torch.equal(pixels_that_matter(module, (8, 12), (5, 6)), region((8, 12), slice(2, 6), slice(6, 10)))
    assert torch.equal(pixels_that_matter(module, (8, 12), (0, 11)), region((8, 12), slice(0, 2), slice(10, 12)))


@pytest.mark.parametrize("size", [(4, 4), (2, 3)], ids=str)
def test_a_map_that_fits_a_window_is_not_shifted(size: tuple[int, int]) -> None:
    plain, shifted = WindowAttention(DIM, HEADS, 4), WindowAttention(DIM, HEADS, 4, shifted=True)
    shifted.load_state_dict(plain.state_dict())
    x = torch.randn(2, *size, DIM)
    assert torch.equal(plain(x), shifted(x))


def test_padding_is_attended_to_with_the_bias_of_the_projection() -> None:
    module = WindowAttention(DIM, HEADS, 4).eval()
    x = torch.randn(1, 5, 6, DIM)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 2, 0, 3))
    torch.testing.assert_close(module(x), module(padded)[:, :5, :6])
    before = module(x)
    with torch.no_grad():
        module.qkv.bias += 1
    assert not torch.allclose(before, module(x))


def test_stripes_see_a_cross() -> None:
    seen = pixels_that_matter(CrossShapedAttention(DIM, HEADS, 3), (6, 9), (4, 7))
    assert torch.equal(seen, region((6, 9), slice(0, 6), slice(6, 9)) | region((6, 9), slice(3, 6), slice(0, 9)))


def test_convolutions_stay_within_stripes() -> None:
    torch.manual_seed(0)
    module = CrossShapedAttention(DIM, HEADS, 3).eval()
    with torch.no_grad():
        # zero queries and keys: only values and their convolution matter
        module.qkv.weight[: 2 * DIM].zero_()
        x = torch.randn(1, 6, 9, DIM)
        values = module.qkv(x)[..., 2 * DIM :]
        upright, level = values.chunk(2, -1)
        parts = [
            stripe.mean((1, 2), keepdim=True) + channels_last_conv(module.dwc[0], stripe)
            for stripe in upright.split(3, 2)
        ]
        rows = [
            stripe.mean((1, 2), keepdim=True) + channels_last_conv(module.dwc[1], stripe)
            for stripe in level.split(3, 1)
        ]
        expected = module.proj(torch.cat([torch.cat(parts, 2), torch.cat(rows, 1)], -1))
        torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


def test_one_stripe_is_the_whole_map_of_any_size() -> None:
    seen = pixels_that_matter(CrossShapedAttention(DIM, HEADS, None), (5, 7), (0, 0))
    assert seen.all()


@pytest.mark.parametrize("size", [(7, 7), (2, 10), (1, 1)], ids=str)
def test_maps_that_stripes_do_not_divide(size: tuple[int, int]) -> None:
    module = CrossShapedAttention(DIM, HEADS, 3)
    assert module(torch.randn(2, *size, DIM)).shape == (2, *size, DIM)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WindowAttention(16, 3), "dim must be a multiple of num_heads, got 16 channels for 3 heads"),
        (lambda: CrossShapedAttention(16, 1), "num_heads must be even for stripes in two directions, got 1"),
    ],
    ids=["heads", "odd"],
)
def test_mistakes(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
