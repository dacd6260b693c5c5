"""Official checkpoints, loaded as a user loads them, give the official logits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from attnzoo.blocks import NeighborhoodAttention

from .recipe import CASES, Case, load_case

NAMES = sorted(path.stem for path in CASES.glob("*.json"))
NETWORKS = [name for name in NAMES if not name.startswith("module_")]
MODULES = [name for name in NAMES if name.startswith("module_")]


def relative_error(ours: Tensor, official: Tensor) -> float:
    official = official.view_as(ours)
    return ((ours - official).abs().max() / official.abs().max()).item()


def create(case: Case, folder: Path) -> torch.nn.Module:
    path = folder / "official.pth"
    key = case.facts["checkpoint_key"]
    torch.save({key: case.checkpoint} if key else case.checkpoint, path)
    return timm.create_model(case.name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, tmp_path: Path) -> None:
    case = load_case(name)
    model = create(case, tmp_path)
    with torch.no_grad():
        features, stages = model.forward_intermediates(case.images)
        logits = model.forward_head(features)
    for i, (stage, shape) in enumerate(zip(stages, case.stage_shapes, strict=True)):
        assert list(stage.shape) == shape
        sampled = stage.flatten()[:: max(1, stage.numel() // 512)]
        assert relative_error(sampled, case.answers[f"stage{i}"][: len(sampled)]) < 1e-4
    assert relative_error(logits, case.answers["logits"]) < 2e-5
    assert sum(p.numel() for p in model.parameters()) == sum(
        x.numel() for x in case.checkpoint.values() if x.is_floating_point()
    )


# the only check that sees a wrong epsilon: in float64 the difference is the official network's own rounding
@pytest.mark.parametrize("name", ["nat_mini", "dinat_s_tiny", "nat_isotropic_small"])
def test_network_in_float64(name: str, tmp_path: Path) -> None:
    case = load_case(name)
    model = create(case, tmp_path).double()
    with torch.no_grad():
        logits = model(case.images.double())
    assert relative_error(logits, case.answers["logits"]) == pytest.approx(case.facts["float64_rel_diff"], rel=1e-3)


@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    case = load_case(name)
    arguments = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", case.facts["constructor"])}
    module = NeighborhoodAttention(case.images.shape[-1], **arguments).eval()
    module.load_state_dict(case.checkpoint)
    with torch.no_grad():
        assert relative_error(module(case.images), case.answers["logits"]) < 2e-5
