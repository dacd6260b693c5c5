"""transformers opens what attnzoo writes, and takes networks as backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner

from attnzoo.tools.cli import main

from ..zoo.models import ARGUMENTS

transformers = pytest.importorskip("transformers", reason="needs attnzoo[clients]")


@pytest.mark.parametrize("name", ["nat_pico", "swiftformer_pico"])
@pytest.mark.filterwarnings("ignore")
def test_a_converted_directory_is_a_classifier(tmp_path: Path, name: str) -> None:
    model, x = timm.create_model(name).eval(), torch.randn(2, 3, 64, 64)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    command = ["convert", str(tmp_path / "weights.pth"), "--model", name, "--output", str(tmp_path / "model")]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(again(pixel_values=x).logits, model(x))
    again.train()(pixel_values=x, labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None for p in again.parameters())


@pytest.mark.parametrize("name", ["nat_pico", "biformer_pico", "overlock_pico", "agent_deit_pico"])
@pytest.mark.filterwarnings("ignore")
def test_a_backbone(name: str) -> None:
    config = transformers.TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, out_indices=[0, 1, 2])
    backbone, x = transformers.TimmBackbone(config).eval(), torch.randn(1, 3, 64, 96)
    plain = timm.create_model(name, features_only=True, out_indices=(0, 1, 2), **ARGUMENTS.get(name, {})).eval()
    plain.load_state_dict(backbone._backbone.state_dict())
    with torch.no_grad():
        maps = backbone(x).feature_maps
        for found, expected in zip(maps, plain(x), strict=True):
            assert torch.equal(found, expected)
    assert [x.shape[1] for x in maps] == list(backbone.channels)
