"""The page in a real browser has the same probabilities as ONNX Runtime in Python, and reports errors."""

from __future__ import annotations

import base64
import functools
import io
import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from browsers import BROWSER, need_browser
from PIL import Image
from trained_files import EXAMPLES, LABELS, taking_pixels

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

import classify
import detect
import onnx
import segment

PAGE = EXAMPLES / "browser"

need_browser()

Open = Callable[..., dict]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Open]:
    """Serves the page with a model, gives it images one by one, and returns what it shows after each."""
    site = tmp_path / "site"
    site.mkdir()
    for path in PAGE.iterdir():
        if path.name != "model.onnx":
            (site / path.name).symlink_to(path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def open_page(model: Path | bytes | None, steps: Sequence[tuple[str, Path]] = (), **options: object) -> dict:
        if model is not None:
            (site / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.read_bytes())
        order = {
            "modules": str(PAGE),
            "browser": BROWSER,
            "address": f"http://127.0.0.1:{server.server_port}/",
            "steps": [{"give": give, "file": str(file)} for give, file in steps],
            "width": 1000,
            **options,
        }
        command = ["node", str(Path(__file__).parent / "drive_browser.mjs"), json.dumps(order)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    yield open_page
    server.shutdown()
    thread.join()
    server.server_close()


def assert_same_classes(shown: dict, session, picture: Image.Image) -> None:
    expected = classify.classify(session, picture)
    assert shown["state"] == "done", shown["error"]
    assert [label for label, _ in shown["classes"]] == [label for label, _ in expected]
    np.testing.assert_allclose([x for _, x in shown["classes"]], [x for _, x in expected], atol=2e-5)
    assert shown["status"].startswith(f"{expected[0][0]}, {expected[0][1]:.1%}. It took ")


def test_page_gives_what_onnxruntime_gives_in_python(tmp_path, open_page, file, photograph, noise):
    pictures = {
        "photograph.png": photograph,
        "noise.png": noise,
        "exact.png": noise.resize((64, 64)),
        "small.png": noise.resize((31, 20)),
        "grey.png": noise.convert("L"),
        "palette.png": photograph.quantize(16),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    ways = ("choose", "drop", "paste")
    steps = [(ways[i % 3], tmp_path / name) for i, name in enumerate(pictures)]
    told = open_page(file, steps)
    assert told["complaints"] == []
    opened, *shown = told["shown"]
    assert opened["state"] == "ready"
    assert opened["model"].startswith("nat_pico: ")
    assert f"64 x 64 pixels, {len(LABELS)} classes" in opened["model"]
    assert all(opened["namesOfInputs"]), "inputs need a label for screen readers"
    assert opened["focused"] == "file", "the file input must be reachable by keyboard"
    session = classify.open_session(file)
    for answer, (name, picture) in zip(shown, pictures.items(), strict=True):
        assert_same_classes(answer, session, picture)
        assert answer["picture"] == f"The picture {name}"
    hosts = {address.split("/")[2].split(":")[0] for address in told["asked"] if address.startswith("http")}
    assert hosts == {"127.0.0.1"}, "images must not leave the machine, and nothing is loaded from elsewhere"


def test_picture_is_turned_and_laid_on_white_as_in_python(tmp_path, open_page, file, photograph):
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(tmp_path / "turned.png", exif=exif)
    cut = photograph.copy()
    # fully transparent or opaque: browsers and Pillow round partial transparency differently
    cut.putalpha(Image.linear_gradient("L").resize(cut.size).point(lambda value: 255 * (value > 120)))
    cut.save(tmp_path / "cut.png")
    told = open_page(file, [("choose", tmp_path / "turned.png"), ("choose", tmp_path / "cut.png")])
    session = classify.open_session(file)
    for shown, name in zip(told["shown"][1:], ("turned.png", "cut.png"), strict=True):
        assert_same_classes(shown, session, Image.open(tmp_path / name))


@pytest.mark.full
def test_boxes_are_drawn_over_the_picture(tmp_path, open_page, detecting, photograph):
    photograph.save(tmp_path / "a.png")
    told = open_page(detecting[1], [("choose", tmp_path / "a.png")])
    assert told["complaints"] == []
    shown = told["shown"][1]
    found = detect.detect(classify.open_session(detecting[1]), photograph)
    assert [label for label, _ in shown["classes"]] == [one.label for one in found]
    boxes = [(x, y, x + width, y + height) for x, y, width, height in reversed(shown["boxes"])]
    np.testing.assert_allclose(boxes, [one.box for one in found], atol=0.05)


@pytest.mark.full
def test_mask_is_laid_over_the_picture_in_the_colors_of_its_legend(tmp_path, open_page, segmenting, photograph):
    photograph.save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture")
    told = open_page(segmenting[1], [("choose", tmp_path / "text.png"), ("choose", tmp_path / "a.png")])
    shown = told["shown"][2]
    mask, regions = segment.segment(classify.open_session(segmenting[1]), photograph)
    colors = segment.palette(len(LABELS))
    drawn = Image.open(io.BytesIO(base64.b64decode(shown["mask"].partition(",")[2]))).convert("RGB")
    assert (np.asarray(drawn) != colors[mask]).any(-1).mean() < 1e-4
    assert [label for label, _ in shown["classes"]] == [label for _, label, _ in regions]
    np.testing.assert_allclose([share for _, share in shown["classes"]], [share for *_, share in regions], atol=1e-4)
    assert shown["colors"] == [f"rgb({','.join(map(str, colors[index]))})" for index, *_ in regions]
    assert shown["headings"] == ["The classes of the pixels, the largest first", "Class", "Share"]
    assert shown["status"].startswith(f"{regions[0].label}, {regions[0].share:.1%}; ")
    assert ", and 2 more. It took" in shown["status"]


def saying(file: Path, **notes: str) -> Path:
    """A file with changed metadata on preprocessing."""
    proto = onnx.load(file)
    onnx.helper.set_model_props(proto, {**{entry.key: entry.value for entry in proto.metadata_props}, **notes})
    changed = file.with_name("changed.onnx")
    onnx.save(proto, changed)
    return changed


@pytest.mark.parametrize(
    "notes",
    [
        pytest.param({}, id="as-it-is"),
        pytest.param({"crop_mode": "border", "interpolation": "bilinear", "crop_pct": "0.9"}, id="border"),
        pytest.param({"crop_mode": "squash", "interpolation": "lanczos", "crop_pct": "1.0"}, id="squash"),
        pytest.param({"interpolation": "nearest", "crop_pct": "1.3"}, id="smaller-than-the-crop"),
        pytest.param({"interpolation": "box", "mean": "[0.1, 0.2, 0.3]", "std": "[0.5, 0.6, 0.7]"}, id="colours"),
    ],
)
def test_pictures_are_prepared_as_a_file_says_that_takes_any_size(tmp_path, open_page, any_size, photograph, notes):
    exported = saying(any_size[1], **notes)
    photograph.save(tmp_path / "cat.png")
    told = open_page(exported, [("drop", tmp_path / "cat.png")])
    assert_same_classes(told["shown"][1], classify.open_session(exported), photograph)


def test_file_that_takes_pixels_gets_pixels(tmp_path, open_page, any_size, photograph):
    photograph.save(tmp_path / "cat.png")
    exported = taking_pixels(any_size[1], tmp_path / "pixels.onnx")
    told = open_page(exported, [("choose", tmp_path / "cat.png")])
    assert_same_classes(told["shown"][1], classify.open_session(exported), photograph)


def test_mistakes_are_told_and_forgotten(tmp_path, open_page, file, noise):
    (tmp_path / "text.png").write_text("no picture")
    noise.save(tmp_path / "noise.png")
    told = open_page(file, [("choose", tmp_path / "text.png"), ("drop", tmp_path / "noise.png")])
    _, failed, mended = told["shown"]
    assert failed["error"] == "text.png cannot be read as a picture."
    assert failed["state"] == "failed"
    assert (mended["state"], mended["error"]) == ("done", "")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda _: None, "The model could not be loaded: the server returned 404 for", id="missing"),
        pytest.param(
            lambda content: content[: len(content) // 2], "The file is truncated: was it copied completely?", id="cut"
        ),
        pytest.param(lambda _: b"<html>", "This is not an ONNX file.", id="not-onnx"),
        pytest.param(lambda _: b"", "The metadata of the file lacks input_size, mean", id="empty"),
    ],
)
def test_model_that_cannot_be_opened_is_told(open_page, file, damage, message):
    shown = open_page(damage(file.read_bytes()))["shown"][0]
    assert shown["state"] == "failed"
    assert message in shown["error"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_fits_a_phone(tmp_path, open_page, file, photograph, dark):
    photograph.save(tmp_path / "cat.png")
    told = open_page(file, [("choose", tmp_path / "cat.png")], width=320, dark=dark, screenshot=str(tmp_path / "a.png"))
    assert told["shown"][1]["overflow"] == 0
    assert told["shown"][1]["paper"] == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
