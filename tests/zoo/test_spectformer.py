"""Tests specific to SpectFormer: constants of the networks, files for another image size, the second classifier."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from attnzoo.base import checkpoint_filter
from attnzoo.blocks import FilterBlock, MapAttention, SpectralFilter, resize_spectrum


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "drop_path"),
    [
        ("spectformer_ti", 256, 12, 4, 0.1),
        ("spectformer_xs", 384, 12, 6, 0.1),
        ("spectformer_s", 384, 19, 6, 0.15),
        ("spectformer_b", 512, 19, 8, 0.25),
    ],
)
def test_constants_of_one_map(name: str, width: int, depth: int, heads: int, drop_path: float) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    blocks = [block for stage in model.stages for block in stage.blocks]
    assert (model.num_features, len(blocks)) == (width, depth)
    assert [isinstance(block, FilterBlock) for block in blocks] == [True] * 4 + [False] * (depth - 4)
    assert {x.num_heads for x in model.modules() if isinstance(x, MapAttention)} == {heads}
    assert blocks[-1].drop_path2.drop_prob == pytest.approx(drop_path)
    assert model.no_weight_decay() == {"stem.position.table"}


@pytest.mark.parametrize(
    ("name", "widths", "depths", "heads", "stem", "drop_path"),
    [
        ("spectformer_h_s", (64, 128, 320, 448), (3, 4, 6, 3), (10, 14), 32, 0.1),
        ("spectformer_h_b", (64, 128, 320, 512), (3, 4, 12, 3), (10, 16), 64, 0.1),
        ("spectformer_h_l", (96, 192, 384, 512), (3, 6, 18, 3), (12, 16), 64, 0.3),
    ],
)
def test_constants_of_the_pyramids(
    name: str, widths: tuple[int, ...], depths: tuple[int, ...], heads: tuple[int, ...], stem: int, drop_path: float
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert tuple(info["num_chs"] for info in model.feature_info) == widths
    assert tuple(len(stage.blocks) for stage in model.stages) == depths
    first = [stage.blocks[0] for stage in model.stages]
    assert [isinstance(block.attn, SpectralFilter) for block in first] == [True, True, False, False]
    assert tuple(block.attn.num_heads for block in first[2:]) == heads
    assert model.class_block.attn.num_heads == heads[1]
    ratios = [block.mlp.fc1.out_features // width for block, width in zip(first, widths, strict=True)]
    assert ratios == [8, 8, 4, 4]
    assert model.stem.conv[0].conv.out_channels == stem
    assert model.stages[-1].blocks[-1].drop_path2.drop_prob == pytest.approx(drop_path)
    eps = {key: norm.eps for key, norm in model.named_modules() if isinstance(norm, nn.LayerNorm)}
    assert all(value == (1e-5 if "downsample" in key or "stem" in key else 1e-6) for key, value in eps.items())


@pytest.mark.parametrize("name", ["spectformer_pico", "spectformer_h_pico"])
def test_a_file_is_interpolated_to_another_image_size(name: str) -> None:
    small = timm.create_model(name, img_size=64).eval()
    large = timm.create_model(name, img_size=(128, 96)).eval()
    weights = checkpoint_filter(name)(small.state_dict(), large)
    for key, tensor in small.state_dict().items():
        if key.endswith(".filter.table"):
            height, width = large.get_submodule(key.removesuffix(".table")).map_size
            torch.testing.assert_close(weights[key], resize_spectrum(tensor, height, width))
    large.load_state_dict(weights)
    x = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(large(x), small(x), atol=1e-5, rtol=1e-4)


def test_the_second_classifier_adds_half_of_the_largest_logits() -> None:
    torch.manual_seed(0)
    model, x = timm.create_model("spectformer_h_pico", aux_head=True, num_classes=5).eval(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        tokens = model.forward_features(x)
        first = model.get_classifier()(model.forward_head(tokens, pre_logits=True))
        largest = model.head.aux(tokens[:, 1:]).max(1).values
        assert tokens.shape == (2, 7, 96)
        torch.testing.assert_close(model(x), first + 0.5 * largest)
        model.reset_classifier(3)
        assert model.head.aux.out_features == 3
        assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model.head.aux is None


def test_the_class_token_is_removed_with_the_classifier() -> None:
    model = timm.create_model("spectformer_h_pico", features_only=True, out_indices=(1, 3))
    assert not any("class_block" in key for key in model.state_dict())
