"""Head gates, shifted neighbors and continuous biases, compared with their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.blocks import AggregatedAttention, ContinuousBias, CosineAttention, HeadGates
from attnzoo.blocks.shifts import neighbor_scores, neighbor_sums, neighbors_inside

SIZES = pytest.mark.parametrize("size", [(5, 7), (1, 4), (2, 1)], ids=str)


def unfolded(x: Tensor) -> Tensor:
    """(B, H, W, h, D) -> (B, H, W, h, 9, D)."""
    batch, height, width, heads, dim = x.shape
    windows = F.unfold(x.flatten(3).permute(0, 3, 1, 2), 3, padding=1)
    # (B, h * D * 9, H * W) -> (B, H, W, h, 9, D)
    return windows.view(batch, heads, dim, 9, height, width).permute(0, 4, 5, 1, 3, 2)


@SIZES
def test_shifts_are_unfolded_neighborhoods(size: tuple[int, int]) -> None:
    q, k, v = torch.randn(3, 2, *size, 3, 4, dtype=torch.float64).unbind(0)
    weights = torch.randn(2, *size, 3, 9, dtype=torch.float64)
    torch.testing.assert_close(neighbor_scores(q, k), (unfolded(k) @ q.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(neighbor_sums(weights, v), (weights.unsqueeze(-2) @ unfolded(v)).squeeze(-2))
    inside = unfolded(torch.ones(1, *size, 1, 1))[0, :, :, 0, :, 0] > 0
    assert torch.equal(neighbors_inside(*size, q.device), inside)


@pytest.mark.parametrize("map_size", [None, (8, 8)], ids=["own map", "other map"])
@pytest.mark.parametrize(("size", "cells"), [((8, 6), (4, 3)), ((7, 5), (3, 5)), ((9, 4), (1, 1)), ((1, 2), (1, 1))])
def test_biases_are_those_of_pairs(
    size: tuple[int, int], cells: tuple[int, int], map_size: tuple[int, int] | None
) -> None:
    block = ContinuousBias(3, map_size, hidden_dim=16).double()
    axes = []
    for length, count, side in zip(size, cells, map_size or size, strict=True):
        places = torch.arange(length, dtype=torch.float64)
        distances = (places[:, None] - F.adaptive_avg_pool1d(places[None], count)) / max(side - 1, 1) * 8
        axes.append(distances.sign() * (distances.abs() + 1).log2() / 3)
    rows, columns = axes
    shape = (*rows.shape[:1], *columns.shape[:1], *rows.shape[1:], *columns.shape[1:])
    table = torch.stack([rows[:, None, :, None].expand(shape), columns[None, :, None, :].expand(shape)], -1)
    expected = block.fc2(block.act(block.fc1(table))).flatten(2, 3).flatten(0, 1).permute(2, 0, 1)
    torch.testing.assert_close(block(*size, *cells), expected)


def test_biases_are_computed_once_and_follow_the_parameters() -> None:
    block = ContinuousBias(2).eval()
    with torch.no_grad():
        first = block(4, 4, 2, 2)
        assert block(4, 4, 2, 2) is first
        assert block(4, 6, 2, 2).shape == (2, 24, 4)
        block.fc2.bias.add_(1)
        torch.testing.assert_close(block(4, 4, 2, 2), first + 1)
    assert block(4, 4, 2, 2).requires_grad


def test_a_token_takes_the_heads_it_scores_highest() -> None:
    gates, x = HeadGates(8, 6, shared_heads=2, active_heads=3), torch.randn(2, 3, 5, 8)
    found = gates(x)
    assert found.shape == (2, 3, 5, 6)
    taken = found[..., 2:] > 0
    assert (taken.sum(-1) == 3).all()
    scores = gates.routed(x)
    assert (scores.masked_fill(~taken, torch.inf).amin(-1) >= scores.masked_fill(taken, -torch.inf).amax(-1)).all()
    balance = gates.balance(x).softmax(-1) * 2
    torch.testing.assert_close(found[..., :2].sum(-1), 2 * balance[..., 0])
    torch.testing.assert_close(found[..., 2:].sum(-1), 3 * balance[..., 1])


def test_heads_that_are_all_shared_are_weighed() -> None:
    gates, x = HeadGates(8, 4, 4, 0), torch.randn(1, 2, 2, 8)
    torch.testing.assert_close(gates(x).sum(-1), torch.full((1, 2, 2), 4.0))
    assert [name for name, _ in gates.named_children() if isinstance(getattr(gates, name), nn.Linear)] == ["shared"]
    assert torch.equal(HeadGates(8, 1, 1, 0)(x), torch.ones(1, 2, 2, 1))


@pytest.mark.parametrize(("shared", "active"), [(0, 2), (2, 0), (2, 3), (5, 0)])
def test_heads_that_do_not_fit_are_refused(shared: int, active: int) -> None:
    with pytest.raises(ValueError, match=f"of 4 heads.*got {shared} shared and {active} active"):
        HeadGates(8, 4, shared, active)


@SIZES
@pytest.mark.parametrize("kind", [AggregatedAttention, CosineAttention])
def test_any_map_and_every_gradient(kind: type[nn.Module], size: tuple[int, int]) -> None:
    block, x = kind(12, 3, shared_heads=1, active_heads=1), torch.randn(2, *size, 12, requires_grad=True)
    out = block(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in [x, *block.parameters()])
