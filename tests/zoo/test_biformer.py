"""Tests specific to BiFormer: checkpoints, regions and padding, the networks' constants, memory."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from attnzoo.biformer import BiFormer
from attnzoo.blocks import BiLevelRoutingAttention, LepeAttention
from benchmarks.official.biformer import official

from ..kernels.test_memory import MIB, peak_of

PUBLISHED = ["biformer_tiny", "biformer_small", "biformer_base", "biformer_stl", "biformer_stl_nchw"]


def test_features_of_any_size_without_being_asked_to_pad() -> None:
    model = timm.create_model("biformer_pico", features_only=True).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 96))[0].shape[2:] == (16, 24)
    with pytest.raises(ValueError, match="regions must divide the map"):
        timm.create_model("biformer_pico", features_only=True, auto_pad=False)(torch.randn(1, 3, 64, 96))


def with_statistics(model: nn.Module) -> nn.Module:
    """Returns the model with random parameters and statistics of its norms."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_constants_of_the_networks(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    mixers = [stage.blocks[0].attn for stage in model.stages]
    is_refactored = name == "biformer_stl_nchw"
    for mixer, topk, info in zip(mixers[:3], (1, 4, 16), model.feature_info, strict=False):
        dim = info["num_chs"]
        assert isinstance(mixer, BiLevelRoutingAttention)
        assert (mixer.topk, mixer.regions, mixer.num_heads) == (topk, (7, 7), dim // 32)
        assert mixer.scale == dim**-0.5
        assert (mixer.auto_pad, mixer.pad_projected) == (is_refactored, is_refactored)
    assert isinstance(mixers[3], LepeAttention)
    assert (mixers[3].num_heads, mixers[3].qkv.bias, mixers[3].lepe_of_values) == (8, None, is_refactored)
    block = model.stages[3].blocks[-1]
    assert block.drop_path2.drop_prob == pytest.approx(0.15 if name == "biformer_small" else 0.1)
    assert {block.norm1.eps, block.norm2.eps} == {1e-6}
    is_plain = "stl" not in name
    assert block.mlp.fc1.out_features == (3 if is_plain else 4) * model.num_features
    assert isinstance(block.pos_embed, nn.Identity) != is_plain


@pytest.mark.parametrize("name", ["biformer_pico", "biformer_tiny", "biformer_stl"])
def test_other_sizes_are_refused_by_default(name: str) -> None:
    model = timm.create_model(name).eval()
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"must divide the map, got 50 rows and 7 regions.*auto_pad=True"),
    ):
        model(torch.randn(1, 3, 200, 224))


def test_auto_pad_changes_nothing_where_nothing_is_padded() -> None:
    plain = timm.create_model("biformer_pico", num_classes=5).eval()
    padding = timm.create_model("biformer_pico", num_classes=5, auto_pad=True).eval()
    padding.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 112, 224)
    with torch.no_grad():
        assert torch.equal(plain(x), padding(x))


@pytest.mark.parametrize("name", ["biformer_tiny", "biformer_stl", "biformer_stl_nchw"])
@pytest.mark.parametrize("size", [(97, 130), (64, 33)], ids=str)
def test_features_of_any_size(name: str, size: tuple[int, int]) -> None:
    model = timm.create_model(name, features_only=True, auto_pad=True).eval()
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    with torch.no_grad():
        maps = model(torch.randn(1, 3, *size))
    for found, channels, reduction in zip(maps, model.feature_info.channels(), [4, 8, 16, 32], strict=True):
        # incomplete patches are dropped, as in the official code; overlapping convolutions round up
        sides = [side // reduction if "stl" in name else -(-side // reduction) for side in size]
        assert found.shape == (1, channels, *sides)


def test_regions_are_an_argument() -> None:
    x = torch.randn(1, 3, 64, 96)
    model = timm.create_model("biformer_pico", num_classes=3, regions=(2, 3), topks=(1, 2, 6, None)).eval()
    assert model.stages[0].blocks[0].attn.regions == (2, 3)
    with torch.no_grad():
        assert model(x).shape == (1, 3)
    with pytest.raises(ValueError, match=r"topk must be 1 \.\. 4, the number of regions, got 16 for 2 x 2 regions"):
        timm.create_model("biformer_pico", regions=2)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="layout must be biformer, stl or stl_nchw, got 'swin'"):
        BiFormer(layout="swin")
    with pytest.raises(ValueError, match="one entry per stage, got 4, 4 and 3"):
        BiFormer(topks=(1, 4, 16))


