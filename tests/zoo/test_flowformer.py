"""Tests specific to Flowformer: constants of the network, and a file for another image size."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from attnzoo.base import checkpoint_filter
from attnzoo.blocks import FlowAttention


def test_constants_of_the_network() -> None:
    with torch.device("meta"):
        model = timm.create_model("flowformer")
    assert [info["num_chs"] for info in model.feature_info] == [96, 192, 384, 768]
    assert [len(stage.blocks) for stage in model.stages] == [3, 3, 10, 3]
    assert {layer.num_heads for layer in model.modules() if isinstance(layer, FlowAttention)} == {12}
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)} == {1e-6}
    assert model.stages[-1].blocks[-1].drop_path2.drop_prob == pytest.approx(0.2)
    assert model.no_weight_decay() == {"stem.position.table"}


def test_a_file_is_interpolated_to_another_image_size() -> None:
    small = timm.create_model("flowformer_pico", img_size=64).eval()
    large = timm.create_model("flowformer_pico", img_size=(128, 96)).eval()
    large.load_state_dict(checkpoint_filter("flowformer_pico")(small.state_dict(), large))
    x = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(large(x), small(x), atol=1e-5, rtol=1e-4)
