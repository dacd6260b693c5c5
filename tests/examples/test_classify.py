"""The example for ONNX Runtime has the same probabilities as `attnzoo predict`, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from trained_files import EXAMPLES, LABELS, taking_pixels

from attnzoo.tools.export.tasks import describe
from attnzoo.tools.images import read_image
from attnzoo.tools.predict import predict

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

import classify
import shared


def notes_of(size: tuple[int, int, int] = (3, 64, 64), **config: object) -> dict:
    """The metadata of a file of a model with this preprocessing."""
    model = torch.nn.Identity()
    model.pretrained_cfg = {"architecture": "any", "input_size": size, **config}
    return shared.read_notes(describe(model, size))


def expected(picture: Image.Image, notes: dict) -> np.ndarray:
    """timm's own transform."""
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    return timm.data.create_transform(**{key: notes[key] for key in keys}, is_training=False)(picture).numpy()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="bicubic"),
        pytest.param({"interpolation": "bilinear", "crop_pct": 0.9}, id="bilinear"),
        pytest.param({"interpolation": "nearest", "crop_pct": 1.0}, id="nearest"),
        pytest.param({"interpolation": "lanczos", "crop_pct": 1.0}, id="lanczos"),
        pytest.param({"size": (3, 48, 80)}, id="not-square"),
        pytest.param({"size": (3, 81, 47), "crop_pct": 0.95}, id="odd"),
        pytest.param({"crop_mode": "squash"}, id="squash"),
        pytest.param({"crop_mode": "border", "size": (3, 48, 81)}, id="border"),
        pytest.param({"crop_mode": "border", "crop_pct": 1.0}, id="border-whole"),
        pytest.param({"crop_pct": 1.3}, id="smaller-than-the-crop"),
        pytest.param({"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}, id="other-colours"),
    ],
)
@pytest.mark.parametrize("size", [(451, 300), (71, 97), (64, 64), (33, 500)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_pictures_are_prepared_as_timm_does_to_the_last_bit(config, size, photograph):
    picture = photograph.resize(size)
    notes = notes_of(**config)
    given = shared.normalise(shared.prepare(picture, notes), notes)
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, expected(picture, notes))


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "I;16", "I", "F", "NaN", "I of 8 bits"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_mode_are_seen_as_attnzoo_predict_sees_them(tmp_path, mode, channels, photograph):
    picture = photograph.resize((80, 60))
    grey = np.asarray(picture.convert("L"))
    values = {
        "I;16": grey.astype(np.uint16) * 257,
        "I": grey.astype(np.int32) * 257 + 3,
        "I of 8 bits": grey.astype(np.int32),
        "F": grey.astype(np.float32) / 255,
        "NaN": np.where(grey > 200, np.nan, grey).astype(np.float32),
    }
    if mode in values:
        picture = Image.fromarray(values[mode])
    else:
        picture = picture.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    path = tmp_path / f"picture.{'tif' if mode == 'CMYK' or picture.mode in 'IF' else 'png'}"
    picture.save(path)
    notes = notes_of((channels, 64, 48), mean=(0.5,) * channels, std=(0.2,) * channels)
    given = shared.normalise(shared.prepare(shared.open_picture(path), notes), notes)
    np.testing.assert_array_equal(given, expected(read_image(path, channels), notes))


def test_pictures_are_turned_upright(tmp_path, photograph):
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(tmp_path / "turned.jpg", exif=exif)
    notes = notes_of()
    given = shared.normalise(shared.prepare(shared.open_picture(tmp_path / "turned.jpg"), notes), notes)
    np.testing.assert_array_equal(given, expected(read_image(tmp_path / "turned.jpg"), notes))


@pytest.mark.parametrize("size", ["its-own", pytest.param("any-size", marks=pytest.mark.full)])
def test_probabilities_are_those_of_attnzoo_predict(tmp_path, size, trained, file, any_size, photograph):
    folder, exported = any_size if size == "any-size" else (trained, file)
    photograph.save(tmp_path / "cat.png")
    session = classify.open_session(exported)
    found = classify.classify(session, shared.open_picture(tmp_path / "cat.png"), top=3)
    said = predict(str(folder), [tmp_path / "cat.png"], top=3)[0]
    assert [label for label, _ in found] == said["labels"]
    assert said["scores"][0] < 0.99, "a model that is certain proves little"
    np.testing.assert_allclose([score for _, score in found], said["scores"], atol=1e-4)


def test_file_that_takes_pixels_gets_pixels(tmp_path, any_size, photograph):
    given = classify.classify(classify.open_session(taking_pixels(any_size[1], tmp_path / "pixels.onnx")), photograph)
    expected = classify.classify(classify.open_session(any_size[1]), photograph)
    assert [label for label, _ in given] == [label for label, _ in expected]
    np.testing.assert_allclose([x for _, x in given], [x for _, x in expected], atol=1e-5)


def test_command_runs_where_torch_is_not(tmp_path, file, photograph):
    photograph.save(tmp_path / "cat.jpg")
    script = f"""
import runpy, sys
for name in ("torch", "timm", "attnzoo", "onnx", "torchvision"):
    sys.modules[name] = None
sys.argv = ["classify.py", {str(file)!r}, {str(tmp_path / "cat.jpg")!r}]
sys.path.insert(0, {str(EXAMPLES)!r})
runpy.run_path({str(EXAMPLES / "classify.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert all(label in done.stdout for label in LABELS)


@pytest.mark.parametrize("script", ["classify.py", "detect.py", "openvino_classify.py", "segment.py"])
def test_arguments_are_explained(script):
    if script == "openvino_classify.py":
        pytest.importorskip("openvino")
    command = [sys.executable, str(EXAMPLES / script)]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "File of `attnzoo export`." in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "the following arguments are required: model, images" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["model.onnx", "text.jpg"], ["model.onnx", "missing.jpg"], ["missing.onnx", "text.jpg"]]
)
def test_mistakes_are_one_line(tmp_path, file, arguments):
    (tmp_path / "model.onnx").write_bytes(file.read_bytes())
    (tmp_path / "text.jpg").write_text("no picture")
    command = [sys.executable, str(EXAMPLES / "classify.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("script", ["classify.py", "serve.py"])
def test_a_limit_of_pixels_that_is_no_number_is_one_line(script):
    command = [sys.executable, str(EXAMPLES / script), "model.onnx", "picture.jpg"]
    environment = {**os.environ, "ATTNZOO_MAX_PIXELS": "many"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 1
    assert done.stderr == "the environment variable ATTNZOO_MAX_PIXELS must be a positive integer, got 'many'\n"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"input_size": "[3, 8, 8]"}, "lacks mean, std, interpolation"),
        ({"task": "detect"}, "must be classify, got detect"),
    ],
)
def test_files_that_say_too_little_are_refused(metadata, message):
    with pytest.raises(ValueError, match=message):
        shared.read_notes(metadata)


def test_pictures_with_too_many_pixels_are_refused(tmp_path, noise):
    noise.save(tmp_path / "noise.png")
    with pytest.raises(ValueError, match="it has 71 x 97 pixels, at most 100 are allowed"):
        shared.open_picture(tmp_path / "noise.png", most_pixels=100)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("100", "read as an image: it has more than 100 pixels, which is the limit; the environment variable "),
        ("", "resized: it has 73 x 1825000 pixels after resizing, at most 100000000 are allowed; the environment "),
    ],
)
def test_a_picture_of_too_many_pixels_is_named(tmp_path, file, noise, limit, told):
    path = tmp_path / "noise.png"
    (noise if limit else noise.resize((4, 100_000))).save(path)
    environment = {**os.environ, "ATTNZOO_MAX_PIXELS": limit}
    command = [sys.executable, str(EXAMPLES / "classify.py"), str(file), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.stderr.startswith(f"{path} cannot be {told}")
    assert done.stderr.count("\n") == 1


def test_labels_that_the_file_lacks_are_numbers():
    assert shared.likeliest(np.array([0.0, 3.0, 1.0]), None, 1)[0][0] == "1"
    assert sum(score for _, score in shared.likeliest(np.array([900.0, 3.0, -900.0]), list("abc"), 3)) == pytest.approx(
        1
    )


def test_notes_are_json_where_they_are_not_text():
    notes = notes_of()
    assert json.dumps(notes["input_size"]) == "[3, 64, 64]"
