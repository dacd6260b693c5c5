"""Files of lower precision and with preprocessing inside are small and close to float32, or they are not kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import timm.data
import torch
from click.testing import CliRunner
from pictures import picture
from PIL import Image
from torch import nn

from attnzoo.tools import data
from attnzoo.tools.cli import main
from attnzoo.tools.evaluate import Reading
from attnzoo.tools.export import (
    ExportError,
    checking,
    export_onnx,
    graphs,
    onnx_file,
    open_session,
    preparation,
    relative_difference,
)
from attnzoo.tools.export.finishing import Finish
from attnzoo.tools.export.precision import Fidelity, batches_of, calibration, read_calibration
from attnzoo.tools.export.precision.fidelity import compare
from attnzoo.tools.export.preprocess import Colours, Normalise
from attnzoo.tools.export.sessions import run
from attnzoo.tools.metrics import ClassificationJudge
from attnzoo.tools.models import open_model
from attnzoo.tools.train import train

onnx = pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

COLOURS = {"mean": "[0.4, 0.5, 0.6]", "std": "[0.2, 0.25, 0.3]"}


class Tiny(nn.Module):
    """A classifier that exports in a second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.body = nn.Conv2d(24, 48, 3, padding=1)
        self.head = nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x).relu()).relu().mean((2, 3)))


