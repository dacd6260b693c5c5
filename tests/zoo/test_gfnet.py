"""Tests specific to GFNet: constants of the networks, files for another image size."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from attnzoo.base import checkpoint_filter
from attnzoo.blocks import resize_spectrum


@pytest.mark.parametrize(
    ("name", "widths", "depth", "is_scaled", "drop_path"),
    [
        ("gfnet_ti", (256,) * 4, 12, False, 0),
        ("gfnet_xs", (384,) * 4, 12, False, 0),
        ("gfnet_s", (384,) * 4, 19, False, 0.15),
        ("gfnet_b", (512,) * 4, 19, False, 0.25),
        ("gfnet_h_ti", (64, 128, 256, 512), 19, True, 0.1),
        ("gfnet_h_s", (96, 192, 384, 768), 19, True, 0.2),
        ("gfnet_h_b", (96, 192, 384, 768), 36, True, 0.4),
    ],
)
def test_constants_of_the_networks(
    name: str, widths: tuple[int, ...], depth: int, is_scaled: bool, drop_path: float
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert tuple(info["num_chs"] for info in model.feature_info) == widths
    assert sum(len(stage.blocks) for stage in model.stages) == depth
    last = model.stages[-1].blocks[-1]
    assert getattr(last.drop_path, "drop_prob", 0.0) == pytest.approx(drop_path)
    assert hasattr(last.mlp.fc2, "scale") == is_scaled
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)} == {1e-6}
    assert model.no_weight_decay() == {"stem.position.table"}


def test_a_file_is_interpolated_to_another_image_size() -> None:
    small = timm.create_model("gfnet_h_pico", img_size=64)
    large = timm.create_model("gfnet_h_pico", img_size=(128, 96)).eval()
    weights = checkpoint_filter("gfnet_h_pico")(small.state_dict(), large)
    table = "stages.0.blocks.0.filter.table"
    torch.testing.assert_close(weights[table], resize_spectrum(small.state_dict()[table], 32, 24))
    large.load_state_dict(weights)
    x = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(large(x), small.eval()(x), atol=1e-5, rtol=1e-4)
