"""ONNX export of every family: one graph for all sizes, and every published size."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm

from attnzoo.tools.export import export_onnx

from ..tiers import quick
from .models import ARGUMENTS, SMALL, ours

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

# one for each strategy that `attnzoo.kernels.tracing` names: arithmetic, another formulation, an opaque operator
STRATEGIES = ["shvit_pico", "swin_pico", "nat_pico"]
# those that split a map of a known size into windows, stripes, blocks or regions; a graph for any size takes minutes
SPLIT = [
    "agent_cswin_pico",
    "agent_swin_pico",
    "biformer_pico",
    "davit_pico",
    "halonet_pico",
    "moh_vit_pico",
    "twins_svt_pico",
]
# with a dynamic size the file chooses other keys than eager for some images, and the exporter refuses it
FIXED = ["sparsifiner_pico"]


@pytest.mark.parametrize(
    "name",
    [
        *quick([name for name in SMALL if name not in SPLIT + FIXED], STRATEGIES),
        *(pytest.param(name, marks=pytest.mark.slow) for name in SPLIT),
    ],
)
def test_one_file_takes_any_size(exported, name: str) -> None:
    arguments = {"num_classes": 7, **ARGUMENTS.get(name, {})}
    _, report = exported(name, arguments, image_size=(64, 96), dynamic=("batch", "height", "width"))
    assert report.max_difference <= 1e-4
    sizes = {shape[2:] for shape in report.checked}
    assert len(sizes) == 3
    assert any(height != width for height, width in sizes)
    assert {shape[0] for shape in report.checked} == {1, 3}


@pytest.mark.parametrize("name", quick(SPLIT + FIXED, []))
def test_one_file_takes_any_batch(exported, name: str) -> None:
    _, report = exported(name, {"num_classes": 7, **ARGUMENTS.get(name, {})}, image_size=(64, 96))
    assert report.max_difference <= 1e-4
    assert {shape[0] for shape in report.checked} == {1, 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ours()) - set(SMALL)))
def test_every_published_size_exports(tmp_path: Path, name: str) -> None:
    report = export_onnx(timm.create_model(name), tmp_path / "model.onnx")
    assert report.max_difference <= 1e-4
