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
from attnzoo.tools.export import export_onnx
from attnzoo.tools.models import open_model

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
    timm.models.save_for_hf(model, str(folder), {"label_names": LABELS}, safe_serialization=True)
    return folder


def export_trained(folder: Path, output: Path, **options: object) -> Path:
    """Writes the same file as `attnzoo export FOLDER --output OUTPUT`."""
    model, origin = open_model(str(folder))
    return export_onnx(model, output, metadata=origin, **options).path


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
