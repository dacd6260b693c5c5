"""Tests specific to Swin: checkpoints of the authors and of timm, and the same outputs as timm's implementation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from torch import nn

from attnzoo.blocks import resize_bias_table
from attnzoo.swin import SwinTransformer, checkpoint_filter_fn

SHAPE = {"depths": (2, 2, 2), "num_heads": (2, 4, 8), "window_size": 4, "num_classes": 5}
# timm shifts before it pads, but not axes with one window: no difference if windows divide the map
SIZES = [(64, 64), (128, 192)]


def timms(size: tuple[int, int] = (64, 64)) -> nn.Module:
    """Returns a small network of timm with random norms, biases and tables."""
    torch.manual_seed(0)
    model = TimmSwin(img_size=size, embed_dim=32, **SHAPE).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1 or parameter.shape[0] == 49:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def official_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns timm's weights under official names: downsamplers end a stage, masks and indices are stored."""
    names = {}
    for name, tensor in model.state_dict().items():
        name = re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
        names[name.replace("head.fc.", "head.")] = tensor
    names["layers.0.blocks.1.attn_mask"] = torch.zeros(16, 16, 16)
    names["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    return names


@pytest.mark.parametrize("names", ["official", "timm"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_answers_are_those_of_timm(names: str, size: tuple[int, int]) -> None:
    theirs, ours = timms(size).double(), SwinTransformer((32, 64, 128), **SHAPE).eval().double()
    weights = {"model": official_names(theirs)} if names == "official" else theirs.state_dict()
    ours.load_state_dict(checkpoint_filter_fn(weights, ours))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_official_files_load(tmp_path: Path) -> None:
    weights = timm.create_model("zoo_swin_tiny_patch4_window7_224").state_dict()
    torch.save({"model": weights}, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    model = timm.create_model("zoo_swin_tiny_patch4_window7_224", pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(model.stages[2].blocks[1].attn.rpb, weights["stages.2.blocks.1.attn.rpb"])


def test_tables_of_another_window_are_interpolated() -> None:
    ours, larger = timm.create_model("swin_pico"), timm.create_model("swin_pico", window_size=12)
    weights = checkpoint_filter_fn(ours.state_dict(), larger)
    larger.load_state_dict(weights)
    table = ours.stages[0].blocks[0].attn.rpb
    assert torch.equal(weights["stages.0.blocks.0.attn.rpb"], resize_bias_table(table.data, (12, 12)))


def test_a_larger_window_for_a_larger_image() -> None:
    with torch.device("meta"):
        model = timm.create_model("zoo_swin_base_patch4_window12_384_22kto1k")
    cfg = timm.get_pretrained_cfg("zoo_swin_base_patch4_window12_384_22kto1k")
    assert {block.attn.window_size for stage in model.stages for block in stage.blocks} == {12}
    assert (cfg.input_size, cfg.crop_mode, cfg.tag) == ((3, 384, 384), "squash", "in22k_ft_in1k")
    assert cfg.url.endswith("/v1.0.0/swin_base_patch4_window12_384_22kto1k.pth")


@pytest.mark.parametrize("windows", [(2, 4), ((4, 8), (2, 4), (2, 2)), (4, 4, 2)], ids=str)
def test_windows_are_given_as_in_timm(windows: tuple[object, ...]) -> None:
    shape = {**SHAPE, "window_size": windows}
    torch.manual_seed(0)
    theirs = TimmSwin(img_size=(64, 128), embed_dim=32, **shape).eval().double()
    ours = SwinTransformer((32, 64, 128), **shape).eval().double()
    for parameter in theirs.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    ours.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours))
    x = torch.randn(2, 3, 64, 128, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("windows", [(7, 7, 7), 0, (4, 0)], ids=str)
def test_windows_that_do_not_fit_the_stages(windows: object) -> None:
    with pytest.raises(ValueError, match="window_size must be a number"):
        timm.create_model("swin_pico", window_size=windows)
