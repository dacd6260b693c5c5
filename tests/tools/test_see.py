"""`attnzoo see`: pictures and pages, for classifiers and for detectors."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

pytest.importorskip("matplotlib", reason="needs attnzoo[train]")

from click.testing import CliRunner

from attnzoo.tools.see.command import see, see_command
from attnzoo.tools.see.scenes import Scene, open_viewer


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture with a bright corner."""
    image = Image.new("RGB", (80, 60), (30, 60, 90))
    image.paste((250, 240, 200), (50, 0, 80, 30))
    path = tmp_path / "corner.png"
    image.save(path)
    return path


def scene_in(page: Path) -> dict:
    return json.loads(re.search(r'<script id="scene" type="application/json">(.*?)</script>', page.read_text())[1])


def test_the_page_holds_the_maps_that_explain_returns(tmp_path: Path, picture: Path) -> None:
    (drawn,) = see("dhvt_pico", [picture], tmp_path / "seen", layers=["stages.1.blocks.0.attn"], query=(100, 30))
    scene = open_viewer("dhvt_pico", ["stages.1.blocks.0.attn"])(picture)
    stored = scene_in(drawn.with_suffix(".html"))
    assert stored["query"] == [100, 30]
    panel = stored["panels"][0]
    rows, columns = panel["queries"]
    maps = torch.frombuffer(bytearray(base64.b64decode(panel["weights"])), dtype=torch.uint8)
    maps = maps.view(rows, columns, *panel["keys"])
    height = len(scene.picture)
    expected = scene.layers[0].at((height - 1, 0)).weights[0].mean(0)
    torch.testing.assert_close(maps[-1, 0].float(), (expected / expected.max() * 255).round(), rtol=0, atol=1)
    assert Image.open(drawn).size[0] > 3 * 200


def test_telling_queries_are_the_peaks_of_grad_cam() -> None:
    cam = torch.zeros(64, 64)
    cam[10, 50], cam[11, 50], cam[40, 8], cam[60, 60] = 1, 0.9, 0.8, 0.5
    assert Scene("", torch.zeros(64, 64, 3), "", cam, ()).telling() == [(10, 50), (40, 8), (60, 60)]


@pytest.mark.parametrize("name", ["eca_resnet_pico", "resnet18"])
def test_channels_and_networks_without_attention(tmp_path: Path, picture: Path, name: str) -> None:
    done = CliRunner().invoke(see_command, [name, str(picture), "--output", str(tmp_path / "seen")])
    assert done.exit_code == 0, done.output
    assert ("only Grad-CAM is drawn" in done.output) == (name == "resnet18")
    assert "the weights are random" in done.output
    (page,) = (tmp_path / "seen").glob("*.html")
    panels = scene_in(page)["panels"]
    assert panels[-1]["title"] == "Grad-CAM"
    assert len(panels) == (1 if name == "resnet18" else 5)


def test_a_map_of_one_position_is_said(tmp_path: Path, picture: Path) -> None:
    folder = tmp_path / "small"
    small = timm.create_model("nat_pico", pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    timm.models.save_for_hf(small, str(folder), safe_serialization=True)
    done = CliRunner().invoke(see_command, [str(folder), str(picture), "--output", str(tmp_path / "seen")])
    assert done.exit_code == 0, done.output
    assert "Grad-CAM is the same everywhere, because the last map of" in done.output
    assert "has one position at 32 x 32 pixels" in done.output


def test_channels_are_bars(tmp_path: Path, picture: Path) -> None:
    (drawn,) = see("davit_pico", [picture], tmp_path, layers=["stages.3.blocks.1.attn"])
    channels = scene_in(drawn.with_suffix(".html"))["panels"][0]["channels"]
    assert len(channels) == 144
    assert max(channels) == 1


def test_a_detector_is_seen(tmp_path: Path, picture: Path) -> None:
    pytest.importorskip("torchvision", reason="needs attnzoo[train]")
    from attnzoo.tools.detection.detectors import create_detector
    from attnzoo.tools.detection.files import save_detector
    from attnzoo.tools.detection.options import DetectorOptions

    options = DetectorOptions.from_dict({"head": "retinanet", "min_size": 64, "max_size": 64, "width": 64})
    arguments, numbers = {"pretrained": False}, ([0.5] * 3, [0.25] * 3)
    detector = create_detector("nat_pico", arguments, options, 3, *numbers)
    folder = tmp_path / "model"
    save_detector(detector, folder, "nat_pico", arguments, options, ["a", "b", "c"], *numbers)
    (drawn,) = see(str(folder), [picture], tmp_path / "seen", layers=[0])
    assert "objects" in scene_in(drawn.with_suffix(".html"))["panels"][-1]["about"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--query", "500,2"], "query must be within 224 x 224 pixels"),
        (["--query", "middle"], "must be ROW,COLUMN"),
        (["--layer", "stages.9"], "no attention layer"),
        (["--layer", "99"], "layer must be"),
        (["--layer=--5"], "no attention layer '--5'"),
        (["--layer", "²"], "no attention layer '²'"),
        (["--query", "²,3"], "must be ROW,COLUMN"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, picture: Path, arguments: list[str], message: str) -> None:
    from attnzoo_command import main

    command = ["see", "nat_pico", str(picture), "--output", str(tmp_path / "seen"), *arguments]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "seen").exists()


def test_a_segmenter_is_not_seen(tmp_path: Path, picture: Path) -> None:
    from attnzoo_command import main

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"task": "segmentation"}')
    done = CliRunner().invoke(main, ["see", str(tmp_path / "run"), str(picture), "--output", str(tmp_path / "seen")])
    assert "is a network for segmentation: `attnzoo see` takes classifiers and detectors" in done.output
    assert (done.exit_code, (tmp_path / "seen").exists()) == (2, False)