class Fragile(Tiny):
    """The input of `body` is small compared with added constants, as in residual streams to which branches add little.

    Args:
        is_balanced: the constants sum to zero, so that rounded weights do no harm.
    """

    def __init__(self, is_balanced: bool) -> None:
        super().__init__()
        # no zero padding, so that the constants sum to the same everywhere
        self.body = nn.Conv2d(24, 48, 3)
        signs = torch.ones(24)
        if is_balanced:
            # pairs of inputs with opposite constants and equal weights
            signs[::2] = -1
            self.body.weight.data[:, ::2] = self.body.weight.data[:, 1::2]
        self.register_buffer("offset", (40 if is_balanced else 10) * signs[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        constant = self.body.weight.sum((2, 3)) @ self.offset.flatten()
        y = self.body(self.stem(x).tanh() * 0.05 + self.offset) - constant[:, None, None]
        return self.head((20 * y).relu().mean((2, 3)))


class Loud(Tiny):
    """Values above the range of float16 between `stem` and `body`, and within it again at the end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x).relu() * 1e5).mean((2, 3)) * 1e-5)


class Masked(Tiny):
    """Causal attention between the pixels of a row, masked with a commonly used value."""

    def __init__(self, masked: float) -> None:
        super().__init__()
        mask = torch.zeros(12, 12).masked_fill_(torch.ones(12, 12).triu(1).bool(), masked)
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # (B, D, H, W) -> (B, H, W, D)
        y = self.stem(x).permute(0, 2, 3, 1)
        scores = y @ y.transpose(-1, -2) + self.mask
        y = (scores.softmax(-1) @ y).permute(0, 3, 1, 2)
        return self.head(self.body(y).relu().mean((2, 3)))


def images_of(size: tuple[int, int], batches: tuple[int, ...] = (8, 5)) -> list[torch.Tensor]:
    return [checking.picture_like((count, 3, *size)) for count in batches]


def initializers(content: bytes) -> dict[str, np.ndarray]:
    return {x.name: onnx.numpy_helper.to_array(x) for x in onnx.load_from_string(content).graph.initializer}


def require_sound(content: bytes) -> None:
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert [entry.domain for entry in proto.opset_import] == [""]
    assert not proto.functions
    assert not proto.graph.value_info
    del proto.graph.initializer[:]
    for trace in (".py", str(Path.cwd()), str(Path.home()), "/tmp"):
        assert trace.encode() not in proto.SerializeToString()


@pytest.fixture(scope="module", params=["nat_pico", "shvit_pico"])
def traced(request):
    """A network and its graph, shared because tracing takes seconds."""
    torch.manual_seed(0)
    task = preparation.make_task(timm.create_model(request.param).eval(), "classify", (64, 64))
    return task, onnx_file.to_graph(task, ("batch",), 20)


def finished(traced, precision: str):
    task, traced_proto = traced
    proto = onnx.ModelProto()
    proto.CopyFrom(traced_proto)
    # the classes of untrained networks are arbitrary
    finish = Finish(precision, None, images_of((64, 64)), 0.0)
    return finish.apply(proto, task, checking.cases_of(task, ("batch",)), {}, 1e-4)


@pytest.mark.full
def test_half_precision_halves_the_file_and_stays_close(traced):
    done = finished(traced, "fp16")
    require_sound(done.content)
    assert len(done.content) < 0.55 * traced[1].ByteSize()
    assert done.fidelity.difference <= 1e-2
    # the mean over a map sums many values
    assert "ReduceMean" in done.kept
    floats = [x for x in initializers(done.content).values() if x.dtype == np.float16]
    if traced[0].network.default_cfg["architecture"].startswith("nat"):
        assert any(np.isinf(x).any() for x in floats), "the mask must stay infinite"


@pytest.mark.full
def test_eight_bits_make_a_third_of_the_file(traced):
    done = finished(traced, "int8")
    require_sound(done.content)
    assert len(done.content) < traced[1].ByteSize() / 3
    assert done.fidelity.error <= 0.1
    assert done.fidelity.images == 13
    assert json.loads(done.notes["kept_float32"]) == list(done.kept)
    scales = [x for name, x in initializers(done.content).items() if name.endswith("scale") and x.ndim]
    assert scales, "weights must be quantised per channel"
    weights = [x for name, x in initializers(done.content).items() if name.endswith("_quantized")]
    weights = [x for x in weights if x.dtype == np.int8]
    assert weights
    # processors without VNNI add two products with uint8 in 16 bits
    assert max(np.abs(x.astype(int)).max() for x in weights) * 2 * 255 < 2**15


@pytest.mark.parametrize("is_balanced", [True, False], ids=["its-maps", "its-weights-too"])
def test_layers_that_int8_ruins_stay_in_float_and_are_named(tmp_path, is_balanced):
    options = {"precision": "int8", "calibration": images_of((12, 16)), "least_agreement": 0}
    report = export_onnx(Fragile(is_balanced), tmp_path / "model.onnx", image_size=(12, 16), **options)
    assert report.kept == ("body",)
    assert json.loads(report.metadata["kept_float32"]) == ["body"]
    assert report.fidelity.error <= 0.1
    # if rounded weights do no harm, large ones stay quantised
    assert ("body.weight/int8" in initializers(report.path.read_bytes())) == is_balanced
    again = export_onnx(Fragile(is_balanced), tmp_path / "again.onnx", image_size=(12, 16), **options)
    assert again.path.read_bytes() == report.path.read_bytes()


def test_numbers_too_large_for_float16_stay_in_float32(tmp_path):
    report = export_onnx(Loud(), tmp_path / "model.onnx", image_size=(12, 16), precision="fp16")
    assert report.fidelity.difference <= 1e-2
    assert report.fidelity.agreement is None, "the classes of noise are meaningless"
    assert any(name.startswith("body/") for name in report.kept)
    assert not any(name.startswith("head/") for name in report.kept)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("masked", [float("-inf"), -1e9, torch.finfo(torch.float32).min])
def test_masks_give_numbers(tmp_path, masked, precision):
    images = images_of((8, 12))
    report = export_onnx(
        Masked(masked), tmp_path / "model.onnx", image_size=(8, 12), precision=precision, calibration=images,
        least_agreement=0,
    )  # fmt: skip
    session = open_session(report.path)
    for batch in (*images, torch.full((2, 3, 8, 12), 100.0), torch.zeros(1, 3, 8, 12)):
        assert run(session, batch)["logits"].isfinite().all()
    assert report.fidelity.difference <= (1e-2 if precision == "fp16" else 0.1)


@pytest.mark.parametrize("dynamic", [(), ("batch",), ("batch", "height", "width")], ids=["none", "batch", "all"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2), ("int8", 0.1)])
def test_preprocessing_inside_equals_that_of_timm(tmp_path, precision, tolerance, dynamic):
    pictures = [picture(colour, size=(12, 16)) for colour in ("red", "blue")]
    prepare = {key: tuple(json.loads(value)) for key, value in COLOURS.items()}
    transform = data.val_transform({**prepare, "input_size": (3, 12, 16), "crop_pct": 1.0, "interpolation": "bilinear"})
    images = torch.stack([transform(image) for image in pictures])
    calibrated = None if precision == "fp32" else [images]
    report = export_onnx(
        Tiny(), tmp_path / "model.onnx", image_size=(12, 16), precision=precision, calibration=calibrated,
        dynamic=dynamic, least_agreement=0, preprocess=True, metadata=COLOURS,
    )  # fmt: skip
    require_sound(report.path.read_bytes())
    assert report.metadata["input"] == "uint8 NHWC 0..255"
    session = open_session(report.path)
    (entry,) = session.get_inputs()
    assert (entry.name, entry.type) == ("images", "tensor(uint8)")
    assert entry.shape == ["batch" if dynamic else 2, *(["height", "width"] if len(dynamic) == 3 else [12, 16]), 3]
    with torch.no_grad():
        expected = Tiny()(images)
    given = run(session, torch.from_numpy(np.stack(pictures)))["logits"]
    assert relative_difference(given, expected) <= tolerance


def test_pictures_and_images_are_inverse():
    colours = Colours.of({"mean": "[0.4]", "std": "[0.2]"}, 3)
    pictures = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    assert torch.equal(colours.pictures(Normalise(colours)(pictures)), pictures)


def test_calibration_is_read_as_evaluation_reads(tmp_path, monkeypatch):
    for number, colour in enumerate(["red", "green", "blue", "red", "green"]):
        path = tmp_path / colour / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture(colour, number, (50, 40)).save(path)
    model = timm.create_model("test_resnet")
    (batch,) = read_calibration(tmp_path, model, (32, 48))
    transform = data.val_transform({**timm.data.resolve_model_data_config(model), "input_size": (3, 32, 48)})
    files = sorted(tmp_path.rglob("*.png"))
    assert torch.equal(batch, torch.stack([transform(Image.open(file)) for file in files]))
    monkeypatch.setattr(calibration, "MOST_PICTURES", 2)
    (batch,) = read_calibration(tmp_path, model, (32, 48))
    assert torch.equal(batch, torch.stack([transform(Image.open(files[i])) for i in (0, 2)]))


def test_command_names_size_agreement_and_what_stays_in_float(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, colour in enumerate(["red", "green", "blue"]):
        picture(colour, number).save(folder / f"{number}.png")
    arguments = ["test_resnet", "--image-size", "32", "48", "--output", str(tmp_path / "model.onnx")]
    options = ["--precision", "int8", "--calibration", str(folder), "--preprocess", "--least-agreement", "0"]
    done = CliRunner().invoke(main, ["export", *arguments, *options])
    assert done.exit_code == 0, done.output
    line = done.stdout.splitlines()[-1]
    assert line.startswith("int8: differs from float32 by at most ")
    assert "of 3 images" in line
    assert "kept in float32: " in line
    assert str(tmp_path).encode() not in (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--precision", "int8"], "int8 needs calibration images: --calibration DIR", id="none"),
        pytest.param(["--calibration", "{tmp}"], "calibration is for --precision int8 and fp16", id="idle"),
        pytest.param(["--precision", "int8", "--calibration", "{tmp}/no"], "does not exist", id="no-folder"),
        pytest.param(["--precision", "int8", "--calibration", "{tmp}/empty"], "there are no images in", id="empty"),
        pytest.param(["--precision", "fp16", "--calibration", "{tmp}/bad"], "cannot be read as an image", id="bad"),
        pytest.param(["--precision", "fp16", "--task", "detect"], "exported in fp32 only", id="detector"),
    ],
)
def test_mistakes_are_one_line(tmp_path, options, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    output = tmp_path / "model.onnx"
    arguments = ["test_resnet", "--image-size", "32", "32", "--output", str(output)]
    done = CliRunner().invoke(main, ["export", *arguments, *(x.format(tmp=tmp_path) for x in options)])
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param([], "calibration holds no images", id="none"),
        pytest.param([torch.zeros(2, 3, 8, 8)], "must be 3x12x16 .* got 3x8x8", id="size"),
        pytest.param([torch.zeros(1, 12, 16)], "must be 3x12x16 .* got 1x12x16", id="channels"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        batches_of(given, (3, 12, 16), ("batch",))


def test_preprocessing_needs_mean_and_std(tmp_path):
    with pytest.raises(ValueError, match="preprocess needs the mean and std"):
        export_onnx(Tiny(), tmp_path / "model.onnx", image_size=(12, 16), preprocess=True)


@pytest.mark.parametrize(
    ("precision", "fidelity", "message"),
    [
        pytest.param("int8", Fidelity(float("inf"), float("inf"), 1.0, 9), "output is not finite", id="not-a-number"),
        pytest.param("int8", Fidelity(0.3, 0.1, 0.9, 9), "top class of float32 on 90.0% of 9 images", id="agreement"),
        pytest.param("int8", Fidelity(0.3, 0.3, None, 9), "relative error of the outputs is 30%", id="maps"),
        pytest.param("fp16", Fidelity(0.02, 0.001, None, 9), "differ from float32 by 2.0e-02", id="half"),
    ],
)
def test_what_is_too_far_from_float32_is_refused(precision, fidelity, message):
    with pytest.raises(ExportError, match=message):
        fidelity.require(precision, 0.95)


def test_only_classes_are_compared_where_there_is_nothing_else():
    masks = torch.tensor([[0, 1], [2, 2]])
    said = str(compare([{"mask": masks}], [{"mask": masks.clamp(max=1)}]))
    assert said == "has the class of float32 at 50.00% of the pixels of 2 images"
    assert str(compare([{"logits": masks.float()}], [{"logits": masks.float()}])).startswith("differs from float32 by")


def test_refused_file_leaves_the_old_one(tmp_path, monkeypatch):
    output = tmp_path / "model.onnx"
    before = export_onnx(Tiny(), output, image_size=(12, 16)).path.read_bytes()

    def wrong(proto, *arguments):
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        bias = next(x for x in changed.graph.initializer if x.name == "head.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.eye(5, dtype=np.float32)[0] * 100, bias.name))
        return changed, ()

    monkeypatch.setattr("attnzoo.tools.export.precision.to_int8", wrong)
    with pytest.raises(ExportError, match=r"at least 95\.0% is required"):
        export_onnx(Tiny(), output, image_size=(12, 16), precision="int8", calibration=images_of((12, 16)))
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_nodes_are_named_after_their_modules(traced):
    names = {node.name for node in traced[1].graph.node}
    assert any(name.startswith("stages.1.blocks.0.") for name in names)
    assert all(len(list(graph.value_info)) == 0 for graph in graphs.subgraphs(traced[1].graph))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["nat_pico", "shvit_pico"])
def test_digits_keep_their_accuracy_in_a_third_of_the_size(tmp_path, runs, small_config, name):
    model = train(small_config(f"model.name={name}", "epochs=28"), runs)
    network, _ = open_model(str(model))
    digits, pictures = data.digits("train"), tmp_path / "pictures"
    pictures.mkdir()
    for number in range(0, len(digits), 12):
        digits.open(number)[0].save(pictures / f"{number:04}.png")
    settings = timm.data.resolve_model_data_config(network)
    samples = data.open_classification({"name": "digits", **{key: settings[key] for key in data.PREPROCESSING}}, "val")

    def accuracy(path: Path) -> float:
        session = open_session(path)

        class File(nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return run(session, images)["logits"]

        judge = ClassificationJudge(len(samples.classes), torch.device("cpu"))
        return Reading().judge(judge, File(), samples)[0]["accuracy"]

    exact = export_onnx(network, tmp_path / "fp32.onnx")
    small = export_onnx(
        network, tmp_path / "int8.onnx", precision="int8", calibration=read_calibration(pictures, network)
    )
    half = export_onnx(network, tmp_path / "fp16.onnx", precision="fp16")
    assert small.file_size < exact.file_size / 3
    assert half.file_size < exact.file_size / 1.8
    assert accuracy(small.path) >= accuracy(exact.path) - 0.005
    assert accuracy(half.path) >= accuracy(exact.path) - 0.003
