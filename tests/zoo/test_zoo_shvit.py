"""Tests specific to SHViT: official files, constants of the networks, fusing, memory order."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import reparameterize_model
from torch import nn

from attnzoo.blocks import SingleHeadAttention
from attnzoo.zoo_shvit import SHViT
from benchmarks.official.shvit import official

PUBLISHED = ["zoo_shvit_s1", "zoo_shvit_s2", "zoo_shvit_s3", "zoo_shvit_s4"]


def create(name: str = "shvit_pico", **kwargs: object) -> nn.Module:
    """Returns a network in evaluation mode with random norms, so that no branch is zero."""
    model = timm.create_model(name, **kwargs).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
    return model


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def official_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the state dict under the names of the official code."""
    names = {}
    for key, value in model.state_dict().items():
        old, is_block = key, not key.startswith(("stem.", "head."))
        key = key.replace("stem.", "patch_embed.")
        key = re.sub(r"^stages\.0\.blocks\.", "blocks1.", key)
        key = re.sub(r"^stages\.(\d)\.blocks\.(\d+)", lambda m: f"blocks{int(m[1]) + 1}.{int(m[2]) + 3}", key)
        pair = re.match(r"^stages\.(\d)\.downsample\.([02])\.(conv|mlp)\.", key)
        key = re.sub(r"^stages\.(\d)\.downsample\.", lambda match: f"blocks{int(match[1]) + 1}.", key)
        key = key.replace(".mlp.conv1.", ".ffn.m.pw1.").replace(".mlp.conv2.", ".ffn.m.pw2.")
        key = key.replace(".conv.conv.conv.", ".conv.m.c.").replace(".conv.conv.norm.", ".conv.m.bn.")
        if pair:
            key = re.sub(r"(blocks\d\.[02])\.conv\.", r"\1.0.", key).replace(".ffn.", ".1.")
        key = key.replace(".attn.norm.", ".mixer.m.pre_norm.").replace(".attn.proj.", ".mixer.m.proj.1.")
        key = key.replace(".attn.", ".mixer.m.").replace("head.fc.", "head.l.").replace("head.norm.", "head.bn.")
        key = re.sub(r"\.conv\.(weight)$", r".c.\1", key)
        key = re.sub(r"\.norm\.(\w+)$", r".bn.\1", key) if "pre_norm" not in key else key
        assert not is_block or key != old
        names[key] = value
    return names


