"""Tests specific to ParCNetV2: constants of the networks, and kernels that fit the map."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from attnzoo.blocks import OversizedConv


@pytest.mark.parametrize(
    ("name", "widths", "depths", "hidden", "drop_path"),
    [
        ("parcnetv2_xt", (48, 96, 192, 320), (3, 3, 9, 2), (120, 240, 480, 800), 0),
        ("parcnetv2_tiny", (64, 128, 320, 512), (3, 3, 12, 3), (160, 320, 800, 1280), 0.2),
        ("parcnetv2_small", (64, 128, 320, 512), (3, 9, 24, 3), (160, 320, 800, 1280), 0.3),
        ("parcnetv2_base", (96, 192, 384, 576), (3, 9, 24, 3), (240, 480, 960, 1440), 0.4),
    ],
)
def test_constants_of_the_networks(
    name: str, widths: tuple[int, ...], depths: tuple[int, ...], hidden: tuple[int, ...], drop_path: float
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert tuple(info["num_chs"] for info in model.feature_info) == widths
    assert tuple(len(stage.blocks) for stage in model.stages) == depths
    lasts = [stage.blocks[-1] for stage in model.stages]
    assert [last.mixer.branch[1].oversized.kernel_size for last in lasts] == [111, 55, 27, 13]
    assert tuple(last.mlp.branch[1].gate.out_features for last in lasts) == hidden
    assert [last.mlp.scale is not None for last in lasts] == [False, False, True, True]
    assert getattr(lasts[-1].mlp.drop_path, "drop_prob", 0.0) == pytest.approx(drop_path)
    assert [norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)] == [1e-6]


def test_kernels_of_the_size_of_the_map_are_not_interpolated() -> None:
    fixed, fitted = (timm.create_model("parcnetv2_pico", fits_map=fits_map).eval() for fits_map in (False, True))
    fitted.load_state_dict(fixed.state_dict())
    assert all(layer.fits_map for layer in fitted.modules() if isinstance(layer, OversizedConv))
    # 31, 15, 7 and 3 elements are twice the sides 16, 8, 4 and 2 minus one
    small, large = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(fitted(small), fixed(small))
        assert not torch.allclose(fitted(large), fixed(large), rtol=1e-4)
