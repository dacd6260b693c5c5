"""Tests specific to HaloNet: which blocks have attention, and equality with timm's network."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from attnzoo.blocks import HaloAttention
from attnzoo.halonet import HaloNet, checkpoint_filter_fn

NONE: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("name", "depths", "attention", "block_size", "halo"),
    [
        ("zoo_halonet26t", (2, 2, 2, 2), (NONE, NONE, (1,), (0, 1)), 8, 2),
        ("zoo_halonet50ts", (3, 4, 6, 3), (NONE, (3,), (1, 3, 5), (1,)), 8, 3),
        ("halonet_h0", (3, 3, 7, 3), None, 8, 3),
        ("halonet_h5", (3, 3, 23, 3), None, 14, 2),
    ],
)
def test_where_networks_attend(
    name: str, depths: tuple[int, ...], attention: tuple[tuple[int, ...], ...] | None, block_size: int, halo: int
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    layers = [
        [next((m for m in block.modules() if isinstance(m, HaloAttention)), None) for block in stage.blocks]
        for stage in model.stages
    ]
    found = tuple(tuple(i for i, layer in enumerate(stage) if layer) for stage in layers)
    assert found == (attention or tuple(tuple(range(depth)) for depth in depths))
    assert {(m.block_size, m.halo) for stage in layers for m in stage if m} == {(block_size, halo)}


def test_it_is_timms_network() -> None:
    ours, theirs = timm.create_model("zoo_halonet50ts").eval(), timm.create_model("halonet50ts").eval()
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.running_mean, std=0.1)
    ours.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        expected = theirs(x)
        assert (ours(x) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_activations_are_known() -> None:
    with pytest.raises(ValueError, match="act must be one of relu, silu, got 'gelu'"):
        HaloNet(act="gelu")