def load(weights: dict[str, object], folder: Path, **kwargs: object) -> nn.Module:
    torch.save(weights, folder / "weights.pth")
    overlay = {"file": str(folder / "weights.pth")}
    return timm.create_model("shvit_pico", pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


def test_the_names_of_the_test_are_the_official_ones() -> None:
    """The cases of the parity tests contain the official names of s1."""
    import json

    case = json.loads((Path(__file__).parents[1] / "parity/cases/shvit_s1.json").read_text())
    expected = {name: tuple(shape) for name, shape, *_ in case["tensors"]}
    with torch.device("meta"):
        found = official_names(timm.create_model("zoo_shvit_s1"))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == expected


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
@pytest.mark.parametrize("axes", ["unit axes", "matrices"])
def test_official_files_load(wrap: str | None, axes: str, tmp_path: Path) -> None:
    model, x = create(), torch.randn(2, 3, 64, 64)
    weights = official_names(model)
    if axes == "matrices":
        pointwise = [key for key, value in weights.items() if value.ndim == 4 and value.shape[2:] == (1, 1)]
        assert len(pointwise) > 10
        weights |= {key: weights[key][:, :, 0, 0] for key in pointwise}
    loaded = load({wrap: weights} if wrap else weights, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_a_checkpoint_that_does_not_match_is_refused(tmp_path: Path) -> None:
    weights = official_names(create())
    del weights["blocks2.3.mixer.m.qkv.c.weight"]
    weights["head_dist.l.weight"] = torch.zeros(1000, 192)
    with pytest.raises(RuntimeError) as caught:
        load({"model": weights}, tmp_path)
    assert re.search(r"Missing key.*stages\.1\.blocks\.0\.attn\.qkv\.conv\.weight", str(caught.value))
    assert re.search(r"Unexpected key.*head_dist\.l\.weight", str(caught.value))


@pytest.mark.parametrize(
    ("name", "widths", "depths", "parts", "gates", "size"),
    [
        ("zoo_shvit_s1", (128, 224, 320), (2, 4, 5), (48, 68), (128, 224), 224),
        ("zoo_shvit_s2", (128, 308, 448), (2, 4, 5), (66, 96), (128, 312), 224),
        ("zoo_shvit_s3", (192, 352, 448), (3, 5, 5), (75, 96), (192, 352), 224),
        ("zoo_shvit_s4", (224, 336, 448), (4, 7, 6), (72, 96), (224, 336), 256),
    ],
)
def test_constants_of_the_networks(
    name: str,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    parts: tuple[int, ...],
    gates: tuple[int, ...],
    size: int,
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert tuple(info["num_chs"] for info in model.feature_info) == widths
    assert tuple(len(stage.blocks) for stage in model.stages) == depths
    mixers = [[block.attn for block in stage.blocks] for stage in model.stages]
    assert not any(mixers[0])
    assert [{tuple(mixer.widths) for mixer in stage} for stage in mixers[1:]] == [{(16, 16, part)} for part in parts]
    assert {mixer.norm.num_groups for stage in mixers[1:] for mixer in stage} == {1}
    assert tuple(stage.downsample[1].se.fc1.out_channels for stage in model.stages[1:]) == gates
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.input_size == (3, size, size)
    assert (cfg.interpolation, int(size / cfg.crop_pct)) == ("bicubic", int(256 / 224 * size))
    assert cfg.url.endswith(f"/v1.0/{name.removeprefix('zoo_')}.pth")


def test_branches_start_as_zero_but_those_around_a_downsampler() -> None:
    model = timm.create_model("shvit_pico")
    zero = {name for name, p in model.named_parameters() if name.endswith("norm.weight") and not p.any()}
    one = {name for name, p in model.named_parameters() if name.endswith("norm.weight") and (p == 1).all()}
    branches = {name for name in zero | one if re.search(r"(conv\.conv|mlp\.conv2|attn\.proj)\.norm\.weight$", name)}
    around = {name for name in branches if re.search(r"downsample\.[02]\.conv\.conv\.norm", name)}
    assert len(around) == 4
    assert zero == branches - around


def test_stem_widths_must_be_whole() -> None:
    with pytest.raises(ValueError, match="embed_dims must start with a multiple of 8, got 100"):
        SHViT((100, 128, 192))


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.2])
def test_stochastic_depth_rises(drop_path_rate: float) -> None:
    model = timm.create_model("shvit_pico", drop_path_rate=drop_path_rate)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(drop_path_rate)


@pytest.mark.parametrize("name", ["shvit_pico", "zoo_shvit_s1"])
@pytest.mark.parametrize("num_classes", [9, 0])
def test_fused_is_the_same_with_less(name: str, num_classes: int) -> None:
    model, x = create(name, num_classes=num_classes), torch.randn(2, 3, 96, 70)
    fused, reparameterized = copy.deepcopy(model).fuse(), reparameterize_model(model)
    with torch.no_grad():
        expected = model(x)
        assert relative_error(fused(x), expected) < 1e-5
        assert torch.equal(reparameterized(x), fused(x))
    left = [key for key, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d)]
    # without a classifier its norm cannot be folded
    assert left == ([] if num_classes else ["head.norm"])
    assert sum(isinstance(module, nn.GroupNorm) for module in fused.modules()) == sum(
        isinstance(module, SingleHeadAttention) for module in model.modules()
    )
    with pytest.raises(ValueError, match=r"call \.eval\(\)"):
        model.train().fuse()


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_maps_are_channels_last_in_memory_on_a_cpu(fused: bool) -> None:
    model = create()
    model = model.fuse() if fused else model
    with torch.no_grad():
        maps = model.forward_intermediates(torch.randn(2, 3, 150, 93), intermediates_only=True)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("how", ["compile", "script", "export"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_survives(how: str, fused: bool) -> None:
    model, x = create(num_classes=5), torch.randn(2, 3, 75, 130)
    model = model.fuse() if fused else model
    with torch.no_grad():
        expected = model(x)
        if how == "compile":
            torch.compiler.reset()
            other = torch.compile(model, fullgraph=True, backend="aot_eager")
        elif how == "script":
            other = torch.jit.script(model)
        else:
            other = torch.export.export(model, (x,)).module()
        assert relative_error(other(x), expected) < 1e-5


@pytest.mark.parametrize("size", [(32, 32), (33, 31), (40, 200), (224, 224), (512, 512)], ids=str)
def test_features_of_any_size(size: tuple[int, int]) -> None:
    model = timm.create_model("shvit_pico", features_only=True).eval()
    assert model.feature_info.reduction() == [16, 32, 64]
    with torch.no_grad():
        maps = model(torch.randn(1, 3, *size))
    for x, reduction in zip(maps, (16, 32, 64), strict=True):
        assert x.shape[2:] == tuple(-(-side // reduction) for side in size)


@pytest.mark.parametrize("name", ["shvit_pico", "zoo_shvit_s2"])
def test_the_official_formulation_is_the_same(name: str) -> None:
    model, x = create(name, num_classes=9), torch.randn(2, 3, 96, 70)
    theirs = official(model)
    with torch.no_grad():
        assert relative_error(theirs(x), model(x)) < 1e-5
    ours = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in theirs.parameters()} == ours
    with pytest.raises(TypeError, match="must be a SHViT, got Identity"):
        official(nn.Identity())