@pytest.mark.parametrize("layout", ["biformer", "stl", "stl_nchw"])
def test_fused_is_the_same(layout: str) -> None:
    model = with_statistics(timm.create_model("biformer_pico", layout=layout).eval())
    x = torch.randn(2, 3, 112, 112)
    fused = copy.deepcopy(model).fuse()
    with torch.no_grad():
        expected = model(x)
        assert (fused(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert len(list(fused.parameters())) < len(list(model.parameters()))
    if layout == "biformer":
        # all norms but the last, which comes before the pooling, are fused
        assert sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules()) == 1


def test_a_checkpoint_that_does_not_match_is_refused(tmp_path: Path) -> None:
    weights = timm.create_model("biformer_pico").state_dict()
    del weights["stages.1.blocks.0.attn.lepe.bias"]
    weights["extra_norms.0.weight"] = torch.ones(32)
    torch.save(weights, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    with pytest.raises(RuntimeError) as error:
        timm.create_model("biformer_pico", pretrained=True, pretrained_cfg_overlay=overlay)
    assert re.search(r"Missing key.*stages\.1\.blocks\.0\.attn\.lepe\.bias", str(error.value))
    assert re.search(r"Unexpected key.*extra_norms\.0\.weight", str(error.value))


def test_initial_weights_are_the_official_ones() -> None:
    plain, refactored = (timm.create_model(name, depths=(1, 1, 1, 1)) for name in ("biformer_stl", "biformer_stl_nchw"))
    layers = [model.stages[3].blocks[0].mlp.fc1 for model in (plain, refactored)]
    assert layers[0].weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert layers[0].bias.abs().max() == 0
    # torch's default: uniform, bounded by one over the square root of the input channels
    assert layers[1].weight.std().item() == pytest.approx((3 * 768) ** -0.5, rel=0.01)
    assert layers[1].bias.abs().max() > 0
    assert refactored.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("layout", ["biformer", "stl", "stl_nchw"])
def test_the_official_formulation_gives_the_same_and_the_same_gradients(layout: str) -> None:
    model = with_statistics(timm.create_model("biformer_pico", layout=layout, num_classes=10).eval()).double()
    peer = official(model)
    x = torch.randn(2, 3, 112, 224, dtype=torch.double)
    answers = []
    for network in (model, peer):
        model.zero_grad()
        logits = network(x)
        logits.square().sum().backward()
        answers.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_only_a_biformer_has_an_official_formulation() -> None:
    with pytest.raises(TypeError, match="model must be a BiFormer, got Identity"):
        official(nn.Identity())


def peaks_of_a_training_step(name: str, size: int) -> list[int]:
    """Returns the peak memory of our model and of the official formulation."""
    model = timm.create_model(name)
    networks = [model, official(model.eval())]
    x = torch.randn(1, 3, size, size)
    peaks = []
    for network in networks:
        network.train()

        def step(network: nn.Module = network) -> None:
            network(x).sum().backward()

        step()
        model.zero_grad()
        peaks.append(peak_of(step))
        model.zero_grad()
    return peaks


@pytest.mark.parametrize(
    ("name", "size", "share"),
    [
        # for small maps the gradients of parameters, equal in both, are a larger share of the memory
        pytest.param("biformer_tiny", 224, 0.5, id="tiny 224"),
        pytest.param("biformer_tiny", 448, 1 / 3, id="tiny 448", marks=pytest.mark.slow),
    ],
)
def test_memory_of_a_training_step(name: str, size: int, share: float) -> None:
    ours, theirs = peaks_of_a_training_step(name, size)
    assert ours <= share * theirs, f"{ours / MIB:.1f} of {theirs / MIB:.1f} MiB, allowed ratio {share:.2f}"
