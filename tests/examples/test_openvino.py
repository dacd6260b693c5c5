"""OpenVINO and ONNX Runtime have the same outputs for the same file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import timm
import torch
from trained_files import EXAMPLES, taking_pixels

from attnzoo.tools.export import graphs, onnx_file, open_session, preparation, relative_difference

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")
pytest.importorskip("openvino", reason="needs attnzoo[openvino]")

import classify
import openvino
import openvino_classify


def written(name: str, size: tuple[int, int], dynamic: tuple[str, ...], **options: object) -> bytes:
    """A file as `attnzoo export` writes it, without its check."""
    model = timm.create_model(name, num_classes=5, **options).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and not tensor.any():
                tensor.normal_(std=0.1)
    return graphs.serialise(onnx_file.to_graph(preparation.make_task(model, "classify", size), dynamic, 20), {})


def compiled(content: bytes) -> openvino.CompiledModel:
    core = openvino.Core()
    return core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def assert_same_logits(content: bytes, sizes: Sequence[tuple[int, int, int, int]]) -> None:
    session, model = open_session(content, threads=1), compiled(content)
    for size in sizes:
        images = torch.randn(size).numpy()
        given = torch.from_numpy(model({"images": images})["logits"])
        expected = torch.from_numpy(session.run(["logits"], {"images": images})[0])
        assert relative_difference(given, expected) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "agent_cswin_pico",
        "agent_deit_pico",
        "agent_pico",
        "agent_swin_pico",
        "biformer_pico",
        "dinat_mini",
        "nat_pico",
        "overlock_pico",
        "shvit_pico",
    ],
)
def test_every_family(name):
    options = {"auto_pad": True} if name.startswith("biformer") else {}
    content = written(name, (64, 96), ("batch",), **options)
    assert_same_logits(content, [(1, 3, 64, 96), (3, 3, 64, 96)])


def test_size_that_the_file_is_for(file):
    assert_same_logits(file.read_bytes(), [(1, 3, 64, 64), (3, 3, 64, 64)])


def test_free_height_and_width(any_size):
    assert_same_logits(any_size[1].read_bytes(), [(1, 3, 96, 64), (2, 3, 65, 131), (3, 3, 160, 100)])


def test_example_says_what_the_one_for_onnxruntime_says(any_size, photograph):
    given = openvino_classify.classify(*openvino_classify.open_model(any_size[1]), photograph)
    expected = classify.classify(classify.open_session(any_size[1]), photograph)
    assert [label for label, _ in given] == [label for label, _ in expected]
    np.testing.assert_allclose([x for _, x in given], [x for _, x in expected], atol=1e-4)


def test_file_that_takes_pixels_gets_pixels(tmp_path, any_size, photograph):
    model = openvino_classify.open_model(taking_pixels(any_size[1], tmp_path / "pixels.onnx"))
    expected = classify.classify(classify.open_session(any_size[1]), photograph)
    np.testing.assert_allclose(
        [x for _, x in openvino_classify.classify(*model, photograph)], [x for _, x in expected], atol=1e-4
    )


def test_command_runs_where_neither_torch_nor_onnxruntime_is(tmp_path, any_size, photograph):
    photograph.save(tmp_path / "cat.jpg")
    script = f"""
import runpy, sys
for name in ("torch", "timm", "attnzoo", "onnx", "onnxruntime"):
    sys.modules[name] = None
sys.argv = ["openvino_classify.py", {str(any_size[1])!r}, {str(tmp_path / "cat.jpg")!r}]
sys.path.insert(0, {str(EXAMPLES)!r})
runpy.run_path({str(EXAMPLES / "openvino_classify.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "cat.jpg: " in done.stdout


def test_file_that_is_no_model_is_told(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    command = [sys.executable, str(EXAMPLES / "openvino_classify.py"), str(tmp_path / "model.onnx"), "cat.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "model.onnx cannot be opened" in done.stderr
    assert "Traceback" not in done.stderr
