"""Multi-head scan: other map sizes, and what is refused."""

from __future__ import annotations

import pytest
import torch

from attnzoo.blocks import MultiHeadScan


def test_every_parameter_and_every_map_size() -> None:
    layer = MultiHeadScan(16, state_dim=4)
    for size in ((3, 5), (1, 1), (6, 4)):
        layer.zero_grad()
        x = torch.randn(2, *size, 16, requires_grad=True)
        out = layer(x)
        assert out.shape == x.shape
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
        assert x.grad.isfinite().all()


def test_results_below_the_threshold_do_not_count() -> None:
    layer, x = MultiHeadScan(8, threshold=1e6), torch.randn(1, 4, 3, 8)
    with torch.no_grad():
        assert torch.equal(layer(x), torch.zeros_like(x))


def test_channels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="the channels must be a multiple of 4, got 6"):
        MultiHeadScan(6)
