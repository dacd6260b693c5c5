"""Programs of torch.export and packages of AOTInductor are correct at any batch size, or are not written."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torch._inductor.config
from click.testing import CliRunner
from tiny_classifier import Tiny
from torch import nn

from attnzoo.tools.cli import main
from attnzoo.tools.export import ExportError, export_onnx, export_program, programs, relative_difference

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def load_program(path: Path) -> tuple[nn.Module, dict[str, str]]:
    held = {programs.NOTES: ""}
    return torch.export.load(path, extra_files=held).module(), json.loads(held[programs.NOTES])


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        pytest.param("test_vit", (96, 160), {"img_size": (96, 160)}, id="test_vit"),
        pytest.param("nat_pico", (33, 47), {"num_classes": 7}, id="nat_pico"),
        *(
            pytest.param(name, (64, 96), {"num_classes": 7}, id=name, marks=pytest.mark.slow)
            for name in ("shvit_pico", "biformer_pico", "overlock_pico", "agent_deit_pico", "agent_swin_pico")
        ),
    ],
)
def test_program_equals_eager_at_any_batch(tmp_path, name, size, options):
    model = timm.create_model(name, **options).train()
    report = export_program(model, tmp_path / "model.pt2", image_size=size)
    assert model.training, "the caller's model must not be modified"
    assert report.max_difference <= 1e-4
    assert report.opset is None
    assert report.file_size == report.path.stat().st_size
    program, _ = load_program(report.path)
    model.eval()
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            assert relative_difference(program(images), model(images)) <= 1e-4


def test_program_takes_any_size(tmp_path):
    dynamic = ("batch", "height", "width")
    report = export_program(Tiny(), tmp_path / "model.pt2", dynamic=dynamic, image_size=(160, 192))
    assert len({shape[2:] for shape in report.checked}) == 3
    program, _ = load_program(report.path)
    for size in ((233, 198), (81, 97)):
        images = torch.randn(3, 3, *size)
        with torch.no_grad():
            assert relative_difference(program(images), Tiny()(images)) <= 1e-4


def test_program_gives_maps(tmp_path):
    model = timm.create_model("test_resnet").eval()
    report = export_program(model, tmp_path / "maps.pt2", task="features", image_size=(64, 96))
    program, notes = load_program(report.path)
    assert notes["task"] == "features"
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        expected = model.forward_intermediates(images, intermediates_only=True)
        given = program(images)
    assert len(given) == len(expected)
    assert all(relative_difference(one, other) <= 1e-4 for one, other in zip(given, expected, strict=True))


def test_program_says_what_it_is_and_nothing_of_the_machine(tmp_path):
    command = ["export", "test_vit", "--format", "pt2", "--output", str(tmp_path / "out" / "model.pt2")]
    run = CliRunner().invoke(main, command)
    assert run.exit_code == 0, run.output
    assert "pt2, images 3x160x160, dynamic: batch" in run.output
    _, notes = load_program(tmp_path / "out" / "model.pt2")
    assert notes["model"] == "test_vit"
    assert notes["weights"] == "random, seed 0"
    assert json.loads(notes["input_size"]) == [3, 160, 160]
    with zipfile.ZipFile(tmp_path / "out" / "model.pt2") as archive:
        held = b"".join(archive.read(name) for name in archive.namelist())
    for trace in ("site-packages", str(Path.cwd()), str(tmp_path), "stack_trace"):
        assert trace.encode() not in held


@pytest.mark.full
@needs_compiler
def test_package_equals_eager_at_any_batch(tmp_path):
    model = Tiny().eval()
    nn.init.ones_(model.gain)
    output = tmp_path / "model.pt2"
    report = export_program(model, output, form="aoti", image_size=(12, 20), metadata={"weights": "noise"})
    assert report.max_difference <= 1e-4
    package = torch._inductor.aoti_load_package(str(output))
    assert package.get_metadata()["weights"] == "noise"
    for batch in (1, 4):
        images = torch.randn(batch, 3, 12, 20)
        with torch.no_grad():
            assert relative_difference(package(images), model(images)) <= 1e-4


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nat_pico", "shvit_pico", "biformer_pico", "overlock_pico", "agent_deit_pico"])
def test_every_family_becomes_a_package(tmp_path, name):
    report = export_program(timm.create_model(name), tmp_path / "model.pt2", form="aoti", image_size=(64, 96))
    assert report.max_difference <= 1e-4
    assert {shape[0] for shape in report.checked} == {1, 3}


@pytest.mark.parametrize(
    ("form", "layer"),
    [("pt2", "head"), ("pt2", "branch"), pytest.param("aoti", "branch", marks=needs_compiler)],
)
def test_wrong_file_is_refused_also_behind_layers_that_start_as_zero(tmp_path, monkeypatch, form, layer):
    def wrong(task, dynamic):
        network, images = to_trace(task, dynamic)
        getattr(network, layer).bias.data += 0.5
        return network, images

    to_trace = programs.to_trace
    monkeypatch.setattr(programs, "to_trace", wrong)
    with pytest.raises(ExportError, match=r"is wrong and was not kept: .* differ from eager by"):
        export_program(Tiny(), tmp_path / "model.pt2", form=form, image_size=(12, 20))
    assert not list(tmp_path.iterdir())


def test_package_without_a_compiler_is_one_line(tmp_path):
    command = ["export", "test_vit", "--format", "aoti", "--output", str(tmp_path / "model.pt2")]
    # the test configuration leaves this config without the entry
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        run = CliRunner().invoke(main, command)
    assert run.exit_code == 1
    assert "no C++ compiler was found: install one" in run.output
    assert len(run.output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--output", "{tmp}/model.pt2"], "suffix of a PyTorch file: name it .onnx", id="onnx-as-pt2"),
        pytest.param(["--format", "pt2", "--output", "{tmp}/model.onnx"], "must end in .pt2", id="pt2-as-onnx"),
        pytest.param(
            ["--format", "pt2", "--opset", "20", "--output", "{tmp}/model.pt2"], "--opset applies to ONNX", id="opset"
        ),
        pytest.param(["--format", "pt2", "--output", "{tmp}"], "output must be a file", id="output-is-a-folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    run = CliRunner().invoke(main, ["export", "test_vit", *(x.format(tmp=tmp_path) for x in arguments)])
    assert run.exit_code == 2
    assert message in run.output
    assert len(run.output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_unknown_form_is_named(tmp_path):
    with pytest.raises(ValueError, match="form must be one of pt2, aoti, got 'torchscript'"):
        export_program(Tiny(), tmp_path / "model.pt2", form="torchscript", image_size=(8, 12))


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        pytest.param(export_onnx, {"form": "pt2"}, "writes ONNX files only, got form 'pt2'", id="form"),
        pytest.param(export_program, {"precision": "fp16"}, "precision applies to ONNX files only", id="precision"),
        pytest.param(export_program, {"opset": 18}, "opset applies to ONNX files only", id="opset"),
        pytest.param(export_program, {"dynamic": "batch,depth"}, "must be among batch, height, width", id="dynamic"),
    ],
)
def test_options_of_another_format_raise_an_error(tmp_path, write, options, message):
    path = tmp_path / "model.pt2"
    with pytest.raises(ValueError, match=message):
        write(timm.create_model("test_resnet"), str(path), **options)
    assert not path.exists()
