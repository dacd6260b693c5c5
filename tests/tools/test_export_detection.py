"""The file of a detector has the same boxes, scores and labels as torchvision, in the same order."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from click.testing import CliRunner
from torch.testing import assert_close

from attnzoo.tools.cli import main
from attnzoo.tools.detection.data import open_detection
from attnzoo.tools.detection.detectors import create_detector
from attnzoo.tools.detection.files import open_detector, save_detector
from attnzoo.tools.detection.options import HEADS, RESIZES, DetectorOptions
from attnzoo.tools.export import ExportError, checking, export_onnx, graphs, onnx_file, open_session
from attnzoo.tools.export.detection import Detect, detect
from attnzoo.tools.export.detection.operators import _float_below
from attnzoo.tools.export.detection.task import reveal
from attnzoo.tools.export.sessions import run
from attnzoo.tools.train import train
from attnzoo.tools.training.config import load_config

onnx = pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

BACKBONES = {
    "nat_pico": {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
    "shvit_pico": {},
}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
CLASSES = ["ant", "bee", "cat"]
# resized to 64 x 89 and padded to 64 x 96 or more
SIZE = (40, 56)


def make(head, backbone="shvit_pico", **options):
    chosen = DetectorOptions.from_dict({"head": head, "min_size": 64, "max_size": 96, "width": 64, **options})
    torch.manual_seed(0)
    return create_detector(backbone, BACKBONES[backbone], chosen, len(CLASSES), MEAN, STD).eval(), chosen


def revealed(head, backbone, size):
    """The task of a detector that finds many objects."""
    detector, _ = make(head, backbone)
    reveal(detector, size)
    return detect(detector, size)


def pictures(count, size):
    return (checking.picture_like((count, 3, *size)) * 0.25 + 0.5).clamp(0, 1)


def assert_finds_the_same(given, detector, images):
    """Compares with the detections of the detector, row by row: boxes in pixels, the same labels, the same order."""
    with torch.inference_mode():
        expected = detector(list(images))
    assert sum(len(one["labels"]) for one in expected) > 0, "nothing was found: the test could not fail"
    for i, one in enumerate(expected):
        count = len(one["labels"])
        assert_close(given["labels"][i, :count], one["labels"])
        assert_close(given["boxes"][i, :count], one["boxes"], rtol=0, atol=1e-3)
        # the order of sums depends on the processor: 1.4e-5 with AVX2, less with AVX-512
        assert_close(given["scores"][i, :count], one["scores"], rtol=0, atol=5e-5)
        assert (given["labels"][i, count:] == -1).all()
        assert not given["boxes"][i, count:].any()
        assert not given["scores"][i, count:].any()


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", HEADS)
def test_module_that_is_traced_finds_what_torchvision_finds(head, backbone):
    task, images = revealed(head, backbone, SIZE), pictures(3, SIZE)
    with torch.inference_mode():
        given = dict(zip(task.outputs, task.network(images), strict=True))
    assert_finds_the_same(given, task.network.detector, images)
    expected = task.expected(images)
    assert expected["is_clear"].all(), "the result depends on rounding: the check would be skipped"
    assert task.difference(given, expected) <= 1e-6


@pytest.mark.parametrize("resize", RESIZES)
def test_images_are_resized_to_squares_as_in_training(resize):
    options = DetectorOptions.from_dict({"head": "fcos", "size": 64, "resize": resize, "width": 64})
    detector = create_detector("shvit_pico", {}, options, len(CLASSES), MEAN, STD).eval()
    reveal(detector, SIZE)
    task, images = detect(detector, SIZE), pictures(2, SIZE)
    with torch.inference_mode():
        given = dict(zip(task.outputs, task.network(images), strict=True))
    assert_finds_the_same(given, detector, images)
    notes = task.notes()
    assert (notes["resize"], json.loads(notes["pad"]), notes["interpolation"]) == (resize, MEAN, "bilinear")
    assert json.loads(notes["resized_to"]) == ([64, 64] if resize == "stretch" else [45, 64])
    assert detect(detector, None).input_size == (3, 64, 64)


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_classes_are_told_apart_as_torchvision_does_it_for_more_than_1000_candidates(head):
    detector, _ = make(head, "nat_pico", score_threshold=0.0, detections_per_image=300)
    reveal(detector, (64, 64))
    detector.model.score_thresh, detector.model.topk_candidates = 0.0, 900
    task, images = detect(detector, (64, 64)), pictures(2, (64, 64))
    with torch.inference_mode():
        given = dict(zip(task.outputs, task.network(images), strict=True))
    assert_finds_the_same(given, detector, images)


@pytest.mark.parametrize(
    ("head", "backbone"),
    [
        pytest.param("fcos", "nat_pico", id="fcos-nat", marks=pytest.mark.full),
        pytest.param("fcos", "shvit_pico", id="fcos-shvit", marks=pytest.mark.slow),
        pytest.param("retinanet", "nat_pico", id="retinanet-nat", marks=pytest.mark.slow),
        pytest.param("retinanet", "shvit_pico", id="retinanet-shvit", marks=pytest.mark.slow),
        pytest.param("faster_rcnn", "nat_pico", id="faster_rcnn-nat", marks=pytest.mark.slow),
        pytest.param("faster_rcnn", "shvit_pico", id="faster_rcnn-shvit", marks=pytest.mark.slow),
        pytest.param("mask_rcnn", "nat_pico", id="mask_rcnn-nat", marks=pytest.mark.slow),
        # proposals, regions and masks in one file: the smallest that has every operator
        pytest.param("mask_rcnn", "shvit_pico", id="mask_rcnn-shvit", marks=pytest.mark.full),
    ],
)
def test_file_finds_what_torchvision_finds_at_any_batch(head, backbone):
    task = revealed(head, backbone, SIZE)
    proto = onnx_file.to_graph(task, ("batch",), 20)
    assert {node.domain for node in proto.graph.node} == {""}
    assert "NonMaxSuppression" in {node.op_type for node in proto.graph.node}
    session = open_session(graphs.serialise(proto, {}))
    assert session.get_inputs()[0].shape == ["batch", 3, *SIZE]
    assert [entry.name for entry in session.get_outputs()] == list(task.outputs)
    for batch in (1, 3):
        images = pictures(batch, SIZE)
        given = run(session, images)
        assert_finds_the_same(given, task.network.detector, images)
        assert task.difference(given, task.expected(images)) <= 1e-4


@pytest.mark.full
def test_run_directory_becomes_a_file_that_says_what_it_is(tmp_path):
    detector, options = make("fcos", "shvit_pico", detections_per_image=7)
    run_directory, output = tmp_path / "run", tmp_path / "out" / "model.onnx"
    run_directory.mkdir()
    arguments = "shvit_pico", BACKBONES["shvit_pico"], options, CLASSES, MEAN, STD
    save_detector(detector, run_directory / "model", *arguments)
    done = CliRunner().invoke(main, ["export", str(run_directory), "--output", str(output)])
    assert done.exit_code == 0, done.output
    notes = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert notes["task"] == "detect"
    assert notes["model"] == "shvit_pico"
    assert notes["head"] == "fcos"
    assert json.loads(notes["labels"]) == CLASSES
    assert json.loads(notes["input_size"]) == [3, 64, 64]
    assert json.loads(notes["input_range"]) == [0, 1]
    assert notes["weights"].startswith("sha256:")
    shapes = [entry.shape for entry in open_session(output).get_outputs()]
    assert shapes == [["batch", 7, 4], ["batch", 7], ["batch", 7]]
    assert str(tmp_path).encode() not in output.read_bytes()


@pytest.mark.full
def test_file_that_suppresses_too_little_is_refused(tmp_path, monkeypatch):
    def wrong(task, *arguments):
        changed = copy.deepcopy(task.network)
        changed.detector.model.nms_thresh = 0.9
        return to_graph(task.with_network(changed), *arguments)

    to_graph = onnx_file.to_graph
    monkeypatch.setattr(onnx_file, "to_graph", wrong)
    with pytest.raises(ExportError, match="is wrong and was not kept"):
        export_onnx(make("fcos", "shvit_pico")[0], tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def answer(**changes):
    """Two detections and an empty row of one image, with changes."""
    boxes = torch.tensor([[[1.0, 2, 30, 40], [5, 5, 20, 20], [0, 0, 0, 0]]])
    plain = {"boxes": boxes, "scores": torch.tensor([[0.9, 0.5, 0]]), "labels": torch.tensor([[1, 0, -1]])}
    return {**plain, "is_clear": torch.tensor([True]), **changes}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        pytest.param({}, 0, id="nothing"),
        pytest.param({"boxes": answer()["boxes"] + torch.tensor([[[0.64], [0], [0]]])}, 0.01, id="box"),
        pytest.param({"scores": torch.tensor([[0.9, 0.48, 0]])}, 0.02, id="score"),
        pytest.param({"scores": torch.tensor([[0.5, 0.9, 0]])}, float("inf"), id="order"),
        pytest.param({"labels": torch.tensor([[1, 2, -1]])}, float("inf"), id="label"),
        pytest.param({"labels": torch.tensor([[1, -1, -1]])}, float("inf"), id="one-missing"),
        pytest.param({"labels": torch.tensor([[1, 0, 0]])}, float("inf"), id="one-too-many"),
        pytest.param({"boxes": answer()["boxes"] + torch.tensor([[[0], [0], [1]]])}, float("inf"), id="empty-row"),
        pytest.param({"boxes": answer()["boxes"][:, :2]}, float("inf"), id="shape"),
        pytest.param({"scores": torch.tensor([[0.9, float("nan"), 0]])}, float("inf"), id="not-a-number"),
    ],
)
def test_difference_of_detections(changes, difference):
    task = Detect(detect(make("fcos")[0], (64, 64)).network, (3, 64, 64))
    assert task.difference(answer(**changes), answer()) == pytest.approx(difference, abs=1e-6)


def test_equal_scores_may_change_places():
    task = Detect(detect(make("fcos")[0], (64, 64)).network, (3, 64, 64))
    equal = answer(scores=torch.tensor([[0.5, 0.5, 0]]))
    order = torch.tensor([1, 0, 2])
    swapped = {**equal, "boxes": equal["boxes"][:, order], "labels": equal["labels"][:, order]}
    assert task.difference(swapped, equal) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["{detector}", "--task", "classify"], "is a detector: task must be detect", id="classify"),
        pytest.param(["{detector}", "--task", "features"], "is a detector: task must be detect", id="features"),
        pytest.param(["test_vit", "--task", "detect"], "not a detector: task detect needs a directory", id="detect"),
        pytest.param(
            ["{detector}", "--dynamic", "batch,height"],
            "a detector's file is for one image size, dynamic must be batch or none, got batch,height",
            id="dynamic",
        ),
        pytest.param(["{detector}", "--image-size", "0", "64"], "at least 1, got (0, 64)", id="size"),
        pytest.param(["{detector}", "--image-size", "1", "900"], "does not take images of 1x900", id="thin"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    detector, options = make("fcos")
    save_detector(detector, tmp_path / "d", "shvit_pico", {}, options, CLASSES, MEAN, STD)
    output = tmp_path / "model.onnx"
    given = [x.format(detector=tmp_path / "d") for x in arguments]
    done = CliRunner().invoke(main, ["export", "--output", str(output), *given])
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not output.exists()


@pytest.mark.parametrize("value", [0.5, 0.6, 0.7, 0.05, 1.0])
def test_threshold_decides_in_float32_as_it_does_in_float64(value):
    near = torch.tensor(value)
    numbers = torch.stack([near.nextafter(torch.tensor(0.0)), near, near.nextafter(torch.tensor(2.0))])
    assert torch.equal(numbers > torch.tensor(_float_below(value)), numbers.double() > value)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["fcos", "retinanet", "faster_rcnn"])
def test_trained_detector_finds_the_same_in_its_file(tmp_path, head):
    changes = ("epochs=1", "data.train_images=400", "data.val_images=20", f"detector.head={head}")
    detector, _ = open_detector(train(load_config("detection/digits", changes), tmp_path / "run"))
    session = open_session(export_onnx(detector, tmp_path / "model.onnx").path)
    samples = open_detection(load_config("detection/digits", changes)["data"], "val", None, 3, False)
    for index in range(len(samples)):
        images = samples.load(index)["images"][None]
        assert_finds_the_same(run(session, images), detector, images)
