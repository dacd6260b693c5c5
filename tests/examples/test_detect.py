"""The example for detectors, the service and the page find the same objects as `attnzoo predict`, without torch."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image
from trained_files import EXAMPLES

from attnzoo.tools.predict import predict

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

import classify
import detect
import serve
import shared

# scores of detections that are neither padding nor the last of many
LEAST = 0.5

FIT = """
import { readFileSync } from "node:fs";
import { fit } from "./detector.js";
const [width, height] = process.argv[2].split("x").map(Number);
const picture = { width, height, channels: 3, data: new Uint8ClampedArray(readFileSync(process.argv[1])) };
process.stdout.write(new Uint8Array(fit(picture, JSON.parse(process.argv[3])).values.buffer));
"""


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(451, 300), (71, 97), (64, 64), (20, 33)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_images_are_resized_as_torchvision_does(photograph, size, resize):
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    picture = photograph.resize(size)
    notes = {"input_size": [3, 64, 64], "resize": resize, "pad": [0.4, 0.5, 0.6]}
    image, (width, height) = detect.fit(picture, notes)
    square = {"fixed_size": (64, 64)} if resize == "stretch" else {}
    transform = GeneralizedRCNNTransform(64, 64, notes["pad"], [1.0] * 3, size_divisible=64, **square).eval()
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    framed, _ = transform([pixels])
    assert tuple(framed.image_sizes[0]) == (height, width)
    expected = framed.tensors[0].numpy() + np.float32(notes["pad"])[:, None, None]
    np.testing.assert_allclose(image, expected, atol=2e-6)


def test_objects_are_those_of_attnzoo_predict(detecting, photograph, tmp_path):
    folder, file = detecting
    session = classify.open_session(file)
    for name, size in {"a.png": photograph.size, "b.png": (90, 140), "c.png": (64, 64)}.items():
        picture = photograph.resize(size)
        picture.save(tmp_path / name)
        (expected,) = predict(str(folder), [tmp_path / name], least_score=LEAST)
        found = detect.detect(session, shared.open_picture(tmp_path / name), LEAST)
        assert len(expected["labels"]) > 2, "too little was found: the test could hardly fail"
        same = [
            one
            for one, *other in zip(found, expected["labels"], expected["scores"], expected["boxes"], strict=False)
            if one.label == other[0] and abs(one.score - other[1]) < 1e-4 and np.allclose(one.box, other[2], atol=0.05)
        ]
        # this detector also finds objects in the padding, which the file does not know, and which suppress others
        is_padded = "letterbox" in str(folder) and picture.size != (64, 64)
        assert len(same) >= (0.5 * len(expected["labels"]) if is_padded else max(len(found), len(expected["labels"])))


def test_boxes_are_drawn_and_files_of_the_other_kind_are_sent_away(detecting, file, photograph, tmp_path):
    photograph.save(tmp_path / "a.png")

    def run(program, *arguments):
        command = [sys.executable, str(EXAMPLES / program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=100)

    done = run("detect.py", detecting[1], tmp_path / "a.png", "--output", tmp_path / "drawn", "--least-score", LEAST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'a.png'}: ")
    drawn = Image.open(tmp_path / "drawn" / "00000-a.jpg")
    assert drawn.size == photograph.size
    assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(photograph, dtype=int)).max() > 60
    done = run("classify.py", detecting[1], tmp_path / "a.png")
    assert done.returncode == 1
    assert done.stderr.strip() == "the task of the file must be classify, got detect: use detect.py"
    done = run("detect.py", file, tmp_path / "a.png")
    assert done.returncode == 1
    assert done.stderr.strip() == "the task of the file must be detect, got classify: use classify.py"


def test_the_service_answers_with_boxes_or_draws_them(detecting, photograph):
    session = classify.open_session(detecting[1], 1)
    with serve.Service(("127.0.0.1", 0), session, least_score=LEAST) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        body = io.BytesIO()
        photograph.save(body, "png")
        answers = []
        for accepted in ("application/json", "image/jpeg"):
            address = f"http://127.0.0.1:{service.server_port}"
            request = urllib.request.Request(address, body.getvalue(), {"Accept": accepted})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.headers["Content-Type"] == accepted
                answers.append(answer.read())
        service.shutdown()
        thread.join()
    found = detect.detect(session, photograph, LEAST)
    told = json.loads(answers[0])
    assert told["labels"] == [one.label for one in found]
    assert told["boxes"] == [pytest.approx(one.box) for one in found]
    assert Image.open(io.BytesIO(answers[1])).size == photograph.size


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js, which runs the modules of the page")
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_the_page_resizes_images_as_python_does(photograph, tmp_path, resize):
    if not (EXAMPLES / "browser" / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("needs `make browser`, which fetches onnxruntime-web")
    picture = photograph.resize((91, 70))
    notes = {"input_size": [3, 64, 48], "resize": resize, "pad": [0.4, 0.5, 0.6]}
    (tmp_path / "pixels").write_bytes(picture.tobytes())
    command = ["node", "--input-type=module", "-e", FIT, str(tmp_path / "pixels"), "91x70", json.dumps(notes)]
    done = subprocess.run(command, capture_output=True, cwd=EXAMPLES / "browser", timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    image, _ = detect.fit(picture, notes)
    np.testing.assert_allclose(np.frombuffer(done.stdout, np.float32).reshape(image.shape), image, atol=1e-6)
