"""Routes over a map as tensors: the formula for dynamic sizes."""

from __future__ import annotations

import pytest
import torch

from attnzoo.blocks import scan_routes


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1), (2, 3), (4, 5), (5, 4), (3, 3)], ids=str)
def test_the_formula_gives_the_same_snakes(size: tuple[int, int]) -> None:
    like = torch.empty(0)
    found = scan_routes._symbolic_snakes(*size, like)
    for ours, want in zip(found, scan_routes.routes_on_map("snake", *size, like), strict=True):
        assert torch.equal(ours, want)
