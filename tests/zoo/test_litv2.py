"""Tests specific to LITv2: stages without attention, heads by frequency, deformable merging."""

from __future__ import annotations

import pytest
import timm
import torch

from attnzoo.blocks import DeformableMerging, HiLoAttention


@pytest.mark.parametrize(
    ("name", "widths", "depths", "low_heads", "drop_path"),
    [
        ("litv2_s", (96, 192, 384, 768), (2, 2, 6, 2), (10, 24), 0.2),
        ("litv2_m", (96, 192, 384, 768), (2, 2, 18, 2), (10, 24), 0.3),
        ("litv2_b", (128, 256, 512, 1024), (2, 2, 18, 2), (14, 32), 0.5),
        ("litv2_b_384", (128, 256, 512, 1024), (2, 2, 18, 2), (14, 32), 0.5),
    ],
)
def test_constants_of_the_networks(
    name: str, widths: tuple[int, ...], depths: tuple[int, ...], low_heads: tuple[int, ...], drop_path: float
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert tuple(info["num_chs"] for info in model.feature_info) == widths
    assert tuple(len(stage.blocks) for stage in model.stages) == depths
    assert [block.attn for stage in model.stages[:2] for block in stage.blocks] == [None] * 4
    mixers = [stage.blocks[0].attn for stage in model.stages[2:]]
    assert tuple(mixer.low.num_heads for mixer in mixers) == low_heads
    assert mixers[0].high.num_heads == widths[2] // 32 - low_heads[0]
    # windows of one pixel have no high-frequency heads
    assert mixers[1].high is None
    assert model.stages[-1].blocks[-1].drop_path2.drop_prob == pytest.approx(drop_path)


def test_stages_are_merged_at_offsets_and_attend_late() -> None:
    model = timm.create_model("litv2_pico")
    assert all(isinstance(stage.downsample, DeformableMerging) for stage in model.stages[1:])
    assert [isinstance(stage.blocks[0].attn, HiLoAttention) for stage in model.stages] == [False, False, True, True]
