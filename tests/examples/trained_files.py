"""Directories in the layout of `attnzoo train` and files of `attnzoo export`, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import timm.models
import torch

import attnzoo  # noqa: F401  registers the models
from attnzoo.tools.detection.detectors import create_detector
from attnzoo.tools.detection.files import save_detector
from attnzoo.tools.detection.options import DetectorOptions
from attnzoo.tools.export import export_onnx, graphs
from attnzoo.tools.export.checking import picture_like, without_zeros
from attnzoo.tools.export.detection.task import reveal
from attnzoo.tools.export.onnx_file import to_graph
from attnzoo.tools.export.options import ExportOptions
from attnzoo.tools.export.preparation import prepare
from attnzoo.tools.models import open_model, stored_task
from attnzoo.tools.segmentation.network import create_segmenter
from attnzoo.tools.stored import save_network
from attnzoo.tools.tasks import function_of

onnx = pytest.importorskip("onnx", reason="needs attnzoo[export]")

EXAMPLES = Path(__file__).parents[2] / "examples"
LABELS = ["ant", "bee", "cat", "dog", "elk"]


def save_trained(folder: Path, name: str = "nat_pico", size: tuple[int, int] = (64, 64), **config: object) -> Path:
    """A directory in timm's layout, whose model has distinct probabilities."""
    overlay = {"input_size": (3, *size), **config}
    model = timm.create_model(name, num_classes=len(LABELS), pretrained_cfg_overlay=overlay)
    with torch.no_grad():
        # an untrained head predicts about the same probability for all classes
        for parameter in model.get_classifier().parameters():
            parameter.normal_(std=0.3)
    # a model with zeros, such as biases that are not trained, is exported twice
    model = without_zeros(model) or model
    timm.models.save_for_hf(model, str(folder), {"label_names": LABELS}, safe_serialization=True)
    return folder


def export_trained(folder: Path, output: Path, **options: object) -> Path:
    """Writes the same file as `attnzoo export FOLDER --output OUTPUT`."""
    model, origin = open_model(str(folder))
    return export_onnx(model, output, metadata=origin, **options).path


def save_detecting(folder: Path, resize: str) -> Path:
    """The directory of a detector whose scores are well apart."""
    options = DetectorOptions.from_dict({"head": "fcos", "size": 64, "resize": resize, "width": 64})
    torch.manual_seed(0)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    detector = create_detector("shvit_pico", {}, options, len(LABELS), mean, std)
    reveal(detector.eval(), (64, 64))
    save_detector(detector, folder, "shvit_pico", {}, options, LABELS, mean, std)
    return folder


def save_segmenting(folder: Path, resize: str, size: tuple[int, int] = (64, 96)) -> Path:
    """The directory of a segmenter that finds every class in an image."""
    torch.manual_seed(0)
    decoder = {"name": "fpn", "pyramid_channels": 32, "segmentation_channels": 32}
    prepared = {"input_size": [3, *size], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    prepared |= {"interpolation": "bilinear", "resize": resize}
    segmenter = create_segmenter("test_resnet", {}, decoder, LABELS, prepared).eval()
    (*_, head) = (module for module in segmenter.modules() if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        head.weight.normal_()
        # an untrained decoder predicts one class nearly everywhere
        head.bias -= segmenter(picture_like((4, 3, *size))).mean((0, 2, 3))
    save_network(segmenter, folder, "segmentation", "test_resnet", {}, LABELS, prepared, decoder=decoder)
    return folder


def export_unchecked(folder: Path, output: Path, **options: object) -> Path:
    """Writes the graph that `attnzoo export FOLDER --output OUTPUT` writes, without its checks, which take longest."""
    network, origin = function_of(stored_task(str(folder)), "export")(str(folder))
    made = prepare(network, ExportOptions(metadata=origin, **options))
    output.write_bytes(graphs.serialise(to_graph(made.task, made.dynamic, 20), made.notes))
    return output


def taking_pixels(file: Path, output: Path) -> Path:
    """Adds preprocessing to a file as `--preprocess` does: `images` are uint8 pixels (batch, height, width, 3)."""
    proto = onnx.load(file)
    graph, notes = proto.graph, {entry.key: entry.value for entry in proto.metadata_props}
    for node in graph.node:
        node.input[:] = ["prepared" if name == "images" else name for name in node.input]
    scale, mean = (np.asarray(json.loads(notes[key]), np.float32)[:, None, None] for key in ("std", "mean"))
    graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name)
        for value, name in ((scale, "pixels_std"), (mean, "pixels_mean"), (np.float32(255), "pixels_largest"))
    )
    steps = [
        onnx.helper.make_node("Cast", ["images"], ["numbers"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Transpose", ["numbers"], ["turned"], perm=[0, 3, 1, 2]),
        onnx.helper.make_node("Div", ["turned", "pixels_largest"], ["shares"]),
        onnx.helper.make_node("Sub", ["shares", "pixels_mean"], ["centered"]),
        onnx.helper.make_node("Div", ["centered", "pixels_std"], ["prepared"]),
    ]
    nodes = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*steps, *nodes])
    _, height, width = json.loads(notes["input_size"])
    shape = ["batch", height, width, 3]
    graph.input.append(onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, shape))
    onnx.save(proto, output)
    return output
