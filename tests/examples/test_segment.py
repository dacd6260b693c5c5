"""The example for segmenters finds the same class for each pixel as `attnzoo predict`, without torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from trained_files import EXAMPLES, LABELS, export_unchecked, taking_pixels

from attnzoo.tools.cli import main
from attnzoo.tools.segmentation import drawing

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

import classify
import segment
import serve
import shared


def run(program, *arguments):
    command = [sys.executable, str(EXAMPLES / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_masks_are_those_of_attnzoo_predict(segmenting, photograph, tmp_path):
    folder, file = segmenting
    sizes = {"wide.png": photograph.size, "high.png": (90, 290), "small.png": (50, 40)}
    for name, size in sizes.items():
        photograph.resize(size).save(tmp_path / name)
    names = [str(tmp_path / name) for name in sizes]
    called = CliRunner().invoke(main, ["predict", str(folder), *names, "--output", str(tmp_path / "expected")])
    assert called.exit_code == 0, called.output
    done = run("segment.py", file, *names, "--output", tmp_path / "found")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "expected" / "predictions.json").read_text())
    for number, (name, size) in enumerate(sizes.items()):
        stem = f"{number:05d}-{name[:-4]}"
        expected, found = (Image.open(tmp_path / kind / f"{stem}.png") for kind in ("expected", "found"))
        masks = np.asarray(expected), np.asarray(found)
        assert masks[1].shape == size[::-1]
        assert len(np.unique(masks[0])) == len(LABELS), "too few classes: the test could hardly fail"
        assert (masks[0] != masks[1]).mean() < 1e-3
        assert found.getpalette() == expected.getpalette()
        assert done.stdout.splitlines()[number].startswith(f"{names[number]}: {told[number]['labels'][0]} ")
        # small ones are enlarged
        plain = drawing.fitted(photograph.resize(size))
        blended = drawing.fitted(drawing.overlaid(Image.open(names[number]), masks[1], drawing.palette(len(LABELS))))
        overlay = np.asarray(Image.open(tmp_path / "found" / f"{stem}.jpg").crop((0, 0, *blended.size)), dtype=int)
        error = np.abs(overlay - np.asarray(blended, dtype=int)).mean()
        assert error < 0.2 * np.abs(overlay - np.asarray(plain, dtype=int)).mean()


def test_files_of_pixels_and_of_masks_give_the_same(segmenting, photograph, tmp_path):
    folder, file = segmenting
    session = classify.open_session(file)
    expected, regions = segment.segment(session, photograph)
    assert sum(share for *_, share in regions) == pytest.approx(1)
    pixels = classify.open_session(taking_pixels(file, tmp_path / "pixels.onnx"))
    assert (segment.segment(pixels, photograph)[0] != expected).mean() < 1e-3
    # of the size of the input: the mask is not enlarged
    picture = photograph.resize((96, 64))
    masks = classify.open_session(export_unchecked(folder, tmp_path / "mask.onnx", task="mask"))
    assert np.array_equal(segment.segment(masks, picture)[0], segment.segment(session, picture)[0])


def test_the_legend_has_room_for_long_names():
    picture, mask = Image.new("RGB", (30, 40)), np.zeros((40, 30), int)
    found = {name: segment.draw(picture, mask, [segment.Region(0, name, 1.0)]) for name in ("a", "a" * 60, "a" * 9000)}
    short, long, longest = found.values()
    assert short.size == (288, 384 + 20)
    assert (long.width > 500, longest.width) == (True, 2048)
    # nothing is cut
    assert np.asarray(long.convert("L"))[384:, -2:].min() == 255


@pytest.mark.parametrize("program", ["classify.py", "detect.py"])
def test_other_scripts_send_a_segmenter_to_this_one(segmenting, photograph, tmp_path, program):
    photograph.save(tmp_path / "a.png")
    done = run(program, segmenting[1], tmp_path / "a.png")
    message = f"the task of the file must be {program[:-3]}, got segment: use segment.py"
    assert (done.returncode, done.stderr.strip()) == (1, message)


def test_a_picture_that_is_too_thin_is_named(segmenting, tmp_path):
    if "fit" not in str(segmenting[0]):
        pytest.skip("the picture stays as it is")
    Image.new("L", (3000, 2)).save(tmp_path / "thin.png")
    done = run("segment.py", segmenting[1], tmp_path / "thin.png")
    told = f"{tmp_path / 'thin.png'} cannot be resized: it has 96 x 0 pixels after resizing: it is too thin\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_files_of_other_tasks_are_sent_to_their_script():
    for task in ("classify", "detect"):
        with pytest.raises(ValueError, match=f"must be segment or mask, got {task}: use {task}.py"):
            shared.read_notes({"task": task}, *shared.SEGMENTS)


def test_colors_and_masks_of_many_classes_are_those_of_attnzoo():
    assert np.array_equal(segment.palette(5000), drawing.palette(5000))
    mask = np.arange(600).reshape(20, 30)
    assert np.array_equal(np.asarray(segment.index_image(mask)), mask)


# Pillow resizes columns first where an image is high
@pytest.mark.parametrize("size", [(451, 300), (90, 400)])
@pytest.mark.parametrize("how", ["fit", "cover", "none"])
def test_images_are_resized_as_in_training(photograph, how, size):
    from attnzoo.tools.segmentation.data import Preparation

    notes = {"input_size": [3, 64, 96], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    notes |= {"interpolation": "bicubic", "resize": how}
    picture = photograph.resize(size)
    expected = Preparation(notes)(picture).numpy()
    found = shared.normalise(segment._prepare(picture, notes), notes)
    # the rounding of float32, far from a level of 255
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_service_answers_with_shares_the_mask_or_an_overlay(segmenting, photograph):
    session = classify.open_session(segmenting[1], 1)
    body = io.BytesIO()
    photograph.save(body, "png")
    answers = {}
    with serve.Service(("127.0.0.1", 0), session) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        for accepted in ("application/json", "image/png", "image/jpeg"):
            address = f"http://127.0.0.1:{service.server_port}"
            request = urllib.request.Request(address, body.getvalue(), {"Accept": accepted})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.headers["Content-Type"] == accepted
                answers[accepted] = answer.read()
        service.shutdown()
        thread.join()
    mask, regions = segment.segment(session, photograph)
    told = json.loads(answers["application/json"])
    assert told == {
        "labels": [one.label for one in regions],
        "scores": pytest.approx([one.share for one in regions]),
        "indices": [one.index for one in regions],
    }
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answers["image/png"]))), mask)
    drawn = np.asarray(Image.open(io.BytesIO(answers["image/jpeg"])), dtype=int)
    assert np.abs(drawn - np.asarray(segment.draw(photograph, mask, regions), dtype=int)).mean() < 5
