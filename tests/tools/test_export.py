"""The exported file is correct, has complete metadata, holds no local paths, and is never written if it is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import timm.models
import torch
from click.testing import CliRunner
from tiny_classifier import Tiny
from torch import nn

from attnzoo.tools.cli import main
from attnzoo.tools.export import ExportError, export_onnx, graphs, onnx_file, open_session, relative_difference
from attnzoo.tools.export.command import export_command
from tests.tiers import quick

onnx = pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def texts(path: Path) -> bytes:
    """The file without its weights, with all text that it holds."""
    proto = onnx.load(path)
    del proto.graph.initializer[:]
    return proto.SerializeToString()


full = pytest.mark.full


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        pytest.param("test_vit", (96, 160), {"img_size": (96, 160)}, id="test_vit"),
        pytest.param("nat_pico", (40, 56), {"num_classes": 7}, id="nat_pico"),
        pytest.param("shvit_pico", (65, 47), {"num_classes": 7}, id="shvit_pico", marks=full),
        pytest.param("overlock_pico", (96, 64), {"num_classes": 7}, id="overlock_pico", marks=full),
        pytest.param("agent_swin_pico", (64, 96), {"num_classes": 7}, id="agent_swin_pico", marks=full),
        pytest.param("biformer_pico", (64, 96), {"num_classes": 7, "auto_pad": True}, id="biformer_pico", marks=full),
    ],
)
def test_logits_equal_eager_at_any_batch(exported, name, size, options):
    model, report = exported(name, options, image_size=size)
    assert report.max_difference <= 1e-4
    assert report.file_size == report.path.stat().st_size
    session = open_session(report.path)
    assert [entry.name for entry in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape == ["batch", 3, *size]
    assert [entry.name for entry in session.get_outputs()] == ["logits"]
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            expected = model(images)
        given = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        assert relative_difference(given, expected) <= 1e-4
    assert onnx.load(report.path).opset_import[0].version == 20
    assert {node.domain for node in onnx.load(report.path).graph.node} == {""}


def test_file_holds_no_trace_of_the_machine(exported):
    _, report = exported("test_vit", {"img_size": (96, 160)}, image_size=(96, 160))
    found, folder = texts(report.path), str(report.path.parent)
    for trace in (".py", "site-packages", str(Path.cwd()), str(Path.home()), folder, "stack_trace"):
        assert trace.encode() not in found


@pytest.mark.slow
def test_same_model_gives_same_bytes_in_another_process(tmp_path):
    command = [sys.executable, "-m", "attnzoo.tools.export", "test_resnet", "--image-size", "32", "48", "--output"]
    done = subprocess.run([*command, str(tmp_path / "a.onnx")], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1, "the exporter must stay quiet"
    here = CliRunner().invoke(export_command, [*command[3:], str(tmp_path / "b.onnx")])
    assert here.exit_code == 0, here.output
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_directory_brings_weights_labels_and_preprocessing(tmp_path):
    folder, output = tmp_path / "trained", tmp_path / "out" / "model.onnx"
    model = timm.create_model(
        "test_resnet", num_classes=3, pretrained_cfg_overlay={"crop_pct": 1.0, "mean": (0.1,) * 3}
    )
    config = {"label_names": ["ant", "bee", "cat"], "pretrained_cfg": {"license": "cc-by-4.0"}}
    timm.models.save_for_hf(model, str(folder), config, safe_serialization=True)
    run = CliRunner().invoke(export_command, [str(folder), "--output", str(output), "--image-size", "40", "64"])
    assert run.exit_code == 0, run.output
    notes = metadata(output)
    assert json.loads(notes["labels"]) == ["ant", "bee", "cat"]
    assert json.loads(notes["input_size"]) == [3, 40, 64]
    assert json.loads(notes["mean"]) == [0.1, 0.1, 0.1]
    assert len(json.loads(notes["std"])) == 3
    assert json.loads(notes["crop_pct"]) == 1.0
    assert notes["model"] == "test_resnet"
    assert notes["license"] == "cc-by-4.0"
    assert notes["weights"].startswith("sha256:")
    assert set(notes) >= {"attnzoo_version", "interpolation", "crop_mode"}
    assert str(tmp_path).encode() not in texts(output)
    images = torch.randn(2, 3, 40, 64)
    with torch.no_grad():
        expected = model.eval()(images)
    given = open_session(output).run(None, {"images": images.numpy()})[0]
    assert relative_difference(torch.from_numpy(given), expected) <= 1e-4


def test_wrong_file_is_refused_and_the_old_one_stays(tmp_path, monkeypatch):
    output = tmp_path / "model.onnx"
    before = export_onnx(Tiny(), output, image_size=(8, 12)).path.read_bytes()

    def wrong(task, *arguments):
        task.network.head.bias.data += 0.01
        graph = to_graph(task, *arguments)
        task.network.head.bias.data -= 0.01
        return graph

    to_graph = onnx_file.to_graph
    monkeypatch.setattr(onnx_file, "to_graph", wrong)
    with pytest.raises(ExportError, match=r"is wrong and was not kept: .* differ from eager by"):
        export_onnx(Tiny(), output, image_size=(8, 12))
    with pytest.raises(ExportError):
        export_onnx(Tiny(), tmp_path / "new.onnx", image_size=(8, 12))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert output.read_bytes() == before


def test_check_sees_behind_layers_that_start_as_zero(tmp_path, monkeypatch):
    def wrong(task, *arguments):
        task.network.branch.weight.data *= 2
        graph = to_graph(task, *arguments)
        task.network.branch.weight.data /= 2
        return graph

    to_graph = onnx_file.to_graph
    monkeypatch.setattr(onnx_file, "to_graph", wrong)
    with pytest.raises(ExportError, match="differ from eager"):
        export_onnx(Tiny(), tmp_path / "model.onnx", image_size=(8, 12))
    assert not list(tmp_path.iterdir())


def test_batch_that_the_model_takes_for_granted_is_refused(tmp_path):
    class TwoOnly(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (2 if len(x) == 2 else 1)

    with pytest.raises(ExportError, match="TwoOnly cannot be traced with dynamic batch"):
        export_onnx(TwoOnly(), tmp_path / "model.onnx", image_size=(8, 12))
    assert not list(tmp_path.iterdir())


def test_operator_outside_the_standard_is_refused():
    node = onnx.helper.make_node("FancyAttention", ["images"], ["logits"], domain="com.example")
    values = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 3]) for name in ("images", "logits")]
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]))
    with pytest.raises(ExportError, match=r"com\.example::FancyAttention"):
        graphs._require_standard(proto)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["test_vit", "--opset", "17"], "opset must be 18 .. 23, got 17", id="opset-17"),
        pytest.param(["test_vit", "--opset", "24"], "opset must be 18 .. 23, got 24", id="opset-24"),
        pytest.param(["nat_pica"], "neither a model name nor a directory: did you mean nat_pico", id="name"),
        pytest.param(["zzzz"], "see `attnzoo list`", id="no-name-like-it"),
        pytest.param(["{tmp}"], "expected config.json and model.safetensors", id="empty-directory"),
        pytest.param(["{tmp}/half"], "no model.safetensors: was the training interrupted", id="half-a-directory"),
        pytest.param(["{tmp}/broken"], "its config.json does not match its weights", id="broken-weights"),
        pytest.param(["test_vit", "--image-size", "96", "161"], "does not take images of 3x96x161", id="size"),
        pytest.param(["test_vit", "--image-size", "0", "32"], "got (0, 32)", id="size-zero"),
        pytest.param(["nat_pico", "--pretrained"], "has no published weights", id="no-weights"),
        pytest.param(["test_vit", "--output", "{tmp}"], "output must be a file", id="output-is-a-folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    for name in ("half", "broken"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": {}}))
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    output = tmp_path / "model.onnx"
    run = CliRunner().invoke(main, ["export", "--output", str(output), *(x.format(tmp=tmp_path) for x in arguments)])
    assert run.exit_code == 2
    assert message in run.output
    assert len(run.output.strip().splitlines()) == 1
    assert not output.exists()


def test_module_without_a_size_needs_one(tmp_path):
    with pytest.raises(ValueError, match="image_size is required: Tiny is not a timm model"):
        export_onnx(Tiny(), tmp_path / "model.onnx")


def test_features_are_not_logits(tmp_path):
    with pytest.raises(ValueError, match=r"must return logits \(B, classes\), got \(2, 3, 8, 8\)"):
        export_onnx(nn.Identity(), tmp_path / "model.onnx", image_size=(8, 8))


@pytest.mark.parametrize("opset", quick([18, 19, 21, 23], []))
def test_other_opsets(exported, opset):
    _, report = exported("test_vit", {"img_size": 32}, opset=opset)
    assert onnx.load(report.path).opset_import[0].version == opset
    assert report.max_difference <= 1e-4


def test_difference_of_what_is_not_a_number_is_infinite():
    zeros, ones = torch.zeros(2, 2), torch.ones(2, 2)
    assert relative_difference(ones, ones) == 0
    assert relative_difference(ones, zeros) == float("inf")
    assert relative_difference(ones * float("nan"), ones) == float("inf")
    assert relative_difference(1.5 * ones, ones) == 0.5
