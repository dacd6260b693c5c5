"""OpenVINO converts modules, and ONNX Runtime's tools read exported files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from ..tiers import quick
from ..zoo.models import ARGUMENTS, SMALL

# OpenVINO finds no shapes for the trace of a selective scan
UNTRACEABLE = ("plainmamba_pico",)


@pytest.mark.parametrize("name", quick([name for name in SMALL if name not in UNTRACEABLE], []))
@pytest.mark.filterwarnings("ignore")
def test_openvino_converts_modules(name: str) -> None:
    openvino = pytest.importorskip("openvino", reason="needs attnzoo[openvino]")
    model, x = timm.create_model(name, num_classes=4, **ARGUMENTS.get(name, {})).eval(), torch.randn(2, 3, 64, 96)
    converted = openvino.convert_model(model, example_input=torch.randn(2, 3, 64, 96))
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = model(x)
    found = torch.from_numpy(compiled(x.numpy())[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    "name",
    [pytest.param("swiftformer_pico", marks=pytest.mark.full), pytest.param("moh_vit_pico", marks=pytest.mark.slow)],
)
def test_onnxruntime_prepares_files_for_quantisation(tmp_path: Path, exported: Callable[..., Any], name: str) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs attnzoo[export]")
    _, report = exported(name, {"num_classes": 4}, image_size=(64, 64))
    quantization.quant_pre_process(str(report.path), str(tmp_path / "prepared.onnx"))
    images = torch.randn(1, 3, 64, 64).numpy()
    before, after = (_run(path, images) for path in (report.path, tmp_path / "prepared.onnx"))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 * before.abs().max().item())


def _run(path: Path, images: Any) -> torch.Tensor:
    from attnzoo.tools.export import open_session

    return torch.from_numpy(open_session(path, threads=1).run(["logits"], {"images": images})[0])
