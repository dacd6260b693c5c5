"""Tests specific to RAVLT: linear stages, initial layer scales, and the angles in official files."""

from __future__ import annotations

import pytest
import timm
import torch

from attnzoo.blocks import RankAugmentedAttention
from attnzoo.ravlt import checkpoint_filter_fn


@pytest.mark.parametrize(
    ("name", "widths", "depths", "heads", "scales"),
    [
        ("ravlt_t", (64, 128, 256, 512), (2, 2, 6, 2), (1, 2, 4, 8), (1, 1, 1, 1)),
        ("ravlt_s", (64, 128, 320, 512), (3, 5, 9, 3), (1, 2, 5, 8), (1, 1, 1, 1)),
        ("ravlt_b", (96, 192, 384, 512), (4, 6, 12, 6), (1, 2, 6, 8), (1, 1, 1e-6, 1e-6)),
        ("ravlt_l", (96, 192, 448, 640), (4, 7, 19, 8), (1, 2, 7, 10), (1e-6,) * 4),
    ],
)
def test_constants_of_the_networks(
    name: str, widths: tuple[int, ...], depths: tuple[int, ...], heads: tuple[int, ...], scales: tuple[float, ...]
) -> None:
    model = timm.create_model(name)
    blocks = [stage.blocks[0] for stage in model.stages]
    assert tuple(info["num_chs"] for info in model.feature_info) == widths
    assert tuple(len(stage.blocks) for stage in model.stages) == depths
    assert tuple(block.attn.num_heads for block in blocks) == heads
    assert [isinstance(block.attn, RankAugmentedAttention) for block in blocks] == [True, True, False, False]
    assert tuple(block.ls2.gamma[0].item() for block in blocks) == pytest.approx(scales)
    assert model.num_features == 1024


def test_angles_are_computed_not_loaded() -> None:
    model = timm.create_model("ravlt_pico")
    weights = {"model": {"layers.0.RoPE.angle": torch.zeros(12), "head.weight": torch.ones(1000, 256, 1, 1)}}
    found = checkpoint_filter_fn(weights, model)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {"head.fc.weight": (1000, 256)}
