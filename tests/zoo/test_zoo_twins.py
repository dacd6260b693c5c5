"""Tests specific to Twins: timm's checkpoints, which blocks have windows, small maps."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.twins import Twins as TimmTwins

from attnzoo.blocks import ResidualConv, SubsampledAttention, WindowAttention
from attnzoo.zoo_twins import Twins, checkpoint_filter_fn

SHAPE = {"depths": (3, 2), "num_heads": (2, 4), "embed_dims": (32, 64), "mlp_ratios": (2, 3), "num_classes": 5}


@pytest.mark.parametrize("window_size", [None, 7], ids=["pcpvt", "svt"])
def test_answers_are_those_of_timm(window_size: int | None) -> None:
    torch.manual_seed(0)
    # timm uses windows with a side of 1 for no windows
    theirs = TimmTwins(img_size=56, sr_ratios=(2, 1), wss=window_size and (7, 7), **SHAPE).eval().double()
    ours = Twins(ratios=(2, 1), window_size=window_size, **SHAPE).eval().double()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ours.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours))
    x = torch.randn(2, 3, 56, 112, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_windows_come_first_and_positions_after_them() -> None:
    with torch.device("meta"):
        stage = timm.create_model("zoo_twins_svt_small").stages[2]
    first, position, *others = stage.blocks
    assert isinstance(first.attn, WindowAttention)
    assert first.attn.rpb is None
    assert isinstance(position, ResidualConv)
    mixers = [SubsampledAttention, WindowAttention] * 4 + [SubsampledAttention]
    assert [type(block.attn) for block in others] == mixers


def test_a_stage_of_one_block_has_positions() -> None:
    model = Twins(**{**SHAPE, "depths": (1, 1)}).eval()
    assert [len(stage.blocks) for stage in model.stages] == [2, 2]


@pytest.mark.parametrize("size", [(3, 5), (8, 9), (17, 30)], ids=str)
def test_subsampling_takes_whole_squares_or_one(size: tuple[int, int]) -> None:
    mixer, x = SubsampledAttention(16, 2, ratio=8).eval(), torch.randn(2, *size, 16)
    reduced = []
    mixer.norm.register_forward_hook(lambda _module, _inputs, output: reduced.append(output))
    with torch.no_grad():
        assert mixer(x).shape == x.shape
    assert reduced[0].shape == (2, *(max(side // 8, 1) for side in size), 16)


def test_heads_must_divide_channels() -> None:
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 16 channels for 3 heads"):
        SubsampledAttention(16, 3)
