"""Tests specific to VAN: official files of four sizes, its norms, fusing."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from attnzoo.blocks import NormLinear, ScaledLinear


@pytest.mark.parametrize(
    ("name", "widths", "depths", "hidden", "drop_path"),
    [
        ("van_b0", (32, 64, 160, 256), (3, 3, 5, 2), (256, 512, 640, 1024), 0.1),
        ("van_b1", (64, 128, 320, 512), (2, 2, 4, 2), (512, 1024, 1280, 2048), 0.1),
        ("van_b2", (64, 128, 320, 512), (3, 3, 12, 3), (512, 1024, 1280, 2048), 0.1),
        ("van_b3", (64, 128, 320, 512), (3, 5, 27, 3), (512, 1024, 1280, 2048), 0.2),
        ("van_b4", (64, 128, 320, 512), (3, 6, 40, 3), (512, 1024, 1280, 2048), 0.0),
        ("van_b5", (96, 192, 480, 768), (3, 3, 24, 3), (768, 1536, 1920, 3072), 0.0),
        ("van_b6", (96, 192, 384, 768), (6, 6, 90, 6), (768, 1536, 1536, 3072), 0.0),
    ],
)
def test_constants_of_the_networks(
    name: str, widths: tuple[int, ...], depths: tuple[int, ...], hidden: tuple[int, ...], drop_path: float
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert tuple(info["num_chs"] for info in model.feature_info) == widths
    assert tuple(len(stage.blocks) for stage in model.stages) == depths
    assert tuple(stage.blocks[0].mlp.branch.conv.groups for stage in model.stages) == hidden
    last = model.stages[-1].blocks[-1].mlp.drop_path
    assert getattr(last, "drop_prob", 0.0) == pytest.approx(drop_path)
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)} == {1e-6}


def test_features_are_normed() -> None:
    model = timm.create_model("van_pico", features_only=True).eval()
    with torch.no_grad():
        for x in model(torch.randn(1, 3, 64, 96)):
            torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
            torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), atol=0.05, rtol=0)


def test_fused_leaves_the_norms_that_the_shortcut_reads() -> None:
    model = timm.create_model("van_pico").eval().fuse()
    assert all(isinstance(module.norm, nn.Identity) for module in model.modules() if isinstance(module, NormLinear))
    assert all(isinstance(module.scale, nn.Identity) for module in model.modules() if isinstance(module, ScaledLinear))
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(name.endswith("attn.branch.0.norm") for name in norms)
