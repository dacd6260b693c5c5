"""The page preprocesses images exactly as Pillow and timm do, and reads metadata as ONNX Runtime does."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from trained_files import EXAMPLES

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

import classify
import onnx
import shared

if shutil.which("node") is None:
    pytest.skip("needs Node.js, which runs the modules of the page", allow_module_level=True)

PREPARE = """
import { readFileSync } from "node:fs";
import { normalise, prepare } from "./preprocess.js";
const [width, height] = process.argv[2].split("x").map(Number);
const picture = { width, height, channels: 3, data: new Uint8ClampedArray(readFileSync(process.argv[1])) };
const notes = JSON.parse(process.argv[3]);
process.stdout.write(new Uint8Array(normalise(prepare(picture, notes), notes).buffer));
"""
READ = """
import { readFileSync } from "node:fs";
import { readNotes } from "./metadata.js";
console.log(JSON.stringify(readNotes(new Uint8Array(readFileSync(process.argv[1])))));
"""


def run_node(script: str, *arguments: str) -> bytes:
    command = ["node", "--input-type=module", "-e", script, *arguments]
    done = subprocess.run(command, capture_output=True, cwd=EXAMPLES / "browser", timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture
def rows_first(monkeypatch):
    """Makes Pillow resize rows first, as some versions resize columns first where that is faster."""
    resize = Image.Image.resize

    def in_turns(picture, size, resample):
        if resample == Image.Resampling.NEAREST:
            return resize(picture, size, resample)
        return resize(resize(picture, (size[0], picture.height), resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", in_turns)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="bicubic"),
        pytest.param({"interpolation": "bilinear", "crop_pct": 0.9}, id="bilinear"),
        pytest.param({"interpolation": "lanczos", "crop_pct": 1.0}, id="lanczos"),
        pytest.param({"interpolation": "box"}, id="box"),
        pytest.param({"interpolation": "hamming"}, id="hamming"),
        pytest.param({"interpolation": "nearest"}, id="nearest"),
        pytest.param({"input_size": [3, 48, 81]}, id="not-square"),
        pytest.param({"crop_mode": "squash", "input_size": [3, 48, 81]}, id="squash"),
        pytest.param({"crop_mode": "border", "input_size": [3, 47, 80]}, id="border"),
        pytest.param({"crop_pct": 1.3}, id="smaller-than-the-crop"),
        pytest.param({"input_size": [1, 64, 64], "mean": [0.4], "std": [0.3]}, id="grey"),
    ],
)
@pytest.mark.parametrize("size", [(451, 300), (71, 97), (64, 64), (33, 200)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_pictures_are_those_of_pillow(tmp_path, rows_first, changes, size):
    notes = {"input_size": [3, 64, 64], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    notes |= {"interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center", **changes}
    # noise reveals a difference of one in any pixel
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    (tmp_path / "pixels").write_bytes(picture.tobytes())
    given = run_node(PREPARE, str(tmp_path / "pixels"), f"{size[0]}x{size[1]}", json.dumps(notes))
    expected = shared.normalise(shared.prepare(picture, notes), notes)
    np.testing.assert_array_equal(np.frombuffer(given, np.float32).reshape(expected.shape), expected)


def test_notes_are_those_of_onnxruntime(tmp_path, file):
    proto = onnx.load(file)
    proto.metadata_props.add(key="labels of ants", value="Ameisen, groß und klein")
    # fields of every kind, before and after the graph
    proto.ir_version, proto.model_version, proto.producer_name = 10, -1, "any"
    onnx.save(proto, tmp_path / "model.onnx")
    metadata = classify.open_session(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(run_node(READ, str(tmp_path / "model.onnx"))) == shared.read_notes(metadata)
