"""Weights of ours for networks of timm, and back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import nn

from attnzoo.tools import cli
from attnzoo.tools.convert import convert
from attnzoo.tools.training.storage import save_model


def randomized(name: str, **arguments: Any) -> Any:
    """A network whose norms, tables and scales do not have their initial values."""
    model = timm.create_model(name, **arguments).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor), alpha=0.05)
        else:
            tensor.fill_(3)
    return model


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["convert", *map(str, arguments)])


def stored(model: nn.Module, folder: Path) -> Path:
    save_file(model.state_dict(), folder / "ours.safetensors")
    return folder / "ours.safetensors"


FAMILIES = [
    "zoo_shvit_s1",
    "zoo_swiftformer_xs",
    pytest.param("zoo_mambaout_femto", marks=pytest.mark.full),
    pytest.param("zoo_halonet26t", marks=pytest.mark.full),
    pytest.param("zoo_davit_tiny", marks=pytest.mark.full),
    pytest.param("zoo_twins_svt_small", marks=pytest.mark.full),
    pytest.param("zoo_twins_pcpvt_small", marks=pytest.mark.full),
    pytest.param("zoo_swin_tiny_patch4_window7_224", marks=pytest.mark.full),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_serves_what_was_trained_here_and_back(name: str, tmp_path: Path) -> None:
    ours, theirs = randomized(name, num_classes=7), name.removeprefix("zoo_")
    done = convert(stored(ours, tmp_path), name, tmp_path / "timm", to="timm")
    assert (done.model, done.num_classes) == (theirs, 7)
    # strict
    served = timm.create_model(theirs, num_classes=7, checkpoint_path=str(tmp_path / "timm" / "model.safetensors"))
    images = torch.randn(1, *ours.pretrained_cfg["input_size"])
    with torch.no_grad():
        want = ours(images)
        for model in (served, timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)):
            assert type(model).__module__.startswith("timm.")
            assert (model.eval()(images) - want).abs().max() <= 1e-5 * want.abs().max()
    # the name of the model is in the directory
    back = convert(tmp_path / "timm", None, tmp_path / "back")
    assert back.model == name
    again = load_file(tmp_path / "back" / "model.safetensors")
    assert again.keys() == ours.state_dict().keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in ours.state_dict().items())


PLAIN = """
import json, sys, timm, torch
from safetensors.torch import load_file
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
with torch.no_grad():
    logits = model(load_file(sys.argv[2])["images"])
print(json.dumps([logits.tolist(), model.pretrained_cfg["label_names"], "attnzoo" in sys.modules]))
"""


def test_timm_without_attnzoo_opens_a_model_of_a_training(tmp_path: Path) -> None:
    # as `attnzoo train` writes it: with names of classes and preprocessing
    ours, images = randomized("zoo_shvit_s1", num_classes=3, in_chans=1), torch.randn(1, 1, 192, 256)
    preprocessing = {"input_size": (1, 192, 256), "mean": (0.25,), "std": (0.5,), "crop_pct": 1.0}
    (tmp_path / "run").mkdir()
    save_model(ours, tmp_path / "run" / "model", {"in_chans": 1}, preprocessing, ["ant", "bee", "cat"])
    torch.save({"state_dict": ours.state_dict()}, tmp_path / "run" / "best.pth")
    result = call(tmp_path / "run", "--to", "timm", "--output", tmp_path / "timm")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'timm'}: shvit_s1, 3 classes, from best.pth")
    assert "published at" not in result.stdout
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [1, 192, 256]
    assert (config["pretrained_cfg"]["mean"], config["pretrained_cfg"]["crop_pct"]) == ([0.25], 1.0)
    save_file({"images": images}, tmp_path / "images.safetensors")
    command = [sys.executable, "-c", PLAIN, str(tmp_path / "timm"), str(tmp_path / "images.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env={"PATH": ""})
    logits, labels, imported = json.loads(done.stdout)
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(logits), ours(images), rtol=1e-4, atol=1e-5)
    assert (labels, imported) == (["ant", "bee", "cat"], False)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nat_pico", "timm has no network nat_pico: --to timm takes zoo_davit*, zoo_halonet*, zoo_mambaout*"),
        (
            "zoo_halonet_h1",
            "timm's halonet_h1 is another network than this zoo_halonet_h1: stages.0.blocks.0.",
        ),
    ],
)
def test_what_timm_does_not_have_is_refused(name: str, says: str, tmp_path: Path) -> None:
    file = stored(timm.create_model(name, num_classes=2), tmp_path)
    result = call(file, "--model", name, "--to", "timm", "--output", tmp_path / "out")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.full
@pytest.mark.parametrize(
    ("side", "says"),
    [
        # the last map has 5x5 tokens, and windows there are not larger than the map
        (160, "stages.3.blocks.0.attn.rpb has another size there"),
        # windows of 7 do not divide the maps
        (256, "gives other logits at 256x256, by "),
    ],
)
def test_a_size_at_which_timm_computes_something_else_is_refused(side: int, says: str, tmp_path: Path) -> None:
    ours = randomized("zoo_swin_tiny_patch4_window7_224", num_classes=2)
    save_model(ours, tmp_path / "model", {}, {"input_size": (3, side, side)}, ["a", "b"])
    result = call(tmp_path / "model", "--to", "timm", "--output", tmp_path / "timm")
    assert (result.exit_code, says in result.stderr) == (2, True), result.output
