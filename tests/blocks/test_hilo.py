"""HiLo attention: what its groups of heads attend to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnzoo.blocks import HiLoAttention


def heads_of(block: HiLoAttention) -> tuple[int, int]:
    """Returns the numbers of high-frequency and low-frequency heads."""
    return block.high.num_heads if block.high else 0, block.low.num_heads if block.low else 0


def depends(block: HiLoAttention, x: Tensor, row: int, column: int, channels: slice) -> Tensor:
    """Returns which pixels of the input a pixel of the output depends on, (H, W)."""
    x = x.clone().requires_grad_()
    block(x)[0, row, column, channels].square().sum().backward()
    return x.grad[0].abs().sum(-1) > 0


def test_high_heads_see_their_window_and_low_heads_everything() -> None:
    block, x = HiLoAttention(12, 3, window_size=2, alpha=0.7).double(), torch.randn(1, 5, 7, 12).double()
    assert heads_of(block) == (1, 2)
    near = depends(block, x, 2, 3, slice(0, 4))
    assert near.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert depends(block, x, 2, 3, slice(4, 12)).all()


@pytest.mark.parametrize(
    ("alpha", "window_size", "heads"), [(0.9, 2, (2, 10)), (0, 2, (12, 0)), (1, 2, (0, 12)), (0.5, 1, (0, 12))]
)
@pytest.mark.parametrize("size", [(6, 9), (1, 1)], ids=str)
def test_every_share_of_heads(alpha: float, window_size: int, heads: tuple[int, int], size: tuple[int, int]) -> None:
    block, x = HiLoAttention(24, 12, window_size, alpha), torch.randn(2, *size, 24)
    assert heads_of(block) == heads
    out = block(x)
    assert out.shape == x.shape
    out.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 10 channels for 4 heads"):
        HiLoAttention(10, 4)
    with pytest.raises(ValueError, match="alpha, the share of low-frequency heads, must be from 0 to 1, got 2"):
        HiLoAttention(12, 4, alpha=2)
