"""Tests specific to SwiftFormer: checkpoints of timm, two classifiers, additive attention."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from attnzoo.blocks import AdditiveAttention
from attnzoo.blocks.head import DistilledLinear
from attnzoo.zoo_swiftformer import SwiftFormer, checkpoint_filter_fn


def test_timms_weights_give_timms_logits() -> None:
    theirs = timm.create_model("swiftformer_xs", num_classes=7).eval()
    model = timm.create_model("zoo_swiftformer_xs", num_classes=7).eval()
    model.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), model))
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "widths", "depths"),
    [
        ("zoo_swiftformer_xs", (48, 56, 112, 220), (3, 3, 6, 4)),
        ("zoo_swiftformer_s", (48, 64, 168, 224), (3, 3, 9, 6)),
        ("zoo_swiftformer_l1", (48, 96, 192, 384), (4, 3, 10, 5)),
        ("zoo_swiftformer_l3", (64, 128, 320, 512), (4, 4, 12, 6)),
    ],
)
def test_constants_of_the_networks(name: str, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert tuple(info["num_chs"] for info in model.feature_info) == widths
    assert tuple(len(stage.blocks) for stage in model.stages) == depths
    # only the last block of every stage has attention
    attends = [[hasattr(block, "attn") for block in stage.blocks] for stage in model.stages]
    assert attends == [[False] * (depth - 1) + [True] for depth in depths]


def test_additive_attention_is_its_formula() -> None:
    block = AdditiveAttention(6).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    q, k = (F.normalize(layer(x), dim=-1) for layer in (block.q, block.k))
    weights = (q @ block.score) * 6**-0.5
    weights = weights / weights.square().sum((1, 2), keepdim=True).sqrt()
    query = (weights * q).sum((1, 2), keepdim=True)
    torch.testing.assert_close(block(x), block.proj2(block.proj1(query * k) + q))


def test_two_classifiers_give_their_mean_and_fuse_into_one() -> None:
    model = timm.create_model("swiftformer_pico", num_classes=5).eval()
    nn.init.normal_(model.head.fc.dist.weight)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        fc = model.head.fc
        both = F.linear(pooled, fc.weight, fc.bias), fc.dist(pooled)
        torch.testing.assert_close(model(x), sum(both) / 2)
        fused = copy.deepcopy(model).fuse()
        torch.testing.assert_close(fused(x), model(x), atol=1e-5, rtol=1e-4)
    assert not any(isinstance(module, DistilledLinear) for module in fused.modules())
    # only the norm of the features remains
    norms = [name for name, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == ["norm.norm"]


def test_classifiers_of_other_classes_are_new(tmp_path: Path) -> None:
    weights = timm.create_model("swiftformer_pico").state_dict()
    torch.save({"model": weights}, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    model = timm.create_model("swiftformer_pico", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3)
    assert model.head.fc.weight.shape == model.head.fc.dist.weight.shape == (3, 144)
    assert torch.equal(
        model.stages[3].blocks[0].branch.conv.conv.weight, weights["stages.3.blocks.0.branch.conv.conv.weight"]
    )


def test_stem_widths_must_be_whole() -> None:
    with pytest.raises(ValueError, match="embed_dims must start with an even number, got 33"):
        SwiftFormer((33, 64, 96, 128))
