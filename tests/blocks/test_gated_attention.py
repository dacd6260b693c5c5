"""Rotary positions and gated attention, compared with the formulas of the paper."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attnzoo.blocks import GatedAttention, RankAugmentedAttention
from attnzoo.blocks.rotary import rotary_angles, rotate


def test_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 12, dtype=torch.float64).unbind(0)
    angles = rotary_angles(5, 7, 12, q)
    # the same query and key at every position
    scores = rotate(q.expand(35, 12), *angles) @ rotate(k.expand(35, 12), *angles).T
    scores = scores.unflatten(1, (5, 7)).unflatten(0, (5, 7))
    torch.testing.assert_close(scores[0, 0, 1, 2], scores[3, 4, 4, 6])
    assert (scores[0, 0, 1, 2] - scores[0, 0, 2, 1]).abs() > 1e-3


def test_rows_turn_the_first_half_of_a_head() -> None:
    x = torch.ones(6, 8, dtype=torch.float64)
    turned = rotate(x, *rotary_angles(2, 3, 8, x)).unflatten(0, (2, 3))
    assert torch.equal(turned[0, 0], x[0])
    assert torch.equal(turned[0, :, :4], x[:3, :4])
    torch.testing.assert_close(turned[1, 0, :2], torch.tensor([1.0, 1.0]).double() @ rotation(1.0).T)
    assert torch.equal(turned[:, 0, 4:], x[:2, 4:])


def rotation(angle: float) -> torch.Tensor:
    angle = torch.tensor(angle, dtype=torch.float64)
    return torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])


@pytest.mark.parametrize("size", [(6, 5), (1, 3)], ids=str)
def test_linear_attention_is_the_weights_of_all_pairs(size: tuple[int, int]) -> None:
    """Equations 6 to 8 of the paper with explicit weights of all pairs, and rotation as in the official code."""
    block, tokens = RankAugmentedAttention(24, 3).double(), size[0] * size[1]
    q, k, v = torch.randn(3, 2, 3, tokens, 8, dtype=torch.float64).unbind(0)
    angles = rotary_angles(*size, 8, q)
    found = block._attend(q, k, v, *angles)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    k = k * tokens * (8**-0.5 * (q.mean(2, keepdim=True) * k).sum(-1)).softmax(-1).unsqueeze(-1)
    pairs = rotate(q, *angles) @ rotate(k, *angles).transpose(2, 3) / tokens
    total = (q @ k.mean(2).unsqueeze(-1)) + 1e-6
    torch.testing.assert_close(found, (pairs / total @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("kind", [GatedAttention, RankAugmentedAttention])
def test_heads_must_have_a_multiple_of_four_channels(kind: type[GatedAttention]) -> None:
    assert kind(24, 3)(torch.randn(2, 5, 3, 24)).shape == (2, 5, 3, 24)
    with pytest.raises(ValueError, match="multiple of 4 channels, got 18 channels for 3 heads, 6 each"):
        kind(18, 3)
