"""Tests specific to NAT and DiNAT: checkpoints of every official release, other kernels, constants."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from attnzoo.blocks import NeighborhoodAttention, resize_bias_table
from attnzoo.nat import NeighborhoodTransformer


def load(name: str, state_dict: dict[str, object], folder: Path, **kwargs: object) -> torch.nn.Module:
    path = folder / "weights.pth"
    torch.save(state_dict, path)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs).eval()


def official(name: str) -> dict[str, torch.Tensor]:
    """Returns our state dict under the names of the first official release."""
    back = {}
    for key, value in timm.create_model(name).state_dict().items():
        key = key.replace("stem.conv1.", "patch_embed.proj.0.").replace("stem.conv2.", "patch_embed.proj.1.")
        key = key.replace("stem.", "patch_embed.").replace("head.fc.", "head.")
        parts = key.split(".")
        if parts[0] == "stages":
            level = int(parts[1]) - (parts[2] == "downsample")
            key = ".".join(["levels", str(level), *parts[2:]])
        back[key] = value
    return back


@pytest.mark.parametrize("era", ["rpb", "rel_pos_bias", "bias"])
@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
def test_every_era_of_names_loads(era: str, wrap: str | None, tmp_path: Path) -> None:
    weights = official("nat_pico")
    renamed = {key.replace("attn.rpb", f"attn.{era}"): value for key, value in weights.items()}
    model = load("nat_pico", {wrap: renamed} if wrap else renamed, tmp_path)
    table = model.stages[1].blocks[0].attn.rpb
    assert torch.equal(table, weights["levels.1.blocks.0.attn.rpb"])


def test_a_checkpoint_that_does_not_match_is_refused(tmp_path: Path) -> None:
    weights = official("nat_pico")
    del weights["levels.0.blocks.0.attn.qkv.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*stages\.0\.blocks\.0\.attn\.qkv\.weight"):
        load("nat_pico", weights, tmp_path)


def test_fine_tuning_at_another_kernel_size_interpolates_the_tables(tmp_path: Path) -> None:
    weights = official("nat_pico")
    model = load("nat_pico", weights, tmp_path, kernel_size=7, num_classes=3)
    table = model.stages[0].blocks[0].attn.rpb
    assert table.shape == (*table.shape[:1], 13, 13)
    assert torch.equal(table, resize_bias_table(weights["levels.0.blocks.0.attn.rpb"], (7, 7)))


def test_resized_table_keeps_its_kind_and_a_linear_table_its_slope() -> None:
    ramp = torch.arange(13.0).expand(2, 13, 13)
    assert resize_bias_table(ramp, (7, 7)) is ramp
    wider = resize_bias_table(ramp.to(torch.bfloat16), (7, 11))
    assert wider.shape == (2, 13, 21)
    assert wider.dtype == torch.bfloat16
    row = resize_bias_table(ramp, (7, 11))[0, 6]
    assert (row.diff() > 0).all()
    assert row[10] == 6
    assert row[18] - row[2] == pytest.approx(16 * 13 / 21, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "dilations", "has_scale"),
    [
        ("nat_small", {1}, True),
        ("nat_base", {1}, True),
        ("nat_tiny", {1}, False),
        ("dinat_small", {1, 8, 4, 2}, False),
        ("dinat_base", {1, 8, 4, 2}, True),
        ("dinat_large", {1, 8, 4, 2}, False),
        ("dinat_large_384", {1, 13, 6, 3}, False),
        ("dinat_s_large_384", {1, 13, 6, 3}, False),
    ],
)
def test_constants_of_the_networks(name: str, dilations: set[int], has_scale: bool) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    mixers = [module for module in model.modules() if isinstance(module, NeighborhoodAttention)]
    assert {mixer.dilation[0] for mixer in mixers} == dilations
    assert all(stage.blocks[0].attn.dilation == (1, 1) for stage in model.stages)
    assert any("gamma" in key for key, _ in model.named_parameters()) == has_scale


def test_unknown_layout() -> None:
    with pytest.raises(ValueError, match="layout must be nat or swin, got 'pvt'"):
        NeighborhoodTransformer(layout="pvt")
