"""ONNX export of every family: one graph for all sizes where documented, and every published size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm

from attnzoo.tools.export import export_onnx

from .models import ARGUMENTS, SMALL, ours

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
# models with more than 20 million parameters take a minute
QUICK = [name for name in SMALL if name.endswith("_pico")]
# graphs for any size of these models take as long; others cover their layers, or they have many small operators
LONG = [
    "agent_cswin_pico",
    "agent_swin_pico",
    "biformer_pico",
    "davit_pico",
    "halonet_pico",
    "moh_vit_pico",
    "twins_svt_pico",
]


def documented() -> dict[str, str]:
    """Returns the documented height and width (dynamic or one size) of each family's small variant."""
    return dict(re.findall(r"^\| [^|]+ \| `(\w+)` \| (dynamic|one size) \|", PAGE.read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in {*QUICK} - {*LONG} else pytest.mark.slow) for name in SMALL],
)
def test_one_file_takes_any_size(tmp_path: Path, name: str) -> None:
    model = timm.create_model(name, num_classes=7, **ARGUMENTS.get(name, {}))
    report = export_onnx(model, tmp_path / "model.onnx", image_size=(64, 96), dynamic=("batch", "height", "width"))
    assert documented()[name] == "dynamic"
    assert report.max_difference <= 1e-4
    sizes = {shape[2:] for shape in report.checked}
    assert len(sizes) == 3
    assert any(height != width for height, width in sizes)
    assert {shape[0] for shape in report.checked} == {1, 3}


@pytest.mark.parametrize("name", LONG)
def test_one_file_takes_any_batch(tmp_path: Path, name: str) -> None:
    model = timm.create_model(name, num_classes=7, **ARGUMENTS.get(name, {}))
    report = export_onnx(model, tmp_path / "model.onnx", image_size=(64, 96))
    assert report.max_difference <= 1e-4
    assert {shape[0] for shape in report.checked} == {1, 3}


def test_the_page_knows_every_family() -> None:
    assert set(documented()) == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ours()) - set(QUICK)))
def test_every_published_size_exports(tmp_path: Path, name: str) -> None:
    report = export_onnx(timm.create_model(name), tmp_path / "model.onnx")
    assert report.max_difference <= 1e-4
